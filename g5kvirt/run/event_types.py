"""The kinds of events on which the meaning of a run depends: a constructor and a reader for each.

The keys of an event's ``detail`` are written and read here and nowhere else. Those of earlier versions are
read, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Any, Literal

from g5kvirt.inventory import VM, Facts, Host, Reservation, to_plain
from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import CONSOLE, DEPLOYMENT, LAUNCH, LOAD, MACROS, TRANSFER, Kind, Status

__all__ = [
    "EXTENDED",
    "ProgramStart",
    "boot_failed",
    "boot_retried",
    "boot_step",
    "console_of",
    "console_read",
    "deployment_ended",
    "deployment_started",
    "deployment_statistics",
    "extended_walltime_of",
    "facts_of",
    "failure_of",
    "guest_kind",
    "guest_of",
    "host_facts",
    "host_step",
    "hosts_of",
    "is_program",
    "is_submitted_job",
    "is_whole_deployment",
    "job_of",
    "job_progress",
    "load_of",
    "load_sampled",
    "macro_step",
    "micro_step",
    "placement",
    "placements_of",
    "program_of",
    "program_started",
    "reservation_granted",
    "reservation_of",
    "seconds_of",
    "size_of",
    "transfer_progress",
    "transfers_of",
    "vm_deployment_ended",
    "vm_result_of",
    "vms_of",
    "walltime_extended",
    "workflow_of",
]

_SUBMITTED = "submitted"
EXTENDED = "extended"  #: the step of `walltime_extended`


def _now(t: float | None) -> float:
    return time.time() if t is None else t


# ---- reserve -----------------------------------------------------------------------------------------


def job_progress(site: str, step: str, detail: Mapping[str, Any], t: float | None = None) -> Event:
    """A job at ``site`` was submitted, is predicted to start, or runs (``step``); ``detail`` has its id."""
    return Event("reserve", step, "site", site, "ok", _now(t), 1, detail)


def is_submitted_job(event: Event) -> bool:
    """True for the `job_progress` of a job that OAR took."""
    return event.phase == "reserve" and event.step == _SUBMITTED and "job" in event.detail


def job_of(event: Event) -> tuple[str, int]:
    """(site, id) of a `job_progress`."""
    return event.subject, int(event.detail["job"])


def reservation_granted(run: str, reservation: Reservation, t: float | None = None) -> Event:
    """All jobs run: what the testbed granted."""
    return Event("reserve", "granted", "run", run, "ok", _now(t), 1, to_plain(reservation))


def reservation_of(detail: Mapping[str, Any]) -> Reservation:
    """The reservation, from the detail of `reservation_granted`."""
    return Reservation.from_plain(detail)


def walltime_extended(run: str, walltime: float, by: int, t: float | None = None) -> Event:
    """All jobs were given ``by`` seconds more: ``walltime``, in seconds, is the whole one now."""
    return Event("reserve", EXTENDED, "run", run, "ok", _now(t), 1, {"walltime": walltime, "by": by})


def extended_walltime_of(detail: Mapping[str, Any]) -> float:
    """The walltime, from the detail of `walltime_extended`."""
    return float(detail["walltime"])


def hosts_of(detail: Mapping[str, Any]) -> tuple[Host, ...]:
    """The deployed machines, from the detail of the end of the phase ``deploy``."""
    return tuple(Host.from_plain(host) for host in detail["hosts"])


# ---- configure, place --------------------------------------------------------------------------------


def host_facts(host: str, facts: Facts, t: float | None = None, **more: Any) -> Event:
    """What a machine reported about itself; ``more``: anything else worth keeping."""
    return Event("configure", "facts", "host", host, "ok", _now(t), 1, {**asdict(facts), **more})


def facts_of(event: Event) -> Facts:
    """The facts of `host_facts`."""
    detail = event.detail
    return Facts(
        int(detail.get("cores", 0)),
        int(detail.get("memory", 0)),
        bool(detail.get("kvm", False)),
        float(detail.get("clock_offset", 0.0)),
    )


def placement(run: str, rows: Iterable[Mapping[str, Any]], t: float | None = None) -> Event:
    """Which host carries which VM: rows of index, name, host, site, ip and mac, as plain values.

    Where the specification has groups, each has its ``group``, too.
    """
    return Event("place", "plan", "run", run, "ok", _now(t), 1, {"vms": list(rows)})


def placements_of(event: Event) -> Sequence[Mapping[str, Any]] | None:
    """The rows of a `placement`; None if it has none."""
    rows: Sequence[Mapping[str, Any]] | None = event.detail.get("vms")
    return rows


def vms_of(event: Event) -> list[VM]:
    """The VMs of a `placement`."""
    rows = placements_of(event) or ()
    return [
        VM(r["index"], r["name"], r["host"], r["site"], IPv4Address(r["ip"]), r["mac"], r.get("group", ""))
        for r in rows
    ]


# ---- launch ------------------------------------------------------------------------------------------


def guest_kind(run: str, guest: str, t: float | None = None) -> Event:
    """The kind of guest that is launched: ``tcg``, ``kvm``, …"""
    return Event("launch", "guests", "run", run, "ok", _now(t), 1, {"guest": guest})


def guest_of(event: Event) -> str:
    """The kind of guest of `guest_kind`."""
    return str(event.detail.get("guest", ""))


def boot_step(
    vm: str, step: str, status: Status, t: float, attempt: int, detail: Mapping[str, Any] | None = None
) -> Event:
    """A VM reached a step of its boot, or its power-on was requested (``start``) or refused (``failed``)."""
    return Event("launch", step, "vm", vm, status, t, attempt, detail or {})


def boot_retried(vm: str, t: float, attempt: int, at: str, reason: str) -> Event:
    """A boot got no further than ``at`` and is begun again."""
    return Event("launch", LAUNCH, "vm", vm, "retry", t, attempt, {"at": at, "reason": reason})


def boot_failed(vm: str, t: float, attempt: int, at: str, reason: str) -> Event:
    """A VM was given up at the step ``at``."""
    return Event("launch", LAUNCH, "vm", vm, "failed", t, attempt, {"at": at, "reason": reason})


def failure_of(event: Event, reached: str = "") -> tuple[str, str]:
    """(step, reason) of `boot_failed` and `boot_retried`; ``reached``: the step if the event names none."""
    at = str(event.detail.get("at", reached or event.step))
    return at, str(event.detail.get("reason", "no reason was given"))


def console_read(
    phase: str, vm: str, status: Status, t: float, detail: Mapping[str, Any], deployment: str = ""
) -> Event:
    """The end of a VM's console was fetched; ``file``, where it is kept, only if it wrote anything."""
    of = {"deployment": deployment} if deployment else {}
    return Event(phase, CONSOLE, "vm", vm, status, t, 1, {**of, **detail})


def console_of(event: Event) -> str:
    """The file of `console_read`, below the run's directory; empty if there is none."""
    return str(event.detail.get("file", ""))


def load_sampled(
    phase: str, run: str, t: float, hosts: Mapping[str, Any], here: Mapping[str, Any], *, first: bool
) -> Event:
    """How busy the hosts were until now: host → its counters; ``here``: those of this process.

    ``first``: the one before it, if any, belongs to an earlier step.
    """
    detail = {"first": first, "here": dict(here), "hosts": dict(hosts)}
    return Event(phase, LOAD, "run", run, "ok", t, 1, detail)


def load_of(event: Event) -> tuple[bool, Mapping[str, Any], Mapping[str, Any]] | None:
    """(first, hosts, here) of `load_sampled`; None for any other event."""
    if not event.is_load:
        return None
    detail = event.detail
    return bool(detail["first"]), detail["hosts"], detail["here"]


# ---- measure -----------------------------------------------------------------------------------------


def _measured(
    name: str, step: str, kind: Kind, subject: str, status: Status, t: float, attempt: int, **detail: Any
) -> Event:
    return Event("measure", step, kind, subject, status, t, attempt, {"deployment": name, **detail})


def deployment_started(name: str, t: float, size: int, about: Mapping[str, Any]) -> Event:
    """A deployment on ``size`` VMs begins; ``about``: environment, broadcast, names of the VMs, …"""
    return _measured(name, DEPLOYMENT, "run", name, "start", t, 1, **{**about, "asked": size})


def deployment_ended(name: str, t: float, deployed: int, failed: int) -> Event:
    """The last VM of a deployment was deployed or given up."""
    status: Status = "ok" if deployed or not failed else "failed"
    return _measured(name, DEPLOYMENT, "run", name, status, t, 1, deployed=deployed, failed=failed)


def is_whole_deployment(event: Event) -> bool:
    """True for the start or the end of a deployment as a whole."""
    return event.step == DEPLOYMENT and event.kind == "run"


def deployment_statistics(name: str, t: float, source: str, vms: Mapping[str, Any]) -> Event:
    """What a provisioner measured itself: VM → durations and retries. Kept to be compared by hand."""
    return _measured(name, "statistics", "run", name, "ok", t, 1, source=source, vms=dict(vms))


def transfer_progress(
    name: str, t: float, total: int, hosts: Mapping[str, int], vms: Mapping[str, int], what: str
) -> Event:
    """How far an image of ``total`` bytes is: bytes on each host that lacks some, and written by each VM that
    is under way; ``what`` says it in words."""
    counts = {"total": total, "hosts": dict(hosts), "vms": dict(vms)}
    return _measured(name, TRANSFER, "run", name, "ok", t, 1, what=what, **counts)


def transfers_of(event: Event) -> tuple[int, Mapping[str, int], Mapping[str, int]]:
    """Total bytes, bytes of hosts and bytes of VMs, from `transfer_progress`."""
    detail = event.detail
    return int(detail["total"]), dict(detail["hosts"]), dict(detail["vms"])


def size_of(about: Mapping[str, Any]) -> int:
    """How many VMs a deployment is to deploy, by its first event."""
    return int(about.get("asked", 0))


def workflow_of(about: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Macro-step → its micro-steps, by the first event of a deployment."""
    named: Mapping[str, Sequence[str]] = about.get("workflow") or MACROS
    return named


def vm_deployment_ended(
    name: str,
    vm: str,
    outcome: Literal["deployed", "failed"],
    t: float,
    attempt: int,
    last_report: str,
    **failure: str,
) -> Event:
    """A VM was deployed, or given up; ``failure``: ``macro``, ``at`` and ``reason``."""
    status: Status = "ok" if outcome == "deployed" else "failed"
    return _measured(name, DEPLOYMENT, "vm", vm, status, t, attempt, said=last_report, **failure)


def vm_result_of(event: Event) -> tuple[str, str, str, str]:
    """(macro-step, step, reason, last report) of `vm_deployment_ended`; empty where nothing failed."""
    detail = event.detail
    macro, at, report = (str(detail.get(key, "")) for key in ("macro", "at", "said"))
    return macro, at, event.reason, report


def micro_step(
    name: str, vm: str, step: str, status: Status, t: float, attempt: int, seconds: float, **more: Any
) -> Event:
    """A micro-step of a VM is over, which took ``seconds``, waits for a window left out."""
    return _measured(name, step, "vm", vm, status, t, attempt, seconds=round(seconds, 6), **more)


def seconds_of(event: Event) -> float | None:
    """How long a `micro_step` took; None for any other event."""
    seconds = event.detail.get("seconds")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e12:
        return float(seconds)
    return None


def macro_step(
    name: str,
    vm: str,
    macro: str,
    status: Status,
    t: float,
    attempt: int,
    variant: str,
    reason: str = "",
    **more: Any,
) -> Event:
    """A macro-step of a VM begins or is over; ``more``: anything else worth keeping."""
    detail = {"variant": variant} | ({"reason": reason} if reason else {}) | more
    return _measured(name, macro, "vm", vm, status, t, attempt, **detail)


def host_step(
    name: str, host: str, step: str, status: Status, t: float, attempt: int, variant: str, reason: str = ""
) -> Event:
    """A step that takes place on a host, such as the broadcast, begins or is over."""
    more = {"variant": variant} | ({"reason": reason} if reason else {})
    return _measured(name, step, "host", host, status, t, attempt, **more)


# ---- programs on VMs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgramStart:
    """A command that was started in the background, on which VMs, and after how many seconds it is ended."""

    name: str
    command: str
    vms: tuple[str, ...]
    limit: float
    t: float  #: seconds since the epoch


def program_started(start: ProgramStart) -> Event:
    """A command is started in the background on VMs. Of no phase: it may come at any time."""
    detail = {"command": start.command, "vms": list(start.vms), "limit": start.limit}
    return Event("run", "program", "run", start.name, "ok", start.t, 1, detail)


def is_program(event: Event) -> bool:
    """True for `program_started`."""
    return (event.phase, event.step, event.kind) == ("run", "program", "run")


def program_of(event: Event) -> ProgramStart:
    """The program, from `program_started`."""
    detail = event.detail
    vms = tuple(str(name) for name in detail["vms"])
    return ProgramStart(event.subject, str(detail["command"]), vms, float(detail["limit"]), event.t)
