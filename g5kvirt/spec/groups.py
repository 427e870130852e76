"""The VMs of an experiment: their size, and groups of VMs of different kinds.

::

    Spec(sites={"nancy": 2}, vms=6)
    Spec(sites={"nancy": 2}, vms=[Group("server", 2, memory=1024, cores=2), Group("client", 4)])
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from g5kvirt.errors import SpecError
from g5kvirt.inventory import MIB
from g5kvirt.spec.fields import check_fields, checked_by, flag, is_whole, keys, suggest, text, whole, wrong

__all__ = [
    "LEAST_MEMORY",
    "MAX_MIB",
    "MAX_VMS",
    "Group",
    "Kind",
    "VMSpec",
    "VMs",
    "average",
    "check_group",
    "check_memory",
    "names_in_words",
    "read_vms",
    "scaled",
    "sizes_in_words",
]

MAX_VMS = 1 << 24  #: a /8 holds no more addresses
MAX_MIB = 1 << 30  #: a pebibyte of memory or disk
MAX_GROUPS = 64
#: MiB that the minimal system needs to boot: measured with Debian's cloud kernel; 64 are too few.
LEAST_MEMORY = 80

#: Names of VMs are labels in DNS (63 characters at most), with a hyphen and a number after the group's.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_NAME_NEEDED = "a word of at most 40 lower-case letters, digits and hyphens such as 'client'"

#: What inventories of other tools call all VMs, and Ansible those of no group.
RESERVED = ("all", "ungrouped", "vms")


@dataclass(frozen=True, kw_only=True)
class VMSpec:
    """The size of the VMs, unless their group sets another."""

    #: memory in MiB; below 144 a deployed kernel cannot be started with kexec, below 80 nothing boots
    memory: int = field(default=160, metadata=checked_by(whole, 1, MAX_MIB, "MiB"))
    #: number of virtual processors
    cores: int = field(default=1, metadata=checked_by(whole, 1, 4096))
    #: disk in MiB, on a RAM disk of the host
    disk: int = field(default=512, metadata=checked_by(whole, 0, MAX_MIB, "MiB"))
    #: whether the host drops frames whose source MAC or IP address is not the VM's own, and DHCP replies from
    #: VMs; set it to False if there are bridges inside VMs
    port_security: bool = field(default=True, metadata=checked_by(flag))

    def __post_init__(self) -> None:
        check_fields(self, "vm")

    @property
    def footprint(self) -> int:
        """Bytes of the host's memory that a VM may use: its memory and its disk (on tmpfs)."""
        return (self.memory + self.disk) * MIB


@dataclass(frozen=True)
class Group:
    """A group of VMs, named ``NAME-1``, ``NAME-2``, …; sizes that are not given are those of ``Spec.vm``."""

    #: lower-case letters, digits and hyphens
    name: str = field(metadata=checked_by(text, _NAME, _NAME_NEEDED))
    #: number of VMs, over all sites
    count: int = field(metadata=checked_by(whole, 1, MAX_VMS))
    #: memory in MiB
    memory: int | None = field(default=None, kw_only=True, metadata=checked_by(whole, 1, MAX_MIB, "MiB"))
    #: number of virtual processors
    cores: int | None = field(default=None, kw_only=True, metadata=checked_by(whole, 1, 4096))
    #: disk in MiB
    disk: int | None = field(default=None, kw_only=True, metadata=checked_by(whole, 0, MAX_MIB, "MiB"))

    def __post_init__(self) -> None:
        check_fields(self, f"vms.{self.name}" if isinstance(self.name, str) and self.name else "vms")
        if self.name in RESERVED:
            raise SpecError(
                f"a group cannot be called {self.name!r}, which has a meaning of its own in inventories",
                advice="give it another name",
            )

    def size(self, vm: VMSpec) -> VMSpec:
        """The size of its VMs; ``vm`` provides the values that are not given."""
        return replace(
            vm,
            memory=vm.memory if self.memory is None else self.memory,
            cores=vm.cores if self.cores is None else self.cores,
            disk=vm.disk if self.disk is None else self.disk,
        )


@dataclass(frozen=True)
class Kind:
    """A group with the size of its VMs; without groups, all VMs are one kind without a name."""

    name: str
    count: int
    vm: VMSpec


def check_memory(kinds: Iterable[Kind]) -> None:
    """Raises SpecError if VMs are too small for the minimal system."""
    for kind in kinds:
        if kind.vm.memory < LEAST_MEMORY:
            raise SpecError(
                f"the minimal system does not boot in {kind.vm.memory} MiB of memory",
                advice=f"set vm.memory{f', or that of {kind.name},' if kind.name else ''}"
                f" to at least {LEAST_MEMORY} MiB",
            )


class VMs(TypedDict):
    """What `read_vms` makes of ``vms``: the number of all VMs, and their groups."""

    vms: int
    groups: tuple[Group, ...]


def read_vms(vms: object, groups: Sequence[Group] = ()) -> VMs:
    """The number of all VMs, and their groups if ``vms`` is a list of them; ``groups``: those known already.

    Raises SpecError.
    """
    if is_whole(vms) or not isinstance(vms, list | tuple):
        number = whole("vms", vms, 1, MAX_VMS)
        if groups and sum(group.count for group in groups) != number:
            raise SpecError(
                f"vms is {number}, but the groups {', '.join(g.name for g in groups)} have"
                f" {sum(g.count for g in groups)} VMs",
                advice="pass the groups again: vms=[Group(...), ...]",
            )
        return {"vms": number, "groups": tuple(groups)}
    if not vms or len(vms) > MAX_GROUPS:
        wrong("vms", f"a number of VMs, or a list of 1 to {MAX_GROUPS} groups", vms)
    found = tuple(_read_group(item) for item in vms)
    names = [group.name for group in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SpecError(f"vms has two groups {twice!r}", advice="give each a different name")
    return {"vms": whole("vms", sum(group.count for group in found), 1, MAX_VMS), "groups": found}


def _read_group(item: object) -> Group:
    if isinstance(item, Group):
        return item
    if not isinstance(item, Mapping):
        wrong("each of vms", "a group such as Group('client', 4), in YAML {name: client, count: 4}", item)
    known = [f.name for f in fields(Group)]
    plain: Mapping[str, Any] = keys(item, known, "a group of vms")
    for key in ("name", "count"):
        if key not in plain:
            raise SpecError(f"a group of vms has no {key!r}", advice="write it as {name: client, count: 4}")
    return Group(**plain)


def check_group(name: object, groups: Iterable[str]) -> str:
    """``name``, if it is one of the groups. Raises SpecError."""
    known = list(groups)
    if not known:
        raise SpecError(
            "this run has no groups", advice="give them in the specification: vms=[Group(...), ...]"
        )
    if not isinstance(name, str) or name not in known:
        shown = name if isinstance(name, str) else type(name).__name__
        raise SpecError(f"there is no group {shown!r} in this run", advice=suggest(name, known))
    return str.__str__(name)


def average(vms: Sequence[tuple[VMSpec, int]]) -> VMSpec:
    """The average size of so many VMs of each size, rounded up: as many of it take at least as much."""
    number = sum(count for _, count in vms)
    if len(vms) == 1:
        return vms[0][0]
    memory = -(-sum(vm.memory * count for vm, count in vms) // number)
    both = -(-sum((vm.memory + vm.disk) * count for vm, count in vms) // number)
    cores = -(-sum(vm.cores * count for vm, count in vms) // number)
    return replace(vms[0][0], memory=memory, disk=max(0, both - memory), cores=cores)


def scaled(groups: Sequence[Group], vms: int) -> tuple[Group, ...]:
    """The groups with about ``vms`` VMs: of each its share (largest remainders), and at least one."""
    total = sum(group.count for group in groups)
    counts = [max(1, group.count * vms // total) for group in groups]
    rest = sorted(range(len(groups)), key=lambda i: (counts[i] * total - groups[i].count * vms, i))
    for i in rest[: max(0, vms - sum(counts))]:
        counts[i] += 1
    return tuple(replace(group, count=count) for group, count in zip(groups, counts, strict=True))


def sizes_in_words(kinds: Sequence[Kind]) -> str:
    """What follows "6 VMs" in a sentence: ``of 160 MiB memory and 512 MiB disk``, or so for each group."""
    words = [f"of {kind.vm.memory} MiB memory and {kind.vm.disk} MiB disk" for kind in kinds]
    if not kinds[0].name:
        return words[0]
    return f"({', '.join(f'{k.count:,} {k.name} {size}' for k, size in zip(kinds, words, strict=True))})"


def names_in_words(kinds: Sequence[Kind]) -> str:
    """``vm-1 to vm-8``, or ``server-1 to server-2, client-1 to client-4``."""
    return ", ".join(f"{k.name or 'vm'}-1 to {k.name or 'vm'}-{k.count}" for k in kinds)
