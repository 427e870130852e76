"""The workflow as data, and the time-outs that follow from what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.provisioners.builtin.meter import Meter, TimeoutRange
from g5kvirt.provisioners.builtin.tasks import STEPS
from g5kvirt.provisioners.builtin.workflow import (
    KEXEC_MEMORY,
    REBOOTS,
    MacroStep,
    MicroStep,
    Variant,
    Workflow,
    boot_order,
    default_workflow,
)

PATIENCE = TimeoutRange(100.0, 10.0, 1000.0)


def word(name: str, **more: object) -> MicroStep:
    return MicroStep(name, "word", PATIENCE, **more)  # type: ignore[arg-type]


def one(*steps: MicroStep) -> Workflow:
    return Workflow((MacroStep("M", (Variant("v", steps),)),))


def test_the_default_workflow_has_the_three_macro_steps_and_every_step_of_the_guest() -> None:
    plain = default_workflow().plain()
    assert list(plain) == ["SetDeploymentEnv", "BroadcastEnv", "BootNewEnv"]
    named = [step for steps in plain.values() for step in steps]
    assert [step for step in named if step in STEPS] == list(STEPS)
    assert plain["SetDeploymentEnv"][:2] == ["reboot", "minimal-system"]
    assert plain["BootNewEnv"] == ["boot", "ready", "reset"]


def test_reboots_climb_and_kexec_is_followed_by_a_reset() -> None:
    prepare, _, boot = default_workflow().macros
    assert prepare.variants[0].steps[0].alternatives == REBOOTS == ("soft", "hard", "relaunch")
    assert [v.name for v in boot.variants] == ["kexec", "reset"]
    assert boot.variants[1].steps[0].into == "disk"


def test_variants_time_outs_and_retries_can_be_chosen() -> None:
    made = default_workflow(
        broadcast=("tree", "http"),
        boot=("reboot",),
        timeouts={"BroadcastEnv": 77},
        retries=3,
        boot_seconds=10,
    )
    assert [v.name for v in made.macros[1].variants] == ["tree", "http"]
    assert {v.timeout for v in made.macros[1].variants} == {77}
    assert made.macros[0].variants[0].timeout is None
    assert made.macros[0].variants[0].retries == 3
    assert [v.name for v in made.macros[2].variants] == ["reboot"]


@pytest.mark.parametrize(("memory", "first"), [(KEXEC_MEMORY, "kexec"), (KEXEC_MEMORY - 1, "reboot")])
def test_a_vm_too_small_for_kexec_boots_by_reboot(memory: int, first: str) -> None:
    boot = default_workflow(boot=boot_order(memory)).macros[2]
    assert [variant.name for variant in boot.variants] == [first, "reset"]


@pytest.mark.parametrize("boot", [(), ("reset",), ("kexec", "reboot"), ("kexec", "reset", "reset")])
def test_a_reset_cannot_come_first_and_the_guest_leaves_only_once(boot: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="boot must be kexec or reboot"):
        default_workflow(boot=boot)  # type: ignore[arg-type]


def test_inconsistent_workflows_are_refused() -> None:
    reboot = MicroStep("reboot", "reboot", PATIENCE, alternatives=("hard",))
    with pytest.raises(ValueError, match="same step twice"):
        one(word("a"), word("a"))
    with pytest.raises(ValueError, match="cannot go back to 'reboot'"):
        one(word("a", again_at="reboot"), reboot)
    with pytest.raises(ValueError, match="cannot go back to 'a'"):
        one(word("a"), word("b", again_at="a"))
    with pytest.raises(ValueError, match="has no step"):
        one()
    with pytest.raises(ValueError, match="has no variant"):
        Workflow((MacroStep("M", ()),))
    with pytest.raises(ValueError, match="not an earlier macro-step"):
        Workflow((MacroStep("M", (Variant("v", (word("a"),), again_from="N"),)),))
    first, second = (MacroStep(name, (Variant("v", (word("a"),)),)) for name in "MN")
    with pytest.raises(ValueError, match="rename one"):
        Workflow((first, second))
    with pytest.raises(ValueError, match="names its alternatives"):
        MicroStep("r", "reboot", PATIENCE)
    with pytest.raises(ValueError, match="must climb"):
        MicroStep("r", "reboot", PATIENCE, alternatives=("hard", "soft"))
    with pytest.raises(ValueError, match="given again"):
        word("a", retries=1)
    with pytest.raises(ValueError, match="must rise"):
        TimeoutRange(1.0, 2.0, 3.0)


def test_timeout_has_a_default_until_enough_durations_are_measured() -> None:
    meter = Meter(PATIENCE)
    for _ in range(2):
        meter.record(20.0, 10)
    assert meter.timeout(10) == 100.0
    meter.record(20.0, 10)
    assert meter.timeout(9) == pytest.approx(4 * 20.0, rel=0.2)
    assert meter.timeout(10) == 100.0, "fewer than a third: those of a crowd that are quickest"
    meter.record(20.0, 10)
    assert meter.timeout(10) == pytest.approx(4 * 20.0, rel=0.2)
    assert meter.timeout(40) == pytest.approx(4 * meter.timeout(10))  # four times as many share the machine
    assert meter.timeout(1) == meter.timeout(10)  # fewer than when it was measured: no less patience


@given(
    seen=st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**6)), max_size=50),
    load=st.integers(0, 10**6),
)
def test_a_time_out_stays_within_its_bounds(seen: list[tuple[float, int]], load: int) -> None:
    meter = Meter(PATIENCE)
    for seconds, active in seen:
        meter.record(seconds, active)
    assert PATIENCE.least <= meter.timeout(load) <= PATIENCE.most
    assert meter.timeout(load) <= meter.timeout(load + 1)


@given(seen=st.lists(st.floats(0.01, 200), min_size=3, max_size=200))
def test_timeout_exceeds_most_measured_durations(seen: list[float]) -> None:
    meter = Meter(TimeoutRange(1.0, 0.001, 1e9), factor=1.0)
    for seconds in seen:
        meter.record(seconds, 1)
    within = sum(seconds <= meter.timeout(1) * (1 + 1e-9) for seconds in seen)
    assert within >= 0.95 * len(seen)
