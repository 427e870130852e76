"""The tables that come with the project, the recorded runs, and the tables behind the figures."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path

import pandas as pd
import pytest
from measuremaker import deploy_events, measure_events
from runmaker import run_events

from g5kvirt import data_tables
from g5kvirt.run.directory import find
from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames
from g5kvirt.spec.spec import Spec
from g5kvirt.views.measure_tables import differing, flat, nodes_table
from g5kvirt.views.tables import map_table, steps_table

RECORDED = sorted(path.parent for path in (Path(__file__).parents[2] / "data" / "runs").glob("*/run.json"))


def test_tables_exist_and_are_read() -> None:
    assert {row["site"] for row in data_tables.rows("sites_2026.csv")} >= {"nancy", "rennes"}
    assert data_tables.rows("clusters_2013.csv")[0]["source"].startswith("grid5000/reference-repository")
    for name in ("clusters_2026.csv", "sites_2013.csv"):
        assert data_tables.rows(name)


def test_installed_package_contains_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "g5kvirt"
    (package / "_data").mkdir(parents=True)
    (package / "_data" / "mine.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(data_tables, "_PACKAGE", package)
    assert data_tables.path("mine.csv") == package / "_data" / "mine.csv"
    assert data_tables.rows("mine.csv") == ({"a": "1", "b": "2"},)
    data_tables.path.cache_clear()
    data_tables.rows.cache_clear()


def test_missing_table_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="neither"):
        data_tables.path("none.csv")


def test_published_values_have_a_source() -> None:
    published = data_tables.rows("published.csv")
    assert len(published) >= 15
    for row in published:
        assert row["source"]
        assert row["unit"]
        assert float(row["low"] or 0) <= float(row["high"])
    assert any(row["high"] == "4552" and row["unit"] == "VMs" for row in published)


def test_recorded_runs_exist() -> None:
    names = {path.name for path in RECORDED}
    assert names >= {"http", "tftp"}
    assert len([name for name in names if name.startswith("window-")]) >= 2


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_recorded_run_is_complete_small_and_without_private_data(path: Path) -> None:
    journal = find(path.parent, path.name).journal
    assert {file.name for file in path.iterdir()} == {"run.json", journal.name}
    compressed = journal.suffix == ".xz"
    data = journal.read_bytes()
    assert len(data) < (6_000_000 if compressed else 300_000)
    text = (lzma.decompress(data) if compressed else data).decode()
    words = (path / "run.json").read_text() + text
    assert not re.search(r"/(root|home|tmp|work|builds)/|PRIVATE KEY|ssh-ed25519|local:", words)
    document = json.loads((path / "run.json").read_text())
    asked = Spec.from_dict(document["spec"])
    assert document["testbed"] == "local"
    assert {"cpu", "cores", "memory_gib", "busy_before"} <= set(document["recorded"])
    frames = Frames(read_events(journal))
    assert frames.guest in (("light",) if asked.guest == "light" else ("tcg", "kvm"))
    whole = frames.account
    assert whole.requested == whole.up + whole.failed + whole.unfinished == asked.vms
    deployments = frames.measurements.deployments
    assert (deployments["unfinished"] == 0).all()


def test_differing_compares_documents_by_key() -> None:
    one = flat({"a": {"b": 1, "c": None}, "d": [1], "e": {}})
    assert one == {"a.b": 1, "a.c": None, "d": [1], "e": {}}
    other = flat({"a": {"b": 2, "c": None}, "d": [1], "f": 0})
    assert differing([one, other]) == ["a.b", "e", "f"]
    assert differing([one]) == differing([]) == []


def test_steps_table_has_boots_and_deployments_in_order() -> None:
    frames = Frames([*run_events(8), *measure_events((8,), 2)])
    table = steps_table(frames)
    assert table["seconds"].notna().all()
    names = list(dict.fromkeys(zip(table["macro"], table["step"], strict=True)))
    assert names[:2] == [("launch", "dhcp"), ("launch", "script")]
    assert [step for macro, step in names if macro == "BroadcastEnv"] == [
        "image",
        "postinstall",
        "bootloader",
        "sync",
    ]
    counts = table.groupby(["macro", "step"]).size()
    assert counts["launch", "kernel"] == 8
    assert counts["BroadcastEnv", "image"] == 16
    assert "total" not in set(table["step"])


def test_nodes_table_is_sorted_by_site_and_host() -> None:
    events = [*run_events(24, hosts=12), *deploy_events("d1", 24, bad={"vm-5": ("image", 99, "no")})]
    table = nodes_table(Frames(events), "d1")
    assert len(table) == 24
    assert list(dict.fromkeys(table["host"]))[1] == "paradent-2.rennes.grid5000.fr", "not paradent-10"
    assert table.groupby("host", sort=False).size().tolist() == [2] * 12
    known = Frames(events).measurements
    end = known.vms.set_index("vm")["end"] - known.deployments["start"].iloc[0]
    pd.testing.assert_series_equal(
        table.set_index("vm")["seconds"].sort_index(), end.sort_index(), check_names=False
    )
    assert table.set_index("vm").loc["vm-5", ["outcome", "failed_at"]].tolist() == ["failed", "image"]


def test_map_table_includes_hosts_without_vms() -> None:
    events = run_events(4, hosts=2, lost=1)
    table = map_table(Frames(events))
    assert (table["name"] != "").sum() == 4
    assert table["state"].value_counts().to_dict() == {"up": 3, "failed": 1}
    more = map_table(Frames([*run_events(3, hosts=4), *deploy_events("d1", 2)]))
    empty = more[more["name"] == ""]
    assert list(empty["host"]) == ["paradent-4.rennes.grid5000.fr"]
    assert more.set_index("name").loc[["vm-1", "vm-3"], "state"].tolist() == ["deployed", "up"]
    assert more.set_index("name")["deployment"].notna().sum() == 2
