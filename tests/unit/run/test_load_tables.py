"""What kept machines busy, from the counters of each look."""

from __future__ import annotations

from typing import Any

import pytest
from figurecheck import check_layout
from measuremaker import measure_events
from runmaker import T0, run_events

from g5kvirt.errors import RunError
from g5kvirt.run import event_types
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.views.drawing import Picture
from g5kvirt.views.figures import Figures
from g5kvirt.views.measure_result import MeasureResult
from g5kvirt.views.phase_result import PhaseResult

HEAD, ONE, TWO = (f"graphene-{n}.nancy.grid5000.fr" for n in (1, 2, 3))


def counters(machine: str, t: float, busy: float, vms: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "t": t,
        "machine": machine,
        "cores": 4,
        "busy": busy,
        "memory": 2**30,
        "received": 0,
        "sent": 0,
        "vms": vms,
        "services": {},
        **more,
    }


def look(phase: str, t: float, hosts: dict[str, Any], own: float = 0.0, *, first: bool = False) -> Event:
    here = {"machine": "m", "cpu": own}
    return event_types.load_sampled(phase, "r", t, hosts, here, first=first)


def shared(other: float) -> list[Event]:
    """Three hosts on one machine, two looks 10 s apart: 1 core for VMs, 0.4 for nginx, 0.1 for this program,
    and ``other`` cores for others."""
    before = {name: counters("m", T0, 100.0, services={}) for name in (ONE, TWO)}
    before[HEAD] = counters("m", T0, 100.0, services={"nginx": 1.0})
    busy = 100.0 + 10 * (1.5 + other)
    after = {
        ONE: counters("m", T0 + 10, busy, vms=6.0, received=10**7),
        TWO: counters("m", T0 + 10, busy, vms=4.0, received=3 * 10**7),
        HEAD: counters("m", T0 + 10, busy, services={"nginx": 5.0}, sent=4 * 10**7),
    }
    return [look("launch", T0, before, 2.0, first=True), look("launch", T0 + 10, after, 3.0)]


def test_rates_are_differences_of_counters() -> None:
    frames = Frames(shared(other=0.5))
    table = frames.load.set_index("host")
    assert list(table["start"]) == [T0] * 3
    assert list(table["end"]) == [T0 + 10] * 3
    assert table.loc[ONE, "vms"] == pytest.approx(0.6)
    assert table.loc[TWO, "received"] == pytest.approx(3e6)
    assert table.loc[HEAD, "services"] == pytest.approx(0.4)
    assert table["busy"].to_list() == pytest.approx([2.0] * 3)
    assert table["other"].to_list() == pytest.approx([0.5] * 3), (
        "counted once for the machine that they share"
    )
    assert table["other_share"].to_list() == pytest.approx([0.125] * 3)
    assert frames.service_load[["host", "service", "cores"]].to_numpy().tolist() == [[HEAD, "nginx", 0.4]]


def test_looks_of_another_step_or_of_a_restarted_host_make_no_row() -> None:
    one, other = counters("m", T0, 5.0), counters("m", T0 + 90, 50.0)
    later, again = counters("m", T0 + 100, 51.0, vms=1.0), counters("n", T0 + 100, 1.0)
    events = [
        look("launch", T0, {ONE: one}, first=True),
        look("measure", T0 + 90, {ONE: other, TWO: other}, first=True),
        look("measure", T0 + 100, {ONE: later, TWO: again, HEAD: later}),
    ]
    table = Frames(events).load
    assert table[["phase", "host"]].to_numpy().tolist() == [["measure", ONE]]
    assert table["busy"].iloc[0] == pytest.approx(0.1)
    fewer = [events[1], look("measure", T0 + 100, {ONE: counters("m", T0 + 100, 60.0, vms=0.0)})]
    assert Frames(fewer).load["vms"].iloc[0] == 0, "a VM that has ended takes its counter along"
    assert Frames([]).load.empty
    assert Frames([]).load["other_share"].dtype == float


@pytest.mark.parametrize(("other", "warned"), [(0.5, False), (1.8, True)])
def test_measurements_that_shared_their_machine_say_so(other: float, warned: bool) -> None:
    launch = [*shared(other), *run_events(4)]
    facts = PhaseResult("launch", Frames(launch), run="r", testbed="local").facts
    assert ("disturbed" in facts) == warned
    if warned:
        words = "other programs used 45% of the processors of graphene-1.nancy.grid5000.fr and 2 more"
        assert facts["disturbed"].startswith(words) or "45%" in facts["disturbed"]
    events = [*run_events(4), *measure_events([4])]
    begin = next(e.t for e in events if e.step == "deployment" and e.status == "start")
    busy = [
        look("measure", begin + at, {ONE: counters("m", begin + at, at * (other + 0.2))}, first=not at)
        for at in (0.0, 5.0)
    ]
    result = MeasureResult([*events, *busy], run="r", testbed="local")
    assert ("disturbed" in result.facts) == warned
    assert ("other programs" in repr(result)) == warned
    early = [
        look("measure", begin - 900 + at, {ONE: counters("m", begin - 900 + at, at * 3.9)}, first=not at)
        for at in (0.0, 5.0)
    ]
    assert "disturbed" not in MeasureResult([*early, *events], run="r", testbed="local").facts


def test_looks_are_no_progress() -> None:
    events = [Event("launch", "phase", "run", "r", "start", T0), *shared(other=0.5)]
    frames = Frames(events)
    assert frames.state.phases["launch"].latest is None
    assert frames.phases["tries"].to_list() == [1]
    assert len(frames.spans) == 1


def test_the_busiest_machine_is_shown_where_there_are_several_and_phases_are_named() -> None:
    later = [look("measure", T0 + at, {ONE: counters("m", T0 + at, at)}, first=at == 40) for at in (40, 60)]
    one = Figures(Frames([*run_events(4), *shared(0.5), *later]), run="first", testbed="local").load()
    assert "busiest machine" not in labels(one)
    assert [text.get_text() for text in one.figure.axes[0].texts] == ["launch", "measure"]
    apart = [
        look("launch", T0 + at, {h: counters(h, T0 + at, at) for h in (ONE, TWO)}, first=not at)
        for at in (0, 10)
    ]
    several = Figures(Frames([*run_events(4), *apart]), run="first", testbed="local").load()
    assert "busiest machine" in labels(several)


def labels(picture: Picture) -> list[str]:
    (legend,) = picture.figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_figures_show_what_used_processors_and_links() -> None:
    events = [*run_events(4), *shared(other=0.5)]
    found = Figures(Frames(events), run="first", testbed="local", guest="tcg")
    data = found.load().data.iloc[0]
    assert data[["vms", "services", "own", "other"]].to_list() == pytest.approx([0.25, 0.1, 0.025, 0.125])
    assert data["busiest"] == pytest.approx(0.5)
    serving = Event("configure", "nginx", "service", HEAD, "ok", T0)
    links = Figures(Frames([*events, serving]), run="first", testbed="local").load(of="links").data.iloc[0]
    assert links["sent_by_services"] == pytest.approx(4.0)
    assert links["received_median"] == pytest.approx(2.0)
    over = Figures(Frames([*run_events(4), *shared(other=2.6)]), run="first", testbed="local").load().data
    assert over["busiest"].max() == 1.0, "ticks that are counted whole"
    assert over[["vms", "services", "own", "other"]].iloc[0].sum() == pytest.approx(1.0)
    for columns in (1, 2):
        check_layout(found.load(columns), columns)
        check_layout(found.load(columns, of="links"), columns)
    with pytest.raises(RunError, match="launch"):
        Figures(Frames(run_events(4)), run="first", testbed="local").load()
    with pytest.raises(ValueError, match="'processors' or 'links'"):
        found.load(of="disks")  # type: ignore[arg-type]
