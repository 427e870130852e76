"""What the host agent writes for tc and nftables."""

from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt.hostagent.onhost import links, vms
from g5kvirt.hostagent.onhost.links import classifier, leaf, tap_commands


def link(
    rate: float | None = None, latency: float | None = None, loss: float | None = None
) -> dict[str, object]:
    return {"rate": rate, "latency": latency, "loss": loss, "from": [1, 18]}


def test_a_tap_has_a_class_for_each_link_and_below_it_one_for_each_cell() -> None:
    lines = tap_commands("v1", [link(rate=20e6), link(latency=0.01, loss=0.015)])
    assert lines[0] == "qdisc replace dev v1 root handle 1: htb default 0"
    assert lines[1].startswith(
        "class add dev v1 parent 1: classid 1:8000 htb rate 20000000bit ceil 20000000bit"
    )
    assert lines[2].startswith(
        "class add dev v1 parent 1:8000 classid 1:1 htb rate 10000000bit ceil 20000000bit"
    )
    assert lines[3] == "qdisc add dev v1 parent 1:1 bfifo limit 250000"
    assert lines[4].startswith("class add dev v1 parent 1:8000 classid 1:12 ")
    assert lines[6].startswith("class add dev v1 parent 1: classid 1:8001 htb rate 100000000000bit")
    assert lines[8].startswith("qdisc add dev v1 parent 1:1 netem limit ")
    assert lines[8].endswith(" delay 10000us loss 1.5%")
    assert len(lines) == 11


def test_queues_hold_a_tenth_of_a_second_and_what_netem_delays() -> None:
    assert leaf(link(rate=1e6)) == "bfifo limit 131072"
    assert leaf(link(rate=1e9)) == "bfifo limit 12500000"
    assert leaf(link(rate=100e9)) == f"bfifo limit {64 << 20}"
    packets = int(leaf(link(rate=1e9, latency=0.1)).split()[2])
    assert packets >= 1e9 / 8 / 1500 * 0.2


def test_sources_are_classified_by_ranges() -> None:
    text = classifier([("10.0.0.1", "10.0.0.9", 1), ("10.0.0.12", "10.0.0.12", 18)])
    assert "{ 10.0.0.1-10.0.0.9 : 1:1, 10.0.0.12 : 1:12 }" in text


def test_guest_without_the_classes_of_its_links_does_not_pass_for_started(
    tmp_path: Path,
) -> None:
    started = [("vm-1", {"power_on": 1.0}), ("vm-2", OSError("no room"))]
    assert list(vms.with_links(str(tmp_path), iter(started))) == started
    (tmp_path / "links.json").write_text("{}{")
    results = list(vms.with_links(str(tmp_path), iter(started)))
    assert [name for name, _ in results] == ["vm-1", "vm-2"]
    assert all(isinstance(result, ValueError) for _, result in results)


def test_taps_that_are_new_or_made_again_wait_for_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"v525400000001": 7, "v525400000002": 9}
    monkeypatch.setattr(links, "interface_number", lambda name: numbers.get(name, 0))
    wanted = {"vms": {f"52:54:00:00:00:0{n}": n for n in (1, 2, 3)}}
    record = {"wanted": wanted, "applied": {"v525400000001": 7, "v525400000002": 8}}
    assert links.waiting_taps(record) == {"v525400000002": (9, 2)}
