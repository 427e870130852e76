"""The faces of `measure`: its result, its figures, its progress; all from deployments of the real engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from figurecheck import check_layout
from htmlcheck import text_of
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from measuremaker import deploy_events, measure_events, series_events
from runmaker import T0, run_events

from g5kvirt.errors import RunError
from g5kvirt.provisioners.builtin.workflow import Workflow, default_workflow
from g5kvirt.run.deployment_tables import Measurements, column
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import MACROS
from g5kvirt.views.figures import Figures, Picture
from g5kvirt.views.formatting import duration
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.measure_result import MeasureResult
from g5kvirt.views.measure_tables import WAITING, breakdown_table, largest, sizes_table, vm_timelines_table
from g5kvirt.views.phase_result import PhaseResult
from g5kvirt.views.progress import latest_message

WRONG = "SHA-256 is not that of mini"
BAD = {"vm-3": ("image", 99, WRONG), "vm-7": ("image", 1, WRONG)}  # one never, one at its second try
EVENTS = measure_events(bad=BAD)
NAMES = ("deployment", "breakdown", "nodes", "scalability")


def result(events: list[Event] = EVENTS, **more: object) -> MeasureResult:
    return MeasureResult(events, run="first", testbed="local", guest="tcg", **more)  # type: ignore[arg-type]


def figures(events: list[Event] = EVENTS) -> Figures:
    return Figures(Frames(events), run="first", testbed="local", guest="tcg")


# ---- the result --------------------------------------------------------------------------------------


def test_result_has_one_row_per_vm_and_deployment() -> None:
    whole = result()
    assert len(whole.frame) == 2 * (4 + 8 + 16)
    assert whole.frame.groupby("deployment").size().to_dict() == dict(
        zip(("d1", "d2", "d3", "d4", "d5", "d6"), (4, 8, 16) * 2, strict=True)
    )
    s = whole.summary
    assert (s.requested, s.deployed, s.failed, s.unfinished) == (56, 55, 1, 0)
    assert whole.status == "ok"
    assert whole.seconds == Frames(EVENTS).phases["duration"].iloc[-1] > s.total > 0
    failed = whole.failures
    assert list(failed["vm"]) == ["vm-3"]
    assert failed.loc[0, ["deployment", "failed_at", "reason"]].tolist() == ["d6", "image", WRONG]
    assert set(whole.deployments["requested"]) == {4, 8, 16}


def test_result_contains_only_the_deployments_of_its_call() -> None:
    first, again = result(deployments=["d1", "d2"]), result(deployments=["d6"])
    assert list(first.deployments["deployment"]) == ["d1", "d2"]
    assert first.summary.failed == 0
    assert again.summary.requested == 16
    through_frames = MeasureResult(Frames(EVENTS), run="r", testbed="t", deployments=["d6"])
    pd.testing.assert_frame_equal(through_frames.frame, again.frame)
    everything = MeasureResult(Frames(EVENTS), run="r", testbed="t")
    pd.testing.assert_frame_equal(everything.frame, result().frame)


def test_text_shows_deployed_and_failed_vms_with_reasons() -> None:
    text = str(result())
    assert text.startswith("measure: ok in ")
    assert "(run first)" in text.splitlines()[0]
    assert "6 of mini on 4, 8, 16 VMs" in text
    assert "55 of 56 VMs" in text
    assert f"1 at image: {WRONG}" in text
    for macro in MACROS:
        assert macro in text
    table = text.split("\n\n")[1].splitlines()
    assert [line.split()[:4] for line in table[1:]] == [
        ["4", "2", "8", "0"],
        ["8", "2", "16", "0"],
        ["16", "2", "31", "1"],
    ]
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    one = str(result(deployments=["d5"]))
    assert "\n\n" not in one
    assert "8 of 8 VMs" in one
    assert "failed" not in one


def test_html_is_self_contained_and_escaped() -> None:
    evil = "<script>alert(1)</script>"
    shown = result(measure_events((4,), 2, bad={"vm-2": ("image", 99, evil)}))._repr_html_()
    words = text_of(shown)
    assert evil in words  # as text
    for expected in (
        "measure: ok in",
        "deployed 7",
        "failed 1",
        "BroadcastEnv",
        "minimal system",
        "failed at",
    ):
        assert expected in words


def test_status_of_a_result() -> None:
    assert result([]).status == "waiting"
    assert "waiting" in str(result([]))
    assert "waiting" in result([])._repr_html_()
    assert result([]).frame.empty
    cut = deploy_events("d1", 4)
    cut = cut[: len(cut) // 2]
    assert result(cut).status == "unfinished"
    assert "unfinished" in str(result(cut))
    assert np.isnan(result(cut).seconds)
    lost = {f"vm-{i}": ("partition", 99, "disk too small") for i in (1, 2)}
    none = result(deploy_events("d1", 2, bad=lost))
    assert none.status == "failed"
    assert "2 at partition: disk too small" in str(none)
    assert "–" in none._repr_html_()  # no times, and no error


def test_only_the_first_reasons_are_listed() -> None:
    bad = {f"vm-{i}": ("image", 99, f"reason {i}") for i in range(1, 8)}
    words = result(deploy_events("d1", 12, bad=bad)).facts["failed"]
    assert words.count("at image") == 4
    assert words.endswith("and 3 other reasons")


def test_phase_result_of_measure_has_the_same_facts() -> None:
    phase = PhaseResult("measure", Frames(EVENTS), run="first", testbed="local", guest="tcg")
    assert phase.status == "ok"
    assert phase.facts == result().facts
    assert "55 of 56 VMs" in phase._repr_html_()
    before = PhaseResult("measure", Frames(run_events(4)), run="first", testbed="local", guest="tcg")
    assert before.status == "waiting"
    assert before.facts == {}


# ---- tables ------------------------------------------------------------------------------------------


def test_vm_timelines_table_has_the_times_of_the_journal() -> None:
    known = Measurements.of(EVENTS)
    assert largest(known) == "d6"
    ways = vm_timelines_table(known, "d6").set_index("vm")
    assert len(ways) == 16
    zero = next(e.t for e in EVENTS if e.subject == "d6" and e.status == "start")
    ends = {e.step: e.t - zero for e in EVENTS if e.subject == "vm-1" and e.detail["deployment"] == "d6"}
    for macro in MACROS:
        assert ways.loc["vm-1", column(macro)] == pytest.approx(ends[macro])
    assert ways.loc["vm-1", "begun"] == pytest.approx(0.0, abs=1e-5)
    assert ways.loc["vm-1", "BroadcastEnv_begun"] == pytest.approx(ways.loc["vm-1", "SetDeploymentEnv"])
    assert np.isnan(ways.loc["vm-1", "gave_up"])


def test_failed_attempts_are_not_in_the_timeline() -> None:
    ways = vm_timelines_table(Measurements.of(EVENTS), "d6").set_index("vm")
    lost, again = ways.loc["vm-3"], ways.loc["vm-7"]
    assert (lost["outcome"], lost["failed_at"]) == ("failed", "image")
    assert np.isnan(lost["BroadcastEnv"])
    assert lost["gave_up"] > lost["SetDeploymentEnv"]
    assert again["attempts"] == 2
    assert again["begun"] == pytest.approx(0.0, abs=1e-5)
    tries = Measurements.of(EVENTS).attempts.query("deployment == 'd6' and vm == 'vm-7' and attempt == 2")
    zero = Measurements.of(EVENTS).deployments.set_index("deployment").loc["d6", "start"]
    assert again["SetDeploymentEnv_begun"] == pytest.approx(tries["start"].min() - zero)
    assert again["SetDeploymentEnv_begun"] > 5


def test_undone_macro_steps_are_not_in_the_timeline() -> None:
    usual = default_workflow().macros
    back = [replace(v, again_from="SetDeploymentEnv", retries=1) for v in usual[2].variants]
    workflow = Workflow((*usual[:2], replace(usual[2], variants=tuple(back))))
    events = deploy_events("d1", 1, bad={"vm-1": ("boot", 1, "no kexec")}, workflow=workflow)
    through = [n for n, e in enumerate(events) if (e.step, e.status) == ("SetDeploymentEnv", "ok")]
    assert len(through) == 2
    cut = vm_timelines_table(Measurements.of(events[: through[1] + 1]), "d1").iloc[0]
    assert cut["SetDeploymentEnv"] > 0
    assert np.isnan(cut["BroadcastEnv"]), "it is to be written again"
    whole = vm_timelines_table(Measurements.of(events), "d1").iloc[0]
    assert whole["SetDeploymentEnv"] <= whole["BroadcastEnv"] <= whole["BootNewEnv"]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 8),
    st.dictionaries(
        st.integers(1, 8).map("vm-{}".format),
        st.tuples(
            st.sampled_from(["reboot", "minimal-system", "partition", "image", "boot", "ready"]),
            st.integers(1, 9),
            st.just("why"),
        ),
    ),
    st.integers(1, 4),
    st.floats(0, 1),
)
def test_timelines_are_monotonic_for_any_failures(
    number: int, bad: dict[str, tuple[str, int, str]], window: int, part: float
) -> None:
    events = deploy_events("d1", number, bad=bad, window=window)
    ways = vm_timelines_table(Measurements.of(events), "d1")
    edges = ways[[f"{column(m)}{end}" for m in MACROS for end in ("_begun", "")]].to_numpy()
    for row in edges:
        reached = row[~np.isnan(row)]
        assert np.isnan(row[len(reached) :]).all(), "nothing is reached beyond what is not"
        assert (np.diff(reached) >= -1e-6).all()
    assert ((ways["outcome"] == "deployed") == ways["BootNewEnv"].notna()).all()
    assert ((ways["outcome"] == "failed") == ways["gave_up"].notna()).all()
    cut = events[: max(1, int(part * len(events)))]  # and a run cut short anywhere can be shown
    shown = MeasureResult(cut, run="r", testbed="t")
    assert str(shown)
    assert shown._repr_html_()
    assert len(vm_timelines_table(Measurements.of(cut), "d1")) <= number


def test_steps_and_waiting_add_up_to_the_macro_step() -> None:
    events = deploy_events("d1", 40, window=4)  # most wait long for their turn to reboot
    table = breakdown_table(Measurements.of(events), 40)
    for macro, steps in table.groupby("macro", sort=False):
        whole, parts = steps[steps["step"] == ""], steps[steps["step"] != ""]
        added = (parts["mean"] * parts["vms"]).sum()
        assert added == pytest.approx(float((whole["mean"] * whole["vms"]).iloc[0]), rel=0.02), macro
    waited = table[table["step"] == WAITING].set_index("macro")
    assert list(waited.index) == ["SetDeploymentEnv"]
    assert waited.loc["SetDeploymentEnv", "median"] > 10
    ordered = table[["min", "median", "p95", "max"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    fresh = breakdown_table(Measurements.of(deploy_events("d1", 4, fresh=True)))
    assert "reboot" not in set(fresh["step"]), "a step that was skipped took no time, it did not take none"


def test_breakdown_steps_are_in_workflow_order() -> None:
    again = {"vm-1": ("image", 1, "no")}  # the first VM is fresh: it reboots only in its second try
    for events in (EVENTS, deploy_events("d1", 4, fresh=True, bad=again)):
        table = breakdown_table(Measurements.of(events))
        steps = table[(table["step"] != "") & (table["step"] != WAITING)]
        known = [step for own in MACROS.values() for step in own]
        places = [known.index(step) for step in steps["step"]]
        assert places == sorted(places)
        assert "minimal-system" in set(steps["step"])


def test_sizes_table_has_medians_over_repetitions() -> None:
    known = Measurements.of(EVENTS)
    sizes = sizes_table(known).set_index("vms")
    assert sizes["times"].tolist() == [2, 2, 2]
    assert sizes["deployed"].tolist() == [8, 16, 31]
    totals = known.scalability[known.scalability["vms"] == 16]["total"]
    assert sizes.loc[16, "total"] == pytest.approx(totals.median())


def test_sizes_card_and_scalability_use_the_same_deployments() -> None:
    events = [*run_events(6), *series_events(sizes=(2, 4, 6), repeat=3)]
    whole = result(events)
    assert whole.deployments["fresh"].tolist() == [2, 2, 2, 0, 0, 0, 0, 0, 0]
    sizes = whole.sizes.set_index("vms")
    assert sizes["times"].tolist() == [3, 3, 3]
    assert sizes["compared"].tolist() == [2, 2, 2], "the first deployment of each size skipped a reboot"
    by_hand = whole.deployments.query("fresh == 0").groupby("requested")["duration"].median()
    assert sizes["total"].to_dict() == pytest.approx(by_hand.to_dict())
    faster = whole.deployments.query("requested == 2 and fresh == 2")["duration"].iloc[0]
    assert faster < by_hand[2] - 5, "including it would have changed the median"
    # the line of the figure
    (axes,) = figures(events).scalability().figure.axes
    (line,) = [one.get_xydata() for one in axes.lines if one.get_linestyle() == "-"]
    assert dict(line.tolist()) == pytest.approx(sizes["total"].to_dict())
    # the card: what it leaves out, the table of sizes, and the macro-steps
    text = str(whole)
    assert "3 deployments skipped the first reboot and are left out" in text
    for total in sizes["total"]:
        assert duration(total) in text
        assert duration(total) in whole._repr_html_()
    rebooted = whole.deployments.query("fresh == 0")["deployment"]
    compared = whole.frame[whole.frame["deployment"].isin(rebooted)]
    median = compared["SetDeploymentEnv_duration"].median()
    assert whole.facts["SetDeploymentEnv"].startswith(f"median {duration(median)}, ")


# ---- figures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("sizes", "bad", "window", "columns"),
    [
        ((1,), {}, 50, 1),
        ((4,), {}, 50, 2),
        ((4, 8, 16), BAD, 50, 1),
        ((4, 8, 16), BAD, 3, 2),
        ((1, 2, 3, 4, 5, 6, 7, 8, 90), BAD, 8, 1),
        ((2, 64, 250), BAD, 20, 1),
        ((400,), BAD, 20, 1),
    ],
)
def test_figure_texts_do_not_overlap_or_leave_the_page(
    name: str, sizes: tuple[int, ...], bad: dict[str, tuple[str, int, str]], window: int, columns: int
) -> None:
    own = figures(measure_events(sizes, 2, bad=bad, window=window))
    more = {"bound": {n: 5.0 + n / 10 for n in sizes}} if name == "scalability" else {}
    check_layout(getattr(own, name)(columns, **more), columns)


def drawn(picture: Picture, label: str) -> str:
    (legend,) = picture.figure.legends
    for text, handle in zip(legend.get_texts(), legend.get_patches(), strict=True):
        if text.get_text() == label:
            return to_hex(handle.get_facecolor())
    raise KeyError(label)


def test_bar_lengths_are_macro_step_durations() -> None:
    picture = figures().deployment()
    assert picture.caption.startswith("Deployment d6 of mini on 16 VMs. run first")
    colour = drawn(picture, "BootNewEnv")
    (axes,) = picture.figure.axes
    long = sum(p.get_width() for p in axes.patches if to_hex(p.get_facecolor()) == colour)
    expected = result(deployments=["d6"]).frame["BootNewEnv_duration"].sum()
    assert long == pytest.approx(expected, rel=1e-3)
    words = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert {"earlier tries", "failed (1)"} < set(words)
    first = figures().deployment(of="d1")
    assert len(first.data) == 4
    assert [t.get_text() for t in first.figure.legends[0].get_texts()] == list(MACROS)
    with pytest.raises(RunError, match="no deployment 'd9': it has d1, d2"):
        figures().deployment(of="d9")


def test_scalability_draws_each_repetition_and_the_given_bound() -> None:
    bound = {4: 9.0, 16: 20.0}
    picture = figures().scalability(bound=bound)
    (axes,) = picture.figure.axes
    points = [
        tuple(map(float, p))
        for line in axes.lines
        if line.get_linestyle() == "None"
        for p in line.get_xydata()
    ]
    curve = Measurements.of(EVENTS).scalability
    assert sorted(points) == sorted(zip(curve["vms"], curve["total"], strict=True))
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_xydata().tolist() for line in dashed] == [[[4.0, 9.0], [16.0, 20.0]]]
    assert picture.data["bound"].dropna().tolist() == [9.0, 9.0, 20.0, 20.0]
    without = figures().scalability()
    assert not [line for line in without.figure.axes[0].lines if line.get_linestyle() == "--"]
    assert "bound" not in without.data


def test_default_bound_is_the_image_transfer() -> None:
    def bounded(event: Event, seconds: float) -> Event:
        began = (event.step, event.kind, event.status) == ("deployment", "run", "start")
        return replace(event, detail=event.detail | {"transfer_bound": seconds}) if began else event

    first, second = deploy_events("d1", 4), deploy_events("d2", 8, begin=T0 + 500)
    events = [*(bounded(e, 2.0) for e in first), *(bounded(e, 3.0) for e in second)]
    picture = figures(events).scalability()
    dashed = [line for line in picture.figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_xydata().tolist() for line in dashed] == [[[4.0, 2.0], [8.0, 3.0]]]
    assert picture.data["bound"].tolist() == [2.0, 3.0]
    assert "bound" not in figures(events).scalability(bound={}).data


def test_bound_of_a_single_size_is_a_visible_line() -> None:
    picture = figures(deploy_events("d1", 4)).scalability(bound={4: 12.5}, prediction={4: 15.0})
    lines = {line.get_linestyle(): np.array(line.get_xydata()) for line in picture.figure.axes[0].lines}
    for style, height in (("--", 12.5), (":", 15.0)):
        (left, low), (right, high) = lines[style]
        assert left < 4 < right
        assert low == high == height


def test_scalability_draws_one_line_per_environment() -> None:
    both = [*deploy_events("d1", 4), *deploy_events("d2", 4, environment="debian12-min", begin=T0 + 500)]
    picture = figures(both).scalability()
    words = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert words == ["debian12-min (N = 1)", "mini (N = 1)"]


def test_steps_on_hosts_have_no_row_or_bar() -> None:
    assert any((e.step, e.kind) == ("broadcast", "host") for e in EVENTS)
    assert any((e.step, e.kind) == ("broadcast", "vm") for e in EVENTS), "and VMs wait for it"
    assert {"image", "reboot"} <= set(result().parts["step"])
    assert "broadcast" not in set(result().parts["step"])
    own = figures([*run_events(16), *EVENTS])
    for draw in (own.breakdown, own.steps):
        picture = draw()
        assert "broadcast" not in set(picture.data["step"])
        labels = [tick.get_text() for tick in picture.figure.axes[0].get_yticklabels()]
        assert "image" in labels
        assert "broadcast" not in labels


def test_breakdown_is_over_deployments_of_one_size() -> None:
    assert "on 16 VMs, 2 repetitions" in figures().breakdown().caption
    assert "on 4 VMs" in figures().breakdown(vms=4).caption
    with pytest.raises(RunError, match="choose one of 4, 8, 16"):
        figures().breakdown(vms=5)


def test_save_writes_every_figure_with_data_reproducibly(tmp_path: Path) -> None:
    events = [*run_events(16), *EVENTS]
    written = figures(events).save(tmp_path / "b", bound={16: 10.0})
    assert [path.stem for path in written] == [
        *("timeline", "boot", "distribution", *NAMES, "steps", "map", "failures")
    ]
    for name in NAMES:
        more = {"bound": {16: 10.0}} if name == "scalability" else {}
        getattr(figures(events), name)(**more).save(tmp_path / "a" / name)
    files = sorted((tmp_path / "a").iterdir())
    assert len(files) == 3 * len(NAMES)
    for first in files:
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes(), first.name
    assert "bound" in pd.read_csv(tmp_path / "a" / "scalability.csv")


def test_figures_without_data_name_the_phase_to_call(tmp_path: Path) -> None:
    for name in NAMES:
        with pytest.raises(RunError, match=r"measure\(\) first"):
            getattr(figures(run_events(4)), name)()
    begun = [e for e in EVENTS if e.detail.get("deployment") == "d1"][:6]
    for name in NAMES:
        with pytest.raises(RunError, match=r"no (VM|deployment)"):
            getattr(figures(begun), name)()
    lost = deploy_events("d1", 2, bad={f"vm-{i}": ("partition", 99, "no") for i in (1, 2)})
    assert [path.stem for path in figures(lost).save(tmp_path)] == ["deployment", "nodes", "failures"]


# ---- progress ----------------------------------------------------------------------------------------


def test_live_model_shows_vms_rebooting_writing_and_deployed() -> None:
    events = [*run_events(16), *EVENTS]
    progress = LiveModel(16)
    seen: set[str] = set()
    messages = []
    for event in events:
        progress.take(event)
        assert sum(progress.counts.values()) == 16
        if event.phase == "measure":
            seen |= set(progress.counts)
            messages.append(latest_message(progress.phases["measure"]))
    assert seen == {"minimal-system", "rebooting", "writing", "deployed", "failed"}
    assert progress.counts == {"deployed": 15, "failed": 1}
    assert (progress.up, progress.failed, progress.settled) == (16, 1, True)
    assert "deployment d2 on 8 VMs" in messages
    assert "deployment d6: 15 deployed, 1 failed" in messages
    assert progress.status == "measure done"


def test_failed_vm_can_be_deployed_by_the_next_deployment() -> None:
    first = deploy_events("d1", 2, bad={"vm-1": ("partition", 99, "no")})
    assert LiveModel.of(first, 2).counts == {"deployed": 1, "failed": 1}
    then = [*first, *deploy_events("d2", 2, begin=first[-1].t + 1)]
    assert LiveModel.of(then, 2).counts == {"deployed": 2}
