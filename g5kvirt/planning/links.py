"""Which links hold between which VMs, as the hosts need it. Pure.

VMs that the links treat alike form a cell: those of the same ends (groups and sites that links name). A host
gets the addresses of all cells as ranges, the cell of each of its own VMs, and for each of these cells the
classes of what arrives from others. So what a host is sent grows with the ranges, and not with pairs of VMs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from g5kvirt.errors import SpecError
from g5kvirt.inventory import VM
from g5kvirt.spec.links import Link

__all__ = ["MAX_CELLS", "HostLinks", "LinkPlan", "check_links", "plan_links", "vms_at"]

#: Cells of a run: class numbers of tc have 16 bits, and the second half of them is for links.
MAX_CELLS = 4096

#: The ends of links that a VM is at.
_Ends = frozenset[str]


@dataclass(frozen=True)
class HostLinks:
    """What one host has to know."""

    ranges: Sequence[tuple[str, str, int]]  #: first and last address, cell; of all VMs with links
    classes: Mapping[int, Sequence[Mapping[str, Any]]]  #: cell → what arrives there
    vms: Mapping[str, int]  #: MAC address of a VM of the host → its cell


@dataclass(frozen=True)
class LinkPlan:
    """The links of a run, host by host."""

    ranges: Sequence[tuple[str, str, int]]
    classes: Mapping[int, Sequence[Mapping[str, Any]]]
    cells: Mapping[str, int]  #: VM → its cell
    _vms: Sequence[VM]

    def of_host(self, host: str) -> HostLinks:
        """What ``host`` has to know."""
        own = {vm.mac: self.cells[vm.name] for vm in self._vms if vm.host == host and vm.name in self.cells}
        there = {cell: self.classes[cell] for cell in sorted(set(own.values())) if self.classes[cell]}
        return HostLinks(self.ranges, there, {mac: cell for mac, cell in own.items() if cell in there})


def check_links(links: Iterable[Link], netem: bool | None) -> None:
    """Raises SpecError if a link needs what the hosts' kernels are known to lack; None: not known."""
    for link in links:
        if link.needs_netem and netem is False:
            raise SpecError(
                f"the link {link} has a latency or a loss, but the kernel of these hosts has no netem",
                advice="leave out latency and loss, or use machines whose kernel has sch_netem; rates work",
            )


def vms_at(end: str, vms: Iterable[VM]) -> list[VM]:
    """The VMs of a group or a site."""
    return [vm for vm in vms if end in (vm.group, vm.site)]


def plan_links(links: Sequence[Link], vms: Sequence[VM]) -> LinkPlan:
    """The plan of ``links`` for the VMs of a run. Raises SpecError for too many combinations of ends."""
    named = {end for link in links for end in (link.first, link.second)}
    numbers: dict[_Ends, int] = {}
    cells: dict[str, int] = {}
    for vm in vms:
        ends = frozenset(named & {vm.group, vm.site})
        if ends:
            cells[vm.name] = numbers.setdefault(ends, len(numbers) + 1)
    if len(numbers) > MAX_CELLS:
        raise SpecError(
            f"the links distinguish {len(numbers):,} classes of VMs",
            advice=f"use fewer: at most {MAX_CELLS:,}",
        )
    classes = {number: _classes(links, ends, numbers) for ends, number in numbers.items()}
    addresses = sorted((int(vm.ip), cells[vm.name], str(vm.ip)) for vm in vms if vm.name in cells)
    return LinkPlan(_ranges(addresses), classes, cells, vms)


def _classes(links: Sequence[Link], ends: _Ends, numbers: Mapping[_Ends, int]) -> list[dict[str, Any]]:
    """What arrives at VMs of these ends: for each link that holds, its values and the cells it is from."""
    sources: dict[int, list[int]] = {}
    for other, number in numbers.items():
        found = next((i for i, link in enumerate(links) if _holds(link, other, ends)), None)
        if found is not None:
            sources.setdefault(found, []).append(number)
    return [
        {
            "rate": links[i].rate,
            "latency": links[i].latency,
            "loss": links[i].loss,
            "from": cells,
        }
        for i, cells in sorted(sources.items())
    ]


def _holds(link: Link, source: _Ends, target: _Ends) -> bool:
    """Whether a link holds for what ``source`` sends to ``target``."""
    return any(one in source and other in target for one, other in link.directions)


def _ranges(addresses: Sequence[tuple[int, int, str]]) -> list[tuple[str, str, int]]:
    """Ranges of addresses in a row with the same cell."""
    ranges: list[tuple[str, str, int]] = []
    last = -1
    for number, cell, address in addresses:
        if ranges and number == last + 1 and ranges[-1][2] == cell:
            ranges[-1] = (ranges[-1][0], address, cell)
        else:
            ranges.append((address, address, cell))
        last = number
    return ranges
