"""The broadcast of an image: across each physical link once, down a chain of hosts.

`hostagent/onhost/relay.py` is what runs on the hosts; see there how a lost host is skipped.
Here is the notebook's side: the plan of the chain (pure), the relays' jobs, starting them through the
host agent and hearing how each ended. Two alternatives, to be compared with: ``http``, where every host
takes the image from the head, and ``tree``, where TakTuk carries it to all of them.

::

    plan = chain(hosts, Image(sha256, size), head_url="http://10.1.0.2/images/mini.tar.gz", open_at=vm_side)
    heard = start(fanout, plan)
    results = collect(fanout, plan, timeout=900, on_progress=show)
    …
    stop(fanout, plan)
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from g5kvirt.errors import SpecError
from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost import relay
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout, File

__all__ = [
    "KINDS",
    "RELAY",
    "REMOTE_PATH",
    "Image",
    "Kind",
    "Plan",
    "Progress",
    "Stop",
    "account",
    "chain",
    "collect",
    "http",
    "job",
    "natural",
    "order",
    "read_report",
    "request",
    "send",
    "start",
    "stop",
    "tree",
]

Kind = Literal["chain", "tree", "http"]
KINDS: tuple[Kind, ...] = ("chain", "tree", "http")

#: The file to send to hosts beside the host agent, and where to.
RELAY = Path(relay.__file__)
REMOTE_PATH = "/usr/local/sbin/g5kvirt-relay"
#: Where hosts listen for their successors and their VMs.
PORT = 25390
#: So many before it a host knows: were it all of them, what is sent would grow with the square of the hosts.
REACH = 16
#: On the hosts' RAM disk: goes when the host agent's teardown unmounts it.
STORE = f"{protocol.HOME}/ram/images"

#: Runs the words behind a file's name, then removes that file and its report; the words' exit code.
_AND_REMOVE = 'file=$1; shift; "$@"; code=$?; rm -f -- "$file" "$file".json; exit $code'

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Image:
    """What is broadcast: its SHA-256 (64 hexadecimal digits) and its size in bytes."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256) or self.size < 1:
            raise SpecError(
                f"an image needs a SHA-256 of 64 hexadecimal digits and at least one byte, not"
                f" {self.sha256!r} and {self.size}"
            )


@dataclass(frozen=True)
class Stop:
    """A host of the chain: where its relay listens, and to whom it turns, the nearest first.

    ``listen`` are (address, port) for successors, who need the token; ``open`` for VMs. ``before``: (host's
    name, URL); the last one is the head, and the site's own head, if it has one, comes behind its own hosts.
    """

    host: Host
    listen: tuple[tuple[str, int], ...]
    open: tuple[tuple[str, int], ...]
    before: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """A whole broadcast. ``token``: the secret of this one, shown to nobody but its hosts."""

    kind: Kind
    image: Image
    stops: tuple[Stop, ...]
    token: str = field(repr=False)
    store: str = STORE
    limits: Mapping[str, float] = field(default_factory=dict)  #: see relay.DEFAULTS

    @property
    def service(self) -> str:
        """The relay's name among a host's services: there is one, so that a later broadcast replaces one that
        was left behind, and its port is free."""
        return "relay"

    @property
    def state(self) -> str:
        """Where a relay writes what it last reported."""
        return f"{self.store}/{self.image.sha256}.json"

    def url(self, host: Host) -> str:
        """Where the VMs of a host find the image. Raises KeyError if it is not part of the broadcast or has
        no side for VMs."""
        for stop in self.stops:
            if stop.host == host and stop.open:
                address, port = stop.open[0]
                return f"http://{_bracketed(address)}:{port}/{self.image.sha256}"
        raise KeyError(host.name)


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts ``graphene-2`` before ``graphene-10``."""
    return tuple((0, int(w)) if w.isdigit() else (1, w) for w in re.findall(r"\d+|\D+", name))


def order(hosts: Iterable[Host], first_site: str = "") -> tuple[Host, ...]:
    """Hosts along the cables: by site (the head's own first), then by switch, then by number.

    So a link between sites or switches is crossed once each way, whatever the number of hosts behind it.
    """
    return tuple(
        sorted(set(hosts), key=lambda h: (h.site != first_site, h.site, natural(h.switch), natural(h.name)))
    )


def chain(
    hosts: Iterable[Host],
    image: Image,
    *,
    head_url: str,
    head_name: str = "head",
    head_site: str = "",
    heads: Mapping[str, tuple[str, str]] | None = None,
    open_at: Mapping[str, str] | None = None,
    port: int = PORT,
    store: str = STORE,
    limits: Mapping[str, float] | None = None,
) -> Plan:
    """Plan a chain. ``head_url``: where the image lies whole, on any HTTP server that knows ranges (nginx on
    a service machine, say). ``heads``: site → (name, URL) of one there, where a site has its own: the first
    of its hosts takes the image from it, so that nothing comes from another site; were it gone, from the
    site before. ``open_at``: host's name → its address in the VM network. Nothing is touched.

    Raises SpecError for a head URL that relays cannot use, an unknown limit, or no host.
    """
    heads = {**(heads or {}), head_site: (head_name, head_url)}
    for _, url in heads.values():
        _check(url, limits or {})
    line = order(hosts, head_site)
    if not line:
        raise SpecError("a broadcast needs at least one host")
    path = f"/{image.sha256}"
    urls = [(h.name, f"http://{_bracketed(h.address or h.name)}:{port}{path}") for h in line]
    open_at = open_at or {}
    stops = tuple(
        Stop(
            host,
            ((host.address or host.name, port),),
            ((open_at[host.name], port),) if host.name in open_at else (),
            _before(line, urls, n, heads, head_site),
        )
        for n, host in enumerate(line)
    )
    return Plan("chain", image, stops, secrets.token_hex(16), store, dict(limits or {}))


def _before(
    line: Sequence[Host],
    urls: Sequence[tuple[str, str]],
    n: int,
    heads: Mapping[str, tuple[str, str]],
    head_site: str,
) -> tuple[tuple[str, str], ...]:
    """To whom host number ``n`` turns: back along its site, to the site's head, on along other sites.

    Of each at most `REACH`: behind more lost hosts in a row, one host has the image from a head instead.
    """
    site = line[n].site
    first = next(i for i in range(n + 1) if line[i].site == site)
    own = (heads[site],) if site in heads and site != head_site else ()
    near, far = urls[max(first, n - REACH) : n], urls[max(0, first - REACH) : first]
    return (*reversed(near), *own, *reversed(far), heads[head_site])


def http(plan: Plan) -> Plan:
    """The same broadcast without a chain: every host takes the image from its head."""
    hosts = {stop.host.name for stop in plan.stops}
    stops = tuple(
        replace(stop, before=tuple(place for place in stop.before if place[0] not in hosts))
        for stop in plan.stops
    )
    return replace(plan, kind="http", stops=stops)


def _check(head_url: str, limits: Mapping[str, float]) -> None:
    if not relay.URL.fullmatch(head_url):
        raise SpecError(f"{head_url!r} is no address of an image: http://HOST:PORT/PATH is expected")
    unknown = sorted(set(limits) - set(relay.DEFAULTS))
    if unknown:
        raise SpecError(f"{unknown[0]!r} is no limit of a relay: {', '.join(relay.DEFAULTS)}")
    bad = [name for name, value in limits.items() if not value > 0]
    if bad:
        raise SpecError(f"{bad[0]} must be more than 0 seconds, not {limits[bad[0]]}")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


# ------------------------------------------------------------------------------------------ the relays' side
def job(plan: Plan, stop: Stop) -> dict[str, Any]:
    """What a host's relay reads; see relay.py."""
    return {
        "host": stop.host.name,
        "sha256": plan.image.sha256,
        "size": plan.image.size,
        "token": plan.token,
        "store": plan.store,
        "source": None,
        "listen": [list(place) for place in stop.listen] if plan.kind == "chain" else [],
        "open": [list(place) for place in stop.open],
        "before": [{"host": name, "url": url} for name, url in stop.before if plan.kind != "tree"],
        "limits": dict(plan.limits),
    }


def request(plan: Plan, stop: Stop, home: str = protocol.HOME, mark: str = "") -> dict[str, Any]:
    """The host agent's request that keeps a host's relay running: a killed one goes on where it was.

    The same request again changes nothing; with another ``mark`` the relay is started anew.
    """
    path = f"{home}/services/{plan.service}/job.json"
    return protocol.serve(
        plan.service,
        command=("python3", "-I", "-S", REMOTE_PATH, "run", path, plan.state),
        files=[protocol.file(path, json.dumps(job(plan, stop) | {"mark": mark}), mode=0o600)],
        directories=[plan.store],
        ready_log='"op": "broadcast"',
    )


def send(fanout: Fanout, hosts: Iterable[Host], *, timeout: float = 60.0) -> dict[str, str]:
    """Put relay.py on hosts; host's name → why it is not there (only those that failed)."""
    by_address = {h.address or h.name: h.name for h in hosts}
    results = fanout.put(by_address, [File(RELAY, REMOTE_PATH, 0o755)], timeout=timeout)
    return {by_address[address]: r.reason for address, r in results.items() if not r.ok}


@dataclass(frozen=True)
class Progress:
    """What a host's relay last said, or why it says nothing.

    ``received`` and ``size`` are bytes, ``seconds`` the time from its start to its last byte (so far),
    ``checked`` that until its sum was known. ``source``: whom it took from last; ``skipped``: predecessors
    that it gave up; ``reason``: why it ended without the image.
    """

    host: str
    state: Literal["silent", "waiting", "receiving", "received", "ok", "failed"]
    received: int = 0
    size: int = 0
    seconds: float = 0.0
    checked: float | None = None
    t: float = 0.0  #: when it said so, seconds since the epoch, its clock
    cpu: float = 0.0
    source: str = ""
    skipped: tuple[str, ...] = ()
    reason: str = ""

    @property
    def ok(self) -> bool:
        """It has the image and its SHA-256 is right."""
        return self.state == "ok"

    @property
    def ended(self) -> bool:
        """Nothing more will come of it."""
        return self.state in ("ok", "failed")


def read_report(line: str) -> Progress | None:
    """Read one line of a relay's; None for anything else (its last words on standard error, say)."""
    try:
        d = json.loads(line)
        if not isinstance(d, dict) or d.get("op") != "broadcast":
            return None
        return Progress(
            host=str(d["host"]),
            state=d["state"],
            received=int(d["have"]),
            size=int(d["size"]),
            seconds=float(d["seconds"]),
            checked=None if d["checked"] is None else float(d["checked"]),
            t=float(d["t"]),
            cpu=float(d["cpu"]),
            source=str(d["from"]),
            skipped=tuple(d["skipped"]),
            reason=str(d["reason"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def account(plan: Plan, said: Mapping[str, Progress], why: Mapping[str, str]) -> dict[str, Progress]:
    """One result for each host of the plan, in its order: what it said, and else why not.

    ``said``: the last report of each host; ``why``: reasons of those that could not be asked (any longer).
    """
    results = {}
    for stop in plan.stops:
        name = stop.host.name
        last = said.get(name, Progress(name, "silent", size=plan.image.size))
        if not last.ended:
            reason = why.get(name) or "its relay did not say how it ended"
            part = f" after {last.received} of {plan.image.size} bytes" if last.received else ""
            last = replace(last, state="failed", reason=reason + part)
        results[name] = last
    return results


# --------------------------------------------------------------------------------------- the notebook's side
def start(fanout: Fanout, plan: Plan, *, home: str = protocol.HOME, timeout: float = 60.0) -> dict[str, str]:
    """Start the relays of all hosts, the front of the chain first; host's name → why not, where it failed.

    A host that fails here is skipped by those behind it, so the broadcast goes on. Each call begins anew on
    its hosts, whatever ran there: one that has failed gets its second chance by being started again.
    """
    mark = secrets.token_hex(4)
    stops = {stop.host.address or stop.host.name: stop for stop in plan.stops}
    documents = {
        a: protocol.document(request(plan, stop, home, mark), home=home) for a, stop in stops.items()
    }
    results = fanout.run(stops, protocol.COMMAND, stdin=documents, timeout=timeout, idempotent=True)
    failed = {}
    for address, result in results.items():
        bad = [a.reason for a in protocol.parse(result.stdout) if not a.ok] if result.ok else [result.reason]
        if bad:
            failed[stops[address].host.name] = f"its relay did not start: {bad[0]}"
    return failed


def collect(
    fanout: Fanout,
    plan: Plan,
    *,
    timeout: float,
    failed: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Progress]:
    """Hear from every host until its relay has ended, at most ``timeout`` seconds a host; always one result
    for each host of the plan. ``failed``: hosts that are not to be asked, with the reason (`start`'s answer).

    A host whose connection breaks is asked again while its time lasts. ``on_progress`` is called for each
    report as it comes; what it raises ends the waiting.
    """
    failed = dict(failed or {})
    names = {s.host.address or s.host.name: s.host.name for s in plan.stops if s.host.name not in failed}
    said: dict[str, Progress] = {}

    def hear(address: str, line: str, _: float) -> None:
        report = read_report(line)
        if report is not None and report.host == names[address]:
            said[report.host] = report
            if on_progress is not None:
                on_progress(report)

    command = ("python3", "-I", "-S", REMOTE_PATH, "watch", plan.state, f"{timeout:g}")
    results = fanout.run(
        names, command, timeout=timeout + 10, within=timeout + 60, idempotent=True, on_line=hear
    )
    late = f"its relay had not ended after {timeout:g} s"
    why = {names[a]: late if r.returncode == 1 else r.reason for a, r in results.items() if not r.ok}
    return account(plan, said, {**why, **failed})


def stop(fanout: Fanout, plan: Plan, *, home: str = protocol.HOME, timeout: float = 60.0) -> dict[str, str]:
    """End the relays and remove the image and what they wrote; host's name → why not, where it failed.

    A relay removes it itself when it ends; one that was killed just before cannot.
    """
    names = {s.host.address or s.host.name: s.host.name for s in plan.stops}
    document = protocol.document(protocol.stop_service([plan.service]), home=home)
    command = ("sh", "-c", _AND_REMOVE, "sh", f"{plan.store}/{plan.image.sha256}", *protocol.COMMAND)
    results = fanout.run(names, command, stdin=document, timeout=timeout, idempotent=True)
    failed = {}
    for address, result in results.items():
        bad = [a.reason for a in protocol.parse(result.stdout) if not a.ok] if result.ok else [result.reason]
        if bad:
            failed[names[address]] = bad[0]
    return failed


def tree(fanout: Fanout, plan: Plan, source: Path, *, timeout: float) -> tuple[Plan, dict[str, str]]:
    """Put the image on all hosts at once by TakTuk's tree (ssh in windows for few hosts), whole and checked;
    the plan with which `start` then has it served to the VMs, and host's name → why it is not there.

    The file is held in memory here, and no VM can begin before its host has all of it.
    """
    names = {s.host.address or s.host.name: s.host.name for s in plan.stops}
    target = File(source, f"{plan.store}/{plan.image.sha256}", 0o600)
    results = fanout.put(names, [target], timeout=timeout)
    failed = {names[address]: r.reason for address, r in results.items() if not r.ok}
    stops: Sequence[Stop] = [s for s in plan.stops if s.host.name not in failed]
    return replace(plan, kind="tree", stops=tuple(stops)), failed
