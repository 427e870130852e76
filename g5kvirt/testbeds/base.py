"""The protocol of a testbed. A phase never checks which one it has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from g5kvirt.inventory import Host, Reservation
from g5kvirt.planning.availability import Calendar
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.planning.preflight import Finding
from g5kvirt.remote import Access
from g5kvirt.simulation.world import World

__all__ = ["Deployed", "Notify", "ReservationRequest", "Testbed"]

#: ``notify(site_or_host, what, detail)``: for each event that belongs into the journal.
Notify = Callable[[str, str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class ReservationRequest:
    """What to reserve. Numbers are machines, service machines included."""

    machines: Mapping[str, int]  #: site → number of machines
    subnetworks: Mapping[str, int]  #: site → prefix length of its sub-network (22 … 16)
    walltime: float  #: seconds
    job_name: str  #: unique to the run: a job whose id was lost is found by it
    clusters: Mapping[str, str] = field(default_factory=dict)  #: site → the only cluster that is acceptable
    vlan_site: str = ""  #: the site whose job holds the global KaVLAN; "" for none
    start_timeout: float = 3600.0  #: seconds to wait for the jobs to run, from now or from their start on
    properties: str = ""  #: what machines must have, as OAR writes it: ``memnode >= 16384``
    queue: str | None = None  #: OAR's queue; None: the site's own choice
    project: str | None = None  #: OAR's project
    job_types: tuple[str, ...] = ()  #: OAR's types for the jobs, besides ``deploy``
    #: as soon as possible, in the first slot common to all sites, or seconds since the epoch
    start: float | Literal["now", "first"] = "now"
    #: (site, job) of earlier tries, which may be used again; None: this is the first try
    earlier: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True)
class Deployed:
    """The result of deploying the hosts."""

    hosts: tuple[Host, ...]  #: with the addresses at which they are reached now
    failed: Mapping[str, str]  #: host name → reason


@runtime_checkable
class Testbed(Protocol):
    """A place with machines that can be reserved and deployed."""

    name: str  #: its name in runs and figures
    simulated: bool  #: True if it only predicts: no machine is real
    network: str  #: what is special about its network, such as "managed switch"; "" for nothing
    guest: str  #: kind of guest where the testbed decides it ("light", "simulated"); "" for QEMU
    polling_interval: float  #: seconds between two requests for the state of the jobs
    netem: bool | None  #: whether the hosts' kernels can delay and lose packets; None: not known beforehand
    real_cores: int | None  #: cores behind all hosts together where these share a machine; else None

    @property
    def package_proxy(self) -> str | None:
        """URL of the proxy through which machines download packages; None: as they are configured."""

    @property
    def world(self) -> World | None:
        """The model in the place of machines, with a clock of its own; None: they are real."""

    def connect(self) -> None:
        """Make it usable from this process. Raises TestbedError if it does not answer."""

    def inventory(self, sites: Collection[str]) -> tuple[Inventory | None, Sequence[Finding]]:
        """What exists on ``sites`` (empty: on all), for a check; a site without an answer is a finding.

        None if nothing is known. Other sites are in it without machines. Takes some minutes at most. Raises
        TestbedError only if this process cannot use the testbed.
        """

    def find_environment(self, environment: str, sites: Sequence[str]) -> Sequence[Finding]:
        """Whether the sites can deploy ``environment``: a finding "environment" for each, and others.

        Its code is "unknown-environment" where a site has no such environment. Never raises.
        """

    def preflight(self, request: ReservationRequest) -> Sequence[Finding]:
        """What is known about a request before it is made, such as when it can start. Never raises."""

    def machines(self) -> Mapping[str, Sequence[Machine]]:
        """All machines of every site, reserved or not, and what they can do. Raises TestbedError."""

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """The same machines as hosts."""

    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, Collection[str]]:
        """Site → names of its machines with these OAR properties. Raises SpecError, TestbedError."""

    def calendar(
        self, sites: Sequence[str], queue: str | None = None, job_types: Collection[str] = ()
    ) -> Calendar:
        """What the sites have and when it is in use, from now on. Raises TestbedError."""

    def first_start(self, request: ReservationRequest) -> float | None:
        """The first time at which the request fits, in seconds since the epoch; ignores its ``start``.

        None: not within the next weeks. Changes nothing. Raises SpecError, TestbedError.
        """

    def reserve(self, request: ReservationRequest, notify: Notify) -> Reservation:
        """Get machines, sub-networks and a KaVLAN, and wait until the jobs run.

        All or nothing: if one site refuses, the jobs of the others are deleted. Where ``earlier`` is given,
        matching jobs of an earlier try are used again, and others are deleted first. Raises SpecError for an
        impossible start, before anything is submitted, and TestbedError.
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

        Takes about a minute at most. Raises TestbedError if the state of the jobs cannot be read.
        """

    def extend(self, reservation: Reservation, seconds: int) -> None:
        """Give all jobs ``seconds`` more walltime, or none. Takes some minutes at most.

        Raises TestbedError if a site refuses: the others' is taken back then, or the error names those that
        have more; or if it would break the usage policy. Raises SpecError for a prediction.
        """

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """Delete the jobs (site, id), and wait until they have ended. One that has ended is no error.

        On ``sites``, jobs called ``job_name`` are deleted too: a process that was killed while it submitted
        could not record their ids. Raises TestbedError if a job is left.
        """

    def access(self, key: str) -> Access:
        """How to reach the deployed machines as root with the private key file ``key``."""
