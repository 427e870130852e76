"""Which nodes are cleaned and when, and when scheduling is triggered for a reservation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.local.watch import Owner, plan_cleanup, reservation_due

NODES = st.sampled_from(["a-1", "a-2", "b-1"])
NUMBERS = st.integers(1, 3)


def test_node_is_cleaned_after_the_end_of_its_job() -> None:
    clean, owners = plan_cleanup({"a-1": 1}, {}, {"a-1": 7})
    assert not clean
    clean, owners = plan_cleanup({"a-1": 1}, owners, {"a-1": 7})
    assert (clean, owners) == ({}, {"a-1": Owner(7, 1)})
    clean, owners = plan_cleanup({"a-1": 1}, owners, {})
    assert (clean, owners) == ({"a-1": 1}, {})


def test_next_job_gets_a_clean_node() -> None:
    clean, _ = plan_cleanup({"a-1": 1}, {"a-1": Owner(7, 1)}, {"a-1": 8})
    assert clean == {"a-1": 1}


def test_deployment_of_the_next_job_is_kept() -> None:
    clean, owners = plan_cleanup({"a-1": 2}, {"a-1": Owner(7, 1)}, {"a-1": 8})
    assert (clean, owners) == ({}, {"a-1": Owner(8, 2)})


@given(
    st.dictionaries(NODES, NUMBERS),
    st.dictionaries(NODES, st.builds(Owner, NUMBERS, NUMBERS)),
    st.dictionaries(NODES, NUMBERS),
)
def test_every_dirty_node_is_cleaned_or_owned_by_its_current_job(
    dirty: dict[str, int], owners: dict[str, Owner], active: dict[str, int]
) -> None:
    clean, kept = plan_cleanup(dirty, owners, active)
    assert clean.keys() | kept.keys() == dirty.keys()
    assert not clean.keys() & kept.keys()
    assert all(owner == Owner(active[node], dirty[node]) for node, owner in kept.items())
    assert all(node not in active for node in clean if node not in owners)


def test_reservation_is_due_only_at_its_start() -> None:
    assert not reservation_due([], 100)
    assert not reservation_due([101], 100)
    assert reservation_due([100, 500], 100.5)
    assert not reservation_due([100], 1000)
