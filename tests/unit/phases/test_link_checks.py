"""Links that a testbed cannot make are refused before anything is touched; their events become a table."""

from __future__ import annotations

import math
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from backgroundbeds import Bed

from g5kvirt import Experiment, Group, Link, Spec
from g5kvirt.errors import PhaseOrderError, SpecError
from g5kvirt.inventory import VM
from g5kvirt.phases import check as phase
from g5kvirt.phases import links
from g5kvirt.phases.packages import needed
from g5kvirt.run import link_events
from g5kvirt.run.link_tables import links_table
from g5kvirt.run.state import RunState
from g5kvirt.run.tables import Frames

SLOW = Link("client", "server", latency="10ms")
RATED = Link("client", "server", rate="20mbit")
VMS = [Group("server", 1), Group("client", 2)]


class Poor(Bed):
    """Its hosts' kernels have no netem."""

    netem = False


def spec_of(*links: Link) -> Spec:
    return Spec(sites={"nancy": 2}, vms=VMS, links=links)


@pytest.fixture(autouse=True)
def apt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minimal system can be built, whatever this machine's apt knows."""
    monkeypatch.setattr(phase.minimal, "build_obstacle", lambda: None)


@pytest.mark.parametrize(
    ("bed", "link", "code"),
    [
        (Poor, SLOW, "no-netem"),
        (Poor, RATED, "ok"),
        (Bed, SLOW, "netem-unknown"),
        (Bed, RATED, "ok"),
    ],
)
def test_check_says_whether_links_are_possible(bed: type[Bed], link: Link, code: str, tmp_path: Path) -> None:
    found = phase.check(spec_of(link), bed("give@/"), tmp_path / "runs")  # type: ignore[arg-type]
    assert [row.code for row in found.findings if row.what == "links"] == [code]
    assert found.ok == (code != "no-netem")


def test_experiment_with_impossible_links_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"client–server has a latency or a loss, but .* has no netem"):
        Experiment(spec_of(SLOW), Poor("give@/"), name="x", runs=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    Experiment(spec_of(RATED), Poor("give@/"), name="x", runs=tmp_path)  # type: ignore[arg-type]


def test_prediction_has_no_links_to_change(tmp_path: Path) -> None:
    exp = Experiment(spec_of(SLOW), "simulated:2013", name="x", runs=tmp_path)
    for step in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(exp, step)()
    assert exp.links == (SLOW,)
    with pytest.raises(SpecError, match="is a prediction, whose model has no links"):
        exp.set_links([RATED])


def test_links_are_set_after_launch(tmp_path: Path) -> None:
    exp = Experiment(spec_of(), Bed("give@/"), name="x", runs=tmp_path)  # type: ignore[arg-type]
    for call in (lambda: exp.set_links([RATED]), exp.measure_links):
        with pytest.raises(PhaseOrderError, match="needs launch"):
            call()


def test_hosts_of_light_guests_get_what_links_need() -> None:
    assert needed("light") == ["ip", "tar", "nft", "libssh.so.4"]
    assert needed("light", links=True) == ["ip", "tar", "nft", "libssh.so.4", "tc"]
    assert needed("vm", ("dhcp",), links=True) == ["ip", "dnsmasq"]


def test_what_was_set_and_measured_is_a_table() -> None:
    found = {"rtt": 0.02, "rate": None, "loss": 0.0, "reason": ""}
    events = [
        link_events.links_set("r", [SLOW, RATED], 1.0),
        link_events.link_measured("r", SLOW, ("client", "server"), ("client-1", "server-1"), found, 2.0),
        link_events.links_set("r", [], 3.0),
    ]
    table = links_table(events)
    assert list(table["what"]) == ["set"] * 4 + ["measured", "none"]
    assert list(table["from"]) == ["client", "server", "client", "server", "client", ""]
    measured = table.iloc[4]
    assert (measured["latency"], measured["rtt"], measured["target"]) == (0.01, 0.02, "server-1")
    assert math.isnan(measured["rate"])
    assert math.isnan(measured["measured_rate"])
    assert RunState.of([]).links is None
    assert RunState.of(events[:2]).links == (SLOW, RATED)
    assert RunState.of(events).links == ()
    assert Frames(events).links.equals(table)
    assert Frames(events).phases.empty


def test_pairs_are_of_different_vms_and_of_different_hosts_if_possible() -> None:
    address = IPv4Address("10.0.0.1")
    vms = [VM(n, f"vm-{n}", f"h-{n % 2}", "nancy", address, f"m-{n}") for n in range(1, 5)]
    pairs = links._pairs(vms[:2], vms[2:], 3)
    assert [(a.name, b.name) for a, b in pairs] == [("vm-2", "vm-3"), ("vm-1", "vm-4")]
    assert [(a.name, b.name) for a, b in links._pairs(vms[:1], vms[:1], 1)] == []
    assert [(a.name, b.name) for a, b in links._pairs(vms[::2], vms[::2], 1)] == [("vm-3", "vm-1")]
    assert links._pairs([], vms, 1) == links._pairs(vms, [], 1) == []
