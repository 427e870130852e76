"""How far the image is on its way: bytes and rate of each VM that writes it, and of each host that gets it.

Relays count the bytes that each VM downloads; a VM downloads no more than it has unpacked and written. VMs
are not queried, and hosts only while one of their VMs writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.watch import Watch, affordable
from g5kvirt.inventory import MIB, VM, Host
from g5kvirt.provisioners.builtin.orders import Report
from g5kvirt.remote import Fanout
from g5kvirt.run.event_types import transfer_progress
from g5kvirt.run.events import Event

__all__ = ["Transfer", "TransferWatch", "described"]

#: Seconds between two looks, at least, and for each host.
INTERVAL = 5.0
INTERVAL_PER_HOST = 0.1
#: Seconds that the hosts have for their answers.
PATIENCE = 15.0
#: VMs up to which each is named in the message; the journal has all of them in any case.
NAMED = 4


@dataclass(frozen=True)
class Transfer:
    """One VM's transfer: bytes so far, and bytes per second since the look before (0 at the first)."""

    vm: str
    bytes: int
    rate: float


def described(transfers: Iterable[Transfer], total: int) -> str:
    """``writing the image of 412 MiB: vm-1 34 % at 3.1 MiB/s, vm-2 30 % at 2.9 MiB/s``."""
    known = sorted(transfers, key=lambda one: one.bytes)
    whole = max(total, 1)
    start = f"writing the image of {total / MIB:,.1f} MiB"

    def part(one: Transfer) -> str:
        if one.bytes >= total:
            return f"{one.vm} has all of it"
        number, rate = one.bytes / MIB, one.rate / MIB
        return f"{one.vm} {100 * one.bytes // whole} %, {number:,.1f} MiB at {rate:,.1f} MiB/s"

    if not known:
        return "the image is written"
    if len(known) <= NAMED:
        return f"{start}: " + "; ".join(map(part, known))
    mean, rate = sum(one.bytes for one in known) / len(known), sum(one.rate for one in known)
    together = f"{len(known):,} VMs {100 * mean / whole:.0f} % on average, {rate / MIB:,.1f} MiB/s together"
    return f"{start}: {together}; last {part(known[0])}"


class TransferWatch(Watch):
    """Calls ``write([event])`` every few seconds while VMs write the image.

    ``state``: the file of the relays, or "" while there is none. ``real_cores``: those that all hosts share,
    if they do.
    """

    def __init__(
        self,
        fanout: Fanout,
        deployment: str,
        hosts: Iterable[Host],
        vms: Iterable[VM],
        total: int,
        state: Callable[[], str],
        write: Callable[[list[Event]], object],
        *,
        real_cores: int | None = None,
    ) -> None:
        self._hosts = {host.name: host for host in hosts}
        shortest = max(INTERVAL, INTERVAL_PER_HOST * len(self._hosts))
        super().__init__(fanout, "the transfers", affordable(shortest, len(self._hosts), real_cores))
        self._deployment, self._total = deployment, total
        self._vms = {vm.name: vm for vm in vms}
        self._by_address = {str(vm.ip): vm.name for vm in self._vms.values()}
        self._state, self._write = state, write
        self._writing: set[str] = set()
        self._before: dict[str, tuple[float, int]] = {}  # VM → time and bytes at the look before
        self._shown = False
        self._lock = threading.Lock()

    def take(self, report: Report) -> None:
        """Process a report of a VM: it begins to write when its file system is there, any other is an end."""
        with self._lock:
            if report.step == "format" and report.status == "ok":
                self._writing.add(report.subject)
            else:
                self._writing.discard(report.subject)

    def look(self) -> None:
        """Call the hosts of VMs that write once."""
        with self._lock:
            writing = [self._vms[name] for name in self._writing if name in self._vms]
        state = self._state()
        if not writing or not state:
            if self._shown:
                self._shown = False
                what = described([], self._total)
                self._write([transfer_progress(self._deployment, time.time(), self._total, {}, {}, what)])
            return
        wanted = {self._hosts[vm.host] for vm in writing}
        document = protocol.document(protocol.transfers(state))
        documents = {host: document for host in wanted if not self.fanout.is_gone(host.address)}
        replies = calls.call_agents(self.fanout, documents, timeout=PATIENCE, given_up=self.given_up)
        details = {r.host.name: r.answers[0].detail for r in replies if r.answers and r.answers[0].ok}
        self._send(details, {vm.name for vm in writing})

    def _send(self, details: Mapping[str, Mapping[str, object]], writing: set[str]) -> None:
        """Write what the hosts answered (host → ``have``, ``taken`` and ``t``) into the journal."""
        hosts: dict[str, int] = {}
        transfers = []
        for host, detail in details.items():
            have, taken, t = detail["have"], detail["taken"], detail["t"]
            if not isinstance(have, int) or not isinstance(taken, Mapping) or not isinstance(t, float):
                continue
            if have < self._total:
                hosts[host] = have
            for address, number in taken.items():
                vm = self._by_address.get(address, "")
                if vm in writing and self._vms[vm].host == host:  # it knows of its own VMs only
                    transfers.append(self._transfer(vm, int(number), t))
        if transfers:
            self._shown = True
            vms = {one.vm: one.bytes for one in transfers}
            what = described(transfers, self._total)
            self._write([transfer_progress(self._deployment, time.time(), self._total, hosts, vms, what)])

    def _transfer(self, vm: str, number: int, t: float) -> Transfer:
        since, before = self._before.get(vm, (t, number))
        if number < before:  # it began again
            since, before = t, number
        self._before[vm] = (t, number)
        rate = (number - before) / (t - since) if t > since else 0.0
        return Transfer(vm, number, rate)
