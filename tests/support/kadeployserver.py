"""A small Kadeploy3 server without nodes: its REST API over real HTTP, deployments by a clock that the test
turns.

Paths, answers, refusals and logs are those of Kadeploy 3.3; what its nodes do is said by the test. As the
real one does, it starts a deployment whose client has gone, and lists it only then. A deployment's whole
course is worked out when it begins, the way Kadeploy3 goes: sets of nodes split after each step into those
that are well and those that are not; these try again, or the next variant, or have failed.
"""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from g5kvirt.provisioners.kadeploy3.steps import VARIANTS, WITH_IDENTITY, instance

#: Of the steps of a variant, those that a plain deployment has; seconds that each takes.
SECONDS = {
    "switch_pxe": 1.0,
    "reboot": 16.0,
    "wait_reboot": 60.0,
    "send_key_in_deploy_env": 1.0,
    "create_partition_table": 2.0,
    "format_deploy_part": 3.0,
    "mount_deploy_part": 0.4,
    "send_environment": 25.0,
    "check_kernel_files": 0.5,
    "send_key": 1.0,
    WITH_IDENTITY: 1.5,
    "install_bootloader": 4.0,
    "sync": 2.0,
    "umount_deploy_part": 0.5,
    "reboot_from_deploy_env": 2.0,
    "kexec": 3.0,
}
AUTOMATA = (
    (("SetDeploymentEnvUntrusted", 1),),
    (("BroadcastEnvKascade", 1), ("BroadcastEnvChain", 1)),
    (("BootNewEnvKexec", 0), ("BootNewEnvHardReboot", 1)),
)


def in_states(micro: str) -> str:
    """What an operation of a request's own is called outside the log."""
    return f"custom_post_{micro}" if "-" in micro else micro


class TroubleError(Exception):
    """A refusal with Kadeploy3's number, or (negative) with an HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Workflow:
    """One deployment: what is true from when on."""

    wid: str
    user: str
    nodes: list[str]
    environment: dict[str, Any]
    start: float
    marks: list[tuple[float, list[str], dict[str, str | None]]] = field(default_factory=list)
    lines: list[tuple[float, int, str]] = field(default_factory=list)  # time, level, text
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    end: float = 0.0
    ok: list[str] = field(default_factory=list)
    ko: list[str] = field(default_factory=list)
    operations: set[str] = field(default_factory=set)  # of the request's own, as the log has them
    told: int = 0
    level: int = 3
    broken: str = ""  # the whole deployment ends with this error

    def begin(self) -> None:
        """No node has done anything yet."""
        for node in self.nodes:
            self.rows[node] = {"steps": [""] * 3, "retries": [0] * 3, "durations": [0] * 3, "error": ""}


class Kadeploy:
    """The server. ``bad``: (node, macro-step with variant, micro-step) → how often that fails there, and
    why."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = list(nodes)
        self.now = 1_700_000_000.0
        self.bad: dict[tuple[str, str, str], list[Any]] = {}
        self.broken = ""
        self.deaf: set[str] = set()  # paths (their ends) that are answered with status 500
        self.environments: list[dict[str, Any]] = []
        self.rights: set[str] = set()
        self.workflows: dict[str, Workflow] = {}
        self.log: list[Workflow] = []  # the statistics outlive the workflows
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.hold = threading.Event()  # requests for deployments wait for it
        self.hold.set()
        self.hangs_up = False  # on a client that wants a deployment, which it starts nevertheless
        self.lock = threading.RLock()

    # ---- a deployment's course ------------------------------------------------------------------------
    def run(self, workflow: Workflow) -> None:
        """Work out what happens when."""
        workflow.begin()
        self._macro(workflow, workflow.nodes, 0, 0, 0, workflow.start, "")
        workflow.marks.sort(key=lambda mark: mark[0])
        workflow.lines.sort(key=lambda line: line[0])
        workflow.end = max(t for t, _, _ in workflow.marks) + 1.0

    def _macro(
        self, w: Workflow, nodes: list[str], m: int, v: int, tries: int, t: float, prefix: str
    ) -> None:
        name, retries = AUTOMATA[m][v]
        macro, variant = instance(name)
        began = t
        w.lines.append((t, 1, f"{prefix}Performing a Deploy[{name}] step"))
        for node in nodes:
            w.rows[node]["steps"][m] = name
        good = list(nodes)
        lost: list[tuple[list[str], float]] = []
        for micro in VARIANTS[macro][variant]:
            if micro not in SECONDS or (macro == "BroadcastEnv" and micro == "mount_deploy_part"):
                continue
            if "-" in micro and micro not in w.operations:
                continue
            w.marks.append((t, list(good), {"macro": name, "micro": in_states(micro), "state": "ok"}))
            w.lines.append((t, 3, f"{prefix}  {micro}"))
            t += SECONDS[micro]
            spoilt = [node for node in good if self._fails(w, node, name, micro)]
            good = [node for node in good if node not in spoilt]
            if micro == "wait_reboot":
                for number, node in enumerate(good):
                    here = t - SECONDS[micro] * (0.5 if number % 2 else 0.25)
                    w.lines.append((here, 5, f"{prefix}   * {node} is here after {int(here - began)}s"))
                    w.marks.append((here, [node], {"state": "rebooted"}))
            w.lines.append((t, 4, f"{prefix}   ~ Time in {micro}: {int(SECONDS[micro])}s"))
            if spoilt:
                w.marks.append((t, spoilt, {"state": "ko"}))
                lost.append((spoilt, t))
                for node in spoilt:
                    w.rows[node]["durations"][m] = int(t - began)
                if good:
                    w.lines += [(t, 1, f"{prefix}---"), (t, 1, f"{prefix}Nodeset [0] split into :")]
                    prefix = f"[{len(w.lines)}] "
            if not good:
                break
        if good:
            for node in good:
                w.rows[node]["durations"][m] = int(t - began)
            w.lines.append((t, 1, f"{prefix}End of step Deploy[{name}] after {int(t - began)}s"))
            if m + 1 < len(AUTOMATA):
                self._macro(w, good, m + 1, 0, 0, t, prefix)
            else:
                w.marks.append((t, good, {"macro": None, "micro": None, "state": "ok", "error": None}))
                w.lines.append(
                    (t, 1, f"{prefix}End of deployment for {''.join(good)} after {int(t - w.start)}s")
                )
                w.ok += good
        for spoilt, at in lost:
            further = (v, tries + 1) if tries < retries else (v + 1, 0)
            if further[0] < len(AUTOMATA[m]):
                for node in spoilt:
                    w.rows[node]["retries"][m] += 1
                self._macro(w, spoilt, m, *further, at + 0.5, f"[{len(w.lines)}] ")
                continue
            for node in spoilt:
                w.marks.append((at, [node], {"state": "ko", "error": w.rows[node]["error"]}))
            w.ko += spoilt

    def _fails(self, w: Workflow, node: str, macro: str, micro: str) -> bool:
        how = self.bad.get((node, macro, micro))
        if not how or not how[0]:
            return False
        how[0] -= 1
        w.rows[node]["error"] = f"{macro}-{in_states(micro)}: {how[1]}"
        return True

    # ---- what is asked --------------------------------------------------------------------------------
    def answer(self, method: str, path: list[str], user: str, asked: Mapping[str, Any]) -> Any:
        """The answer, or TroubleError."""
        match method, path:
            case "GET", ["version"]:
                return "3.3.1.stable"
            case "GET", ["auth_headers_prefix"]:
                return "X-Kadeploy-"
            case "GET", ["info"]:
                return {"pxe": "IPXE", "automata": {}, "supported_fs": {"vms": ["ext4"]}, "vars": []}
        if not user:
            raise TroubleError(-401, "Unauthorized -- Authentication failed: no user specified")
        match method, path:
            case "GET", ["nodes"]:
                return self.nodes if "list" in asked else dict.fromkeys(self.nodes)
            case "POST", ["rights"]:
                name = str(asked.get("username", user))
                if name in self.rights:
                    raise TroubleError(14, "No element has been modified")
                self.rights.add(name)
                return {name: {"*": ["*"]}}
            case "GET", ["rights"]:
                return {name: {"*": ["*"]} for name in self.rights}
            case "POST", ["environments"]:
                return self._register(asked.get("environment"), user)
            case "GET", ["environments"]:
                return self.environments
            case "POST", ["deployment"]:
                return self._deploy(asked, user)
            case "GET", ["deployment"]:
                return [self._whole(w) for w in self.workflows.values()]
            case "GET", ["stats", "deploy"]:
                return self._statistics(asked)
            case "POST", ["reboot"]:
                self._known(asked)
                return {"wid": f"R-{uuid.uuid4()}", "resources": {}}
            case _, ["deployment", wid, *rest]:
                return self._workflow(method, wid, rest)
        raise TroubleError(-404, "File Not Found")

    def _register(self, about: Any, user: str) -> Any:
        if not isinstance(about, dict):
            raise TroubleError(4, "Invalid option in the request -- Parameter 'environment': mandatory")
        for key in ("name", "os", "image"):
            if key not in about:
                raise TroubleError(7, f"Error[environment description] The field is mandatory [field: {key}]")
        if about["image"].get("compression") not in ("gzip", "bzip2", "xz"):
            raise TroubleError(7, "Error[environment description] Invalid value [field: image/compression]")
        same = (about["name"], about.get("version", 1))
        if same in [(e["name"], e["version"]) for e in self.environments]:
            raise TroubleError(10, "Element already exists")
        self.environments.append({"version": 1, **about, "user": user})
        return self.environments[-1]

    def _known(self, asked: Mapping[str, Any]) -> list[str]:
        nodes = asked.get("nodes")
        if not isinstance(nodes, list) or not nodes:
            raise TroubleError(2, "Invalid node list -- Parameter 'nodes': mandatory")
        for node in nodes:
            if node not in self.nodes:
                raise TroubleError(2, f"Invalid node list -- The node '{node}' does not exist")
        return [str(node) for node in nodes]

    def _deploy(self, asked: Mapping[str, Any], user: str) -> Any:
        nodes = self._known(asked)
        if user not in self.rights:
            raise TroubleError(
                6, "You do not have sufficient rights to perform the operation on all the nodes"
            )
        if not 1 <= asked.get("verbose_level", 3) <= 5:
            raise TroubleError(4, "Invalid option in the request -- must be in the range 1..5")
        wanted = asked.get("environment") or {}
        found = [
            e
            for e in self.environments
            if (e["name"], e["version"]) == (wanted.get("name"), wanted.get("version", 1))
        ]
        if not found:
            raise TroubleError(
                7, f"Invalid environment specification -- the environment {wanted} does not exist"
            )
        about = {k: found[0][k] for k in ("name", "version", "user")}
        workflow = Workflow(f"D-{uuid.uuid4()}", user, nodes, about, self.now)
        workflow.operations = operations(asked.get("custom_operations") or {})
        workflow.level, workflow.broken = int(asked.get("verbose_level", 3)), self.broken
        self.run(workflow)
        if workflow.broken:
            workflow.end = workflow.start + 30.0
        self.workflows[workflow.wid] = workflow
        self.log.append(workflow)
        base = f"/deployment/{workflow.wid}"
        parts = {"resource": base, "log": f"{base}/logs", "logs": {"vms": f"{base}/logs/vms"}}
        parts |= {key: f"{base}/{key}" for key in ("state", "status", "error")}
        return {"wid": workflow.wid, "resources": parts}

    def _states(self, w: Workflow) -> dict[str, dict[str, str | None]]:
        states: dict[str, dict[str, str | None]] = {}
        for t, nodes, change in w.marks:
            if t <= self.now and t <= w.end:
                for node in nodes:
                    states.setdefault(node, {}).update(change)
        return states

    def _whole(self, w: Workflow) -> dict[str, Any]:
        done = self.now >= w.end
        about = {"wid": w.wid, "user": w.user, "done": done, "error": done and bool(w.broken)}
        about |= {"start_time": int(w.start), "environment": {"id": 1, **w.environment}}
        if about["error"]:
            return about
        states = self._states(w)
        over = {n for n, s in states.items() if s.get("micro") is None or s.get("error")}
        ok, ko = (w.ok, w.ko) if done else ([n for n in w.ok if n in over], [n for n in w.ko if n in over])
        nodes: dict[str, list[str]] = {"ok": ok, "ko": ko}
        if not done:
            nodes["processing"] = [n for n in w.nodes if n not in {*ok, *ko}]
        return about | {
            "nodes": nodes,
            "logs": w.told < self._logged(w),
            "time": round(self.now - w.start, 2),
        }

    def _logged(self, w: Workflow) -> int:
        return sum(t <= self.now for t, _, _ in w.lines)

    def _workflow(self, method: str, wid: str, rest: list[str]) -> Any:
        w = self.workflows.get(wid)
        if w is None and method == "DELETE":
            raise TroubleError(-405, "Method Not Allowed")
        if w is None:
            raise TroubleError(1, "Invalid workflow ID")
        if method == "DELETE" and not rest:
            del self.workflows[wid]
            w.end = min(w.end, self.now)
            return {"wid": wid}
        failed = bool(w.broken) and self.now >= w.end
        match rest:
            case []:
                return self._whole(w)
            case ["error"]:
                if failed:
                    raise TroubleError(5, f"Invalid file -- {w.broken}")
                return None
            case ["state" | "logs" | "status", *_] if failed:
                return None
            case ["state"]:
                return self._states(w)
            case ["status"]:
                return {}
            case ["logs", *_]:
                upto = self._logged(w)
                told, w.told = w.told, upto
                return "".join(
                    f"{t:.5f}|{text}\n" for t, level, text in w.lines[told:upto] if level <= w.level
                )
        raise TroubleError(-404, "File Not Found")

    def _statistics(self, asked: Mapping[str, Any]) -> bytes:
        lines = []
        for w in self.log:
            if self.now < w.end or w.wid != asked.get("wid", w.wid):
                continue
            for node, row in w.rows.items():
                values: dict[str, Any] = {
                    "wid": w.wid,
                    "user": w.user,
                    "hostname": node,
                    "start": int(w.start),
                }
                values |= {
                    "env": f"{w.environment['name']}:1",
                    "md5": "",
                    "success": str(node in w.ok).lower(),
                }
                values["error"] = "" if node in w.ok else row["error"]
                for n in range(3):
                    values[f"step{n + 1}"] = row["steps"][n]
                    values[f"retry_step{n + 1}"] = row["retries"][n]
                    values[f"step{n + 1}_duration"] = row["durations"][n]
                lines.append(",".join(str(values[name]) for name in asked["fields"]) + "\n")
        return gzip.compress("".join(lines).encode())


def operations(asked: Any) -> set[str]:
    """The names of a request's own operations, refused where 3.3 refuses them."""
    found = set()
    for macro, micros in asked.items():
        if instance(macro)[0] not in VARIANTS:
            raise TroubleError(8, f"Invalid custom operation -- Invalid macrostep '{macro}'")
        known = {micro for steps in VARIANTS[instance(macro)[0]].values() for micro in steps}
        for micro, places in micros.items():
            if micro not in known:
                raise TroubleError(8, f"Invalid custom operation -- Invalid microstep '{micro}'")
            for operation in places["post-ops"]:
                if operation["action"] != "exec" or not isinstance(operation["command"], str):
                    raise TroubleError(8, f"Invalid custom operation -- {macro}/{micro}")
                found.add(f"{micro}-{operation['name']}")
    return found


class Handler(BaseHTTPRequestHandler):
    kadeploy: Kadeploy

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _do(self) -> None:
        url = urlsplit(self.path)
        path = [unquote(word) for word in url.path.strip("/").split("/")]
        asked: dict[str, Any] = {k: v if len(v) > 1 else v[0] for k, v in parse_qs(url.query).items()}
        try:
            asked |= self._body()
            self.kadeploy.requests.append((self.command, url.path, asked))
            if any(url.path.endswith(end) for end in self.kadeploy.deaf):
                raise TroubleError(-500, "---- RuntimeError ----")
            if (self.command, path) == ("POST", ["deployment"]) and not self.kadeploy.hold.wait(20):
                return
            if self.kadeploy.hangs_up and (self.command, path) == ("POST", ["deployment"]):
                self.connection.shutdown(socket.SHUT_RDWR)
            with self.kadeploy.lock:
                result = self.kadeploy.answer(
                    self.command, path, self.headers.get("X-Kadeploy-User", ""), asked
                )
        except TroubleError as trouble:
            self._refuse(trouble)
            return
        with suppress(ConnectionError):  # its client has gone
            self._succeed(result)

    def _succeed(self, result: Any) -> None:
        if isinstance(result, bytes):
            self._send(200, result, "text/csv", {"Content-Encoding": "gzip"})
        elif isinstance(result, str) or result is None:
            self._send(200, ((result or "") + "\n").encode(), 'text/plain; charset="UTF-8"')
        else:
            self._send(200, json.dumps(result, indent=2).encode(), 'application/json; charset="UTF-8"')

    def _body(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length") or 0)
        if not length:
            return {}
        if length > 1 << 20:
            raise TroubleError(-413, "Request Entity Too Large")
        data = self.rfile.read(length)
        if self.headers.get("Content-Type", "").split(";")[0] != "application/json":
            raise TroubleError(-415, "Unsupported Media Type -- The Content-Type HTTP header has to be set")
        body = json.loads(data)
        if not isinstance(body, dict):
            raise TroubleError(
                -415, "Unsupported Media Type -- The content of the request's body must be a Hash"
            )
        return body

    def _refuse(self, trouble: TroubleError) -> None:
        text = str(trouble).encode()
        if trouble.code < 0:
            self._send(-trouble.code, text, "text/plain")
            return
        info = base64.b64encode(text).decode()
        more = {"X-Application-Error-Code": str(trouble.code), "X-Application-Error-Info": info}
        self._send(400, text, "text/plain", more)

    def _send(self, status: int, data: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815


@contextmanager
def serving(kadeploy: Kadeploy) -> Iterator[str]:
    """The server at an address of the loopback interface, until the block ends."""
    handler = type("Handler", (Handler,), {"kadeploy": kadeploy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        kadeploy.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
