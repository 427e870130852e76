"""What a kind of guest has to offer: how a host starts one, and what it is called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from g5kvirt.hostagent.protocol import Request
from g5kvirt.inventory import Facts
from g5kvirt.spec.spec import Spec

__all__ = ["Guest"]


class Guest(Protocol):
    """A kind of guest; `g5kvirt.guests.registry` names them."""

    #: Label of `label` → the kind of guest in words, for captions and cards.
    words: Mapping[str, str]

    def label(self, hosts: Collection[Facts]) -> str:
        """What the journal calls the guests on these hosts: ``kvm``, ``tcg``, …"""

    def start_request(self, spec: Spec, host: Facts, vms: Iterable[tuple[str, str]]) -> Request:
        """The host agent's request that starts VMs, given by name and MAC address, on one host."""
