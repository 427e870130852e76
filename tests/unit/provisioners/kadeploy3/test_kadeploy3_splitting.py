"""Into how many parts a large deployment goes, and that nobody is lost on the way."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kadeploymaker import vms

from g5kvirt.provisioners.kadeploy3.splitting import (
    BEARABLE,
    LONGEST_POST,
    cost,
    in_order,
    own_seconds,
    parts_for,
    post_seconds,
    split,
)

SIZES = st.integers(1, 20_000)


@pytest.mark.parametrize(("nodes", "seconds"), [(500, 46), (2000, 187)])
def test_requests_cost_what_was_measured(nodes: int, seconds: float) -> None:
    assert post_seconds(nodes, 4552) == pytest.approx(seconds, rel=0.03)


@pytest.mark.parametrize(("nodes", "seconds"), [(500, 11), (2000, 68), (4552, 382)])
def test_workflows_cost_what_was_measured_and_rather_more(nodes: int, seconds: float) -> None:
    assert seconds <= own_seconds(nodes) <= 1.2 * seconds


@example(1, 1, 5e-324, 10.0, 1.0)
@given(SIZES, SIZES, st.floats(0, 600), st.floats(10, 600), st.floats(1, 600))
def test_number_of_parts_balances_bookkeeping_against_copies(
    nodes: int, more: int, transfer: float, bearable: float, longest: float
) -> None:
    configured = nodes + more
    parts = parts_for(nodes, configured, transfer, bearable=bearable, longest_post=longest)
    chosen = cost(nodes, configured, parts, transfer)
    assert 1 <= parts <= nodes
    assert chosen.longest <= longest or parts == nodes
    further = cost(nodes, configured, parts + 1, transfer)
    assert chosen.bookkeeping <= bearable + 1e-9 or parts == nodes or further.total >= chosen.total - 1e-6
    if parts > 1:
        fewer = cost(nodes, configured, parts - 1, transfer)
        assert fewer.longest > longest or fewer.bookkeeping > bearable - 1e-9
        assert fewer.longest > longest or fewer.total >= chosen.total - 1e-6


def test_the_experiment_of_the_slides_stays_bearable() -> None:
    transfer = 250e6 * 8 / 1e9  # an image of 250 MB through a link of 1 Gbit/s
    parts = parts_for(4552, 4552, transfer)
    chosen = cost(4552, 4552, parts, transfer)
    assert chosen.bookkeeping <= BEARABLE < cost(4552, 4552, 1, transfer).bookkeeping
    assert chosen.longest <= LONGEST_POST
    assert parts_for(100, 100, transfer) == 1


@given(st.integers(1, 400), st.integers(1, 40), st.data())
def test_every_vm_is_in_one_part_and_parts_are_about_equal(
    number: int, hosts: int, data: st.DataObject
) -> None:
    parts = data.draw(st.integers(1, number))
    made = vms(number, hosts)
    found = split(made, parts)
    assert len(found) == parts
    assert all(found)
    assert [vm for part in found for vm in part] == in_order(made)
    assert max(map(len, found)) <= math.ceil(1.5 * number / parts) + 1


def test_a_host_is_not_divided_where_a_cut_can_move_a_little() -> None:
    found = split(vms(96, hosts=6), 4)  # 16 VMs a host, 24 a part
    assert sum(len({vm.host for vm in part}) for part in found) <= 8
    whole = split(vms(60, hosts=6), 3)
    assert [len({vm.host for vm in part}) for part in whole] == [2, 2, 2]


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"nodes": 11}, {"bearable": 6.0}, {"longest_post": 0}])
def test_splitting_refuses_invalid_numbers(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parts_for(**{"nodes": 10, "configured": 10, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be split"):
        split(vms(3), 4)
