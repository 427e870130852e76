"""Figures and tables over repetitions: N, intervals, differences, failures, the broadcast, own tables."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figurecheck import check_layout
from matplotlib.lines import Line2D
from measuremaker import measure_events, series_events
from runmaker import run_events
from test_compare import keep

from g5kvirt import compare
from g5kvirt.errors import RunError, SpecError
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.views.figures import Figures, Picture
from g5kvirt.views.paper_table import PaperTable
from g5kvirt.views.style import MOST_SERIES, series_style


def figures(events: list[Event]) -> Figures:
    return Figures(Frames(events), run="first", testbed="local", guest="tcg")


def legend_of(picture: Picture) -> list[str]:
    return [text.get_text() for one in picture.figure.legends for text in one.get_texts()]


@pytest.fixture(scope="module")
def ways() -> list[Event]:
    """Two ways to send the image, 6 times each; the first deployments of all skipped the first reboot."""
    return [*run_events(16), *series_events(["chain", "http"], sizes=(4, 16), repeat=6)]


def test_scalability_shows_number_interval_and_every_point(ways: list[Event]) -> None:
    picture = figures(ways).scalability()
    assert legend_of(picture)[:3] == ["chain (N = 5)", "http (N = 6)", "95 % interval of the median"]
    data = picture.data
    assert len(data) == 24, "every deployment"
    own = data[(data["series"] == "http") & (data["vms"] == 4)]
    assert set(own["n"]) == {6}
    assert own["median"].iloc[0] == pytest.approx(float(np.median(own["total"])))
    assert (own["ci_low"] < own["median"]).all()
    assert (own["ci_high"] > own["median"]).all()
    left_out = data[data["fresh"] > 0]
    assert left_out["n"].isna().all(), "what is not compared has no part in the median"
    mean = figures(ways).scalability(statistic="mean")
    assert "95 % interval of the mean" in legend_of(mean)
    assert "mean" in mean.data
    for columns in (1, 2):
        check_layout(figures(ways).scalability(columns), columns)


def test_fewer_than_five_have_no_interval(ways: list[Event]) -> None:
    picture = figures([*run_events(8), *measure_events([4, 8], repeat=3)]).scalability()
    assert not [word for word in legend_of(picture) if "interval" in word]
    assert "N = 3" in legend_of(picture)[0] or "N = 2" in legend_of(picture)[0]
    assert picture.data["ci_low"].isna().all()


def test_differences_tell_chain_from_http(ways: list[Event], tmp_path: Path) -> None:
    slower = []
    for event in ways:  # every deployment by http ends 30 s later
        deployment = event.deployment or ""
        late = event.phase == "measure" and deployment.startswith("d") and int(deployment[1:] or 0) > 12
        ends = late and event.step == "deployment" and event.status == "ok"
        slower.append(replace(event, t=event.t + 30.0) if ends else event)
    both = compare(keep(tmp_path, "ways", slower))
    table = both.differences()
    assert list(table["vms"]) == [4, 16]
    assert set(table["series"]) == {"http"}
    assert set(table["reference"]) == {"chain"}
    assert (table["n"] == 6).all()
    assert (table["n_reference"] == 5).all()
    assert table["difference"].between(25, 35).all()
    assert (table["ci_low"] > 15).all()
    assert (table["effect"] == 1.0).all()
    assert table["p"].iloc[0] == pytest.approx(2 / math.comb(11, 5))
    assert (table["p_holm"] > table["p"]).all()
    turned = both.differences(reference="http", vms=16, statistic="mean")
    row = turned.iloc[0]
    assert row["difference"] == pytest.approx(row["mean"] - row["mean_reference"])
    assert turned["effect"].iloc[0] == -1.0
    with pytest.raises(RunError, match="choose one of chain, http"):
        both.differences(reference="tree")
    with pytest.raises(RunError, match="one series"):
        both.differences(of="launch")


def test_differences_of_launches_are_over_runs(tmp_path: Path) -> None:
    runs = {
        "fast": [keep(tmp_path, f"f{n}", run_events(8, seed=n)) for n in range(4)],
        "slow": [keep(tmp_path, f"s{n}", run_events(8, seed=n, window=1)) for n in range(4)],
    }
    table = compare(runs).differences(of="launch")
    assert (table["n"].iloc[0], table["n_reference"].iloc[0], table["vms"].iloc[0]) == (4, 4, 8)
    assert table["difference"].iloc[0] > 0
    assert table["p"].iloc[0] == pytest.approx(2 / 70)


def test_tables_become_latex(tmp_path: Path) -> None:
    table = PaperTable.of_times(
        {
            "series": ["50 % chain_1", "http"],
            "vms": [4552, 8],
            "median": [1234.5, 0.01234],
            "difference": [-2.345, math.nan],
            "p": [0.00002, 0.0312],
        }
    )
    text = table.to_latex(tmp_path / "paper" / "t.tex", caption="A & B", label="tab:a")
    assert (tmp_path / "paper" / "t.tex").read_text() == text
    assert text.splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{A \& B}",
        r"\label{tab:a}",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"series & VMs & median (s) & difference (s) & p \\",
        r"\midrule",
        r"50 \% chain\_1 & 4\,552 & 1\,234 & $-$2.35 & $<$0.001 \\",
        r"http & 8 & 0.0123 & -- & 0.0312 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    part = table.loc[table["vms"] == 8]
    short = part.to_latex(columns=["vms", "p"], headings={"vms": "machines"}, digits=2)
    assert short.splitlines()[2:5] == [r"machines & p \\", r"\midrule", r"8 & 0.031 \\"]
    assert part.to_latex(columns=["median"]).splitlines()[2] == r"median (s) \\"
    own = PaperTable({"median": [93.1], "total": [8], "seconds": [1.5]})
    assert own.to_latex().splitlines()[2] == r"median & total & seconds (s) \\", "of unknown units"
    with pytest.raises(KeyError):
        table.to_latex(columns=["nothing"])


def test_failures_have_an_interval(ways: list[Event]) -> None:
    bad = {"vm-1": ("image", 99, "SHA-256 is wrong"), "vm-2": ("image", 99, "SHA-256 is wrong")}
    found = figures([*run_events(8), *measure_events([4, 8], repeat=3, bad=bad)])
    data = found.failures().data
    assert list(data["vms"]) == [4, 8]
    assert list(data["requested"]) == [12, 24]
    assert data["failed"].sum() == found.frames.measurements.deployments["failed"].sum() > 0
    assert (data["ci_low"] <= data["rate"]).all()
    assert (data["rate"] < data["ci_high"]).all()
    assert figures(ways).failures().data["rate"].eq(0).all()
    for columns in (1, 2):
        check_layout(found.failures(columns), columns)
        check_layout(figures(ways).failures(columns), columns)
    with pytest.raises(RunError, match="call measure"):
        figures(run_events(4)).failures()


def with_broadcasts(events: list[Event], hosts: int, size: int) -> list[Event]:
    """Each deployment brings an image of ``size`` bytes to so many hosts, in 2 s; by http in 2 s each."""
    found: list[Event] = []
    for event in events:
        if event.step == "deployment" and event.kind == "run" and event.status == "start":
            about = {**event.detail, "bytes": size, "transfer_bound": min(1.0, size / 1e7)}
            found.append(replace(event, detail=about))
            one_by_one = about["broadcast"] == "http"
            for number in range(hosts):
                name, detail = f"h-{number}.nancy.grid5000.fr", {"deployment": event.subject, "variant": "x"}
                took = 2.0 * (number + 1 if one_by_one else 1)
                begin = Event("measure", "broadcast", "host", name, "start", event.t, 1, detail)
                found += [begin, replace(begin, status="ok", t=event.t + took)]
        elif event.kind != "host":
            found.append(event)
    return found


def test_broadcast_throughput_is_the_image_over_the_time_until_the_last_host() -> None:
    events = series_events(["chain", "http"], sizes=(4,), repeat=2)
    found = figures([*run_events(4), *with_broadcasts(events, 4, 10_000_000)])
    data = found.broadcast().data.set_index("deployment")
    assert set(data["hosts"]) == {4}
    speed = data.groupby("series")["mb_per_s"].first()
    assert speed["chain"] == pytest.approx(5.0)
    assert speed["http"] == pytest.approx(1.25)
    assert data["total_mb_per_s"].max() == pytest.approx(20.0)
    assert set(data["bound_mb_per_s"]) == {10.0}
    for columns in (1, 2):
        check_layout(found.broadcast(columns), columns)
    slow = figures([*run_events(4), *with_broadcasts(events, 4, 200_000)])
    check_layout(slow.broadcast(), 1)
    with pytest.raises(RunError, match="no broadcast"):
        figures([*run_events(4), *measure_events([4])]).broadcast()


def test_figures_of_own_tables() -> None:
    generator = np.random.default_rng(1)
    rows = [
        {"clients": n, "rate": 100 / n + generator.normal(), "link": link, "kind": f"kind {n}"}
        for n in (1, 2, 4)
        for link in ("wide", "narrow")
        for _ in range(6)
    ]
    table = pd.DataFrame([*rows, {"clients": 2, "rate": math.nan, "link": "wide", "kind": "x"}])
    own = figures(run_events(4))
    for columns in (1, 2):
        check_layout(own.of(table, x="clients", y="rate", series="link", columns=columns), columns)
        check_layout(own.of(table, x="kind", y="rate", columns=columns), columns)
    numbers = own.of(table, x="clients", y="rate", series="link", ylabel="rate (Mbit/s)", title="Rates")
    assert len(numbers.data) == 36, "rows without a value are left out"
    assert set(numbers.data.columns) == {"link", "clients", "rate", "n", "median", "ci_low", "ci_high"}
    assert numbers.caption.startswith("Rates. run first")
    assert "wide (N = 6)" in legend_of(numbers)
    named = own.of(table, x="kind", y="rate")
    labels = [tick.get_text() for tick in named.figure.axes[0].get_xticklabels()]
    assert labels == ["kind 1", "kind 2", "kind 4"]
    for alone in (named, own.of(table[table["clients"] == 2], x="clients", y="rate")):
        handle = alone.figure.legends[0].legend_handles[0]
        assert isinstance(handle, Line2D)
        assert handle.get_marker() == "_", "a median is not one of the points"
        drawn = [(line.get_marker(), line.get_markersize()) for line in alone.figure.axes[0].lines]
        assert ("_", 7) in drawn
    for words, said in [
        ({"x": "nothing", "y": "rate"}, "its columns are clients"),
        ({"x": "clients", "y": "link"}, "not one of numbers"),
        ({"x": "clients", "y": "rate", "series": "z"}, "no column 'z'"),
    ]:
        with pytest.raises(SpecError, match=said):
            own.of(table, **words)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="pandas DataFrame"):
        own.of([1, 2], x="a", y="b")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no row"):
        own.of(table[table["rate"].isna()], x="clients", y="rate")


def test_pictures_say_what_of_the_run_they_show(ways: list[Event]) -> None:
    own = figures(ways)
    drawn = {name: getattr(own, name)() for name in ("deployment", "nodes", "breakdown")}
    foot = {name: picture.figure.texts[0].get_text() for name, picture in drawn.items()}
    assert foot["deployment"].startswith("deployment d24 of mini (http);")
    assert foot["nodes"].startswith("deployment d24 (http);")
    assert foot["breakdown"].startswith("http, 16 VMs, 6 repetitions;")
    names = [tick.get_text() for tick in own.deployment().figure.axes[0].get_yticklabels()]
    assert sorted(names) == sorted(f"vm-{n}" for n in range(1, 17))


@pytest.mark.parametrize("name", ["n", "series", "center", "median", "ci_low", "fresh", "failed", "vms"])
@pytest.mark.parametrize("place", ["x", "y", "series"])
def test_columns_of_an_own_table_may_have_the_names_of_ours(name: str, place: str) -> None:
    names = {"x": "clients", "y": "rate", "series": "link"} | {place: name}
    values: dict[str, list[Any]] = {"x": [1, 1, 2, 2], "y": [5.0, 7.0, 9.0, 9.0], "series": ["a"] * 4}
    table = pd.DataFrame({names[key]: values[key] for key in names})
    found = figures(run_events(4)).of(table, **names).data
    assert found.columns.is_unique
    for key, column in names.items():
        assert list(found[column]) == values[key], "the user's column keeps its name and its values"
    assert list(found["n (2)" if name == "n" else "n"]) == [2] * 4
    assert list(found["median (2)" if name == "median" else "median"]) == [6.0, 6.0, 9.0, 9.0]


def test_a_column_of_an_own_table_may_be_used_twice() -> None:
    table = pd.DataFrame({"clients": [1, 2], "rate": [3.0, 4.0]})
    found = figures(run_events(4)).of(table, x="rate", y="rate", series="clients").data
    assert list(found["rate"]) == [3.0, 4.0]
    assert found.columns.is_unique


def test_what_a_figure_of_an_own_table_cannot_show_is_refused() -> None:
    own = figures(run_events(4))
    table = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]})
    twice = pd.DataFrame([[1, 2, 3]], columns=["x", "x", "y"])
    many = pd.DataFrame({"x": range(37), "y": range(37), "s": range(37)})
    for frame, series, said in [
        (twice, None, "2 columns 'x'"),
        (table.assign(y=table["y"] + 1j), None, "not one of numbers"),
        (table.assign(y=1.7e308), None, "beyond 1e\\+300"),
        (table.assign(x=[-1e308, 1.0]), None, "beyond 1e\\+300"),
        (many, "s", "at most 36 series"),
    ]:
        with pytest.raises(SpecError, match=said):
            own.of(frame, x="x", y="y", series=series)
    with pytest.raises(SpecError, match="no column"):
        own.of(table, x=["x"], y="y")  # type: ignore[arg-type]


def test_texts_of_an_own_table_are_drawn_as_they_can_be() -> None:
    rows = {"x": ["\ud800", "\x1b[31m", "b"], "y": [1.0, 2.0, 3.0], "s": ["\0", "c", None]}
    found = figures(run_events(4)).of(pd.DataFrame(rows), x="x", y="y", series="s", ylabel="\ud800")
    assert found.png()
    assert list(found.data["x"]) == [r"\ud800", r"\x1b[31m"], "a row without a series is left out"


def test_no_two_series_of_a_figure_look_the_same() -> None:
    styles = [tuple(series_style(number).values()) for number in range(MOST_SERIES)]
    assert len(set(styles)) == MOST_SERIES == 36


def test_a_figure_of_a_prediction_keeps_the_numbers_of_a_predicted_line() -> None:
    one = figures([*run_events(4), *measure_events([2, 4])])
    predicted = Figures(one.frames, run="first", testbed="simulated:2013")
    assert (
        list(predicted.scalability(prediction={2: 11.0, 4: 22.0}).data["prediction"])
        == [11.0] * 2 + [22.0] * 2
    )
    table = pd.DataFrame({"x": [1.0, 2.0], "prediction": [3.0, 4.0]})
    assert list(predicted.of(table, x="x", y="prediction").data["prediction"]) == [3.0, 4.0]
    assert predicted.boot().data["prediction"].eq(True).all()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (9.996, "10.0"),
        (99.96, "100"),
        (0.0009999, "0.00100"),
        (1234.5, r"1\,234"),
        (-1234567, r"$-$1\,234\,567"),
        (np.int64(-5), "$-$5"),
        (-0.0, "0"),
        (math.inf, r"$\infty$"),
        (-math.inf, r"$-$$\infty$"),
        (math.nan, "--"),
        (pd.NA, "--"),
        (pd.NaT, "--"),
        (None, ""),
        ("a<b|\x1b", r"a\textless{}b\textbar{}\textbackslash{}x1b"),
    ],
)
def test_cells_in_latex(value: object, shown: str) -> None:
    table = PaperTable({"a": pd.Series([value, "x"], dtype=object)})
    assert table.to_latex().splitlines()[4] == rf"{shown} \\"


def test_to_latex_refuses_what_would_not_be_latex(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"digits": 0}, {"digits": 1.5}, {"label": "a}b"}, {"headings": ["a"]}]
    for words in wrong:
        with pytest.raises(SpecError):
            PaperTable({"a": [1.5]}).to_latex(tmp_path / "t.tex", **words)
    assert not list(tmp_path.iterdir())
    assert PaperTable({"a": [1.5]}).to_latex(label="tab:a_b", headings={"a": 1})  # type: ignore[dict-item]
