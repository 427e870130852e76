"""What the cards of `launch`, of `measure` and of an experiment show: every number is that of the journal."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from exactmaker import boot, deploy, phase, plan, vm
from htmlcheck import Page

from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.views.html import experiment_html
from g5kvirt.views.measure_result import MeasureResult
from g5kvirt.views.phase_result import PhaseResult

FAILURES = ["VMs", "failed at", "reason"]
STEPS = ["step", "VMs", "median", "p95", "max"]
SUBTITLE = "run first, testbed local; guests: virtual machines (QEMU, emulated)"


def given_up(name: str, at: str, reason: str, attempt: int = 1) -> Event:
    return vm(name, "launch", 160.0, "failed", attempt, at=at, reason=reason)


#: 7 VMs: three are up after 5, 10 and 20 s, three were given up (one in its second boot), one is under way.
LAUNCH = [
    plan(7),
    phase("launch", 90.0),
    *boot("vm-1", 100.0),
    *boot("vm-2", 100.0, every=2.0),
    *boot("vm-3", 100.0, every=4.0),
    *boot("vm-4", 100.0, upto=2),
    vm("vm-4", "launch", 130.0, "retry", at="script", reason="no answer"),
    *boot("vm-4", 131.0, attempt=2, upto=2),
    given_up("vm-4", "script", "no answer", attempt=2),
    *boot("vm-5", 100.0, upto=2),
    given_up("vm-5", "script", "no answer"),
    vm("vm-5", "console", 161.0, file="consoles/vm-5.txt"),
    *boot("vm-6", 100.0, upto=1),
    given_up("vm-6", "dhcp", "port <eth0> is down"),
    *boot("vm-7", 100.0, upto=4),
    phase("launch", 170.0, "ok"),
]
LAUNCH_FAILURES = [
    [*FAILURES, "console of one"],
    ["2", "script", "no answer", "consoles/vm-5.txt"],
    ["1", "dhcp", "port <eth0> is down", ""],
]

#: Two calls: 2 VMs without a failure; then 3, of which vm-1 fails and vm-2 needs a second try (16 s, not 11).
MEASURE = [
    phase("measure", 999.0),
    *deploy("d1", 2, 1000.0, environment="mini"),
    phase("measure", 1100.0, "ok"),
    phase("measure", 1999.0),
    *deploy("d2", 3, 2000.0, environment="mini", bad_images={"vm-1": 99, "vm-2": 1}),
    phase("measure", 2100.0, "ok"),
]
MEASURE_FAILURES = [FAILURES, ["1", "image", "sha256"]]


def launched(events: Sequence[Event] = LAUNCH) -> PhaseResult:
    return PhaseResult("launch", Frames(events), run="first", testbed="local", guest="tcg")


def launch_card(events: Sequence[Event] = LAUNCH) -> str:
    return launched(events)._repr_html_()


def measured(events: Sequence[Event] = MEASURE, deployments: Sequence[str] | None = None) -> MeasureResult:
    return MeasureResult(events, run="first", testbed="local", guest="tcg", deployments=deployments)


def measure_card(events: Sequence[Event] = MEASURE, deployments: Sequence[str] | None = None) -> str:
    return measured(events, deployments)._repr_html_()


def experiment_card(*events: Event) -> Page:
    return Page(experiment_html("first", "local", "tcg", Frames(events)))


# ---- launch ------------------------------------------------------------------------------------------


def test_launch_card_has_the_numbers_of_the_journal() -> None:
    card = Page(launch_card())
    assert card.text.startswith(f"launch: ok in 80.0 s {SUBTITLE}")
    facts, steps, failures = card.tables
    assert facts == [
        ["up", "3 of 7 VMs"],
        ["failed", "3"],
        ["unfinished", "1"],
        ["boot", "median 10.0 s, p95 19.0 s, max 20.0 s"],
        ["restarted", "1 VM"],
    ]
    assert card.bar == [("minimal system: 3", 3), ("failed: 3", 3), ("planned: 1", 1)]
    assert "■ minimal system 3 · ■ failed 3 · ■ planned 1 of 7 VMs" in card.text
    assert steps == [
        STEPS,
        ["firmware, DHCP", "6", "1.00 s", "3.50 s", "4.00 s"],
        ["script", "4", "1.50 s", "3.70 s", "4.00 s"],
        ["kernel", "4", "1.50 s", "3.70 s", "4.00 s"],
        ["initrd", "3", "2.00 s", "3.80 s", "4.00 s"],
        ["system start", "3", "2.00 s", "3.80 s", "4.00 s"],
        ["total", "3", "10.0 s", "19.0 s", "20.0 s"],
    ]
    assert failures == LAUNCH_FAILURES


def test_launch_card_is_the_same_after_the_vms_were_deployed() -> None:
    """It counts what `launch` did, and not in which state the VMs are now."""
    assert launch_card([*LAUNCH, *MEASURE]) == launch_card()


def test_launch_card_without_failures_has_neither_their_list_nor_their_part_of_the_bar() -> None:
    card = Page(launch_card([plan(2), phase("launch", 90.0), *boot("vm-1", 100.0), *boot("vm-2", 100.0)]))
    assert card.text.startswith("launch: unfinished ")
    facts, _ = card.tables
    assert [name for name, _ in facts] == ["up", "boot"]
    assert card.bar == [("minimal system: 2", 2)]
    assert card.text.count("of 2 VMs") == 2, "in the facts and below the bar"


def test_launch_card_before_the_placement_has_no_bar() -> None:
    card = Page(launch_card([]))
    assert card.text == f"launch: waiting {SUBTITLE}"
    assert (card.tables, card.bar) == ([], [])


# ---- measure -----------------------------------------------------------------------------------------


def test_measure_card_has_the_numbers_of_the_journal() -> None:
    card = Page(measure_card())
    assert card.text.startswith(f"measure: ok in 3 min 22 s in 2 calls {SUBTITLE}")
    facts, sizes, parts, failures = card.tables
    assert facts == [  # why VMs failed is in its own table
        ["deployments", "2 of mini on 2, 3 VMs, in 16 min 56 s"],
        ["deployed", "4 of 5 VMs, over all deployments"],
        ["SetDeploymentEnv", "median 4.00 s, p95 7.40 s"],
        ["BroadcastEnv", "median 4.00 s, p95 4.85 s"],
        ["BootNewEnv", "median 3.00 s, p95 3.00 s"],
    ]
    assert card.bar == [("deployed: 4", 4), ("failed: 1", 1)]
    assert "■ deployed 4 · ■ failed 1 of 5 VMs" in card.text
    assert sizes == [
        ["VMs", "deployments", "deployed", "failed", "total time", "median per VM", "p95 per VM"],
        ["2", "1", "2", "0", "11.0 s", "11.0 s", "11.0 s"],
        ["3", "1", "2", "1", "16.0 s", "13.5 s", "15.8 s"],
    ]
    once = ["4", "1.00 s", "1.00 s", "1.00 s"]
    twice = ["4", "1.00 s", "1.85 s", "2.00 s"]  # one of them did it again
    assert [[name.strip(), *numbers] for name, *numbers in parts] == [
        STEPS,
        ["SetDeploymentEnv", "4", "4.00 s", "7.40 s", "8.00 s"],
        *([step, *twice] for step in ("reboot", "minimal system", "partition", "format")),
        ["BroadcastEnv", "4", "4.00 s", "4.85 s", "5.00 s"],
        ["image", *twice],
        *([step, *once] for step in ("postinstall", "bootloader", "sync")),
        ["BootNewEnv", "4", "3.00 s", "3.00 s", "3.00 s"],
        ["boot", *once],
        ["ready", "4", "2.00 s", "2.00 s", "2.00 s"],
    ]
    assert failures == MEASURE_FAILURES


def test_measure_card_of_one_call_has_only_its_deployments() -> None:
    first, second = Page(measure_card(deployments=["d1"])), Page(measure_card(deployments=["d2"]))
    facts, sizes, _ = first.tables
    assert dict(facts)["deployed"] == "2 of 2 VMs"
    assert [row[0] for row in sizes] == ["VMs", "2"]
    assert first.bar == [("deployed: 2", 2)]
    assert second.bar == [("deployed: 2", 2), ("failed: 1", 1)]
    assert second.tables[-1] == MEASURE_FAILURES


def test_measure_card_of_an_interrupted_deployment_shows_the_remaining_vms() -> None:
    """After 12 s two VMs are deployed, vm-1 was given up, and vm-2 is in its second try."""
    events = [
        phase("measure", 999.0),
        *deploy("d1", 4, 1000.0, bad_images={"vm-1": 99, "vm-2": 1}, upto=1012.0),
    ]
    card = Page(measure_card(events))
    assert card.text.startswith("measure: unfinished ")
    assert card.bar == [("deployed: 2", 2), ("planned: 1", 1), ("failed: 1", 1)]
    facts, sizes, _, failures = card.tables
    assert dict(facts)["unfinished"] == "1"
    assert dict(zip(*sizes, strict=True)) == {
        "VMs": "4",
        "deployments": "1",
        "compared": "0",
        "deployed": "2",
        "failed": "1",
        "total time": "–",
        "median per VM": "–",
        "p95 per VM": "–",
    }
    assert failures == MEASURE_FAILURES


def test_measure_card_says_how_many_deployments_are_compared() -> None:
    """The first skipped the reboot; its 16 s (an image was sent twice) are in no time of the card."""
    events = [
        *deploy("d1", 2, 1000.0, fresh=2, bad_images={"vm-1": 1}),
        *deploy("d2", 2, 2000.0),
    ]
    facts, sizes, parts = Page(measure_card(events)).tables
    assert dict(facts)["not compared"] == (
        "1 deployment skipped the first reboot and is left out of the times below"
    )
    assert dict(zip(*sizes, strict=True)) == {
        "VMs": "2",
        "deployments": "2",
        "compared": "1",
        "deployed": "4",
        "failed": "0",
        "total time": "11.0 s",
        "median per VM": "11.0 s",
        "p95 per VM": "11.0 s",
    }
    assert {row[1] for row in parts[1:]} == {"2"}


def test_measure_card_before_any_deployment_has_no_bar() -> None:
    card = Page(measure_card([]))
    assert card.text == f"measure: waiting {SUBTITLE}"
    assert (card.tables, card.bar) == ([], [])


def test_results_as_text_have_one_aligned_line_per_fact() -> None:
    assert str(launched()).splitlines() == [
        "launch: ok in 80.0 s (run first)",
        "  up          3 of 7 VMs",
        "  failed      3",
        "  unfinished  1",
        "  boot        median 10.0 s, p95 19.0 s, max 20.0 s",
        "  restarted   1 VM",
    ]
    assert str(measured(deployments=["d2"])).splitlines()[:4] == [
        "measure: ok in 3 min 22 s in 2 calls (run first)",
        "  deployments       1 of mini on 3 VMs, in 16.0 s",
        "  deployed          2 of 3 VMs",
        "  failed            1 at image: sha256",
    ]
    assert str(launched([])) == "launch: waiting (run first)"


# ---- the experiment ----------------------------------------------------------------------------------


def test_experiment_card_has_the_failures_of_launch_and_of_measure() -> None:
    card = experiment_card(*LAUNCH, *MEASURE)
    phases, at_launch, at_measure = card.tables
    assert at_launch == LAUNCH_FAILURES
    assert at_measure == MEASURE_FAILURES
    assert [row[:3] for row in phases] == [
        *(["·", name, ""] for name in ("reserve", "deploy", "configure", "place")),
        ["✓", "launch", "80.0 s"],
        ["✓", "measure", "3 min 22 s in 2 calls"],
    ]
    # where the VMs are now: of the three that were up, vm-1 was not deployed
    assert card.bar == [("kernel: 1", 1), ("deployed: 2", 2), ("failed: 4", 4)]
    assert card.text.count("of 7 VMs") == 1


def test_experiment_card_lists_only_failures_that_there_are() -> None:
    phases, at_launch = experiment_card(*LAUNCH).tables
    assert at_launch == LAUNCH_FAILURES
    assert phases[-1] == ["·", "measure", "", "not started"]
    up = [plan(3), *(event for name in ("vm-1", "vm-2", "vm-3") for event in boot(name, 100.0))]
    _, at_measure = experiment_card(*up, *MEASURE).tables
    assert at_measure == MEASURE_FAILURES
    assert len(experiment_card(*up, *deploy("d1", 3)).tables) == 1


@pytest.mark.parametrize(
    ("reasons", "rest"), [(8, ""), (10, "and 2 other reasons"), (1011, "and 1,003 other reasons")]
)
def test_list_of_failures_has_the_most_frequent_reasons_and_counts_the_others(
    reasons: int, rest: str
) -> None:
    """Each VM fails for a reason of its own, and one more for the last of these: that one is listed first."""
    lost = [given_up(f"vm-{n}", "dhcp", f"reason {n}") for n in range(1, reasons + 1)]
    card = Page(launch_card([phase("launch", 90.0), *lost, given_up("vm-x", "dhcp", f"reason {reasons}")]))
    assert card.tables[-1] == [
        FAILURES,
        ["2", "dhcp", f"reason {reasons}"],
        *(["1", "dhcp", f"reason {n}"] for n in range(1, 8)),
    ]
    assert card.text.partition("reason 7")[2] == rest
