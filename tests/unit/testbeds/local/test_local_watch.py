"""Which nodes are cleaned when, and when a reservation is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.local.watch import Owner, due, sort_out

NODES = st.sampled_from(["a-1", "a-2", "b-1"])
NUMBERS = st.integers(1, 3)


def test_a_node_stays_while_its_job_runs_and_is_cleaned_after() -> None:
    clean, owners = sort_out({"a-1": 1}, {}, {"a-1": 7})
    assert not clean
    clean, owners = sort_out({"a-1": 1}, owners, {"a-1": 7})
    assert (clean, owners) == ({}, {"a-1": Owner(7, 1)})
    clean, owners = sort_out({"a-1": 1}, owners, {})
    assert (clean, owners) == ({"a-1": 1}, {})


def test_the_next_job_does_not_inherit_what_the_one_before_deployed() -> None:
    clean, _ = sort_out({"a-1": 1}, {"a-1": Owner(7, 1)}, {"a-1": 8})
    assert clean == {"a-1": 1}


def test_what_the_next_job_has_deployed_itself_stays() -> None:
    clean, owners = sort_out({"a-1": 2}, {"a-1": Owner(7, 1)}, {"a-1": 8})
    assert (clean, owners) == ({}, {"a-1": Owner(8, 2)})


@given(
    st.dictionaries(NODES, NUMBERS),
    st.dictionaries(NODES, st.builds(Owner, NUMBERS, NUMBERS)),
    st.dictionaries(NODES, NUMBERS),
)
def test_every_dirty_node_is_cleaned_or_owned_by_who_has_it(
    dirty: dict[str, int], owners: dict[str, Owner], active: dict[str, int]
) -> None:
    clean, kept = sort_out(dirty, owners, active)
    assert clean.keys() | kept.keys() == dirty.keys()
    assert not clean.keys() & kept.keys()
    assert all(owner == Owner(active[node], dirty[node]) for node, owner in kept.items())
    assert all(node not in active for node in clean if node not in owners)


def test_due_only_at_the_start() -> None:
    assert not due([], 100)
    assert not due([101], 100)
    assert due([100, 500], 100.5)
    assert not due([100], 1000)
