"""Kadeploy3's REST API, as far as a deployment needs it.

Every call is one request with a bound; nothing is kept between two, so calls may come from several threads.
The user is named in a header: the server trusts every client, which is why it listens on its own
machine only (`g5kvirt.provisioners.kadeploy3.ssh_tunnel.SSHTunnel`).

Source: the API specification of Kadeploy 3.3. A refusal has status 400, a number in
``X-Application-Error-Code`` and its reason as text; bodies may have 1 MiB. A real server (3.3.11) answers 405
without a number where a workflow that is gone is to be deleted.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import requests
from urllib3.exceptions import NewConnectionError

from g5kvirt.errors import TestbedError
from g5kvirt.provisioners.kadeploy3.bounded import read_body
from g5kvirt.provisioners.kadeploy3.records import (
    STATISTICS,
    LogLine,
    NodeState,
    StatisticsRow,
    WorkflowStatus,
    read_log,
    read_states,
    read_statistics,
    read_status,
)
from g5kvirt.run.printable import short

__all__ = ["ERRORS", "MOST_BODY", "KadeployClient", "RefusedError"]

log = logging.getLogger(__name__)

#: Bytes that a request may have.
MOST_BODY = 1 << 20

#: What the numbers of a refusal mean.
ERRORS: Mapping[int, str] = {
    0: "its configuration is wrong",
    1: "there is no such operation",
    2: "a node is unknown",
    3: "files of the client cannot be read",
    4: "an option is wrong",
    5: "a file is wrong",
    6: "the user has no permission for these nodes",
    7: "the environment is wrong",
    8: "an operation of the user's own is wrong",
    9: "the VLAN is wrong",
    10: "it already exists",
    11: "it conflicts with what exists",
    12: "an option is missing",
    13: "options contradict each other",
    14: "there was nothing to change",
    20: "its database fails",
    21: "its cache fails",
    22: "its cache is full",
    30: "the environment on the nodes is marked as destructive",
}
_NO_OPERATION, _EXISTS, _NO_CHANGE = 1, 10, 14

#: Seconds between two looks for a deployment whose request was not answered in time.
_LOOK_PAUSE = 2.0
#: Seconds of looking where the connection broke: the server itself may be down.
_BROKEN_LOOK = 30.0


class RefusedError(TestbedError):
    """Kadeploy3 refused a request; ``code`` is its number for why (`ERRORS`), -1 if it gave none; ``status``
    that of HTTP."""

    def __init__(self, message: str, code: int, status: int = requests.codes.bad_request) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class KadeployClient:
    """``url``: such as ``http://127.0.0.1:25300``. ``timeout``: seconds for any request but a
    deployment's."""

    def __init__(self, url: str, user: str = "root", *, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.user = user
        self.timeout = timeout

    def version(self) -> str:
        """The server's version, such as ``3.3.1.stable``."""
        return short(str(self._request("GET", "/version")), 60)

    def grant(self, user: str | None = None) -> None:
        """Let ``user`` (default: our own) deploy on all nodes; nothing happens if that is so already."""
        self._request_unless(_NO_CHANGE, "POST", "/rights", body={"username": user or self.user})

    def register(self, description: Mapping[str, Any]) -> None:
        """Make an environment known (`g5kvirt.provisioners.kadeploy3.environment.describe`).

        Nothing happens if that version of it is known: another image needs another version.
        """
        self._request_unless(_EXISTS, "POST", "/environments", body={"environment": dict(description)})

    def deploy(
        self,
        nodes: Sequence[str],
        environment: str,
        *,
        version: int = 1,
        authorized_keys: str = "",
        profile: str = "",
        operations: Mapping[str, Any] | None = None,
        verbose: int = 5,
        timeout: float = 300.0,
    ) -> str:
        """Begin to deploy a registered environment; returns the id of the deployment.

        ``authorized_keys``: a file of the server's machine for root on the nodes. ``profile``: what the
        nodes netboot afterwards, "" for Kadeploy3's own. ``operations``: further ones, as
        `g5kvirt.provisioners.kadeploy3.environment.identity_operation` has one. ``verbose``: up to 5, where
        its log names each node that is back. ``timeout``: seconds; many nodes take minutes
        (`g5kvirt.provisioners.kadeploy3.splitting.post_seconds`). The server starts a deployment even if
        nobody waits for its answer any more, and lists it only then: after a time-out it is looked for as
        long again, after a broken connection for half a minute, and ended.
        """
        body: dict[str, Any] = {
            "nodes": list(nodes),
            "environment": {"kind": "database", "name": environment, "version": version, "user": self.user},
            "verbose_level": verbose,
            "force": True,  # the nodes are ours: an earlier deployment on them is obsolete
        }
        if authorized_keys:
            body["ssh_authorized_keys"] = f"server://{authorized_keys}"
        if profile:
            body["pxe"] = {"profile": profile}
        if operations:
            body["custom_operations"] = dict(operations)
        try:
            answer = self._request("POST", "/deployment", body=body, timeout=timeout)
        except TestbedError as error:
            if isinstance(error.__cause__, requests.ReadTimeout):
                self._stop_late(nodes, timeout)
            elif isinstance(error.__cause__, requests.ConnectionError) and _was_sent(error.__cause__):
                self._stop_late(nodes, min(timeout, _BROKEN_LOOK))
            raise
        try:
            return str(answer["wid"])
        except (KeyError, TypeError) as error:
            raise TestbedError(
                f"Kadeploy3 started a deployment without giving its id: {short(repr(answer), 80)}"
            ) from error

    def status(self, wid: str) -> WorkflowStatus:
        """Which nodes are done. Call it rarely: the server compares each node with each other for this."""
        return read_status(self._request("GET", f"/deployment/{quote(wid, safe='')}"))

    def states(self, wid: str) -> dict[str, NodeState]:
        """The step of each node."""
        return read_states(self._request("GET", f"/deployment/{quote(wid, safe='')}/state"))

    def log(self, wid: str) -> list[LogLine]:
        """What was logged since the last call: the server forgets what it has sent."""
        return read_log(str(self._request("GET", f"/deployment/{quote(wid, safe='')}/logs") or ""))

    def error(self, wid: str) -> str:
        """Why a deployment as a whole ended with an error; "" if it did not."""
        try:
            self._request("GET", f"/deployment/{quote(wid, safe='')}/error")
        except TestbedError as error:
            return str(error)
        return ""

    def statistics(self, wid: str) -> list[StatisticsRow]:
        """One row per node of a deployment that is done."""
        query = {"wid": wid, "fields": list(STATISTICS)}
        return read_statistics(str(self._request("GET", "/stats/deploy", query) or ""))

    def stop(self, wid: str) -> None:
        """End a deployment that runs, or forget one that is done; nothing happens if there is none."""
        try:
            self._request_unless(_NO_OPERATION, "DELETE", f"/deployment/{quote(wid, safe='')}")
        except RefusedError as refusal:
            if refusal.status not in (requests.codes.not_found, requests.codes.method_not_allowed):
                raise

    def stop_those_of(self, nodes: Collection[str]) -> list[str]:
        """End our deployments that have a node of ``nodes``; returns their ids."""
        wanted, stopped = set(nodes), []
        answer = self._request("GET", "/deployment")
        for about in answer if isinstance(answer, list) else ():
            if not isinstance(about, Mapping):
                continue
            if about.get("user") == self.user and wanted & _nodes_of(about):
                stopped.append(str(about.get("wid") or about.get("id")))
                self.stop(stopped[-1])
        return stopped

    # ------------------------------------------------------------------------------------------ requests
    def _stop_late(self, nodes: Sequence[str], seconds: float) -> None:
        """End the deployment of a request that was not answered in time, as soon as the server lists it."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self.stop_those_of(nodes):
                    return
            except TestbedError as error:
                log.debug("%s", error)  # it is busy with that very request, perhaps
            if time.monotonic() >= deadline:
                log.warning(
                    "Kadeploy3 lists no deployment of a request that it did not answer, after %.0f s more; "
                    "if it starts one, the next deployment ends it",
                    seconds,
                )
                return
            time.sleep(min(_LOOK_PAUSE, seconds / 4))

    def _request_unless(self, code: int, method: str, path: str, **more: Any) -> None:
        try:
            self._request(method, path, **more)
        except RefusedError as refusal:
            if refusal.code != code:
                raise

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The answer: data if it is JSON, else text. Raises RefusedError, or TestbedError if there is no
        answer."""
        headers = {"X-Kadeploy-User": self.user, "Accept": "*/*"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
            if len(data) > MOST_BODY:
                raise TestbedError(
                    f"a request of {len(data)} bytes is more than the {MOST_BODY} that Kadeploy3 reads",
                    advice="deploy in more parts",
                )
        try:
            with requests.Session() as session:
                session.trust_env = (
                    False  # never through the user's proxy: the server is at the end of our tunnel
                )
                deadline = time.monotonic() + (timeout or self.timeout)
                answer = session.request(
                    method, self.url + path, params=query, data=data, headers=headers, stream=True,
                    timeout=(min(10.0, self.timeout), timeout or self.timeout), allow_redirects=False,
                )  # fmt: skip
                content = read_body(answer, deadline).decode(errors="replace")
        except requests.RequestException as error:
            raise TestbedError(
                f"Kadeploy3 at {self.url} does not answer {method} {path} ({type(error).__name__})",
                advice="look at its log, /var/log/kadeploy3",
            ) from error
        if answer.status_code != requests.codes.ok:
            raise self._refusal(method, path, answer, content)
        if answer.headers.get("Content-Type", "").startswith("application/json"):
            try:
                return json.loads(content)
            except (ValueError, RecursionError) as error:
                raise TestbedError(f"Kadeploy3 answered {method} {path} with broken JSON") from error
        return content

    @staticmethod
    def _refusal(method: str, path: str, answer: requests.Response, content: str) -> RefusedError:
        number = answer.headers.get("X-Application-Error-Code", "")
        code = int(number) if re.fullmatch("[0-9]{1,4}", number) else -1
        text = short(content, 300)
        why = f"{ERRORS[code]}: {text}" if code in ERRORS else f"status {answer.status_code}: {text}"
        return RefusedError(f"Kadeploy3 refuses {method} {path}: {why}", code, answer.status_code)


def _was_sent(error: requests.ConnectionError) -> bool:
    """Whether a request may have reached the server before its connection broke."""
    if isinstance(error, requests.ConnectTimeout):
        return False
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return not isinstance(reason, NewConnectionError)


def _nodes_of(about: Mapping[str, Any]) -> set[str]:
    """The nodes of a deployment as the server lists it; before it has sorted them they are one list."""
    named = about.get("nodes") or {}
    lists = named.values() if isinstance(named, Mapping) else [named]
    return {str(name) for names in lists if isinstance(names, list) for name in names}
