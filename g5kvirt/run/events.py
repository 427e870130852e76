"""Events: what a journal is made of, and typed readers of what is in them.

An event's ``detail`` is free JSON. What the meaning of a run depends on is written and read here and nowhere
else, by a constructor and a reader beside each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from math import isfinite
from sys import intern
from typing import Any

from g5kvirt.inventory import VM, Facts
from g5kvirt.run.vocabulary import CONSOLE, DEPLOYMENT, LAUNCH, MACROS, PHASE, PHASES, RELEASE, Kind, Status

__all__ = [
    "Event",
    "boot_failed",
    "boot_retried",
    "boot_step",
    "console_kept",
    "facts_of",
    "guest_kind",
    "host_facts",
    "job_submitted",
    "placement",
    "placements_of",
    "vms_of",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to ``subject`` at ``t`` (seconds since the epoch, UTC).

    A span of time is a ``start`` event and a later ``ok``, ``failed`` or ``skipped`` one of the same
    phase, step, subject and attempt; an ``ok`` without a ``start`` is a milestone.
    """

    phase: str
    step: str
    kind: Kind
    subject: str
    status: Status
    t: float
    attempt: int = 1
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def deployment(self) -> str:
        """The name of the deployment that it belongs to; empty outside one."""
        return str(self.detail.get("deployment", "")) if self.phase == "measure" else ""

    @property
    def reason(self) -> str:
        """Why something failed or was begun again; empty if none was given."""
        return str(self.detail.get("reason", ""))

    @property
    def is_phase(self) -> bool:
        """True for the start or the end of one try of a whole phase."""
        return self.kind == "run" and self.step in (PHASE, "") and self.phase in PHASES

    @property
    def is_release(self) -> bool:
        """True for the start or the end of a release of the machines."""
        return self.step == RELEASE and self.kind == "run"

    def to_json(self) -> str:
        """One line of JSON, without its newline."""
        return _encode(
            {
                "t": round(self.t, 6),
                "phase": self.phase,
                "step": self.step,
                "kind": self.kind,
                "subject": self.subject,
                "status": self.status,
                "attempt": self.attempt,
                "detail": self.detail,
            }
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> Event:
        """Read one line; raises ValueError, KeyError or TypeError if it is not an event."""
        try:
            d = json.loads(line)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return cls.from_plain(d)

    @classmethod
    def from_plain(cls, d: Mapping[str, Any]) -> Event:
        """Read one object of JSON; raises ValueError, KeyError or TypeError if it is not an event."""
        t, attempt, detail = float(d["t"]), d.get("attempt", 1), d.get("detail") or {}
        if not isinstance(detail, dict):
            raise TypeError("its detail is no mapping")
        if not isfinite(t) or not isfinite(attempt):
            raise ValueError("no time, or no number of an attempt")
        # The same few strings again and again: kept once, a large journal takes less than half the memory.
        kept = {intern(k): intern(v) if type(v) is str else v for k, v in detail.items()}
        return cls(
            intern(d["phase"]),
            intern(d["step"]),
            intern(d["kind"]),  # type: ignore[arg-type]
            intern(d["subject"]),
            intern(d["status"]),  # type: ignore[arg-type]
            t,
            int(attempt),
            kept,
        )


# json.dumps with separators makes an encoder for every call
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _now(t: float | None) -> float:
    return time.time() if t is None else t


# ---- reserve, configure, place -----------------------------------------------------------------------


def job_submitted(site: str, job: int, t: float | None = None, **more: Any) -> Event:
    """OAR took a job at ``site``."""
    return Event("reserve", "submitted", "site", site, "ok", _now(t), 1, {"job": job, **more})


def job_of(event: Event) -> tuple[str, int]:
    """(site, job) of `job_submitted`."""
    return event.subject, int(event.detail["job"])


def host_facts(host: str, facts: Facts, t: float | None = None, **more: Any) -> Event:
    """What a machine reports about itself; ``more``: anything else worth keeping."""
    return Event("configure", "facts", "host", host, "ok", _now(t), 1, {**asdict(facts), **more})


def facts_of(event: Event) -> Facts:
    """The facts of `host_facts`."""
    return Facts(**{name: event.detail[name] for name in Facts.__dataclass_fields__})


def placement(run: str, vms: Iterable[VM], t: float | None = None) -> Event:
    """The plan of the phase ``place``: which host carries which VM, with which addresses."""
    rows = [
        {
            "index": vm.index,
            "name": vm.name,
            "host": vm.host,
            "site": vm.site,
            "ip": str(vm.ip),
            "mac": vm.mac,
        }
        for vm in vms
    ]
    return Event("place", "plan", "run", run, "ok", _now(t), 1, {"vms": rows})


def placements_of(event: Event) -> Sequence[Mapping[str, Any]] | None:
    """The rows of a `placement` (index, name, host, site, ip, mac: plain values); None if it has none."""
    rows: Sequence[Mapping[str, Any]] | None = event.detail.get("vms")
    return rows


def vms_of(event: Event) -> list[VM]:
    """The VMs of a `placement`."""
    rows = placements_of(event) or ()
    return [VM(r["index"], r["name"], r["host"], r["site"], IPv4Address(r["ip"]), r["mac"]) for r in rows]


# ---- launch ------------------------------------------------------------------------------------------


def guest_kind(run: str, guest: str, t: float | None = None) -> Event:
    """The kind of guest that is launched: ``tcg``, ``kvm``, …"""
    return Event("launch", "guests", "run", run, "ok", _now(t), 1, {"guest": guest})


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


def console_kept(phase: str, vm: str, file: str, t: float | None = None, deployment: str = "") -> Event:
    """The end of a VM's serial console is kept in ``file``, below the run's directory."""
    of = {"deployment": deployment} if deployment else {}
    return Event(phase, CONSOLE, "vm", vm, "ok", _now(t), 1, {**of, "file": file})


def failure_of(event: Event, reached: str = "") -> tuple[str, str]:
    """(step, reason) of a failure; ``reached``: the step if the event names none."""
    at = str(event.detail.get("at", reached or event.step))
    return at, str(event.detail.get("reason", "no reason was given"))


# ---- measure -----------------------------------------------------------------------------------------


def workflow_of(about: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Macro-step → its micro-steps, by the first event of a deployment."""
    named: Mapping[str, Sequence[str]] = about.get("workflow") or MACROS
    return named


def is_whole_deployment(event: Event) -> bool:
    """True for the start or the end of a deployment as a whole."""
    return event.step == DEPLOYMENT and event.kind == "run"
