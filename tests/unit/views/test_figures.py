"""Figures: their numbers, their files, and that nothing overlaps or falls off the page."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from figurecheck import check_layout
from matplotlib.font_manager import FontProperties, findfont
from runmaker import T0, run_events

from g5kvirt.errors import RunError
from g5kvirt.run import vocabulary
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.views import palette, tables
from g5kvirt.views.figures import Figures
from g5kvirt.views.maps import lay_out
from g5kvirt.views.style import STYLE

NAMES = ("timeline", "boot", "distribution", "steps", "map")


def figures(vms: int, lost: int = 0, **more: int) -> Figures:
    return Figures(Frames(run_events(vms, lost=lost, **more)), run="first", testbed="local", guest="QEMU")


def test_palette_has_every_boot_step_in_its_own_colour() -> None:
    assert set(palette.LABELS) == set(vocabulary.BOOT_STEPS) < set(palette.COLOURS)
    assert len(set(palette.COLOURS.values())) == len(palette.COLOURS)


def test_boot_table_has_the_times_of_the_journal() -> None:
    events = [
        Event("launch", "phase", "run", "r", "start", T0),
        *(
            Event("launch", step, "vm", name, status, T0 + t, 1)
            for name, t0 in (("late", 5.0), ("soon", 1.0))
            for step, status, t in (
                ("power-on", "start", t0),
                ("power-on", "ok", t0 + 0.5),
                ("dhcp", "ok", t0 + 2.0),
                ("minimal-system", "ok", t0 + 9.0),
            )
        ),
        Event("launch", "power-on", "vm", "lost", "start", T0 + 2.0),
        Event("launch", "power-on", "vm", "lost", "ok", T0 + 2.5),
        Event(
            "launch", "launch", "vm", "lost", "failed", T0 + 30.0, 1, {"at": "dhcp", "reason": "no answer"}
        ),
    ]
    table = tables.boot_table(Frames(events)).set_index("name")
    assert table.index[0] == "soon"
    assert table.loc["late", ["requested", "power_on", "dhcp", "minimal_system"]].tolist() == [
        5.0,
        5.5,
        7.0,
        14.0,
    ]
    assert np.isnan(table.loc["late", "kernel"])
    assert table.loc["lost", "gave_up"] == 30.0
    assert np.isnan(table.loc["soon", "gave_up"])
    assert len(table) == 3


def test_vm_that_reports_late_was_not_given_up() -> None:
    events = run_events(4, lost=1)
    lost = next(e.subject for e in events if e.status == "failed")
    events.append(Event("launch", "minimal-system", "vm", lost, "ok", T0 + 500))
    table = tables.boot_table(Frames(events))
    assert table["gave_up"].isna().all()
    assert (table["state"] == "up").all()


def test_durations_add_up_to_the_total() -> None:
    durations = tables.durations_table(Frames(run_events(30, lost=3)))
    wide = durations.pivot(index="name", columns="step", values="seconds").dropna()
    assert len(wide) == 27
    parts = wide.drop(columns="total").sum(axis=1)
    assert np.allclose(parts, wide["total"])
    found = tables.quantiles(durations)
    assert list(found.index) == [*vocabulary.BOOT_STEPS[1:], "total"]
    assert found.loc["total", "n"] == 27
    assert found.loc["total", "median"] == pytest.approx(wide["total"].median())
    ordered = found[["min", "q05", "q25", "median", "q75", "q95", "max"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()


def test_timeline_table_has_phases_and_parts() -> None:
    table = tables.timeline_table(Frames(run_events(8)))
    steps = table[table["part"] == ""]
    assert list(steps["phase"]) == ["reserve", "deploy", "configure", "place", "launch"]
    assert steps["start"].iloc[0] == 0.0
    assert steps["duration"].iloc[0] == pytest.approx(2.1, abs=1e-5)
    prepare = table[table["part"] == "prepare"].iloc[0]
    assert (prepare["phase"], prepare["n"]) == ("configure", 1)
    assert prepare["duration"] == pytest.approx(0.8, abs=1e-5)


def test_timeline_has_every_call_of_a_phase() -> None:
    again = [
        Event("measure", "phase", "run", "r", status, T0 + t)
        for t, status in ((100, "start"), (130, "ok"), (140, "start"), (150, "failed"))
    ]
    events = [*run_events(8), *again]
    table = tables.timeline_table(Frames(events))
    calls = table[(table["phase"] == "measure") & (table["part"] == "")]
    assert list(calls["duration"]) == [30, 10]
    assert list(calls["status"]) == ["ok", "failed"]
    picture = Figures(Frames(events), run="r", testbed="local", guest="QEMU").timeline()
    check_layout(picture, 1)
    words = [text.get_text() for text in picture.figure.axes[0].texts]
    assert "40.0 s in 2 calls (failed)" in words


def test_map_omits_service_machines() -> None:
    served = [
        Event("deploy", "kadeploy3", "host", "graphene-9.nancy.grid5000.fr", "ok", T0),
        Event("configure", "dnsmasq", "service", "graphene-9.nancy.grid5000.fr", "ok", T0),
    ]
    hosts = set(tables.map_table(Frames([*served, *run_events(8)]))["host"])
    assert hosts == set(tables.map_table(Frames(run_events(8)))["host"])
    assert hosts != set(tables.map_table(Frames([*served[:1], *run_events(8)]))["host"])


def test_interrupted_phase_ends_with_the_journal() -> None:
    events = [e for e in run_events(4) if e.t <= T0 + 4]  # in the middle of deploy
    table = tables.timeline_table(Frames(events))
    deploy = table[table["phase"] == "deploy"].iloc[0]
    assert deploy["status"] == "unfinished"
    assert T0 + deploy["end"] == max(e.t for e in events)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("vms", "lost", "columns"),
    [
        (1, 0, 1),
        (2, 0, 1),
        (2, 0, 2),
        (4, 0, 2),
        (12, 1, 1),
        (13, 0, 1),
        (64, 3, 1),
        (200, 150, 1),
        (1200, 12, 1),
        (1200, 12, 2),
    ],
)
def test_figure_texts_do_not_overlap_or_leave_the_page(name: str, vms: int, lost: int, columns: int) -> None:
    check_layout(getattr(figures(vms, lost), name)(columns), columns)


@pytest.mark.parametrize(("vms", "names"), [(8, NAMES), (400, ("boot",))])
def test_figures_are_reproducible(tmp_path: Path, vms: int, names: tuple[str, ...]) -> None:
    for attempt in ("a", "b"):
        for name in names:
            written = getattr(figures(vms, 2), name)().save(tmp_path / attempt / name)
            assert [path.suffix for path in written] == [".pdf", ".png", ".csv"]
    files = sorted((tmp_path / "a").iterdir())
    assert len(files) == 3 * len(names)
    for first in files:
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes(), first.name


def test_picture_stem_may_contain_dots(tmp_path: Path) -> None:
    picture = figures(8, 1).boot()
    picture.save(tmp_path / "boot-1.5")
    data = pd.read_csv(tmp_path / "boot-1.5.csv")
    assert len(data) == 8
    assert np.allclose(data["minimal_system"], picture.data["minimal_system"], atol=1e-6, equal_nan=True)
    assert (tmp_path / "boot-1.5.pdf").read_bytes().startswith(b"%PDF")


def test_caption_and_footer_describe_the_source() -> None:
    picture = figures(8).boot()
    assert picture.caption == "Boot of 8 VMs. run first, testbed local, guests: QEMU."
    assert figures(1).boot().caption.startswith("Boot of 1 VM.")
    predicted = Figures(Frames(run_events(8)), run="first", testbed="simulated", guest="simulated")
    assert "predicted by a model" in predicted.boot().caption
    assert "predicted by a model" in predicted.boot().figure.texts[0].get_text()
    unnamed = Figures(Frames(run_events(8)), run="first", testbed="simulated")
    assert "predicted by a model" in unnamed.boot().caption
    html = picture._repr_html_()
    assert 'src="data:image/png;base64,' in html
    assert "<script" not in html


def test_figures_without_data_name_the_phase_to_call(tmp_path: Path) -> None:
    empty = Figures(Frames([]), run="first", testbed="local")
    for name, needed in zip(NAMES, ("reserve", "launch", "launch", "launch", "place"), strict=True):
        with pytest.raises(RunError, match=needed):
            getattr(empty, name)()
    assert empty.save(tmp_path) == []
    early = Figures(Frames([e for e in run_events(4) if e.phase == "reserve"]), run="first", testbed="local")
    assert [path.name for path in early.save(tmp_path)] == ["timeline.pdf"]


def test_figures_refuse_other_than_one_or_two_columns() -> None:
    with pytest.raises(ValueError, match="1 or 2 columns"):
        figures(4).boot(columns=3)


def test_image_of_many_vms_averages_them() -> None:
    picture = figures(1200, window=1200).boot()
    (image,) = picture.figure.axes[0].get_images()
    array = np.asarray(image.get_array())
    assert array.shape == (600, 1400, 4)
    # Every VM's way, added up over the picture, is the time that all of them took together.
    data = picture.data
    cover = array[..., 3].sum() / 1400 * float(data["minimal_system"].max()) * (1200 / 600)
    took = (data["minimal_system"] - data["requested"]).sum()
    assert cover == pytest.approx(took, rel=0.01)


def test_fonts_come_with_matplotlib() -> None:
    with mpl.rc_context(STYLE):
        for style in ("normal", "italic"):
            for weight in ("normal", "bold"):
                found = Path(findfont(FontProperties(style=style, weight=weight), fallback_to_default=False))
                assert found.is_relative_to(mpl.get_data_path()), found


def test_map_has_one_cell_per_vm_inside_its_host() -> None:
    known = figures(64, 3, hosts=5)
    data = known.map().data
    plan = lay_out(data, 1)
    assert sorted(row for row, _, _ in plan.cells) == list(range(64))
    assert [name for name, *_ in plan.hosts] == [f"paradent-{n}.rennes.grid5000.fr" for n in range(1, 6)]
    boxes = {name: (x, y, x + wide, y + high) for name, x, y, wide, high in plan.hosts}
    for row, x, y in plan.cells:
        left, top, right, bottom = boxes[data["host"].iloc[row]]
        assert left <= x <= right - plan.cell + 1e-9
        assert top <= y <= bottom - plan.cell + 1e-9
    assert len({(x, y) for _, x, y in plan.cells}) == 64
    for (_, _, right, bottom), (left, top, _, _) in pairwise(boxes.values()):
        assert right < left or bottom < top


def test_map_colours_are_states_or_time_classes() -> None:
    known = figures(64, 3)
    words = [text.get_text() for text in known.map().figure.legends[0].get_texts()]
    assert words == ["minimal system (61)", "failed (3)"]
    picture = known.map(by="boot")
    words = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    longest = picture.data["boot"].max()
    assert len(words) == 6
    assert f"≤ {longest:.1f}" in words
    with pytest.raises(ValueError, match="by must be 'state' or 'boot' or 'deployment' or 'group', not 'x'"):
        known.map(by="x")  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"call measure\(\) first"):
        known.map(by="deployment")


def test_map_of_thousands_of_vms_fits_a_page() -> None:
    for columns in (1, 2):
        picture = figures(4552, 40, hosts=355).map(columns, by="boot")
        assert picture.figure.get_figheight() < 9
        assert len(picture.data) == 4552


def test_figures_open_reads_a_directory(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "run.json").write_text('{"name": "mine", "created": 1, "testbed": "local:bed", "spec": {}}')
    (path / "journal.jsonl").write_text("".join(e.to_json() + "\n" for e in run_events(4)))
    assert Figures.open(path).boot().caption == "Boot of 4 VMs. run mine, testbed local:bed."
    with pytest.raises(RunError, match="no run"):
        Figures.open(tmp_path / "yours")
