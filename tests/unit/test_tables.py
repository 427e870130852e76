from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt import tables


def test_tables_are_there_and_read() -> None:
    assert {row["site"] for row in tables.rows("sites_2026.csv")} >= {"nancy", "rennes"}
    assert tables.rows("clusters_2013.csv")[0]["source"].startswith("grid5000/reference-repository")
    for name in ("clusters_2026.csv", "sites_2013.csv"):
        assert tables.rows(name)


def test_an_installed_package_has_them_beside_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "g5kvirt"
    (package / "_data").mkdir(parents=True)
    (package / "_data" / "mine.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(tables, "_PACKAGE", package)
    assert tables.path("mine.csv") == package / "_data" / "mine.csv"
    assert tables.rows("mine.csv") == ({"a": "1", "b": "2"},)
    tables.path.cache_clear()
    tables.rows.cache_clear()


def test_a_table_that_is_nowhere() -> None:
    with pytest.raises(FileNotFoundError, match="neither"):
        tables.path("none.csv")
