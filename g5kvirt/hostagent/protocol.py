"""The host agent's protocol: requests as plain dictionaries, answers as `Answer`.

`onhost` beside this file is what runs on the hosts; see there what each operation does. A request document
goes to its standard input, or is its one argument (as for `follow`, which needs an open input)::

    out = fanout.run(hosts, COMMAND, stdin=document(facts(), status()))
    answers = parse(out[host].stdout)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from g5kvirt.errors import TestbedError
from g5kvirt.hostagent import bundle
from g5kvirt.hostagent.answer_forms import check_detail
from g5kvirt.inventory import Facts
from g5kvirt.run.printable import short

__all__ = [
    "COMMAND",
    "HOME",
    "Answer",
    "Line",
    "arguments",
    "console",
    "document",
    "facts",
    "file",
    "files",
    "follow",
    "load",
    "packages",
    "parse",
    "parse_line",
    "power",
    "prepare",
    "read_answer",
    "read_facts",
    "serve",
    "service_log",
    "services",
    "ssh",
    "start",
    "start_light",
    "status",
    "stop",
    "stop_service",
    "teardown",
    "transfers",
    "vm",
]

#: How the agent is run on a host (-I -S: a third of Python's start-up time).
COMMAND = ("python3", "-I", "-S", bundle.DIRECTORY)
#: Where the agent keeps its records on a host, unless the document names another place.
HOME = "/run/g5kvirt-host"

#: What reading JSON of another form raises.
_UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)

Request = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One result: the operation and its subject, whether it worked, when (the host's clock), and the rest."""

    op: str
    subject: str
    ok: bool
    t: float
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unchanged(self) -> bool:
        """True if it was already as requested."""
        return bool(self.detail.get("unchanged"))

    @property
    def reason(self) -> str:
        """Why it failed; empty if it did not."""
        return str(self.detail.get("reason", "")) if not self.ok else ""


@dataclass(frozen=True)
class Line:
    """A line that was appended to a followed file; the next one begins at ``offset`` of that ``piece``."""

    file: str
    offset: int
    text: str
    piece: int = 0


def document(*requests: Request, home: str = HOME) -> bytes:
    """The one line of JSON that the agent reads."""
    return json.dumps({"home": home, "requests": list(requests)}).encode() + b"\n"


def facts(
    programs: Iterable[str] = (), kvm_limit: float = 3.0, kvm_known: Mapping[str, str] | None = None
) -> Request:
    """Cores, memory, KVM (tried for at most ``kvm_limit`` seconds), missing ``programs``.

    ``kvm_known``: boot id → why KVM does not work on that kernel, empty if it does: not tried again.
    """
    request: Request = {"op": "facts", "programs": list(programs), "kvm_limit": kvm_limit}
    return {**request, "kvm_known": dict(kvm_known or {})}


def packages(
    programs: Mapping[str, str],
    *,
    proxy: str | None = None,
    limit: float = 600.0,
    options: Sequence[str] = (),
) -> Request:
    """Install what is missing of ``programs`` (program → Debian package) by apt, within ``limit`` seconds.

    ``proxy``: URL of the testbed's package proxy; None leaves it to the host's own settings. ``options``:
    further options of apt-get.
    """
    request: Request = {"op": "packages", "programs": dict(programs), "limit": limit}
    return {**request, "proxy": proxy, "options": list(options)}


def prepare(
    *,
    bridge: str = "br0",
    nic: str | None = None,
    addresses: Sequence[str] = (),
    sysctls: Mapping[str, str | int] | None = None,
    ramdisk: int = 0,
    consoles: int = 0,
) -> Request:
    """Bridge over ``nic`` (default: the one of the default route), addresses, settings.

    ``ramdisk`` and ``consoles``: bytes of memory for disks and for serial consoles.
    """
    request: Request = {"op": "prepare", "bridge": bridge, "addresses": list(addresses)}
    return {**request, "nic": nic, "sysctls": dict(sysctls or {}), "ramdisk": ramdisk, "consoles": consoles}


def vm(name: str, mac: str, **settings: Any) -> Request:
    """One VM of a `start` request; ``settings`` override the request's defaults."""
    return {"name": name, "mac": mac, **settings}


def start(
    vms: Iterable[Request],
    *,
    memory: int,
    disk: int = 0,
    cores: int = 1,
    kvm: bool = False,
    boot: Literal["rom", "iso"] = "rom",
    iso: str | None = None,
    tb_size: int = 32,
    nice: int = 5,
    bridge: str = "br0",
    dhcp_servers: Iterable[str] = (),
) -> Request:
    """Power VMs on (sizes in bytes; ``tb_size``, the emulator's translation cache, in MiB).

    ``dhcp_servers``: addresses from which DHCP reaches those of them that have an ``ip``; none: from all.
    """
    defaults: Request = {"memory": memory, "disk": disk, "cores": cores, "boot": boot}
    if iso:
        defaults["iso"] = iso
    defaults |= {"accel": "kvm"} if kvm else {"accel": "tcg", "tb_size": tb_size, "nice": nice}
    request = {"op": "start", "bridge": bridge, "defaults": defaults, "vms": list(vms)}
    return request | {"dhcp_servers": list(dhcp_servers)}


def start_light(vms: Iterable[Request], host: str, *, bridge: str = "br0") -> Request:
    """Power light guests on; ``host``: the name under which the tasks of its guests are announced."""
    defaults = {"kind": "light", "host": host}
    return {"op": "start", "bridge": bridge, "defaults": defaults, "vms": list(vms)}


def _named(op: str, names: Iterable[str] | None, **rest: Any) -> Request:
    return {"op": op, **rest} if names is None else {"op": op, "names": list(names), **rest}


def status(names: Iterable[str] | None = None) -> Request:
    """State, CPU seconds and memory of VMs (default: all)."""
    return _named("status", names)


def console(names: Iterable[str], size: int = 8192) -> Request:
    """The last ``size`` bytes of VMs' serial consoles (``text`` in the answers)."""
    return {"op": "console", "names": list(names), "size": size}


def transfers(state: str) -> Request:
    """Bytes of an image that the host has (``have`` of ``size``) and that its VMs took (``taken``: address →
    bytes), as of the time ``t``; ``state``: the file in which its relay keeps that."""
    return {"op": "transfers", "state": state}


def stop(names: Iterable[str] | None = None, limit: float = 3.0) -> Request:
    """End VMs (default: all), with ``limit`` seconds to end before they are killed."""
    return _named("stop", names, limit=limit)


def power(action: Literal["reset", "off", "on", "cycle"], names: Iterable[str] | None = None) -> Request:
    """Reset VMs, or switch them off or on."""
    return _named("power", names, action=action)


def file(
    path: str, content: str, mode: int = 0o644, change: Literal["restart", "reload", "none"] = "restart"
) -> Request:
    """A file of a service, and what the service must do when it changes."""
    return {"path": path, "content": content, "mode": mode, "change": change}


def serve(
    name: str,
    *,
    command: Sequence[str],
    files: Sequence[Request] = (),
    check: Sequence[Sequence[str]] = (),
    directories: Sequence[str] = (),
    ready_log: str = "",
    ready_tcp: tuple[str, int] | None = None,
    limit: float = 15.0,
    until: float | None = None,
    rotated: Sequence[str] = (),
) -> Request:
    """Keep ``command`` running; ready when it logs ``ready_log`` or listens, within ``limit`` seconds.

    ``until``: when the host ends it, in seconds since the epoch. ``rotated``: logs that it writes itself and
    opens again at SIGUSR1; each is put aside when it is long (`onhost.pieces`).
    """
    ready: Request = {"tcp": list(ready_tcp)} if ready_tcp else {"log": ready_log}
    return {
        "op": "serve",
        "name": name,
        "command": list(command),
        "files": list(files),
        "check": [list(c) for c in check],
        "directories": [{"path": d, "mode": 0o755} for d in directories],
        "ready": ready,
        "limit": limit,
        "until": until,
        "rotated": list(rotated),
    }


def service_log(name: str, home: str = HOME) -> str:
    """The log of a service: every line begins with its time in seconds, with a fraction."""
    return f"{home}/services/{name}/log"


def services(names: Iterable[str] | None = None) -> Request:
    """State of services (default: all)."""
    return _named("services", names)


def arguments(*words: str) -> bytes:
    """The line of JSON that stands for the agent's command line with these arguments."""
    return json.dumps({"arguments": words}).encode() + b"\n"


def stop_service(names: Iterable[str] | None = None, *, remove: Iterable[str] = ()) -> Request:
    """End services (default: all), then remove files that they may have left."""
    return {**_named("stop-service", names), "remove": list(remove)}


def files(contents: Mapping[str, str], *, remove: Iterable[str] = ()) -> Request:
    """Write small text files (path → content, readable by all), then remove others."""
    items = [{"path": path, "content": content, "mode": 0o644} for path, content in contents.items()]
    return {"op": "files", "files": items, "remove": list(remove)}


def follow(
    files: Mapping[str, int], poll: float = 0.05, *, pieces: Mapping[str, int] | None = None
) -> Request:
    """Stream what is appended to files (path → offset to begin at) until the reader is gone.

    ``pieces``: path → the number of the file in which that offset is (`onhost.pieces`).
    """
    return {"op": "follow", "files": dict(files), "poll": poll, "pieces": dict(pieces or {})}


def ssh(
    guests: Mapping[str, str],
    command: str,
    *,
    limit: float,
    connect_limit: float = 5.0,
    login_limit: float = 15.0,
    port: int = 22,
    key: str | None = None,
    at_once: int = 8,
    input: str | None = None,
    output: str | None = None,
    most: int | None = None,
) -> Request:
    """Run a shell command as root on guests (name → address) by ssh, ``at_once`` at a time.

    ``limit``: seconds for one guest; ``connect_limit`` and ``login_limit``: until it takes a connection, and
    for each step of a login. ``key``: a private key, as text; without one, the ssh agent that the caller
    forwards is used. ``input``: a file of the host that each command reads; ``output``: a directory there,
    where each guest's standard output becomes a file of its name. ``most``: bytes of output of one guest,
    after which it is cut off. One answer for each: ``code`` (as ssh(1) exits; None if ``stopped``), ``out``,
    ``err``, seconds until its first output (``begun``) and its end (``seconds``), ``bytes`` of its file.
    """
    limits = {"limit": limit, "connect_limit": connect_limit, "login_limit": login_limit}
    optional = {"input": input, "output": output, "most": most}
    more = {name: value for name, value in optional.items() if value is not None}
    request: Request = {"op": "ssh", "guests": dict(guests), "command": command, "port": port, "key": key}
    return {**request, **limits, "at_once": at_once, **more}


def load() -> Request:
    """Counters since the host started: processors, memory, link, CPU seconds of VMs and services."""
    return {"op": "load"}


def teardown(directories: Iterable[str] = ()) -> Request:
    """Remove all that the agent made; ``directories`` of services too."""
    return {"op": "teardown", "directories": list(directories)}


def parse(stdout: str | bytes) -> list[Answer]:
    """Read the agent's answers. Raises TestbedError if a line is none."""
    text = stdout.decode("utf-8", "replace") if isinstance(stdout, bytes) else stdout
    return [_answer(line) for line in text.splitlines() if line.strip()]


def read_answer(line: str) -> Answer | None:
    """Read one of the agent's answers; None for anything else."""
    try:
        return _answer(line)
    except TestbedError:
        return None


def _answer(line: str) -> Answer:
    try:
        d = json.loads(line)
        found = Answer(d["op"], d["subject"], d["status"] == "ok", float(d["t"]), d["detail"])
        words = isinstance(found.op, str) and isinstance(found.subject, str)
        if not (words and isinstance(found.detail, dict) and math.isfinite(found.t)):
            raise ValueError("a part has the wrong type")
        if found.ok:
            check_detail(found.op, found.detail)
    except _UNREADABLE as error:
        raise TestbedError(
            f"the host agent's output {short(repr(line), 120)} is not an answer",
            advice="look at the log of its host",
        ) from error
    return found


def parse_line(line: str) -> Line | None:
    """Read one line of a `follow` stream; None if it is a heartbeat. Raises TestbedError if it is neither."""
    try:
        d = json.loads(line)
        return (
            Line(str(d["file"]), int(d["offset"]), str(d["line"]), int(d["piece"])) if "line" in d else None
        )
    except _UNREADABLE as error:
        raise TestbedError(
            f"the host agent's output {short(repr(line), 120)} is not a line of a followed file"
        ) from error


def read_facts(answer: Answer, sent: float, received: float) -> Facts:
    """`Facts` from the answer to `facts`; ``sent`` and ``received``: its times by our clock.

    The clock's offset is NTP's (RFC 5905, section 8): the mean of what is seen on the way there and on the
    way back. It is wrong by up to half of the time that both ways took: where that much explains it all, the
    clocks are taken to agree, for on hundreds of hosts at once a way takes seconds, and hosts run NTP
    themselves. Raises TestbedError if the host could not find out.
    """
    if not answer.ok:
        raise TestbedError(f"the facts of {answer.subject} are unknown: {answer.reason}")
    d = answer.detail
    try:
        began, clock, cores, memory = float(d["began"]), float(d["clock"]), int(d["cores"]), int(d["memory"])
        kvm = bool(d["kvm"])
        if not math.isfinite(began + clock) or cores < 1 or memory < 1:
            raise ValueError("no such host")
    except _UNREADABLE as error:
        raise TestbedError(
            f"the facts of {answer.subject} cannot be read: {short(repr(dict(d)), 120)}",
            advice="look at the log of its host",
        ) from error
    offset = ((began - sent) + (clock - received)) / 2
    on_the_way = (received - sent) - (clock - began)
    known = abs(offset) > on_the_way / 2
    return Facts(cores, memory, kvm, offset if known else 0.0)
