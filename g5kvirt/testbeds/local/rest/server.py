"""The REST API of a local testbed: reference documents, jobs and resources of OAR, vlans of nodes.

The reference documents come from `g5kvirt.testbeds.local.reference`; jobs and resources are read from the OAR
of each site at every request. `Api` maps a request to a response; `serve` serves it on a socket.

- GET of any reference path: the document
- GET sites/S/jobs (``state``, ``user``, ``name``, ``queue``, ``limit``, ``offset``): jobs
- GET sites/S/jobs/J: one job with its nodes, vlans and subnets
- GET sites/S/internal/oarapi/resources.json, …/resources/details.json: OAR's resources
- POST sites/S/vlans/V with ``{"nodes": […]}``: moves nodes of a running deploy job of the user to a vlan
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local import reference
from g5kvirt.testbeds.local.model import Description
from g5kvirt.testbeds.local.oardb import Job
from g5kvirt.testbeds.local.permissions import (
    JobReader,
    NodeControl,
    RequestRefusedError,
    deployable,
    move,
    target_vlan,
)
from g5kvirt.testbeds.local.server_thread import ServerThread

__all__ = ["Api", "OarReader", "RestServer", "serve"]

log = logging.getLogger(__name__)

_MAX_BODY = 1 << 20
_TIMEOUT = 60  #: seconds that a client may be idle within a request or between two
_STATES = "waiting,launching,running"
#: The states of OAR for each state of the API that is coarser.
_OAR_STATES = {
    "waiting": ("waiting", "toackreservation"),
    "launching": ("tolaunch", "launching"),
    "running": ("running", "finishing", "resuming"),
}


class OarReader(JobReader, Protocol):
    """Queries of the API on the database of a site, see `g5kvirt.testbeds.local.oardb.Database`."""

    def resources(self) -> list[dict[str, Any]]:
        """All resources with all their properties."""


class _HttpError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """Processes requests. Its only state are the documents, which never change."""

    def __init__(
        self,
        description: Description,
        database: Callable[[str], OarReader],
        machines: NodeControl | None,
    ) -> None:
        self._description = description
        self._documents = reference.documents(description)
        self._database = database
        self._machines = machines

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        """The document at ``path`` (without host, with or without ``/3.0``).

        :raises _HttpError: there is no such document, or the query is invalid.
        """
        parts = _parts(path)
        if len(parts) >= 3 and parts[0] == "sites" and parts[1] in self._site_names:
            site, rest = parts[1], parts[2:]
            if rest == ["jobs"]:
                return self._jobs(site, query)
            if rest[0] == "jobs" and len(rest) == 2 and rest[1].isdecimal():
                job = self._database(site).job(int(rest[1]))
                if job is None:
                    raise _HttpError(HTTPStatus.NOT_FOUND, f"{site} has no job {rest[1]}")
                return self._job(site, job)
            if rest[:2] == ["internal", "oarapi"] and rest[2:] in (
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
        """Execute the POST request of ``user``; returns the response document.

        :raises _HttpError: unknown path, invalid body, or the user lacks the permission.
        """
        parts = _parts(path)
        match parts:
            case ["sites", site, "vlans", vlan] if site in self._site_names:
                return self._set_vlan(site, vlan, body, user)
        raise _HttpError(HTTPStatus.NOT_FOUND, f"{path} does not accept POST requests")

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
        names = [name.strip().lower() for name in query.get("state", _STATES).split(",")]
        states = [state for name in names for state in _OAR_STATES.get(name, (name,))]
        jobs = self._database(site).jobs(states, query.get("user"))
        for key in ("name", "queue"):
            if key in query:
                jobs = [job for job in jobs if getattr(job, key) == query[key]]
        return self._page([self._job(site, job) for job in jobs], query, "sites", site, "jobs")

    def _job(self, site: str, job: Job) -> dict[str, Any]:
        assigned = job.assigned
        by_type: dict[str, list[str]] = {"cores": list(assigned.cores)} if assigned.cores else {}
        if assigned.vlans:
            by_type["vlans"] = [str(vlan) for vlan in assigned.vlans]
        if assigned.subnets:
            by_type["subnets"] = [str(subnet) for subnet in assigned.subnets]
        started = job.state not in ("Waiting", "Hold", "toLaunch", "toAckReservation")
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
            # 0 until it starts: execo's planning then uses the prediction
            "started_at": job.start if started else 0,
            "scheduled_at": job.scheduled or None,
            "stopped_at": job.stop,
            "assigned_nodes": list(assigned.nodes),
            "resources_by_type": by_type,
            "links": [
                reference.link("sites", site, "jobs", job.id),
                reference.link("sites", site, rel="parent"),
            ],
        }

    def _set_vlan(self, site: str, vlan_name: str, body: Any, user: str) -> Any:
        names = body.get("nodes") if isinstance(body, dict) else None
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise _HttpError(HTTPStatus.BAD_REQUEST, 'the body must be {"nodes": [names of interfaces]}')
        if self._machines is None:
            raise _HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "this testbed cannot move nodes")
        try:
            vlan = target_vlan(self._description, site, vlan_name, user, self._database)
        except RequestRefusedError as error:
            raise _HttpError(HTTPStatus.FORBIDDEN, str(error)) from error
        allowed = deployable(self._database(site), user)
        results = move(self._description, site, names, vlan, allowed, self._machines)
        if all(results.values()):  # every node failed
            raise _HttpError(HTTPStatus.FORBIDDEN, "; ".join(str(reason) for reason in results.values()))
        return {
            name: {"status": "failure", "message": reason}
            if reason
            else {"status": "success", "message": f"{name} is now in vlan {vlan_name}"}
            for name, reason in results.items()
        }


def _parts(path: str) -> list[str]:
    parts = [unquote(part) for part in path.split("/") if part]
    return parts[1:] if parts and parts[0] in (reference.ROOT.strip("/"), "stable") else parts


class _RestHandler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    server_version = "g5kvirt"
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        """Process a GET request."""
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        self._answer(lambda _: self.server.api.get(url.path, query))

    def do_POST(self) -> None:
        """Process a POST request."""
        body = self._body()
        self._answer(lambda user: self.server.api.post(urlsplit(self.path).path, _json(body), user))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > _MAX_BODY:
            self.close_connection = True  # the rest of the body would be taken for the next request
            return b""
        return self.rfile.read(int(length))

    def _answer(self, process: Callable[[str], Any]) -> None:
        try:
            document, status = process(self._user()), HTTPStatus.OK
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
        """The authenticated user; without a password every client is the testbed's user."""
        if self.server.password is None:
            return self.server.user
        user, password = _credentials(self.headers.get("Authorization", ""))
        correct = hmac.compare_digest(password.encode(), self.server.password.encode())
        if user != self.server.user or not correct:
            raise _HttpError(
                HTTPStatus.UNAUTHORIZED, "authenticate with the user and password of this testbed"
            )
        return user

    def log_message(self, format: str, *args: Any) -> None:
        """Write to the log of this module."""
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


class RestServer(ThreadingHTTPServer):
    """The API on a socket that is already bound."""

    daemon_threads = True

    def __init__(self, sock: socket.socket, api: Api, user: str, password: str | None) -> None:
        super().__init__(sock.getsockname()[:2], _RestHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.server_name, self.server_port = "localhost", sock.getsockname()[1]
        self.api = api
        self.user = user
        self.password = password
        sock.listen(128)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a disconnected client at debug level; anything else is a bug and logged with its traceback."""
        disconnected = isinstance(sys.exc_info()[1], ConnectionError | TimeoutError)
        log.log(
            logging.DEBUG if disconnected else logging.ERROR, "request of %s", client_address, exc_info=True
        )


def serve(
    sock: socket.socket,
    description: Description,
    database: Callable[[str], OarReader],
    password: str | None,
    *,
    machines: NodeControl | None = None,
    user: str = "g5k",
) -> ServerThread:
    """Serve REST requests on a bound socket, in threads of this process.

    :param database: returns the OAR database of a site.
    :param password: if set, requires HTTP basic authentication as ``user`` with this password.
    :param machines: moves nodes between vlans; without it, POST is rejected.
    :param user: the testbed's user, as OAR knows it.
    """
    thread = ServerThread(RestServer(sock, Api(description, database, machines), user, password), "rest")
    thread.start()
    return thread
