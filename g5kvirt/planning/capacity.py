"""The number of VMs that a host can carry.

A rule is a function of the cores and memories of all hosts (numpy arrays), registered under a name for
`CapacityRule.rule`. Add another with `register_rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from g5kvirt.errors import SpecError
from g5kvirt.inventory import MIB, Host
from g5kvirt.spec.spec import CapacityRule, Spec, VMSpec, suggest

__all__ = ["RULES", "CapacityRule", "Rule", "capacities", "capacity", "host_room", "register_rule"]

Ints = NDArray[np.int64]

#: (cores, bytes of memory, parameters, size of a VM) → VMs; one element per host
Rule = Callable[[Ints, Ints, CapacityRule, VMSpec], Ints]

RULES: dict[str, Rule] = {}


def register_rule(name: str) -> Callable[[Rule], Rule]:
    """Decorator: register a rule under ``name``."""

    def add(rule: Rule) -> Rule:
        if name in RULES:
            raise ValueError(f"there is already a capacity rule {name!r}")
        RULES[name] = rule
        return rule

    return add


@register_rule("2013")
def formula_2013(cores: Ints, memory: Ints, rule: CapacityRule, vm: VMSpec) -> Ints:
    """min(max_per_host, per_core × cores, (MemTotal − host_reserve) / (disk + memory)).

    Kadeploy3's VM testbed of 2013 used 18, 2, 1024 MB and 564 + 350 MB; its slides show 2 to 16 VMs
    per node.
    """
    by_memory = np.maximum(memory - rule.host_reserve * MIB, 0) // vm.footprint
    vms: Ints = np.minimum(np.minimum(rule.per_core * cores, by_memory), rule.max_per_host)
    return vms


def capacities(
    cores: Sequence[int] | Ints, memory: Sequence[int] | Ints, rule: CapacityRule, vm: VMSpec
) -> Ints:
    """The number of VMs that each host can carry. ``memory`` in bytes.

    Raises SpecError if ``rule.rule`` is unknown.
    """
    if rule.rule not in RULES:
        raise SpecError(f"unknown capacity rule {rule.rule!r}", advice=suggest(rule.rule, RULES))
    vms = RULES[rule.rule](np.asarray(cores, np.int64), np.asarray(memory, np.int64), rule, vm)
    return np.maximum(np.asarray(vms, np.int64), 0)


def capacity(cores: int, memory: int, rule: CapacityRule, vm: VMSpec) -> int:
    """The number of VMs that a host with ``cores`` and ``memory`` bytes can carry."""
    return int(capacities([cores], [memory], rule, vm)[0])


def host_room(spec: Spec, hosts: Sequence[Host]) -> Ints:
    """The number of VMs of a specification, of their average size, that each host can carry."""
    cores, memory = [host.cores for host in hosts], [host.memory for host in hosts]
    return capacities(cores, memory, spec.capacity, spec.average_vm)
