"""What a run knows of itself, read back from its journal: the only memory between two steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from g5kvirt.frames import placed_vms, vms_frame
from g5kvirt.inventory import Facts, Host, Reservation
from g5kvirt.journal import Event
from g5kvirt.planning.services import ServiceLayout, host_addresses, lay_out, split_machines
from g5kvirt.spec import Spec

__all__ = [
    "Stand",
    "deployed",
    "deployed_vms",
    "deployments",
    "detail",
    "done",
    "facts",
    "jobs",
    "released",
    "reservation",
    "stand",
    "tries",
    "up",
    "vms",
]

vms = placed_vms


def detail(events: Iterable[Event], phase: str, step: str = "phase") -> Mapping[str, Any] | None:
    """What the last ``ok`` of a step wrote down, or None if there was none."""
    found = None
    for event in events:
        if event.phase == phase and event.step == step and event.status == "ok":
            found = event.detail
    return found


def tries(events: Iterable[Event], phase: str) -> list[float]:
    """When the phase was started, each time."""
    return [e.t for e in events if (e.phase, e.step, e.status) == (phase, "phase", "start")]


def done(events: Iterable[Event], phase: str) -> bool:
    """True if the phase ended well."""
    return detail(events, phase) is not None


def released(events: Iterable[Event]) -> bool:
    """True if the machines have been given back."""
    return detail(events, "reserve", "release") is not None


def reservation(events: Iterable[Event]) -> Reservation | None:
    """What the testbed gave."""
    found = detail(events, "reserve", "granted")
    return None if found is None else Reservation.from_plain(found)


def jobs(events: Iterable[Event]) -> list[tuple[str, int]]:
    """Every job that was submitted, (site, id), also those of a reservation that was cut short."""
    return [
        (e.subject, int(e.detail["job"])) for e in events if e.phase == "reserve" and e.step == "submitted"
    ]


def deployed(events: Iterable[Event]) -> tuple[Host, ...]:
    """The machines that carry the host environment, with the addresses by which they are reached."""
    found = detail(events, "deploy")
    return () if found is None else tuple(Host.from_plain(h) for h in found["hosts"])


def facts(events: Iterable[Event]) -> dict[str, Facts]:
    """What each machine said of itself when it was configured."""
    return {
        e.subject: Facts(**{f: e.detail[f] for f in Facts.__dataclass_fields__})
        for e in events
        if e.phase == "configure" and e.step == "facts" and e.status == "ok"
    }


def up(events: Iterable[Event]) -> list[str]:
    """The VMs that stand in their minimal system."""
    frame = vms_frame(events)
    return list(frame.loc[frame["state"] == "up", "name"])


@dataclass(frozen=True)
class Stand:
    """What stands once the machines are deployed."""

    reservation: Reservation
    services: tuple[Host, ...]
    hosts: tuple[Host, ...]
    layout: ServiceLayout
    addresses: Mapping[str, IPv4Address]  #: host's name → its address in the VM network
    facts: Mapping[str, Facts]  #: empty before `configure`

    @property
    def machines(self) -> tuple[Host, ...]:
        """All of them, service machines first."""
        return self.services + self.hosts


def stand(spec: Spec, events: Iterable[Event]) -> Stand:
    """Hosts, service machines and their layout: pure, and the same each time it is asked."""
    known = list(events)
    granted = reservation(known)
    assert granted is not None  # the order of the phases sees to it
    services, hosts = split_machines(spec, deployed(known))
    load = {site: sum(h.site == site for h in hosts) for site in spec.sites}
    layout = lay_out(services, load, granted.subnetworks)
    addresses = host_addresses(hosts, layout, granted.subnetworks)
    return Stand(granted, services, hosts, layout, addresses, facts(known))


def deployments(events: Iterable[Event]) -> dict[str, list[str]]:
    """Every deployment that was begun, with the names of its VMs, in their order."""
    return {
        e.subject: list(e.detail.get("vms", []))
        for e in events
        if (e.phase, e.step, e.kind, e.status) == ("measure", "deployment", "run", "start")
    }


def deployed_vms(events: Iterable[Event]) -> list[str]:
    """The VMs whose last deployment went well."""
    last: dict[str, str] = {}
    for e in events:
        if (e.phase, e.step, e.kind) == ("measure", "deployment", "vm"):
            last[e.subject] = e.status
    return [name for name, status in last.items() if status == "ok"]
