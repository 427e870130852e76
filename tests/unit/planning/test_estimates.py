"""Estimated durations: each bound applies where it is the largest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.planning.estimates import (
    PUBLISHED_DEPLOYMENT,
    PhaseEstimate,
    Workload,
    estimate_phases,
    total_seconds,
)
from g5kvirt.spec.spec import Windows

REAL = Workload(vms=4552, hosts=355, machines=361, cores=2800, emulated=False, servers=6)
LOCAL = Workload(vms=8, hosts=4, machines=5, cores=2, emulated=True, servers=1)


def phase(work: Workload, name: str) -> PhaseEstimate:
    [found] = [one for one in estimate_phases(work) if one.phase == name]
    return found


def test_the_phases_and_their_sum() -> None:
    found = estimate_phases(LOCAL)
    assert [one.phase for one in found] == ["deploy", "configure", "launch", "measure"]
    assert total_seconds(found) == pytest.approx(sum(one.seconds for one in found))
    assert phase(REAL, "deploy").seconds == PUBLISHED_DEPLOYMENT


def test_emulated_guests_are_bound_by_the_real_cores() -> None:
    # measured with Debian's kernel on 2 cores: 32 VMs in 122 s; the model's 7 s of CPU each make 112
    assert phase(replace(LOCAL, vms=32), "launch").seconds == pytest.approx(112)
    assert phase(replace(LOCAL, vms=32, cores=8), "launch").seconds == pytest.approx(32 * 7 / 8)
    # one alone took 8 s, on however many cores
    assert phase(replace(LOCAL, vms=1, cores=64), "launch").seconds == 8


def test_the_servers_links_bound_a_launch_without_windows() -> None:
    one, six = phase(replace(REAL, servers=1), "launch"), phase(REAL, "launch")
    assert one.seconds == pytest.approx(4552 * 15.4e6 * 8 / 1e9)
    assert one.seconds == pytest.approx(6 * six.seconds)
    assert "links" in one.why


def test_rate_window_adds_its_pauses() -> None:
    slow = replace(REAL, windows=Windows(boot=50, sleep=10))
    # 92 batches: 91 pauses of 10 s, then the last one boots
    assert phase(slow, "launch").seconds == pytest.approx(918)
    assert "window" in phase(slow, "launch").why
    reboots = replace(REAL, windows=Windows(reboot=80, reboot_sleep=15))
    assert phase(reboots, "launch").seconds < 100
    assert phase(reboots, "measure").seconds > 2 * 56 * 15


def test_slots_are_held_for_a_boot() -> None:
    assert phase(replace(LOCAL, vms=40, cores=100, windows=Windows(boot=2)), "launch").seconds == 160


@given(
    st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 1000), st.booleans(), st.integers(1, 10**4)
)
def test_more_never_takes_less(vms: int, cores: int, servers: int, emulated: bool, more: int) -> None:
    work = replace(REAL, vms=vms, cores=cores, servers=servers, emulated=emulated)
    fewer = total_seconds(estimate_phases(work))
    assert fewer > 0
    assert total_seconds(estimate_phases(replace(work, vms=vms + more))) >= fewer
    if not emulated:  # more cores open a larger window and never cost anything
        assert total_seconds(estimate_phases(replace(work, cores=cores + more))) <= fewer
