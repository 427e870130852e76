"""When the minimal system is built anew, and when the one in the cache is taken."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.errors import MachineError
from g5kvirt.images import minimal, packages

NOW = {"linux-image-2-cloud-amd64": "2.1", "busybox-static": "1", "ipxe": "1"}


class Apt:
    """What apt has, how often it was asked, and builds that take it as it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has: Mapping[str, str] = NOW
        self.requested = 0
        self.built = 0
        self.trouble: MachineError | None = None
        monkeypatch.setattr(packages, "kernel", lambda: "linux-image-2-cloud-amd64")
        monkeypatch.setattr(packages, "candidates", self.candidates)
        monkeypatch.setattr(minimal, "_build_into", self.build)

    def candidates(self, _names: Any) -> Mapping[str, str]:
        self.requested += 1
        if self.trouble:
            raise self.trouble
        return self.has

    def build(self, _work: Path, *_: Any) -> dict[str, Any]:
        if self.trouble:
            raise self.trouble
        self.built += 1
        return {"packages": dict(self.has)}


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch) -> Apt:
    return Apt(monkeypatch)


def a_day_later(cache: Path) -> None:
    (stamp,) = cache.glob("*/checked")
    os.utime(stamp, (stamp.stat().st_atime, stamp.stat().st_mtime - minimal.FRESH - 1))


def test_system_is_available_if_cached_or_known_to_apt(apt: Apt, tmp_path: Path) -> None:
    assert minimal.build_obstacle(tmp_path) is None
    apt.trouble = MachineError("apt does not know ipxe: run apt-get update")
    assert str(minimal.build_obstacle(tmp_path)) == "apt does not know ipxe: run apt-get update"
    apt.trouble = None
    minimal.build(tmp_path)
    apt.trouble = MachineError("apt is missing")
    assert minimal.build_obstacle(tmp_path) is None


def test_apt_is_queried_once_a_day_and_unchanged_packages_are_not_rebuilt(apt: Apt, tmp_path: Path) -> None:
    for _ in range(3):
        minimal.build(tmp_path)
    assert (apt.built, apt.requested) == (1, 0)
    a_day_later(tmp_path)
    for _ in range(3):
        minimal.build(tmp_path)
    assert (apt.built, apt.requested) == (1, 1)


def test_newer_package_triggers_a_rebuild(apt: Apt, tmp_path: Path) -> None:
    minimal.build(tmp_path)
    apt.has = {**NOW, "ipxe": "1.1"}
    assert minimal.build(tmp_path).manifest["packages"] == NOW
    a_day_later(tmp_path)
    assert minimal.build(tmp_path).manifest["packages"] == apt.has
    assert minimal.build(tmp_path).manifest["packages"] == apt.has
    assert apt.built == 2
    assert len(list(tmp_path.iterdir())) == 1  # nothing lies about


def test_without_apt_the_cached_system_is_used(apt: Apt, tmp_path: Path) -> None:
    minimal.build(tmp_path)
    a_day_later(tmp_path)
    apt.trouble = MachineError("no lists")
    assert minimal.build(tmp_path).manifest["packages"] == NOW
    with pytest.raises(MachineError, match="no lists"):
        minimal.build(tmp_path, refresh=True)
    with pytest.raises(MachineError, match="no lists"):
        minimal.build(tmp_path / "empty")


def test_newer_packages_that_cannot_be_fetched_are_reported(
    apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimal.build(tmp_path)
    a_day_later(tmp_path)
    apt.trouble = MachineError("no network")
    monkeypatch.setattr(packages, "candidates", lambda _: {**NOW, "ipxe": "2"})
    told: list[str] = []
    assert minimal.build(tmp_path, told.append).manifest["packages"] == NOW
    assert len(told) == 1
    assert "no network" in told[0]


def test_candidates_are_read_from_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"""ipxe:
  Installed: (none)
  Candidate: 1.0.0+git-2
  Version table:
     1.0.0+git-2 500
busybox-static:
  Installed: 1:1.35
  Candidate: 1:1.36
gone:
  Installed: (none)
  Candidate: (none)
"""
    monkeypatch.setattr(packages, "_run", lambda _: text)
    assert packages.candidates(["busybox-static", "ipxe"]) == {
        "busybox-static": "1:1.36",
        "ipxe": "1.0.0+git-2",
    }
    with pytest.raises(MachineError, match="gone"):
        packages.candidates(["ipxe", "gone"])
