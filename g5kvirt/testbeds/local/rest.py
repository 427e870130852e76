"""The REST API of a local testbed: reference documents, jobs and resources of OAR, vlans of nodes.

The reference part is `g5kvirt.testbeds.local.reference`; jobs and resources are read from each site's
OAR at every request. `Api` maps a request to an answer; `serve` puts it on a socket.

- GET of any reference path: the document
- GET sites/S/jobs (``state``, ``user``, ``name``, ``queue``, ``limit``, ``offset``): jobs
- GET sites/S/jobs/J: one job with its nodes, vlans and subnets
- GET sites/S/internal/oarapi/resources.json, …/resources/details.json: OAR's resources
- POST sites/S/vlans/V with ``{"nodes": […]}``: nodes of a running deploy job of the user change their vlan
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local import reference
from g5kvirt.testbeds.local.model import Description
from g5kvirt.testbeds.local.oardb import Job
from g5kvirt.testbeds.local.rights import Jobs, Machines, RefusedError, deployable, move, target_vlan

__all__ = ["Api", "OarReader", "Server", "serve"]

log = logging.getLogger(__name__)

_MAX_BODY = 1 << 20
_TIMEOUT = 60  #: seconds a client may be silent within a request or between two
_STATES = "waiting,launching,running"
#: The API's words for states that OAR has finer ones for.
_FINER = {
    "waiting": ("waiting", "toackreservation"),
    "launching": ("tolaunch", "launching"),
    "running": ("running", "finishing", "resuming"),
}


class OarReader(Jobs, Protocol):
    """What the API asks of a site's database; `g5kvirt.testbeds.local.oardb.Database` answers it."""

    def resources(self) -> list[dict[str, Any]]:
        """All resources with all their properties."""


class _HttpError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Answers requests. Holds no state of its own besides the documents, which never change."""

    def __init__(
        self,
        description: Description,
        database: Callable[[str], OarReader],
        machines: Machines | None,
    ) -> None:
        self._description = description
        self._documents = reference.documents(description)
        self._database = database
        self._machines = machines

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        """The document at ``path`` (without host, with or without ``/3.0``).

        :raises _HttpError: there is none, or the query makes no sense.
        """
        parts = _parts(path)
        if len(parts) >= 3 and parts[0] == "sites" and parts[1] in self._site_names:
            site, what = parts[1], parts[2:]
            if what == ["jobs"]:
                return self._jobs(site, query)
            if what[0] == "jobs" and len(what) == 2 and what[1].isdecimal():
                job = self._database(site).job(int(what[1]))
                if job is None:
                    raise _HttpError(HTTPStatus.NOT_FOUND, f"{site} has no job {what[1]}")
                return self._job(site, job)
            if what[:2] == ["internal", "oarapi"] and what[2:] in (
                ["resources.json"],
                ["resources", "details.json"],
            ):
                rows = [{"id": row["resource_id"], **row} for row in self._database(site).resources()]
                return self._page(rows, query, *parts)
        document = self._documents.get("/".join(parts))
        if document is None:
            raise _HttpError(HTTPStatus.NOT_FOUND, f"there is no document at {path}")
        return document

    def post(self, path: str, body: Any, user: str) -> Any:
        """Do what ``body`` asks of ``path`` for ``user``; returns what became of it.

        :raises _HttpError: no such place, a body that makes no sense, or the user may not.
        """
        parts = _parts(path)
        match parts:
            case ["sites", site, "vlans", vlan] if site in self._site_names:
                return self._set_vlan(site, vlan, body, user)
        raise _HttpError(HTTPStatus.NOT_FOUND, f"nothing can be posted to {path}")

    @property
    def _site_names(self) -> set[str]:
        return {site.name for site in self._description.sites}

    def _page(self, items: list[dict[str, Any]], query: Mapping[str, str], *path: object) -> Any:
        try:
            start, limit = int(query.get("offset", 0)), int(query.get("limit", 1 << 30))
        except ValueError:
            raise _HttpError(HTTPStatus.BAD_REQUEST, "limit and offset must be whole numbers") from None
        page = reference.collection(items[max(0, start) :][: max(0, limit)], self._description.version, *path)
        return page | {"total": len(items), "offset": max(0, start)}

    def _jobs(self, site: str, query: Mapping[str, str]) -> Any:
        asked = [word.strip().lower() for word in query.get("state", _STATES).split(",")]
        states = [finer for word in asked for finer in _FINER.get(word, (word,))]
        jobs = self._database(site).jobs(states, query.get("user"))
        for key in ("name", "queue"):
            if key in query:
                jobs = [job for job in jobs if getattr(job, key) == query[key]]
        return self._page([self._job(site, job) for job in jobs], query, "sites", site, "jobs")

    def _job(self, site: str, job: Job) -> dict[str, Any]:
        held = job.held
        by_type: dict[str, list[str]] = {"cores": list(held.cores)} if held.cores else {}
        if held.vlans:
            by_type["vlans"] = [str(vlan) for vlan in held.vlans]
        if held.subnets:
            by_type["subnets"] = [str(subnet) for subnet in held.subnets]
        begun = job.state not in ("Waiting", "Hold", "toLaunch", "toAckReservation")
        return {
            "uid": job.id,
            "user_uid": job.user,
            "user": job.user,
            "name": job.name,
            "project": job.project,
            "queue": job.queue,
            "state": job.state.lower(),
            "types": list(job.types),
            "mode": job.mode,
            "command": job.command,
            "properties": job.properties,
            "directory": job.directory,
            "message": job.message,
            "walltime": job.walltime,
            "submitted_at": job.submitted,
            # 0 until it begins: planning then takes the prediction
            "started_at": job.start if begun else 0,
            "scheduled_at": job.scheduled or None,
            "stopped_at": job.stop,
            "assigned_nodes": list(held.nodes),
            "resources_by_type": by_type,
            "links": [
                reference.link("sites", site, "jobs", job.id),
                reference.link("sites", site, rel="parent"),
            ],
        }

    def _set_vlan(self, site: str, word: str, body: Any, user: str) -> Any:
        names = body.get("nodes") if isinstance(body, dict) else None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise _HttpError(HTTPStatus.BAD_REQUEST, 'the body must be {"nodes": [names of interfaces]}')
        if self._machines is None:
            raise _HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "this testbed cannot move nodes")
        try:
            vlan = target_vlan(self._description, site, word, user, self._database)
        except RefusedError as error:
            raise _HttpError(HTTPStatus.FORBIDDEN, str(error)) from error
        allowed = deployable(self._database(site), user)
        results = move(self._description, site, names, vlan, allowed, self._machines)
        if all(results.values()):  # every node has a reason why not
            raise _HttpError(HTTPStatus.FORBIDDEN, "; ".join(str(reason) for reason in results.values()))
        return {
            name: {"status": "failure", "message": reason}
            if reason
            else {"status": "success", "message": f"{name} is now in vlan {word}"}
            for name, reason in results.items()
        }


def _parts(path: str) -> list[str]:
    parts = [unquote(part) for part in path.split("/") if part]
    return parts[1:] if parts and parts[0] in (reference.ROOT.strip("/"), "stable") else parts


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "g5kvirt"
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        """Answer a question."""
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self._answer(lambda _: self.server.api.get(url.path, query))

    def do_POST(self) -> None:
        """Do something."""
        body = self._body()
        self._answer(lambda user: self.server.api.post(urlsplit(self.path).path, _json(body), user))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            self.close_connection = True  # what follows cannot be told from a next request
            return b""
        return self.rfile.read(int(length))

    def _answer(self, how: Callable[[str], Any]) -> None:
        try:
            document, status = how(self._user()), HTTPStatus.OK
        except _HttpError as error:
            document, status = {"code": error.status, "message": str(error)}, error.status
        except TestbedError as error:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            document = {"code": status, "message": str(error)}
        data = json.dumps(document).encode()
        self.send_response(status)
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="g5kvirt"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _user(self) -> str:
        """Who asks; without a password everybody is the testbed's user."""
        if self.server.password is None:
            return self.server.user
        user, password = _credentials(self.headers.get("Authorization", ""))
        good = hmac.compare_digest(password.encode(), self.server.password.encode())
        if user != self.server.user or not good:
            raise _HttpError(HTTPStatus.UNAUTHORIZED, "user and password of this testbed are needed")
        return user

    def log_message(self, format: str, *args: Any) -> None:
        """Into this module's log."""
        log.debug("%s " + format, self.address_string(), *args)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"null")
    except ValueError as error:
        raise _HttpError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error


def _credentials(header: str) -> tuple[str, str]:
    kind, _, value = header.partition(" ")
    try:
        text = base64.b64decode(value, validate=True).decode() if kind.lower() == "basic" else ""
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    user, _, password = text.partition(":")
    return user, password


class Server(ThreadingHTTPServer):
    """The API on a socket that is already bound."""

    daemon_threads = True

    def __init__(self, sock: socket.socket, api: Api, user: str, password: str | None) -> None:
        super().__init__(sock.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.server_name, self.server_port = "localhost", sock.getsockname()[1]
        self.api = api
        self.user = user
        self.password = password
        sock.listen(128)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is a bug and gets its traceback in the log."""
        gone = isinstance(sys.exc_info()[1], ConnectionError | TimeoutError)
        log.log(logging.DEBUG if gone else logging.ERROR, "request of %s", client_address, exc_info=True)


class _Thread(threading.Thread):
    def __init__(self, server: Server) -> None:
        super().__init__(
            name="rest", daemon=True, target=server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self._server = server

    def stop(self) -> None:
        """End the server and close its socket."""
        self._server.shutdown()
        self._server.server_close()
        self.join(5)


def serve(
    sock: socket.socket,
    description: Description,
    database: Callable[[str], OarReader],
    password: str | None,
    *,
    machines: Machines | None = None,
    user: str = "g5k",
) -> _Thread:
    """Answer REST requests on a bound socket, in threads of this process; the thread has ``stop()``.

    :param database: gives the OAR database of a site.
    :param password: with it, only ``user`` with that password gets answers (HTTP basic authentication).
    :param machines: moves nodes between vlans; without it, POST is refused.
    :param user: the testbed's user, as OAR knows it.
    """
    thread = _Thread(Server(sock, Api(description, database, machines), user, password))
    thread.start()
    return thread
