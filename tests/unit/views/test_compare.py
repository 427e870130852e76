"""Runs beside each other: their labels, their numbers, their figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figurecheck import check_layout
from measuremaker import deploy_events, series_events
from runmaker import T0, run_events

import g5kvirt
from g5kvirt.errors import RunError
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.views.compare import Comparison, compare
from g5kvirt.views.figures import Figures
from g5kvirt.views.formatting import duration
from g5kvirt.views.phase_result import PhaseResult


def keep(
    folder: Path,
    name: str,
    events: Sequence[Event],
    *,
    testbed: str = "local:mine",
    guest: str = "tcg",
    **spec: Any,
) -> Path:
    """Write a run as it would lie in ``runs``."""
    path = folder / name
    path.mkdir(parents=True)
    about = {"sites": {"nancy": 1}, "vms": 8, "netboot": "http", "windows": {"boot": None}, **spec}
    document = {"name": name, "created": T0, "spec": about, "testbed": testbed}
    (path / "run.json").write_text(json.dumps(document))
    recorded = [Event("launch", "guests", "run", "r", "ok", T0, 1, {"guest": guest}), *events]
    (path / "journal.jsonl").write_text("".join(e.to_json() + "\n" for e in recorded))
    return path


def sent(name: str, number: int, broadcast: str, begin: float, **more: Any) -> list[Event]:
    """A deployment that says how the image was sent."""
    events = deploy_events(name, number, begin=begin, **more)
    first = events[0]
    detail = {
        **first.detail,
        "broadcast": broadcast,
        "transfer_bound": 0.1,
        "fresh": number * bool(more.get("fresh")),
    }
    changed = Event("measure", "deployment", "run", first.subject, "start", first.t, 1, detail)
    return [changed, *events[1:]]


@pytest.fixture
def both(tmp_path: Path) -> list[Path]:
    """HTTP and TFTP, the boots of the second ones slower."""
    return [
        keep(tmp_path, "first", run_events(8, seed=1)),
        keep(tmp_path, "second", run_events(8, seed=2, window=2), netboot="tftp"),
    ]


@pytest.fixture
def ways(tmp_path: Path) -> Path:
    """One run that sent the image by two ways."""
    events = run_events(8)
    for number, (size, way) in enumerate([(4, "chain"), (8, "chain"), (8, "http"), (8, "http")]):
        events += sent(f"d{number}", size, way, events[-1].t + 1, seed=number)
    return keep(tmp_path, "ways", events)


def test_default_labels_are_the_differences_of_the_specs(both: list[Path], tmp_path: Path) -> None:
    assert compare(*both).labels == ["http", "tftp"]
    assert compare(str(both[0]), SimpleNamespace(path=both[1])).labels == ["http", "tftp"]  # type: ignore[arg-type]
    small = keep(tmp_path, "small", run_events(4), vms=4, windows={"boot": 2})
    assert compare(both[0], small).labels == ["vms 8, windows.boot auto", "vms 4, windows.boot 2"]
    same = keep(tmp_path, "third", run_events(4), walltime="2:00:00", job_name="other")
    assert compare(both[0], same).labels == ["first", "third"]


def test_runs_with_different_deployment_settings_are_labelled_by_them(ways: Path, tmp_path: Path) -> None:
    runs = [
        keep(tmp_path, way, [*run_events(4), *sent("d1", 4, way, T0 + 90)])
        for way in ("chain", "tree", "http")
    ]
    found = compare(*runs)
    assert found.labels == ["chain", "tree", "http"]
    assert list(dict.fromkeys(found.scalability().data["series"])) == ["chain", "tree", "http"]
    # A run that deploys in several ways, or not at all, has no such label.
    assert compare(runs[0], ways).labels == ["chain", "ways"]


def test_runs_under_one_given_label_are_repetitions(both: list[Path], tmp_path: Path) -> None:
    again = keep(tmp_path, "again", run_events(8, seed=9))
    found = compare(HTTP=[both[0], again], TFTP=both[1])
    assert found.labels == ["HTTP", "TFTP"]
    data = found.boot().data
    assert data.groupby("label")["run"].nunique().to_dict() == {"HTTP": 2, "TFTP": 1}
    assert len(data) == 24
    assert compare({"window 1": both[0], "window 2": both[1]}).labels == ["window 1", "window 2"]
    assert found.summary[["label", "run", "vms", "up"]].to_numpy().tolist() == [
        ["HTTP", "first", 8, 8],
        ["HTTP", "again", 8, 8],
        ["TFTP", "second", 8, 8],
    ]


def test_boot_figure_has_the_boot_times_of_each_run(both: list[Path]) -> None:
    picture = compare(*both).boot()
    for label, path in zip(("http", "tftp"), both, strict=True):
        own = pd.DataFrame(Figures(Frames(events_of(path)), run="r", testbed="t").frames.vms)
        took = picture.data.loc[picture.data["label"] == label, "seconds"]
        assert sorted(took) == pytest.approx(sorted(own["t_minimal_system"]))
        words = [t.get_text() for one in picture.figure.legends for t in one.get_texts()]
        assert any(word.startswith(f"{label} (N = 8): {np.median(took):.1f} / ") for word in words)
    assert picture.caption == (
        "Boot time by http, tftp; median / p95 over the VMs (s)."
        " runs first, second, testbed local:mine, guests: virtual machines (QEMU, emulated)."
    )


def events_of(path: Path) -> list[Event]:
    return [Event.from_json(line) for line in (path / "journal.jsonl").read_text().splitlines()]


def test_steps_figure_shows_medians_of_boots_or_deployments(both: list[Path], ways: Path) -> None:
    data = compare(*both).steps().data
    boots = compare(*both).boot().data
    total = data[data["step"] == "total"].set_index("series")["median"]
    assert total.to_dict() == pytest.approx(boots.groupby("label")["seconds"].median().to_dict())
    macros = compare(ways).steps().data
    assert list(dict.fromkeys(macros["step"])) == ["SetDeploymentEnv", "BroadcastEnv", "BootNewEnv"]
    assert macros.groupby("series")["vms"].first().to_dict() == {"chain": 8, "http": 16}
    assert "launch" not in compare(ways).steps(phase="launch").caption
    with pytest.raises(ValueError, match="not 'place'"):
        compare(ways).steps(phase="place")  # type: ignore[arg-type]


def test_deployments_with_different_settings_are_separate_series(ways: Path, both: list[Path]) -> None:
    found = compare(ways)
    curve = found.scalability(bound={8: 3.0, 16: 6.0}).data
    assert curve.dropna(subset=["total"]).groupby("series").size().to_dict() == {"chain": 2, "http": 2}
    assert curve["vms"].tolist() == [4, 8, 8, 8, 16]
    assert curve["bound"].tolist()[-1] == 6.0
    assert set(found.deployment().data["requested"]) == {8}, "4 VMs were deployed by one way only"
    assert set(found.deployment(vms=4).data["series"]) == {"chain"}
    with pytest.raises(RunError, match="choose one of 4, 8"):
        found.deployment(vms=5)
    mixed = compare(mine=ways, other=both[0]).scalability().data
    assert set(mixed["series"]) == {"mine, chain", "mine, http"}
    with pytest.raises(RunError, match=r"measure\(\) first"):
        compare(*both).deployment()


def test_deployments_that_skipped_the_first_reboot_are_left_out(tmp_path: Path) -> None:
    events = [*run_events(4), *sent("d1", 4, "chain", T0 + 90, fresh=True)]
    alone = keep(tmp_path, "alone", events)
    more = keep(tmp_path, "more", [*events, *sent("d2", 4, "chain", T0 + 300)])
    assert set(compare(more).deployment().data["deployment"]) == {"d2"}
    assert set(compare(alone).deployment().data["deployment"]) == {"d1"}, "there is no other"
    assert compare(more).steps().data["vms"].tolist() == [4, 4, 4]
    assert len(compare(more).scalability().data) == 2, "the curve shows it, with a mark of its own"
    figures = Figures(Frames(events_of(more)), run="more", testbed="local")
    assert "1 repetition" in figures.breakdown().caption
    assert figures.breakdown().data["vms"].max() == 4


def test_first_series_has_no_advantage_over_the_second(tmp_path: Path) -> None:
    """Both series take the same time; only the first one's VMs skip reboots, as after a launch."""
    events = [*run_events(6), *series_events(("chain", "http"), sizes=(2, 4, 6), repeat=3)]
    path = keep(tmp_path, "both", events, vms=6)
    found = compare(path)
    fresh = Frames(events).measurements.deployments.groupby("broadcast")["fresh"].sum()
    assert fresh.to_dict() == {"chain": 6, "http": 0}
    for size in (2, 4, 6):
        times = found.deployment(vms=size).data
        assert set(times["fresh"]) == {0}
        median = times.groupby("series")["seconds"].median()
        assert median["chain"] == pytest.approx(median["http"], rel=0.2)
        macros = found.steps(phase="measure", vms=size).data.set_index(["step", "series"])["median"]
        first, second = macros["SetDeploymentEnv", "chain"], macros["SetDeploymentEnv", "http"]
        assert first == pytest.approx(second, rel=0.2)
    for picture in (found.scalability(), Figures.open(path).scalability()):
        (axes,) = picture.figure.axes
        lines = [one.get_xydata() for one in axes.lines if one.get_linestyle() != "None"]
        assert [line[:, 0].tolist() for line in lines] == [[2, 4, 6]] * 2
        assert lines[0][:, 1] == pytest.approx(lines[1][:, 1], rel=0.2)
        assert "without first reboot" in [t.get_text() for t in picture.figure.legends[0].get_texts()]


def test_launch_time_is_the_sum_of_its_tries(tmp_path: Path) -> None:
    whole = run_events(8)
    launch = [e for e in whole if e.phase == "launch"]
    begin, stop = launch[0].t, launch[0].t + 4
    failed = Event("launch", "phase", "run", "r", "failed", stop, 1, {"reason": "interrupted"})
    second = [replace(e, t=e.t + 100) for e in launch]
    first = [e for e in whole if e.t < stop]
    path = keep(tmp_path, "again", [*first, failed, *second])
    expected = (stop - begin) + (launch[-1].t - begin)
    found = compare(path)
    assert found.summary["launch"].tolist() == [pytest.approx(expected)]
    assert duration(expected) in found._repr_html_()
    card = PhaseResult("launch", Frames(events_of(path)), run="again", testbed="local")
    assert (card.seconds, card.tries) == (pytest.approx(expected), 2)
    assert str(card).startswith(f"launch: ok in {duration(expected)} in 2 calls")


def test_captions_name_the_testbed_with_its_description(tmp_path: Path) -> None:
    path = keep(tmp_path, "first", run_events(4), testbed="local:newc", guest="kvm")
    for picture in (compare(path).boot(), Figures.open(path).boot()):
        assert "testbed local:newc, guests: virtual machines (QEMU, KVM)" in picture.caption
        assert "testbed local:newc" in picture.figure.texts[0].get_text().replace("\n", " ")


def test_figures_of_one_run_separate_series(ways: Path) -> None:
    figures = Figures(Frames(events_of(ways)), run="ways", testbed="local")
    assert set(figures.scalability().data["series"]) == {"chain", "http"}
    assert "on 8 VMs, http, 2 repetitions" in figures.breakdown().caption
    assert "on 8 VMs, chain, 1 repetition." in figures.breakdown(series="chain").caption
    with pytest.raises(RunError, match="no deployment of 'tree'"):
        figures.breakdown(series="tree")


def test_over_plots_launch_time_against_a_parameter(both: list[Path], tmp_path: Path) -> None:
    windows = {
        f"window {size}": keep(tmp_path, f"w{size}", run_events(8, window=size), windows={"boot": size})
        for size in (1, 2, 4)
    }
    for found in (compare(windows, free=both[0]), compare(*windows.values(), both[0])):
        picture = found.over("windows.boot")
        data = picture.data.set_index("run")
        assert data["windows.boot"].tolist()[:3] == [1.0, 2.0, 4.0]
        assert np.isnan(data.loc["first", "windows.boot"])
        assert set(data["series"]) == {""}, "a label that only names the window is no series"
        launch = [e.t for e in run_events(8, window=2) if e.phase == "launch" and e.step == "phase"]
        assert data.loc["w2", "seconds"] == pytest.approx(launch[1] - launch[0], abs=1e-5)
        (line,) = [one for one in picture.figure.axes[0].lines if one.get_linestyle() == "-"]
        assert line.get_xydata()[:, 0].tolist() == [1.0, 2.0, 4.0]
    with pytest.raises(RunError, match=r"no run has 'window'.*windows\.boot"):
        compare(windows).over("window")
    with pytest.raises(RunError, match="is not a number"):
        compare(*both).over("netboot")
    with pytest.raises(RunError, match="no deployment on 8 VMs"):
        compare(windows).over("windows.boot", vms=8)


def test_prediction_is_labelled_as_such(both: list[Path], tmp_path: Path) -> None:
    model = keep(tmp_path, "model", run_events(8, seed=5), testbed="simulated", guest="simulated")
    found = compare(measured=both[0], model=model)
    assert found.labels == ["measured", "model (predicted)"]
    caption = found.boot().caption
    assert "testbed local:mine and simulated" in caption
    assert "virtual machines (QEMU, emulated) and predicted by a model, no machine ran" in caption
    assert "no machine ran" in compare(model).boot().figure.texts[0].get_text()


@pytest.mark.parametrize("columns", [1, 2])
def test_comparison_texts_do_not_overlap_or_leave_the_page(
    both: list[Path], ways: Path, tmp_path: Path, columns: int
) -> None:
    many = {
        f"a label of some length {n}": keep(
            tmp_path, f"r{n}", run_events(40, seed=n, lost=n), windows={"boot": n}
        )
        for n in range(1, 7)
    }
    for found in (compare(*both), compare(many)):
        check_layout(found.boot(columns), columns)
        check_layout(found.steps(columns), columns)
    check_layout(compare(many).over("windows.boot", columns), columns)
    for draw in ("deployment", "steps", "scalability"):
        check_layout(getattr(compare(ways), draw)(columns), columns)


def test_save_writes_every_figure_with_data_reproducibly(ways: Path, tmp_path: Path) -> None:
    names = [path.stem for path in compare(ways).save(tmp_path / "a")]
    assert names == [f"compare-{n}" for n in ("boot", "steps", "deployment", "macro-steps", "scalability")]
    compare(ways).save(tmp_path / "b")
    files = sorted((tmp_path / "a").iterdir())
    assert [file.name for file in files] == sorted(
        f"{name}.{kind}" for name in names for kind in ("csv", "pdf", "png")
    )
    for first in files:
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes(), first.name
    assert compare(keep(tmp_path, "empty", [])).save(tmp_path / "c") == []


def test_comparison_displays_as_text_and_escaped_html(both: list[Path]) -> None:
    found = compare(both[0], **{"<b>": both[1]})
    assert repr(found).startswith("<Comparison of 2 runs: ")
    page = found._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page.replace("<b>comparison</b>", "")


def test_compare_refuses_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to compare"):
        compare()
    with pytest.raises(RunError, match="there is no run 'none'"):
        compare(tmp_path / "none")
    with pytest.raises(RunError, match="is not a run"):
        compare(7)  # type: ignore[arg-type]


def test_compare_is_exported_by_the_package() -> None:
    assert g5kvirt.compare is compare
    assert isinstance(Comparison([]), Comparison)
