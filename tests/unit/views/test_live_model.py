"""Where each VM stands, and what of it changed: the model behind the live view."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measuremaker import deploy_events, measure_events
from runmaker import T0, run_events

from g5kvirt.run import vocabulary
from g5kvirt.run.events import Event
from g5kvirt.views import palette
from g5kvirt.views.live.layout import WIDTH, arrange
from g5kvirt.views.live.model import Cell, LiveModel
from g5kvirt.views.progress import phase_message

BAD = {"vm-3": ("image", 99, "SHA-256 is wrong"), "vm-5": ("partition", 1, "no disk")}
RUN = [*run_events(12, lost=1), *measure_events((4, 8), 1, bad=BAD)]

vm_events = st.builds(
    Event,
    st.sampled_from(["launch", "measure"]),
    st.sampled_from(
        [*vocabulary.BOOT_STEPS, "launch", "deployment", "SetDeploymentEnv", "BootNewEnv", "image"]
    ),
    st.just("vm"),
    st.sampled_from(["vm-1", "vm-2", "vm-3", "vm-99"]),
    st.sampled_from(["start", "ok", "failed", "skipped", "retry"]),
    st.floats(T0, T0 + 100),
    st.integers(1, 3),
)


def whole(model: LiveModel) -> object:
    """All there is to see of it."""
    return (
        {name: cell._asdict() for name, cell in model.cells.items()},
        model.counts,
        {name: dataclasses.asdict(phase) for name, phase in model.phases.items()},
        model.deployment,
        (model.up, model.failed, model.total, model.settled, model.status),
    )


@given(st.lists(vm_events, max_size=60), st.integers(0, 6), st.booleans())
def test_counts_add_up_for_any_events(events: list[Event], vms: int, planned: bool) -> None:
    model = LiveModel(vms)
    for event in [*(run_events(3)[:1] if not planned else run_events(3)[:20]), *events]:
        model.take(event)
        assert sum(model.counts.values()) == model.total
        assert model.total >= vms
        assert model.up == sum(cell.up for cell in model.cells.values())
        seen = [cell.state for cell in model.cells.values()]
        assert all(model.counts[state] >= seen.count(state) for state in seen)


@settings(max_examples=30)
@given(st.lists(st.integers(0, len(RUN)), max_size=8))
def test_changes_add_up_to_the_full_state(cuts: list[int]) -> None:
    model = LiveModel(12)
    mirror: dict[str, Cell] = {}
    arranged, done = 0, 0
    for cut in sorted([*cuts, len(RUN)]):
        for event in RUN[done:cut]:
            model.take(event)
        done = max(done, cut)
        changed = model.changes()
        if model.layout_version != arranged:
            arranged, changed = model.layout_version, list(model.cells.values())
        mirror |= {cell.name: cell for cell in changed}
    assert mirror == model.cells
    assert model.changes() == []
    assert whole(model) == whole(LiveModel.of(RUN, 12))


def test_changes_contain_only_changed_vms() -> None:
    model = LiveModel.of(run_events(200), 200)
    model.changes()
    model.take(Event("measure", "SetDeploymentEnv", "vm", "vm-7", "start", T0 + 99))
    assert [cell.name for cell in model.changes()] == ["vm-7"]


def test_cell_has_step_and_time() -> None:
    model = LiveModel.of([e for e in RUN if e.t <= T0 + 100])
    cell = model.cells["vm-1"]
    assert cell.host == "paradent-1.rennes.grid5000.fr"
    assert cell.site == "rennes"
    assert cell.state == "failed" or cell.step == "minimal-system"
    last = [e for e in RUN if e.kind == "vm" and e.subject == "vm-2" and e.phase == "launch"][-1]
    assert (model.cells["vm-2"].since, model.cells["vm-2"].up) == (last.t, True)


def test_deployment_progress_is_counted() -> None:
    model = LiveModel(16)
    messages = []
    events = [Event("measure", "phase", "run", "r", "start", T0), *deploy_events("d1", 8, bad=BAD)]
    for event in events:
        model.take(event)
        messages.append(phase_message(model.run, "measure"))
    assert "d1 (mini): 3/8 deployed" in [words.partition(",")[0] for words in messages]
    assert messages[-1] == "d1 (mini): 7/8 deployed, 1 failed"


def test_failed_cell_has_step_and_reason() -> None:
    cell = LiveModel.of(RUN).cells["vm-3"]
    assert (cell.state, cell.step, cell.reason) == ("failed", "image", "SHA-256 is wrong")


def test_repeated_launch_counts_attempts_from_one() -> None:
    def vm(step: str, status: str, attempt: int) -> Event:
        return Event("launch", step, "vm", "vm-1", status, T0, attempt)  # type: ignore[arg-type]

    begin = Event("launch", "phase", "run", "r", "start", T0)
    first = [begin, vm("power-on", "ok", 1), vm("launch", "retry", 1), vm("power-on", "ok", 2)]
    again = [begin, vm("power-on", "start", 1), vm("power-on", "ok", 1), vm("dhcp", "ok", 1)]
    assert LiveModel.of([*first, *again]).cells["vm-1"].state == "dhcp"


# ---- the wall ----------------------------------------------------------------------------------------

places = st.lists(
    st.tuples(st.sampled_from(["a-1.x", "b-22.x", "c", ""]), st.sampled_from(["nancy", "lyon", ""])),
    max_size=300,
)


@given(places)
def test_cells_do_not_overlap_or_leave_the_wall(where: list[tuple[str, str]]) -> None:
    wall = arrange((f"vm-{i}", host, site) for i, (host, site) in enumerate(where))
    corners = wall.corners()
    assert sorted(wall.names) == sorted(f"vm-{i}" for i in range(len(where)))
    assert len(set(corners)) == len(corners) == len(where)
    assert all(0 <= x <= WIDTH - wall.size and 0 <= y <= wall.height - wall.size for x, y in corners)
    apart = wall.size
    cells = sorted(corners)
    assert all(abs(a[0] - b[0]) >= apart or abs(a[1] - b[1]) >= apart for a, b in combinations(cells[:60], 2))
    for block in wall.blocks:
        for name in wall.names[block.first : block.first + block.count]:
            assert where[int(name[3:])] == (block.host, block.site)


def test_wall_of_thousands_of_vms_fits_a_screen() -> None:
    wall = arrange((f"vm-{i}", f"gros-{i % 355}.{i % 6}", f"site{i % 6}") for i in range(5000))
    assert wall.height < 700
    assert wall.pitch >= 6


# ---- colours -----------------------------------------------------------------------------------------

#: Machado, Oliveira and Fernandes, 2009, severity 1.0, on linear RGB.
SEEN = {
    "everyone": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def lab(colour: str, eye: str) -> tuple[float, float, float]:
    """CIELAB of a colour as an eye sees it."""
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    r, g, b = (min(1.0, max(0.0, sum(m * c for m, c in zip(row, linear, strict=True)))) for row in SEEN[eye])
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883,
    )
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("eye", SEEN)
def test_state_colours_are_distinguishable_with_colour_blindness(eye: str) -> None:
    assert set(palette.STATE_COLOURS) == set(palette.STATE_LABELS) == set(palette.STATES)
    seen = {state: lab(colour, eye) for state, colour in palette.STATE_COLOURS.items()}
    for one, a in seen.items():
        for other, b in seen.items():
            if one < other:
                apart = sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5
                assert apart > 15, f"{one} and {other} look alike ({apart:.0f})"
