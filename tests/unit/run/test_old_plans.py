"""Plans in the journals of earlier versions."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

from g5kvirt.inventory import VM
from g5kvirt.run.journal import Journal
from g5kvirt.run.tables import placed_vms


def test_plan_with_the_former_field_labels_is_read(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    row = {
        "index": 1,
        "name": "vm-1",
        "host": "h-1",
        "site": "nancy",
        "ip": "10.144.0.1",
        "mac": "52:54:00:0:0:1",
    }
    journal.append("place", "plan", "run", "first", "ok", vms=[{**row, "labels": {"role": "client"}}, row])
    vm = VM(1, "vm-1", "h-1", "nancy", IPv4Address("10.144.0.1"), "52:54:00:0:0:1")
    assert placed_vms(journal) == [vm, vm]
    journal.close()
