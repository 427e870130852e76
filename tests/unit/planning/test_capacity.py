"""The capacity rules for hosts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.inventory import GIB, MIB
from g5kvirt.planning.capacity import RULES, capacities, capacity, register_rule
from g5kvirt.spec.spec import CapacityRule, VMSpec

VM_2013 = VMSpec(memory=350, disk=564)


@pytest.mark.parametrize(
    ("cores", "memory", "expected"),
    [
        (8, 16 * GIB, 16),  # bound by cores: 2 × 8
        (24, 48 * GIB, 18),  # bound by the limit
        (8, 8 * GIB, 7),  # bound by memory: (8192 − 1024) / 914 = 7.8
        (2, 2 * GIB, 1),
        (4, 1 * GIB, 0),  # the host keeps all of it
        (1, 0, 0),
    ],
)
def test_capacity_follows_the_formula_of_2013(cores: int, memory: int, expected: int) -> None:
    assert capacity(cores, memory, CapacityRule(), VM_2013) == expected


def test_capacity_of_a_small_local_host() -> None:
    assert capacity(4, 8 * GIB, CapacityRule(), VMSpec()) == 8


RULE = st.builds(
    CapacityRule,
    max_per_host=st.integers(1, 100),
    per_core=st.integers(1, 20),
    host_reserve=st.integers(0, 10_000),
)
SIZE = st.builds(VMSpec, memory=st.integers(1, 9000), disk=st.integers(0, 9000))


@given(cores=st.integers(1, 512), memory=st.integers(0, 4096 * GIB), rule=RULE, vm=SIZE)
def test_capacity_never_exceeds_cores_memory_and_limit(
    cores: int, memory: int, rule: CapacityRule, vm: VMSpec
) -> None:
    found = capacity(cores, memory, rule, vm)
    assert 0 <= found <= min(rule.max_per_host, rule.per_core * cores)
    assert found == 0 or found * vm.footprint + rule.host_reserve * MIB <= memory
    one_more = (found + 1) * vm.footprint + rule.host_reserve * MIB <= memory
    assert not one_more or found == min(rule.max_per_host, rule.per_core * cores)


@given(
    hosts=st.lists(st.tuples(st.integers(1, 128), st.integers(0, 512 * GIB)), max_size=20), rule=RULE, vm=SIZE
)
def test_capacities_of_many_hosts_equal_those_of_each(
    hosts: list[tuple[int, int]], rule: CapacityRule, vm: VMSpec
) -> None:
    together = capacities([c for c, _ in hosts], [m for _, m in hosts], rule, vm)
    assert together.tolist() == [capacity(c, m, rule, vm) for c, m in hosts]


def test_registered_rule_is_used_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("g5kvirt.planning.capacity.RULES", dict(RULES))

    @register_rule("one-a-core")
    def one_a_core(cores, memory, rule, vm):  # type: ignore[no-untyped-def]
        return np.asarray(cores)

    assert capacity(7, GIB, CapacityRule(rule="one-a-core"), VMSpec()) == 7
    with pytest.raises(ValueError, match="already"):
        register_rule("one-a-core")(one_a_core)


def test_unknown_rule_raises() -> None:
    with pytest.raises(SpecError, match=r"unknown capacity rule '2031'.*'2013'"):
        capacity(1, GIB, CapacityRule(rule="2031"), VMSpec())
