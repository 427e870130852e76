"""What a person sees of a run: progress, terminal, text and HTML, all from the same events."""

from __future__ import annotations

import io

import pytest
from htmlcheck import text_of
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from runmaker import T0, run_events

from g5kvirt.inventory import GIB, MIB
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import BOOT_STEPS
from g5kvirt.views import formatting
from g5kvirt.views.html import experiment_html
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.phase_result import PhaseResult
from g5kvirt.views.terminal import TerminalProgress, shares


def vm(step: str, status: str, attempt: int = 1, name: str = "vm-1") -> Event:
    return Event("launch", step, "vm", name, status, T0, attempt)  # type: ignore[arg-type]


# ---- progress ----------------------------------------------------------------------------------------


def test_progress_of_a_complete_run() -> None:
    progress = LiveModel.of(run_events(20, lost=2), vms=20)
    assert progress.counts == {"minimal-system": 18, "failed": 2}
    assert (progress.up, progress.failed, progress.total) == (18, 2, 20)
    assert [p.state for p in progress.phases.values()] == ["ok"] * 5 + ["waiting"]
    assert progress.phases["reserve"].seconds(0) == pytest.approx(2.1)
    assert progress.status == "launch done"


@given(st.integers(0, 400), st.integers(1, 30))
def test_counts_add_up_after_any_prefix(cut: int, vms: int) -> None:
    progress = LiveModel.of(run_events(vms, lost=vms // 5)[:cut], vms=vms)
    assert sum(progress.counts.values()) == progress.total == vms


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "planned"),
        ([vm("power-on", "start")], "planned"),
        ([vm("power-on", "start"), vm("power-on", "ok")], "power-on"),
        ([vm("power-on", "ok"), vm("kernel", "ok"), vm("dhcp", "ok")], "kernel"),
        ([vm("power-on", "ok"), vm("kernel", "ok"), vm("power-on", "start", 2)], "planned"),
        ([vm("power-on", "ok", 2), vm("minimal-system", "ok", 1)], "power-on"),
        ([vm("power-on", "ok"), vm("launch", "failed")], "failed"),
        ([vm("power-on", "ok"), vm("launch", "failed"), vm("minimal-system", "ok")], "minimal-system"),
        ([vm("power-on", "ok"), vm("launch", "retry")], "power-on"),
    ],
)
def test_state_of_a_vm_after_its_events(events: list[Event], state: str) -> None:
    assert LiveModel.of(events, vms=1).counts == {state: 1}


def test_progress_agrees_with_frames() -> None:
    events = run_events(50, lost=7)
    for cut in range(0, len(events), 37):
        account = Frames(events[:cut]).account
        progress = LiveModel.of(events[:cut], account.requested)
        assert (progress.up, progress.failed) == (account.up, account.failed)


# ---- terminal ----------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from([*BOOT_STEPS, "planned", "failed"]), st.integers(0, 10**6), max_size=8),
    st.integers(1, 80),
)
def test_bar_uses_all_cells_and_shows_every_state(counts: dict[str, int], width: int) -> None:
    cells = shares(counts, width)
    present = [state for state, count in counts.items() if count]
    assert sum(cells.values()) == (width if present else 0)
    assert all(cell >= 1 for cell in cells.values())
    if len(present) <= width:
        assert set(cells) == set(present)
        total = sum(counts.values())
        for state, cell in cells.items():
            assert abs(cell - counts[state] * width / total) <= len(present)


def screen(terminal: bool, events: list[Event], vms: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=terminal, color_system=None, legacy_windows=False)
    with TerminalProgress(console, vms) as progress:
        for event in events:
            progress.take(event)
    return out.getvalue()


def test_plain_lines_are_printed_without_a_terminal() -> None:
    text = screen(False, run_events(300, lost=3), 300)
    lines = text.splitlines()
    assert "reserve done in 2.10 s" in lines
    assert any(line.startswith("launch done in ") for line in lines)
    assert "  submitted nancy" in lines
    assert "minimal system 297, failed 3 of 300" in text
    assert len(lines) < 40, "a line for each VM would be too many"
    assert "\x1b" not in text


def test_terminal_keeps_the_last_display() -> None:
    text = screen(True, run_events(8, lost=1), 8)
    last = text.rpartition("reserve")[2]
    assert "✓  launch" in last
    assert "minimal system 7 · failed 1 of 8 VMs" in last
    assert "measure" not in last


def test_failed_phase_shows_its_reason() -> None:
    refused = Event("reserve", "phase", "run", "r", "failed", T0 + 3, 1, {"reason": "no hosts"})
    events = [*run_events(4)[:1], refused]
    assert "reserve failed after 3.00 s: no hosts" in screen(False, events, 4)
    assert "no hosts" in screen(True, events, 4)


# ---- results and HTML --------------------------------------------------------------------------------


def result(phase: str, events: list[Event]) -> PhaseResult:
    return PhaseResult(phase, Frames(events), run="first", testbed="local", guest="QEMU")


def test_phase_results_have_facts_and_parts() -> None:
    events = run_events(30, lost=3)
    place, launch = result("place", events), result("launch", events)
    assert place.status == "ok"
    assert place.seconds == pytest.approx(0.03, abs=1e-5)
    assert place.facts["VMs"] == "30 on 2 hosts"
    assert place.facts["VMs per host"] == "15"
    assert launch.facts["up"] == "27 of 30 VMs"
    assert launch.facts["failed"] == "3"
    assert str(launch).startswith("launch: ok in ")
    assert list(launch.parts["step"]) == [*BOOT_STEPS[1:], "total"]
    assert list(result("configure", events).parts["part"]) == ["prepare", "dnsmasq", "nginx"]
    assert result("configure", events).facts["services"] == "dnsmasq, nginx"


def test_facts_of_a_reservation() -> None:
    granted = {
        "jobs": {"rennes": 8, "nancy": 7},
        "hosts": [{"site": "nancy"}, {"site": "nancy"}, {"site": "rennes"}],
        "subnetworks": [{"site": "nancy", "network": "10.144.0.0/22", "gateway": None}],
        "vlan": 14,
        "vlan_site": "nancy",
        "start": T0,
        "walltime": 3600.0,
    }
    events = [
        Event("reserve", "phase", "run", "r", "start", T0),
        Event("reserve", "granted", "run", "r", "ok", T0 + 1, 1, granted),
        Event("reserve", "phase", "run", "r", "ok", T0 + 1),
    ]
    assert result("reserve", events).facts == {
        "machines": "3 (nancy 2, rennes 1)",
        "jobs": "nancy 7, rennes 8",
        "subnets": "10.144.0.0/22 at nancy",
        "KaVLAN": "14 (global, of nancy)",
        "walltime": "1 h 00 min",
    }


@pytest.mark.parametrize("phase", ["reserve", "deploy", "configure", "place", "launch", "measure"])
@pytest.mark.parametrize("cut", [0, 1, 6, 30, 10**6])
def test_html_is_self_contained_after_any_prefix(phase: str, cut: int) -> None:
    events = run_events(12, lost=2)[:cut]
    text = text_of(result(phase, events)._repr_html_())
    assert text.startswith(f"{phase}: ")
    assert "testbed local; guests: QEMU" in text
    text_of(experiment_html("first", "local", "QEMU", Frames(events)))
    assert repr(result(phase, events)).startswith(f"{phase}: ")


def test_experiment_html_counts_vms_without_listing_them() -> None:
    html = experiment_html("first", "local", "QEMU", Frames(run_events(3000, lost=30)))
    text = text_of(html)
    for phase in ("reserve", "deploy", "configure", "place", "launch", "measure"):
        assert phase in text
    assert "2,970" in text
    assert len(html) < 10_000
    assert "vm-17" not in html


def test_html_escapes_names_and_reasons() -> None:
    evil = "<script>alert(1)</script>"
    events = [
        Event("launch", "phase", "run", "r", "start", T0),
        Event("launch", "power-on", "vm", "vm-1", "ok", T0 + 1),
        Event("launch", "launch", "vm", "vm-1", "failed", T0 + 2, 1, {"at": evil, "reason": evil}),
        Event("launch", "phase", "run", "r", "failed", T0 + 3, 1, {"reason": evil}),
    ]
    frames = Frames(events)
    for html in (
        experiment_html(evil, evil, evil, frames),
        PhaseResult("launch", frames, run=evil, testbed=evil, guest=evil)._repr_html_(),
    ):
        assert evil in text_of(html)


# ---- words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (99.96, "1 min 40 s"),
        (3599.6, "1 h 00 min"),
        (3600 * 26 + 60, "26 h 01 min"),
        (-1.5, "-1.50 s"),
        (float("nan"), "–"),
    ],
)
def test_format_durations(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_format_sizes_and_counts() -> None:
    assert formatting.size(512 * MIB) == "512 MiB"
    assert formatting.size(23.4 * GIB) == "23.4 GiB"
    assert formatting.size(2048 * GIB) == "2.0 TiB"
    assert formatting.count(1, "VM") == "1 VM"
    assert formatting.count(4552, "VM") == "4,552 VMs"
    assert formatting.count(2, "entry", "entries") == "2 entries"
