"""Machines, networks and VMs as plain data, used by all other modules.

Sizes are in bytes, rates in bits per second, times in seconds since the epoch (UTC), durations in
seconds. Everything is frozen; a change makes a new object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from typing import Any

__all__ = ["GIB", "MIB", "VM", "Facts", "Host", "Reservation", "SubNetwork", "to_plain"]

# `from_plain` of each class reads back what is in the journal, so that a run can be opened again.

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Facts:
    """What the host agent reports about a host."""

    cores: int
    memory: int  #: bytes of RAM in total
    kvm: bool  #: True only if a guest was started with KVM
    clock_offset: float = 0.0  #: its clock minus ours, seconds


@dataclass(frozen=True)
class Host:
    """A physical machine: it carries VMs, or services (a service machine).

    ``name`` is its name on the testbed (``graphene-3.nancy.grid5000.fr``); ``address`` is the
    name at which it is reached now (inside a KaVLAN: ``graphene-3-kavlan-14.nancy.grid5000.fr``).
    """

    name: str
    site: str
    cluster: str
    cores: int  #: from the reference API
    memory: int  #: bytes, from the reference API
    nic_rate: float = 1e9  #: bits per second
    switch: str = ""
    address: str = ""

    @property
    def uid(self) -> str:
        """Short name: ``graphene-3``."""
        return self.name.partition(".")[0]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Host:
        """Undo `to_plain`."""
        return cls(**plain)


@dataclass(frozen=True)
class SubNetwork:
    """A range of addresses reserved for VMs on one site."""

    site: str
    network: IPv4Network
    gateway: IPv4Address | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SubNetwork:
        """Undo `to_plain`."""
        gateway = plain["gateway"]
        return cls(plain["site"], IPv4Network(plain["network"]), IPv4Address(gateway) if gateway else None)


@dataclass(frozen=True)
class Reservation:
    """What was reserved: a job on every site, its hosts, sub-networks and KaVLAN."""

    jobs: Mapping[str, int]  #: site → OAR job id
    hosts: tuple[Host, ...]
    subnetworks: tuple[SubNetwork, ...]
    vlan: int | None
    vlan_site: str | None  #: the site whose job holds the KaVLAN
    start: float
    walltime: float

    def __str__(self) -> str:
        jobs = ", ".join(f"job {job} at {site}" for site, job in self.jobs.items())
        end = datetime.fromtimestamp(self.start + self.walltime).astimezone()
        walltime = timedelta(seconds=round(self.walltime))
        return f"{len(self.hosts)} machines until {end:%Y-%m-%d %H:%M:%S %Z}, walltime {walltime}: {jobs}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # IPython, notebooks
        printer.text(str(self))

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Reservation:
        """Undo `to_plain`."""
        return cls(
            jobs=dict(plain["jobs"]),
            hosts=tuple(Host.from_plain(h) for h in plain["hosts"]),
            subnetworks=tuple(SubNetwork.from_plain(s) for s in plain["subnetworks"]),
            vlan=plain["vlan"],
            vlan_site=plain["vlan_site"],
            start=plain["start"],
            walltime=plain["walltime"],
        )


@dataclass(frozen=True)
class VM:
    """One virtual machine: where it runs, its name and addresses."""

    index: int  #: 1, 2, … in the order of placement
    name: str
    host: str  #: `Host.name`
    site: str
    ip: IPv4Address
    mac: str  #: lower case, colons
    group: str = ""  #: empty if the specification has no groups


def to_plain(value: Any) -> Any:
    """Convert dataclasses, addresses, mappings and sequences to values that JSON has."""
    if hasattr(value, "__dataclass_fields__"):
        return {k: to_plain(v) for k, v in asdict(value).items()}
    if isinstance(value, IPv4Address | IPv4Network):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(v) for v in value]
    return value
