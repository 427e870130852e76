"""The REST API on a socket: HTTP, passwords, bodies, errors."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.model import Description
from g5kvirt.testbeds.local.permissions import NodeControl
from g5kvirt.testbeds.local.rest.api import Api
from g5kvirt.testbeds.local.rest.http import Answer, HttpError, Request, error_document
from g5kvirt.testbeds.local.rest.services import Commands, Frontends, OarReader, Services
from g5kvirt.testbeds.local.server_thread import ServerThread

__all__ = ["RestServer", "serve"]

log = logging.getLogger(__name__)

_MAX_BODY = 1 << 20
_MAX_DISCARDED = 16 << 20
_TIMEOUT = 60  #: seconds that a client may be idle within a request or between two
_FORM = "application/x-www-form-urlencoded"


class _RestHandler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    server_version = "g5kvirt"
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        """Process a GET request."""
        self._process()

    # as http.server calls them
    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Report an error of HTTP itself, such as a malformed request line, like all others."""
        self.close_connection = True
        known = HTTPStatus(code)
        self._send(Answer(error_document(known, message or known.description), known))

    def _process(self) -> None:
        try:
            body = self._body()
            path, query = _address(self.path)
            user = self._user()
            request = Request(user, query, _parsed(body, self.headers.get("Content-Type", "")))
            answer = self.server.api.answer(self.command, path, request)
        except HttpError as error:
            answer = Answer(error_document(error.status, str(error)), error.status, error.headers)
        except TestbedError as error:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            answer = Answer(error_document(status, str(error)), status)
        self._send(answer)

    def _body(self) -> bytes:
        text = self.headers.get("Content-Length", "0")
        length = int(text) if text.isdecimal() and len(text) < 16 else -1
        if not 0 <= length <= _MAX_BODY:
            self.close_connection = True  # the rest of the body would be taken for the next request
            self._discard(length)
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body must have at most {_MAX_BODY} bytes"
            )
        return self.rfile.read(length)

    def _discard(self, length: int) -> None:
        """Read a body that is refused: closing a socket on unread bytes resets it, and the answer is lost."""
        left = min(length, _MAX_DISCARDED)
        while left > 0 and (piece := self.rfile.read(min(left, 1 << 16))):
            left -= len(piece)

    def _send(self, answer: Answer) -> None:
        data = b"" if answer.document is None else json.dumps(answer.document).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="g5kvirt"')
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:  # else the client sends its next request into a connection that ends
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _user(self) -> str:
        """The authenticated user; without a password every client is the testbed's user."""
        if self.server.password is None:
            return self.server.user
        user, password = _credentials(self.headers.get("Authorization", ""))
        correct = hmac.compare_digest(password.encode(), self.server.password.encode())
        if user != self.server.user or not correct:
            raise HttpError(
                HTTPStatus.UNAUTHORIZED, "authenticate with the user and password of this testbed"
            )
        return user

    def log_message(self, format: str, *args: Any) -> None:
        """Write to the log of this module."""
        log.debug("%s " + format, self.address_string(), *args)


def _address(target: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request's target. Raises HttpError."""
    try:
        url = urlsplit(target)
        fields = parse_qs(url.query, keep_blank_values=True)
    except ValueError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"the address is no URL: {error}") from error
    return url.path, {key: values[-1] for key, values in fields.items()}


def _parsed(body: bytes, kind: str) -> Any:
    """The body of a request: None, JSON, or the fields of a form. Raises HttpError."""
    if not body:
        return None
    if kind.partition(";")[0].strip().lower() == _FORM:
        try:
            text = body.decode()
            form = parse_qs(text, keep_blank_values=True, strict_parsing=True)
        except ValueError:  # JSON that is sent as a form, as curl and execo do
            form = None
        if form is not None and not text.lstrip().startswith(("{", "[")):
            return {key: values if len(values) > 1 else values[0] for key, values in form.items()}
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error


def _credentials(header: str) -> tuple[str, str]:
    kind, _, value = header.partition(" ")
    try:
        text = base64.b64decode(value, validate=True).decode() if kind.lower() == "basic" else ""
    except ValueError:  # no base64, or none of ASCII, or of no text
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
    commands: Commands | None = None,
    frontends: Callable[[str], Frontends] | None = None,
    user: str = "g5k",
) -> ServerThread:
    """Serve REST requests on a bound socket, in threads of this process.

    :param database: returns the OAR database of a site.
    :param password: if set, requires HTTP basic authentication as ``user`` with this password.
    :param machines: knows and moves the nodes in vlans; without it, requests for that are refused.
    :param commands: runs OAR's commands on the frontends; without it, jobs can only be read.
    :param frontends: returns the Kadeploy of a site; without it, nothing can be deployed.
    :param user: the testbed's user, as OAR knows it.
    """
    api = Api(Services(description, database, machines, commands, frontends))
    thread = ServerThread(RestServer(sock, api, user, password), "rest")
    thread.start()
    return thread
