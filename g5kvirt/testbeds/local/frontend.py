"""The testbed's side of the frontends' commands: kadeploy3, kaenv3, kavlan and g5k-subnets.

The client program (``bin/g5k``) sends one request, a line of JSON, over a unix socket of its site and
receives lines of JSON: ``{"out": text}``, ``{"err": text}``, finally ``{"exit": status}``. The user is
identified by the credentials of the socket's peer, from the kernel.

As on Grid'5000, users may deploy the nodes of their running deploy jobs and use the vlans of their running
jobs. Unlike Kadeploy, which would refuse the whole request, only the nodes of others fail and the rest is
deployed. The output has the format of Kadeploy.
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
from g5kvirt.spec.environment_name import read_name
from g5kvirt.testbeds.described.model import Description, NodeDescription
from g5kvirt.testbeds.local.oardb import Job
from g5kvirt.testbeds.local.permissions import (
    JobReader,
    NodeControl,
    RequestRefusedError,
    deployable,
    expand,
    find_node,
    move,
    run_parallel,
    target_vlan,
)
from g5kvirt.testbeds.local.server_thread import ServerThread
from g5kvirt.testbeds.local.subnets import subnet_lines

__all__ = ["Frontend", "expand", "serve", "users_in"]

log = logging.getLogger(__name__)

_MAX_REQUEST = 1 << 20
_REQUEST_TIMEOUT = 30  #: seconds a client may take to send its request
_WAITING = ("Waiting", "Hold", "toAckReservation", "toLaunch")
_ENVIRONMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_KAVLAN_ACTIONS = ("show-vlan-id", "set-vlan", "get-nodelist", "enable-dhcp", "disable-dhcp")
_PUBLIC = "deploy"  #: owner of the public environments
_VERSION, _ARCH = "1", "x86_64"  #: of all of them
_LAST_STEP = "BootNewEnvClassical-wait_reboot"  #: of Kadeploy3, where a node that does not start has failed

Write = Callable[[str], None]


class Frontend:
    """Executes the requests of users on the frontend of a site. Thread-safe."""

    def __init__(
        self,
        site: str,
        description: Description,
        database: Callable[[str], JobReader],
        machines: NodeControl,
    ) -> None:
        self._site = description.site(site)
        self._description = description
        self._database = database
        self._machines = machines
        self._lock = threading.Lock()
        self._deploying: set[str] = set()

    def handle(self, user: str, request: Mapping[str, Any], out: Write) -> dict[str, Any]:
        """Execute a request of ``user``, passing output to ``out``; returns the final response with ``exit``.

        :raises G5kvirtError: the request is invalid or not allowed, or the site does not respond.
        """
        options = request.get("options")
        if not isinstance(options, dict):
            raise RequestRefusedError("the request has no options")
        match request.get("command"):
            case "kadeploy3":
                return self._kadeploy(user, options, out)
            case "kaenv3":
                return self._kaenv(options, out)
            case "kavlan":
                return self._kavlan(user, options, out)
            case "g5k-subnets":
                return self._subnets(options, out)
        raise RequestRefusedError(f"unknown command {request.get('command')!r}")

    # --- kadeploy3 ---

    def _kadeploy(self, user: str, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        environment = self._environment(options)
        nodes = self._nodes(options)
        vlan = target_vlan(
            self._description, self._site.name, options.get("vlan", "DEFAULT"), user, self._database
        )
        allowed = deployable(self._database(self._site.name), user)
        claimed, reasons = self._claim(nodes, allowed)
        try:
            out(f"Deployment #D-{uuid.uuid4()} started\n")
            if claimed:
                names = ", ".join(node.fqdn for node in claimed)
                out(f"Launching a deployment of {environment}:{_VERSION} on {names}\n")
            started = time.monotonic()

            def deploy(node: NodeDescription) -> None:
                self._machines.deploy(node, environment, vlan, options.get("key") or "")
                out(f"  End of deployment for {node.fqdn} after {time.monotonic() - started:.0f}s\n")

            results = run_parallel(claimed, deploy)
        finally:
            with self._lock:
                self._deploying.difference_update(node.fqdn for node in claimed)
        # with the newlines that it has: so does Kadeploy
        reasons |= {
            node.fqdn: f"{_LAST_STEP}: {reason.strip()}"
            for node, reason in zip(claimed, results, strict=True)
            if reason
        }
        ok = [node.fqdn for node in nodes if node.fqdn not in reasons]
        ko = [node.fqdn for node in nodes if node.fqdn in reasons]
        out(f"End of deployment after {time.monotonic() - started:.1f}s\n\n")
        if ok:
            out("The deployment is successful on nodes\n" + "".join(f"{name}\n" for name in ok))
        if ko:
            out("The deployment failed on nodes\n" + "".join(f"{name} ({reasons[name]})\n" for name in ko))
        return {"exit": 0, "ok": ok, "ko": ko}  # Kadeploy's client, too, ends well when nodes have failed

    def _environment(self, options: Mapping[str, Any]) -> str:
        name, file = options.get("env-name"), options.get("env-file")
        if (name is None) == (file is None):
            raise RequestRefusedError(
                "Some options are missing or conflicting: give an environment by either -e or -a"
            )
        if file is not None:
            return _environment_name(file)
        known = [environment.name for environment in self._description.environments]
        found = _registered(str(name), options.get("env-user"))
        if found not in known:
            raise RequestRefusedError(
                f"Invalid environment specification: the environment {name} of "
                f"{options.get('env-user', _PUBLIC)} does not exist; {_PUBLIC} has {', '.join(known)}"
            )
        return found

    def _nodes(self, options: Mapping[str, Any]) -> list[NodeDescription]:
        names = expand(options.get("machine") or [])
        if not names:
            raise RequestRefusedError("Some options are missing: give nodes by -m or -f")
        nodes = []
        for name in names:
            try:
                nodes.append(find_node(self._description, self._site.name, name))
            except KeyError:
                raise RequestRefusedError(
                    f"Invalid node list: {name} is not a node of {self._site.name}"
                ) from None
        return nodes

    def _claim(
        self, nodes: Sequence[NodeDescription], allowed: set[str]
    ) -> tuple[list[NodeDescription], dict[str, str]]:
        """Reserve nodes for this deployment; returns them, and for each other node the reason why not."""
        claimed: list[NodeDescription] = []
        reasons: dict[str, str] = {}
        with self._lock:
            for node in nodes:
                if node.fqdn not in allowed:
                    reasons[node.fqdn] = "permission denied: not in a running deploy job of yours"
                elif node.fqdn in self._deploying:
                    reasons[node.fqdn] = "it is already being deployed"
                else:
                    self._deploying.add(node.fqdn)
                    claimed.append(node)
        return claimed, reasons

    # --- kaenv3 ---

    def _kaenv(self, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        """List the environments, or print one; registering any is not supported."""
        if "print" in options and options.get("list"):
            raise RequestRefusedError("give either -l (list) or -p NAME (print)")
        known = {environment.name: environment for environment in self._description.environments}
        if "print" not in options:
            width = max(map(len, known))
            out(f"{'Name':<{width}}  User    Description\n")
            out("".join(f"{e.name:<{width}}  {_PUBLIC}  {e.description}\n" for e in known.values()))
            return {"exit": 0}
        name, owner = str(options["print"]), options.get("env-user")
        found = _registered(name, owner)
        if found not in known:
            raise RequestRefusedError(f"The environment {name} of {owner or _PUBLIC} does not exist")
        plain = {"name": found, "version": int(_VERSION), "arch": _ARCH}
        plain |= {"description": known[found].description, "os": "linux", "visibility": "public"}
        out("---\n" + yaml.safe_dump(plain, sort_keys=False))
        return {"exit": 0}

    # --- kavlan ---

    def _kavlan(self, user: str, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        actions = [name for name in _KAVLAN_ACTIONS if options.get(name)]
        if len(actions) != 1:
            raise RequestRefusedError(
                "give exactly one of -V (vlan ids of a job), -s (set vlan), -l (node names in a vlan),"
                " -e and -d (DHCP server on and off)"
            )
        job = self._job(options["oar-jobid"]) if "oar-jobid" in options else None
        if actions == ["set-vlan"]:
            return self._set_vlan(user, job, options, out)
        if actions[0].endswith("-dhcp"):
            return self._set_dhcp(user, job, options, actions == ["enable-dhcp"], out)
        if job is None:
            raise RequestRefusedError("give the job by -j or in the variable OAR_JOB_ID")
        if not job.assigned.vlans:
            out("no vlan found\n")
            return {"exit": 1}
        if actions == ["show-vlan-id"]:
            out("".join(f"{vlan}\n" for vlan in job.assigned.vlans))
        else:
            vlan = _parse_id(options.get("vlan-id", job.assigned.vlans[0]), "vlan")
            nodes = [self._description.node(name) for name in job.assigned.nodes]
            out("".join(f"{node.kavlan_name(vlan)}\n" for node in nodes))
        return {"exit": 0}

    def _set_dhcp(
        self, user: str, job: Job | None, options: Mapping[str, Any], on: bool, out: Write
    ) -> dict[str, Any]:
        """Start or stop the DHCP server of a vlan."""
        if "vlan-id" not in options and not (job and job.assigned.vlans):
            raise RequestRefusedError("give the vlan by -i, or a job that has one by -j")
        name = str(options["vlan-id"] if "vlan-id" in options or job is None else job.assigned.vlans[0])
        vlan = target_vlan(self._description, self._site.name, name, user, self._database)
        if vlan is None:
            raise RequestRefusedError("Invalid VLAN: DEFAULT is not a vlan of yours")
        self._machines.set_dhcp(self._site.name, vlan, on)
        out(f"vlan {vlan}: the DHCP server is {'on' if on else 'off'}\n")
        return {"exit": 0}

    def _set_vlan(self, user: str, job: Job | None, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        if "vlan-id" not in options:
            raise RequestRefusedError("give the vlan by -i: its id or DEFAULT")
        vlan_name = str(options["vlan-id"])
        vlan = target_vlan(self._description, self._site.name, vlan_name, user, self._database)
        names = expand(options.get("machine") or (job.assigned.nodes if job else ()))
        if not names:
            raise RequestRefusedError("give nodes by -m or -f, or a job by -j")
        allowed = deployable(self._database(self._site.name), user)
        results = move(self._description, self._site.name, names, vlan, allowed, self._machines)
        out("".join(f"{name}: {reason or f'vlan {vlan_name} is set'}\n" for name, reason in results.items()))
        return {"exit": 1 if any(results.values()) else 0}

    # --- g5k-subnets ---

    def _subnets(self, options: Mapping[str, Any], out: Write) -> dict[str, Any]:
        if "job-id" not in options:
            raise RequestRefusedError("give the job by -j or in the variable OAR_JOB_ID")
        job = self._job(options["job-id"])
        lines = subnet_lines(self._site, job.assigned.subnets, options)
        out("".join(f"{line}\n" for line in lines))
        return {"exit": 0}

    def _job(self, text: object) -> Job:
        job = self._database(self._site.name).job(_parse_id(text, "job"))
        if job is None:
            raise RequestRefusedError(f"job {text} does not exist on {self._site.name}")
        if job.state in _WAITING:
            raise RequestRefusedError(f"job {text} has not started: it is {job.state}")
        return job


def _parse_id(text: object, kind: str) -> int:
    if not str(text).isdecimal():
        raise RequestRefusedError(f"{text} is not a {kind} id")
    return int(str(text))


def _registered(requested: str, owner: str | None) -> str:
    """The name in ``name@user:version%arch`` if an environment registered here may have the rest, else ""."""
    name = read_name(requested)
    if name is None or (owner or name.user or _PUBLIC) != _PUBLIC or name.user not in ("", _PUBLIC):
        return ""
    return name.name if name.version in ("", _VERSION) and name.arch in ("", _ARCH) else ""


def _environment_name(text: str) -> str:
    """The name in an environment description (YAML, as for Kadeploy)."""
    try:
        described = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestRefusedError("Invalid environment specification: the file is not YAML") from error
    described = described if isinstance(described, dict) else {}
    name = described.get("name")
    if not isinstance(name, str) or not _ENVIRONMENT.fullmatch(name):
        raise RequestRefusedError("Invalid environment specification: the file has no valid name")
    image = described.get("image")
    if not isinstance(image, dict) or "file" not in image:
        raise RequestRefusedError("Invalid environment specification: the file has no image with a file")
    return name


# --- the socket ---


def users_in(root: Path) -> Callable[[int], str | None]:
    """Look-up of user names by id in ``etc/passwd`` below ``root``, which is read at each call."""

    def user_of(uid: int) -> str | None:
        for line in (root / "etc" / "passwd").read_text(encoding="utf-8").splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2] == str(uid):
                return fields[0]
        return None

    return user_of


class _FrontendHandler(socketserver.StreamRequestHandler):
    server: _FrontendServer
    timeout = _REQUEST_TIMEOUT

    def handle(self) -> None:
        lock = threading.Lock()

        def send(response: Mapping[str, Any]) -> None:
            # As with Kadeploy, a request continues even if its client disconnects.
            with lock, contextlib.suppress(OSError):
                self.wfile.write(json.dumps(response).encode() + b"\n")
                self.wfile.flush()

        try:
            user = self.server.user_of(_peer(self.request))
            request = json.loads(self.rfile.readline(_MAX_REQUEST))
            if user is None or not isinstance(request, dict):
                raise RequestRefusedError("unknown user or invalid request")
            last = self.server.handler(user, request, lambda text: send({"out": text}))
        except (G5kvirtError, OSError) as error:
            last = {"err": f"[ERROR] {error}\n", "exit": 1}
        except (ValueError, TypeError, AttributeError) as error:
            # a malformed request, which bin/g5k never sends
            log.info("bad request", exc_info=True)
            last = {"err": f"[ERROR] invalid request: {error}\n", "exit": 1}
        send(last)


class _FrontendServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
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
        super().__init__(str(path), _FrontendHandler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning("a command of a frontend failed", exc_info=True)


def _peer(sock: socket.socket) -> int:
    """User id of the process at the other end of the socket."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def serve(
    path: Path | str,
    handler: Callable[[str, Mapping[str, Any], Write], dict[str, Any]],
    user_of: Callable[[int], str | None],
) -> ServerThread:
    """Listen on the unix socket ``path`` (replaced if it exists), which is open to all users.

    :param handler: `Frontend.handle` of the site.
    :param user_of: maps a user id to a name or None, such as `users_in` of the site's root.
    """
    path = Path(path)
    path.unlink(missing_ok=True)
    thread = ServerThread(_FrontendServer(path, handler, user_of), f"frontend {path}")
    path.chmod(0o666)
    thread.start()
    return thread
