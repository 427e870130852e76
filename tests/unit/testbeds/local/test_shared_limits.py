"""The machine's shared kernel tables: raised, counted, put back."""

from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt.testbeds.local.driver import table_finding
from g5kvirt.testbeds.local.shared_limits import (
    DROPPED,
    FULL,
    LIMITS,
    STOCK_ARP_TABLE,
    SharedLimits,
    overflow_counts,
)

BACKLOG, ARP = "net.core.netdev_max_backlog", "net.ipv4.neigh.default.gc_thresh3"


class Machine:
    """A /proc and a runtime directory with some testbeds."""

    def __init__(self, folder: Path, **settings: int) -> None:
        self.proc, self.runtime = folder / "proc", folder / "run"
        (self.proc / "net/stat").mkdir(parents=True)
        self.runtime.mkdir()
        for key, value in {BACKLOG: 1000, ARP: 1024, **settings}.items():
            self.file(key).parent.mkdir(parents=True, exist_ok=True)
            self.file(key).write_text(f"{value}\n")
        self.count(0, 0)
        self.limits = SharedLimits(self.runtime, self.proc)

    def file(self, key: str) -> Path:
        return self.proc / "sys" / key.replace(".", "/")

    def value(self, key: str) -> int:
        return int(self.file(key).read_text())

    def count(self, full: int, dropped: int) -> None:
        table = f"entries  table_fulls\n00000002 {full:08x}\n00000002 0000000a\n"
        (self.proc / "net/stat/arp_cache").write_text(table)
        (self.proc / "net/softnet_stat").write_text(f"0000ffff {dropped:08x} 00\n000000ff 00000001 00\n")


def test_limits_are_raised_and_put_back_after_the_last_testbed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for name in ("one", "two"):
        (machine.runtime / name).mkdir()
        assert machine.limits.raise_all() == {}
        assert (machine.value(BACKLOG), machine.value(ARP)) == (LIMITS[BACKLOG], LIMITS[ARP])
    (machine.runtime / "one").rmdir()
    machine.limits.restore()
    assert machine.value(ARP) == LIMITS[ARP], "the other testbed needs it"
    (machine.runtime / "two").rmdir()
    machine.limits.restore()
    assert (machine.value(BACKLOG), machine.value(ARP)) == (1000, 1024)
    assert not list(machine.runtime.iterdir())


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    machine = Machine(tmp_path, **{BACKLOG: 500_000})
    machine.limits.raise_all()
    assert machine.value(BACKLOG) == 500_000, "larger before"
    machine.file(ARP).write_text("4096\n")
    machine.limits.restore()
    assert (machine.value(BACKLOG), machine.value(ARP)) == (500_000, 4096)


def test_other_sizes_last_as_long_as_their_block(tmp_path: Path) -> None:
    machine = Machine(tmp_path, **dict.fromkeys(STOCK_ARP_TABLE, 4096))

    def deploy() -> None:
        with machine.limits.other(STOCK_ARP_TABLE):
            assert {key: machine.value(key) for key in STOCK_ARP_TABLE} == STOCK_ARP_TABLE
            raise ValueError("a deployment that fails")

    with pytest.raises(ValueError, match="a deployment"):
        deploy()
    assert {machine.value(key) for key in STOCK_ARP_TABLE} == {4096}


def test_settings_that_do_not_exist_are_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.file(ARP).unlink()
    assert machine.limits.raise_all() == {}
    assert machine.limits.current() == {BACKLOG: LIMITS[BACKLOG]}
    assert SharedLimits(tmp_path / "never").overflows() == {}
    SharedLimits(tmp_path / "never").restore()


def test_overflows_are_counted_since_the_first_testbed_was_started(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.count(5, 7)
    assert overflow_counts(machine.proc) == {FULL: 15, DROPPED: 8}
    assert machine.limits.overflows() == {}, "no testbed was started"
    machine.limits.raise_all()
    machine.count(5, 107)
    machine.limits.raise_all()
    assert machine.limits.overflows() == {DROPPED: 100}


@pytest.mark.parametrize(
    ("current", "overflows", "code", "part"),
    [
        ({BACKLOG: 1000}, {}, "small-tables", f"{BACKLOG} is 1,000 here"),
        ({BACKLOG: LIMITS[BACKLOG]}, {FULL: 57_044}, "overflows", "ARP table full: 57,044"),
        ({BACKLOG: LIMITS[BACKLOG]}, {}, "ok", "no overflow"),
        ({}, {}, "ok", "no overflow"),
    ],
)
def test_check_reports_small_or_full_tables(
    current: dict[str, int], overflows: dict[str, int], code: str, part: str
) -> None:
    finding = table_finding(current, overflows)
    assert finding.code == code
    assert part in finding.message


@pytest.mark.parametrize("text", ["null", "[1]", "{", ""])
def test_record_that_is_none_is_ignored(tmp_path: Path, text: str) -> None:
    machine = Machine(tmp_path)
    (machine.runtime / "limits.json").write_text(text)
    assert machine.limits.overflows() == {}
    assert machine.limits.raise_all() == {}
    machine.limits.restore()
    assert machine.value(ARP) == 1024
