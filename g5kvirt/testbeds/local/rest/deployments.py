"""Deployments over the REST API: the frontends' Kadeploy in the background, and what became of it."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.local import reference
from g5kvirt.testbeds.local.rest.http import Answer, HttpError, Request, fields_of
from g5kvirt.testbeds.local.rest.jobs import page_bounds
from g5kvirt.testbeds.local.rest.services import Frontends, Services, required

__all__ = ["Deployments", "kadeploy_options"]

log = logging.getLogger(__name__)

_ID = re.compile(r"^Deployment #(D-[0-9a-f-]+) started", re.MULTILINE)
_VALIDATION = 30.0  #: seconds within which Kadeploy accepts or refuses a request
_KEPT = 500  #: finished deployments of a site that are remembered


def kadeploy_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """The options of kadeploy3 for the fields of a request. Raises HttpError. Pure."""
    environment, nodes = body.get("environment"), body.get("nodes")
    if not isinstance(environment, str) or not environment:
        raise HttpError(HTTPStatus.BAD_REQUEST, "environment must be the name of an environment")
    nodes = [nodes] if isinstance(nodes, str) else nodes
    if not isinstance(nodes, list) or not nodes or not all(isinstance(node, str) for node in nodes):
        raise HttpError(HTTPStatus.BAD_REQUEST, "nodes must be a list of names of nodes")
    options: dict[str, Any] = {"env-name": environment.partition("@")[0], "machine": nodes}
    if user := environment.partition("@")[2]:
        options["env-user"] = user
    if body.get("vlan") not in (None, ""):
        options["vlan"] = str(body["vlan"])
    key = body.get("key") or body.get("ssh_authorized_keys") or ""
    text = "\n".join(map(str, key)) if isinstance(key, list) else str(key)
    if re.match(r"\w+://", text):
        raise HttpError(
            HTTPStatus.BAD_REQUEST, "key must be the public key itself: nothing is downloaded here"
        )
    options["key"] = text
    return options


@dataclass
class _Deployment:
    user: str
    site: str
    options: Mapping[str, Any]
    created: float
    uid: str = ""
    updated: float = 0.0
    status: str = "waiting"
    output: str = ""
    result: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Exception | None = None
    known: threading.Event = field(default_factory=threading.Event)  #: it was accepted or refused

    def print(self, text: str) -> None:
        """Take what Kadeploy prints."""
        self.output += text
        if not self.uid and (found := _ID.search(self.output)):
            self.uid, self.status = found[1], "processing"
            self.known.set()

    def document(self) -> dict[str, Any]:
        found = {
            "uid": self.uid,
            "site_uid": self.site,
            "user_uid": self.user,
            "environment": self.options["env-name"],
            "nodes": self.options["machine"],
            "vlan": self.options.get("vlan"),
            "key": self.options["key"] or None,
            "status": self.status,
            "output": self.output,
            "result": self.result or None,
            "created_at": int(self.created),
            "updated_at": int(self.updated or self.created),
            "links": [
                reference.link("sites", self.site, "deployments", self.uid),
                reference.link("sites", self.site, rel="parent"),
            ],
        }
        return {key: value for key, value in found.items() if value is not None}


class Deployments:
    """All deployments that were requested over the API. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._all: dict[str, dict[str, _Deployment]] = {}  # site → uid → deployment, oldest first

    def create(self, site: str, request: Request) -> Answer:
        """Start a deployment; answers once Kadeploy has accepted it. Raises HttpError if it refuses."""
        options = kadeploy_options(fields_of(request.body))
        frontend = required(self._services.frontends)(site)
        made = _Deployment(request.user, site, options, time.time())
        threading.Thread(target=self._run, args=(frontend, made), name="deployment", daemon=True).start()
        if not made.known.wait(_VALIDATION):
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "Kadeploy does not answer")
        if made.refused is not None:
            raise HttpError(HTTPStatus.BAD_REQUEST, str(made.refused))
        with self._lock:
            own = self._all.setdefault(site, {})
            own[made.uid] = made
            while len(own) > _KEPT:
                own.pop(next(iter(own)))
            document = made.document()
        location = {"Location": f"{reference.ROOT}/sites/{site}/deployments/{made.uid}"}
        return Answer(document, HTTPStatus.CREATED, location)

    def _run(self, frontend: Frontends, made: _Deployment) -> None:
        """Deploy; the main function of a thread."""
        try:
            request = {"command": "kadeploy3", "options": made.options}
            ended = frontend.handle(made.user, request, made.print)
        except (G5kvirtError, OSError) as error:
            self._end(made, "error", f"[ERROR] {error}\n", {})
            made.refused = made.refused or (None if made.known.is_set() else error)
        except Exception as error:
            log.exception("a deployment failed")
            self._end(made, "error", f"[ERROR] {error!r}\n", {})
            made.refused = made.refused or (None if made.known.is_set() else error)
        else:
            states = dict.fromkeys(ended["ok"], "OK") | dict.fromkeys(ended["ko"], "KO")
            result = {name: {"macro": None, "micro": None, "state": state} for name, state in states.items()}
            self._end(made, "terminated", "", result)
        finally:
            made.known.set()

    def _end(
        self, made: _Deployment, status: str, text: str, result: Mapping[str, Mapping[str, Any]]
    ) -> None:
        with self._lock:
            made.output += text
            made.updated = time.time()
            if made.status != "canceled":
                made.status, made.result = status, result

    def cancel(self, site: str, uid: str, request: Request) -> Answer:
        """Give up a deployment. Nodes whose deployment has begun still end it: that takes a second here."""
        with self._lock:
            made = self._find(site, uid)
            if made.user != request.user:
                raise HttpError(HTTPStatus.FORBIDDEN, f"deployment {uid} belongs to {made.user}, not to you")
            if made.status in ("waiting", "processing"):
                made.status, made.updated = "canceled", time.time()
        location = {"Location": f"{reference.ROOT}/sites/{site}/deployments/{uid}"}
        return Answer(None, HTTPStatus.ACCEPTED, location)

    def get(self, site: str, uid: str, request: Request) -> Answer:
        """One deployment. Raises HttpError."""
        with self._lock:
            return Answer(self._find(site, uid).document())

    def list(self, site: str, request: Request) -> Answer:
        """The deployments of a site, newest first; ``user``, ``status``, ``limit`` and ``offset`` select."""
        offset, limit = page_bounds(request.query)
        with self._lock:
            found = [made.document() for made in reversed(self._all.get(site, {}).values())]
        for key, name in (("user", "user_uid"), ("status", "status")):
            if key in request.query:
                found = [one for one in found if one[name] == request.query[key]]
        version = self._services.description.version
        page = reference.collection(found[offset:][:limit], version, "sites", site, "deployments")
        return Answer(page | {"total": len(found), "offset": offset})

    def _find(self, site: str, uid: str) -> _Deployment:
        try:
            return self._all[site][uid]
        except KeyError:
            raise HttpError(HTTPStatus.NOT_FOUND, f"{site} has no deployment {uid}") from None
