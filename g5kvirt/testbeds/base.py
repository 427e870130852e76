"""What a phase may ask of a testbed. A phase never asks which one it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from g5kvirt.inventory import Host, Reservation
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
    start_timeout: float = 3600.0  #: seconds to wait for the jobs to start


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
    real_cores: int | None  #: cores behind all hosts together where these share a machine; else None

    def connect(self) -> None:
        """Make it usable from this process. Raises TestbedError if it does not answer."""

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """All machines of every site, reserved or not. Raises TestbedError."""

    def reserve(self, request: Request, notify: Notify) -> Reservation:
        """Get machines, sub-networks and a KaVLAN, and wait until they are there.

        All or nothing: if one site refuses, what the others gave is given back. Raises TestbedError.
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

    def alive(self, reservation: Reservation) -> bool:
        """True while all the jobs run."""

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """Give back what the jobs (site, id) hold, and wait until that is so. What is gone is no error.

        On ``sites``, jobs called ``job_name`` are looked for too: a process that was killed while it
        submitted could not write down which it got. Raises TestbedError if a job is still there.
        """

    def access(self, key: str) -> Access:
        """How to reach the deployed machines as root with the private key file ``key``."""
