"""The testbed's side of the frontends' commands: kadeploy3, kaenv3, kavlan and g5k-subnets.

The client program (``bin/g5k``) sends one request, a line of JSON, over a unix socket of its site and
gets lines of JSON back: ``{"out": text}``, ``{"err": text}``, at last ``{"exit": status}``. Who asks is
what the kernel says of the socket's other end.

As on Grid'5000, a user may deploy the nodes of a running deploy job of his and use the vlans that his
running jobs hold. Unlike Kadeploy, which then refuses the whole request, nodes that are not the user's
only fail, and the others are deployed. The printed lines that tell the outcome are Kadeploy's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import socketserver
import struct
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from g5kvirt.errors import G5kvirtError
from g5kvirt.testbeds.local.model import Description, Node
from g5kvirt.testbeds.local.oardb import Job
from g5kvirt.testbeds.local.rights import (
    Jobs,
    Machines,
    RefusedError,
    deployable,
    each,
    move,
    node_called,
    target_vlan,
)
from g5kvirt.testbeds.local.subnets import subnet_lines

__all__ = ["Frontend", "expand", "serve", "users_in"]

log = logging.getLogger(__name__)

_MAX_REQUEST = 1 << 20
_PATIENCE = 30  #: seconds a client may take to say what it wants
_WAITING = ("Waiting", "Hold", "toAckReservation", "toLaunch")
_RANGE = re.compile(r"([^\[\]]*)\[([0-9,-]+)\]([^\[\]]*)")
_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_PUBLIC = "deploy"  #: owner of the environments that are there for all

Write = Callable[[str], None]


def expand(words: Sequence[str]) -> list[str]:
    """Node names, each once, of words such as ``graphene-[1-3,7].nancy.grid5000.fr``.

    :raises RefusedError: brackets that make no sense.
    """
    found: dict[str, None] = {}
    for word in words:
        if "[" not in word and "]" not in word:
            found[word] = None
            continue
        match = _RANGE.fullmatch(word)
        if match is None:
            raise RefusedError(f"Invalid node list: {word}")
        for part in match[2].split(","):
            first, dash, last = part.partition("-")
            if (
                not first.isdecimal()
                or (dash and not last.isdecimal())
                or int(last or first) - int(first) > 10**4
            ):
                raise RefusedError(f"Invalid node list: {word}")
            for number in range(int(first), int(last or first) + 1):
                found[f"{match[1]}{number}{match[3]}"] = None
    return list(found)


class Frontend:
    """Does what users of a site's frontend ask. May be used from several threads."""

    def __init__(
        self,
        site: str,
        description: Description,
        database: Callable[[str], Jobs],
        machines: Machines,
    ) -> None:
        self._site = description.site(site)
        self._description = description
        self._database = database
        self._machines = machines
        self._lock = threading.Lock()
        self._deploying: set[str] = set()

    def handle(self, user: str, request: Mapping[str, Any], out: Write) -> dict[str, Any]:
        """Do one request of ``user``, writing what he shall read; returns the last answer, with ``exit``.

        :raises G5kvirtError: the request makes no sense, is not allowed, or the site does not answer.
        """
        options = request.get("options")
        if not isinstance(options, dict):
            raise RefusedError("the request has no options")
        match request.get("command"):
            case "kadeploy3":
                return self._kadeploy(user, options, out)
            case "kaenv3":
                return self._kaenv(options, out)
            case "kavlan":
                return self._kavlan(user, options, out)
            case "g5k-subnets":
                return self._subnets(options, out)
        raise RefusedError(f"there is no command {request.get('command')!r} here")

    # --- kadeploy3 ---

    def _kadeploy(self, user: str, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        environment = self._environment(options)
        nodes = self._nodes(options)
        vlan = target_vlan(
            self._description, self._site.name, options.get("vlan", "DEFAULT"), user, self._database
        )
        allowed = deployable(self._database(self._site.name), user)
        mine, reasons = self._claim(nodes, allowed)
        try:
            out(f"Deployment #D-{uuid.uuid4()} started\n")
            if mine:
                out(f"Launching a deployment on {', '.join(node.fqdn for node in mine)}\n")
            started = time.monotonic()

            def deploy(node: Node) -> None:
                self._machines.deploy(node, environment, vlan, options.get("key") or "")
                out(f"  End of deployment for {node.fqdn} after {time.monotonic() - started:.0f}s\n")

            results = each(mine, deploy)
        finally:
            with self._lock:
                self._deploying.difference_update(node.fqdn for node in mine)
        reasons |= {node.fqdn: why for node, why in zip(mine, results, strict=True) if why is not None}
        ok = [node.fqdn for node in nodes if node.fqdn not in reasons]
        ko = [node.fqdn for node in nodes if node.fqdn in reasons]
        out(f"End of deployment after {time.monotonic() - started:.1f}s\n\n")
        if ok:
            out("The deployment is successful on nodes\n" + "".join(f"{name}\n" for name in ok))
        if ko:
            lines = (f"{name} ({' '.join(reasons[name].split())})\n" for name in ko)
            out("The deployment failed on nodes\n" + "".join(lines))
        return {"exit": 1 if ko else 0, "ok": ok, "ko": ko}

    def _environment(self, options: Mapping[str, Any]) -> str:
        name, file = options.get("env-name"), options.get("env-file")
        if (name is None) == (file is None):
            raise RefusedError("Some options are missing or conflicting: give an environment, by -e or by -a")
        if file is not None:
            return _described(file)
        known = [environment.name for environment in self._description.environments]
        owner = options.get("env-user", _PUBLIC)
        if name not in known or owner != _PUBLIC:
            raise RefusedError(
                f"Invalid environment specification: the environment {name} of {owner} does not exist; "
                f"{_PUBLIC} has {', '.join(known)}"
            )
        return str(name)

    def _nodes(self, options: Mapping[str, Any]) -> list[Node]:
        names = expand(options.get("machine") or [])
        if not names:
            raise RefusedError("Some options are missing: give nodes, by -m or by -f")
        nodes = []
        for name in names:
            try:
                nodes.append(node_called(self._description, self._site.name, name))
            except KeyError:
                raise RefusedError(f"Invalid node list: {name} is no node of {self._site.name}") from None
        return nodes

    def _claim(self, nodes: Sequence[Node], allowed: set[str]) -> tuple[list[Node], dict[str, str]]:
        """Nodes that this deployment may work on, now marked as taken; reasons why not for the others."""
        mine: list[Node] = []
        reasons: dict[str, str] = {}
        with self._lock:
            for node in nodes:
                if node.fqdn not in allowed:
                    reasons[node.fqdn] = "permission denied: it is in no running deploy job of yours"
                elif node.fqdn in self._deploying:
                    reasons[node.fqdn] = "it is already being deployed"
                else:
                    self._deploying.add(node.fqdn)
                    mine.append(node)
        return mine, reasons

    # --- kaenv3 ---

    def _kaenv(self, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        """List the environments, or print one; nobody registers any here."""
        if ("print" in options) == bool(options.get("list")):
            raise RefusedError("give one of -l (list) and -p NAME (print)")
        known = {environment.name: environment for environment in self._description.environments}
        if options.get("list"):
            width = max(map(len, known))
            out(f"{'Name':<{width}}  User    Description\n")
            out("".join(f"{e.name:<{width}}  {_PUBLIC}  {e.description}\n" for e in known.values()))
            return {"exit": 0}
        name, owner = options["print"], options.get("env-user", _PUBLIC)
        if name not in known or owner != _PUBLIC:
            raise RefusedError(f"The environment {name} of {owner} does not exist")
        plain = {"name": name, "description": known[name].description, "os": "linux", "visibility": "public"}
        out("---\n" + yaml.safe_dump(plain, sort_keys=False))
        return {"exit": 0}

    # --- kavlan ---

    def _kavlan(self, user: str, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        asked = [name for name in ("show-vlan-id", "set-vlan", "get-nodelist") if options.get(name)]
        if len(asked) != 1:
            raise RefusedError(
                "give one of -V (ids of a job's vlans), -s (set vlan) and -l (names in a vlan)"
            )
        job = self._job(options["oar-jobid"]) if "oar-jobid" in options else None
        if asked == ["set-vlan"]:
            return self._set_vlan(user, job, options, out)
        if job is None:
            raise RefusedError("give the job, by -j or in the variable OAR_JOB_ID")
        if not job.held.vlans:
            out("no vlan found\n")
            return {"exit": 1}
        if asked == ["show-vlan-id"]:
            out("".join(f"{vlan}\n" for vlan in job.held.vlans))
        else:
            vlan = _whole(options.get("vlan-id", job.held.vlans[0]), "vlan")
            nodes = [self._description.node(name) for name in job.held.nodes]
            out("".join(f"{node.kavlan_name(vlan)}\n" for node in nodes))
        return {"exit": 0}

    def _set_vlan(self, user: str, job: Job | None, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        if "vlan-id" not in options:
            raise RefusedError("give the vlan, by -i: its id or DEFAULT")
        word = str(options["vlan-id"])
        vlan = target_vlan(self._description, self._site.name, word, user, self._database)
        names = expand(options.get("machine") or (job.held.nodes if job else ()))
        if not names:
            raise RefusedError("give nodes, by -m or -f, or a job, by -j")
        allowed = deployable(self._database(self._site.name), user)
        results = move(self._description, self._site.name, names, vlan, allowed, self._machines)
        out("".join(f"{name}: {why or f'vlan {word} is set'}\n" for name, why in results.items()))
        return {"exit": 1 if any(results.values()) else 0}

    # --- g5k-subnets ---

    def _subnets(self, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        if "job-id" not in options:
            raise RefusedError("give the job, by -j or in the variable OAR_JOB_ID")
        job = self._job(options["job-id"])
        lines = subnet_lines(self._site, job.held.subnets, options)
        out("".join(f"{line}\n" for line in lines))
        return {"exit": 0}

    def _job(self, word: object) -> Job:
        job = self._database(self._site.name).job(_whole(word, "job"))
        if job is None:
            raise RefusedError(f"job {word} does not exist on {self._site.name}")
        if job.state in _WAITING:
            raise RefusedError(f"job {word} has not started: it is {job.state}")
        return job


def _whole(word: object, what: str) -> int:
    if not str(word).isdecimal():
        raise RefusedError(f"{word} is no id of a {what}")
    return int(str(word))


def _described(text: str) -> str:
    """Name of the environment that a description file (YAML, as for Kadeploy) describes."""
    try:
        described = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RefusedError("Invalid environment specification: the file is not YAML") from error
    described = described if isinstance(described, dict) else {}
    name = described.get("name")
    if not isinstance(name, str) or not _ENVIRONMENT.fullmatch(name):
        raise RefusedError("Invalid environment specification: the file has no name that can be one")
    image = described.get("image")
    if not isinstance(image, dict) or "file" not in image:
        raise RefusedError("Invalid environment specification: the file has no image with a file")
    return name


# --- the socket ---


def users_in(root: Path) -> Callable[[int], str | None]:
    """Names of users by id, as ``etc/passwd`` below ``root`` has them at the time of asking."""

    def user_of(uid: int) -> str | None:
        for line in (root / "etc" / "passwd").read_text(encoding="utf-8").splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2] == str(uid):
                return fields[0]
        return None

    return user_of


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    timeout = _PATIENCE

    def handle(self) -> None:
        lock = threading.Lock()

        def send(answer: Mapping[str, Any]) -> None:
            # A client that has gone away does not stop what it asked for, as with Kadeploy.
            with lock, contextlib.suppress(OSError):
                self.wfile.write(json.dumps(answer).encode() + b"\n")
                self.wfile.flush()

        try:
            user = self.server.user_of(_peer(self.request))
            request = json.loads(self.rfile.readline(_MAX_REQUEST))
            if user is None or not isinstance(request, dict):
                raise RefusedError("this user or request is unknown here")
            last = self.server.handler(user, request, lambda text: send({"out": text}))
        except (G5kvirtError, OSError) as error:
            last = {"err": f"[ERROR] {error}\n", "exit": 1}
        except (ValueError, TypeError, AttributeError) as error:
            # a request of the wrong form: bin/g5k never makes one
            log.info("bad request", exc_info=True)
            last = {"err": f"[ERROR] the request makes no sense: {error}\n", "exit": 1}
        send(last)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        path: Path,
        handler: Callable[[str, Mapping[str, Any], Write], dict[str, Any]],
        user_of: Callable[[int], str | None],
    ) -> None:
        self.handler = handler
        self.user_of = user_of
        super().__init__(str(path), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning("a command of a frontend ended badly", exc_info=True)


def _peer(sock: socket.socket) -> int:
    """User id of the process at the other end."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


class _Thread(threading.Thread):
    def __init__(self, server: _Server, path: Path) -> None:
        super().__init__(
            name=f"frontend {path}", daemon=True, target=server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self._server = server
        self._path = path

    def stop(self) -> None:
        """End the server, close its socket and remove it."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)
        self.join(5)


def serve(
    path: Path | str,
    handler: Callable[[str, Mapping[str, Any], Write], dict[str, Any]],
    user_of: Callable[[int], str | None],
) -> _Thread:
    """Listen on the unix socket ``path`` (replaced if there), open to all users; the thread has ``stop()``.

    :param handler: `Frontend.handle` of the site.
    :param user_of: name of the user with an id, such as `users_in` of the site's root; None if there is none.
    """
    path = Path(path)
    path.unlink(missing_ok=True)
    thread = _Thread(_Server(path, handler, user_of), path)
    path.chmod(0o666)
    thread.start()
    return thread
