"""What a phase may ask of a testbed. A phase never asks which one it has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from g5kvirt.inventory import Host, Reservation
from g5kvirt.planning.availability import Agenda
from g5kvirt.planning.inventories import Machine
from g5kvirt.remote import Access

__all__ = ["Deployed", "Notify", "Request", "Testbed"]

#: ``notify(site_or_host, what, detail)``: something worth a line in the journal happened.
Notify = Callable[[str, str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Request:
    """What to reserve. Numbers are machines, service machines included."""

    machines: Mapping[str, int]  #: site → number of machines
    subnetworks: Mapping[str, int]  #: site → prefix length of its sub-network (22 … 16)
    walltime: float  #: seconds
    job_name: str  #: unique to the run: a job that slipped away is found again by it
    clusters: Mapping[str, str] = field(default_factory=dict)  #: site → cluster, where only one will do
    vlan_site: str = ""  #: the site whose job holds the global KaVLAN; "" for none
    start_timeout: float = 3600.0  #: seconds to wait for the jobs to run, from now or from their start on
    properties: str = ""  #: what machines must have, as OAR writes it: ``memnode >= 16384``
    queue: str | None = None  #: OAR's queue; None: the site's own choice
    project: str | None = None  #: OAR's project
    #: when: as soon as it goes, in the first slot common to all sites, or seconds since the epoch
    start: float | Literal["now", "first"] = "now"
    #: (site, job) of earlier tries, which may be gone on with; None: this is the first try
    earlier: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True)
class Deployed:
    """What came out of a deployment of the hosts."""

    hosts: tuple[Host, ...]  #: with the addresses by which they are reached now
    failed: Mapping[str, str]  #: host name → reason


@runtime_checkable
class Testbed(Protocol):
    """A place with machines that can be reserved and deployed."""

    name: str  #: how runs and figures call it
    simulated: bool  #: True if nothing real stands behind it
    guest: str  #: kind of guest where that is the testbed's doing ("light", "simulated"); "" for QEMU
    polling_interval: float  #: seconds between two questions how the jobs are
    package_proxy: str | None  #: URL of the proxy through which machines get packages; None: as they are set
    real_cores: int | None  #: cores behind all hosts together where these share a machine; else None

    def connect(self) -> None:
        """Make it usable from this process. Raises TestbedError if it does not answer."""

    def machines(self) -> Mapping[str, Sequence[Machine]]:
        """All machines of every site, reserved or not, and what they can do. Raises TestbedError."""

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """The same as hosts."""

    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, Collection[str]]:
        """Site → names of its machines that have these properties. Raises SpecError, TestbedError."""

    def calendar(self, sites: Sequence[str], queue: str | None = None) -> Agenda:
        """What the sites have and when it is taken, from now on. Raises TestbedError."""

    def first_start(self, request: Request) -> float | None:
        """When all that is asked could start at once, in seconds since the epoch, whatever ``start`` says.

        None: not within the weeks that can be looked ahead. Touches nothing. Raises SpecError, TestbedError.
        """

    def reserve(self, request: Request, notify: Notify) -> Reservation:
        """Get machines, sub-networks and a KaVLAN, and wait until they are there.

        All or nothing: if one site refuses, what the others gave is given back. Where ``earlier`` is given,
        jobs of an earlier try that fit are gone on with, and others are given back first. Raises SpecError
        for a start that cannot be, before anything is submitted, and TestbedError.
        """

    def deploy(
        self,
        reservation: Reservation,
        environment: str,
        public_key: str,
        notify: Notify,
        *,
        tries: int = 2,
        timeout: float = 900.0,
    ) -> Deployed:
        """Put ``environment`` on the machines, inside the KaVLAN, with ``public_key`` for root."""

    def ended(self, reservation: Reservation) -> str:
        """Which of the jobs has ended, when and why, as a clause; empty while none has, as far as known.

        Answers within a minute, or so. Raises TestbedError if nobody says how the jobs are.
        """

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """Give back what the jobs (site, id) hold, and wait until that is so. What is gone is no error.

        On ``sites``, jobs called ``job_name`` are looked for too: a process that was killed while it
        submitted could not write down which it got. Raises TestbedError if a job is still there.
        """

    def access(self, key: str) -> Access:
        """How to reach the deployed machines as root with the private key file ``key``."""
