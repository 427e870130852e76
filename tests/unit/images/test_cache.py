"""A build is made once, by one process, and is whole or not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.errors import MachineError
from g5kvirt.images import cache


class Builder:
    """Writes a file with the number of the build into it."""

    def __init__(self) -> None:
        self.builds = 0
        self.error: Exception | None = None

    def __call__(self, work: Path) -> Mapping[str, Any]:
        assert list(work.iterdir()) == []
        self.builds += 1
        (work / "file").write_text(str(self.builds))
        if self.error:
            raise self.error
        time.sleep(0.05)
        return {"build": self.builds}


def test_directories_differ_by_kind_name_and_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = cache.build_directory("environments", "recipe", "mini")
    assert one.parent == tmp_path / "g5kvirt" / "environments"
    assert one.name.startswith("mini-")
    others = [
        cache.build_directory("environments", "recipe"),
        cache.build_directory("environments", "other", "mini"),
        cache.build_directory("tools", "recipe", "mini"),
        cache.build_directory("environments", "recipe", "mini", cache=tmp_path),
    ]
    assert len({one, *others}) == 5
    assert cache.build_directory("environments", "recipe", "mini") == one


def test_build_runs_once_and_again_on_request(tmp_path: Path) -> None:
    builder, home = Builder(), tmp_path / "kind" / "key"
    assert not cache.is_built(home)
    for _ in range(2):
        cache.build(home, builder)
        assert (cache.manifest(home), (home / "file").read_text()) == ({"build": 1}, "1")
    cache.build(home, builder, refresh=True)
    assert (cache.manifest(home), (home / "file").read_text()) == ({"build": 2}, "2")
    assert list(home.parent.iterdir()) == [home]


def test_a_second_builder_waits_and_takes_the_result_of_the_first(tmp_path: Path) -> None:
    builder = Builder()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cache.build(tmp_path / "key", builder), range(8)))
    assert builder.builds == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_failed_build_keeps_the_earlier_one(tmp_path: Path) -> None:
    builder, home = Builder(), tmp_path / "key"
    cache.build(home, builder)
    builder.error = MachineError("no network")
    with pytest.raises(MachineError, match="no network"):
        cache.build(home, builder, refresh=True)
    assert cache.manifest(home) == {"build": 1}
    assert list(tmp_path.iterdir()) == [home]


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".key" / "new"
    left.mkdir(parents=True)
    (left / "file").write_text("half")
    (tmp_path / ".key" / "lock").touch()
    cache.build(tmp_path / "key", Builder())
    assert cache.is_built(tmp_path / "key")
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


def test_waiting_for_another_process_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LOCK_TIMEOUT", 0.1)
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: Path) -> Mapping[str, Any]:
        begun.set()
        go_on.wait(10)
        return {}

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.build, tmp_path / "key", slow)
        assert begun.wait(10)
        with pytest.raises(MachineError, match="another process has been building key"):
            cache.build(tmp_path / "key", Builder())
        go_on.set()
        first.result(10)
    assert cache.is_built(tmp_path / "key")


def test_unwritable_cache_raises_advice(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"cannot be written \(.*set XDG_CACHE_HOME to another directory"):
        cache.build(tmp_path / "file" / "key", Builder())
