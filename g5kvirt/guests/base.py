"""What a kind of guest has to offer: what it boots, how a host starts it, and what it is called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Protocol

from g5kvirt.hostagent.protocol import Request
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.images.minimal import MinimalSystem
from g5kvirt.inventory import VM, Facts
from g5kvirt.spec.spec import Spec

__all__ = ["Guest"]


class Guest(Protocol):
    """A kind of guest; `g5kvirt.guests.registry` names them."""

    #: Label of `label` → the kind of guest in words, for captions and cards.
    words: Mapping[str, str]

    #: Programs that a host needs for it.
    programs: tuple[str, ...]

    #: How the root device of a deployed guest begins.
    root: str

    #: Whether it has a firmware, a kernel and power of its own: a guest without is rebooted by its host only.
    has_kernel: bool

    #: Bytes that it fetches to boot: kernel and initrd.
    boot_bytes: float

    #: Steps of a deployment that it does not have, which are recorded as skipped.
    absent_steps: frozenset[str]

    def label(self, hosts: Collection[Facts]) -> str:
        """What the journal calls the guests on these hosts: ``kvm``, ``tcg``, …"""

    def start_order(self, vms: Sequence[VM]) -> list[VM]:
        """The VMs in the order in which they are powered on."""

    def minimal_system(self, progress: ProgressCallback) -> MinimalSystem:
        """The files that it boots, from the cache or built into it. Raises MachineError."""

    def start_request(
        self, spec: Spec, host: str, facts: Facts, vms: Iterable[VM], dhcp_servers: Iterable[IPv4Address] = ()
    ) -> Request:
        """The host agent's request that starts these VMs on ``host``.

        ``dhcp_servers``: the run's own; no other may answer the VMs.
        """
