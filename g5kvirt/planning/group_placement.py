"""Placement of groups of VMs of different sizes: how many VMs of each group every host gets. Pure.

Groups are placed one after another, those with the largest VMs first, each by the strategy of the
specification on the room that is left. What a host carries is judged by the average size of its VMs: a mix
fits if the capacity rule would let the host carry as many VMs of that size. So each rule works for groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from g5kvirt.errors import CapacityError
from g5kvirt.inventory import Host
from g5kvirt.planning.capacity import capacity
from g5kvirt.planning.placement import distribute
from g5kvirt.spec.groups import Kind, average
from g5kvirt.spec.spec import CapacityRule, Spec, VMSpec

__all__ = ["TOGETHER", "check_fits", "distribute_groups", "host_shares"]

Ints = NDArray[np.int64]

#: Strategies that keep a group together: on hosts, or at sites, that no other group has.
TOGETHER = ("grouped", "grouped-sites")

#: VMs of a host: (size, number) of each group that it has.
_Mix = tuple[tuple[VMSpec, int], ...]


def host_shares(spec: Spec, hosts: Sequence[Host]) -> dict[str, Ints]:
    """Group → its VMs on each of ``hosts``, whose cores and memory count; "" for VMs without groups.

    Raises CapacityError if they do not fit, SpecError for an unknown strategy or rule.
    """
    sites = list(dict.fromkeys(host.site for host in hosts))
    site = np.fromiter((sites.index(host.site) for host in hosts), np.int64, len(hosts))
    cores, memory = [host.cores for host in hosts], [host.memory for host in hosts]
    shares = distribute_groups(spec.placement, spec.kinds, spec.capacity, cores, memory, site)
    return {kind.name: share for kind, share in zip(spec.kinds, shares, strict=True)}


def check_fits(spec: Spec, hosts: Sequence[Host]) -> None:
    """Raises CapacityError if the groups of a specification do not fit on ``hosts``."""
    if spec.groups:
        host_shares(spec, hosts)


def distribute_groups(
    strategy: str,
    kinds: Sequence[Kind],
    rule: CapacityRule,
    cores: Sequence[int],
    memory: Sequence[int],
    site: Ints,
) -> list[Ints]:
    """VMs on each host, for each of ``kinds``, in their order. ``memory`` in bytes.

    VMs of different sizes that do not fit by the strategy are placed on hosts one after another instead,
    the largest first. Raises CapacityError if they do not fit so either.
    """
    try:
        return _distributed(strategy, kinds, rule, cores, memory, site)
    except CapacityError:
        if strategy == "packed" or len({kind.vm for kind in kinds}) == 1:
            raise
        return _distributed("packed", kinds, rule, cores, memory, site)


def _distributed(
    strategy: str,
    kinds: Sequence[Kind],
    rule: CapacityRule,
    cores: Sequence[int],
    memory: Sequence[int],
    site: Ints,
) -> list[Ints]:
    hosts = len(cores)
    shares = [np.zeros(hosts, np.int64) for _ in kinds]
    mixes: list[_Mix] = [()] * hosts
    for number in sorted(range(len(kinds)), key=lambda i: (-kinds[i].vm.footprint, i)):
        kind = kinds[number]
        known: dict[tuple[int, int, _Mix], int] = {}  # hosts are alike
        for at in range(hosts):
            key = cores[at], memory[at], mixes[at]
            if key not in known:
                known[key] = _room_beside(*key, rule, kind)
        room = np.fromiter(
            (known[c, m, x] for c, m, x in zip(cores, memory, mixes, strict=True)), np.int64, hosts
        )
        if int(room.sum()) < kind.count:
            raise _refused(kinds, kind, int(room.sum()), sum(int(share.sum()) for share in shares), hosts)
        if strategy in TOGETHER:
            taken = np.fromiter((bool(mix) for mix in mixes), bool, hosts)
            room = _apart(strategy, room, taken, site, kind.count)
        shares[number] = distribute(strategy, room, site, kind.count)
        mixes = [
            (*mix, (kind.vm, count)) if count else mix
            for mix, count in zip(mixes, shares[number].tolist(), strict=True)
        ]
    return shares


def _room_beside(cores: int, memory: int, mix: _Mix, rule: CapacityRule, kind: Kind) -> int:
    """VMs of a kind that a host carries beside those of ``mix``."""
    most = capacity(cores, memory, rule, kind.vm)
    if not mix:
        return most
    before = sum(count for _, count in mix)
    low = 0
    while low < most:
        middle = (low + most + 1) // 2
        if before + middle <= capacity(cores, memory, rule, average([*mix, (kind.vm, middle)])):
            low = middle
        else:
            most = middle - 1
    return low


def _apart(strategy: str, room: Ints, taken: NDArray[np.bool_], site: Ints, count: int) -> Ints:
    """The room that a group may use: where no other group is, and of one site, as far as it fits there."""
    usable = [~taken, np.ones_like(taken)]
    if strategy == "grouped-sites":
        usable.insert(0, ~np.isin(site, site[taken]))
    for hosts in usable:
        free = np.where(hosts, room, 0)
        by_site = np.bincount(site, weights=free).astype(np.int64)
        fitting = np.flatnonzero(by_site >= count)
        if len(fitting):
            return np.where(site == fitting[0], free, 0)
        if int(free.sum()) >= count:
            return free
    return room


def _refused(kinds: Sequence[Kind], kind: Kind, room: int, placed: int, hosts: int) -> CapacityError:
    requested = sum(one.count for one in kinds)
    where = f"{hosts:,} host{'' if hosts == 1 else 's'}"
    size = f"{kind.vm.memory} MiB memory and {kind.vm.disk} MiB disk"
    beside = f" beside the {placed:,} larger VMs of other groups" if placed else ""
    return CapacityError(
        f"the groups do not fit on {where}: of {kind.count:,} {kind.name} with {size}, at most {room:,} do"
        f"{beside}",
        requested=requested,
        available=placed + room,
        advice="request fewer or smaller VMs, or more hosts",
    )
