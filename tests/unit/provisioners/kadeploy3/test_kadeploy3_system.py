"""The deployment environment: what is in its archive, and whom it lets in. Real VMs: tests/system."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images import packages
from g5kvirt.images.modules import MODULES
from g5kvirt.provisioners.kadeploy3 import system

DRIVERS = {"virtio.ko": b"one", "virtio_net.ko": b"two"}
KEY = "ssh-ed25519 AAAAC3 deploy@server"


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Path → mode and content of an archive in the kernel's format (Linux: buffer-format.rst)."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        numbers = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + numbers[11] - 1].decode()
        at += 110 + numbers[11]
        at += -at % 4
        if name == "TRAILER!!!":
            return found
        assert name not in found, name
        found[name] = (numbers[1], archive[at : at + numbers[6]])
        at += numbers[6]
        at += -at % 4


def made() -> dict[str, tuple[int, bytes]]:
    files = {path: path.encode() for wanted in system.FILES.values() for path in wanted}
    return entries(system.initramfs(files, DRIVERS, system._scripts()))


def test_every_folder_precedes_its_content_and_links_have_targets() -> None:
    found = made()
    modes = [mode for mode, _ in found.values()]
    assert any(map(stat.S_ISDIR, modes))
    assert any(map(stat.S_ISLNK, modes))
    for path, (mode, content) in found.items():
        for parent in Path(path).parents:
            if parent != Path():
                assert stat.S_ISDIR(found[parent.as_posix()][0]), f"{path} without {parent}"
        if stat.S_ISLNK(mode):
            assert (Path(path).parent / content.decode()).as_posix() in found
    # the kernel needs a folder before what is in it
    order = list(found)
    assert all(
        order.index(parent.as_posix()) < order.index(p) for p in order for parent in Path(p).parents[:-1]
    )


def test_programs_that_kadeploy3_calls_on_a_node_are_executable() -> None:
    found = made()
    folders = ("usr/sbin", "usr/bin", "sbin", "bin")  # as dropbear sets root's PATH
    called = (
        "sh bash perl ssh cat mkdir chmod mktemp mkfs mke2fs mkfs.ext4 mount umount tar gzip bzip2 xz test"
    )
    called += (
        " stat sed grep dirname basename nohup sleep sync kexec reboot fdisk dd printf extlinux hostname"
    )
    for program in called.split():
        path = next(f"{folder}/{program}" for folder in folders if f"{folder}/{program}" in found)
        assert stat.S_ISLNK(found[path][0]) or found[path][0] & 0o111, program
    for path in ("bin/bash", "sbin/kexec", "sbin/reboot", "usr/bin/stat", "usr/bin/nohup", "init", "etc/rc"):
        assert stat.S_ISREG(found[path][0])
        assert found[path][0] & 0o111
    assert found["lib/modules/00-virtio.ko"][1] == b"one"
    assert found["lib/modules/01-virtio_net.ko"][1] == b"two"
    assert b"-p 22 -p 25300" in found["etc/inittab"][1]
    assert "root/.ssh/authorized_keys" not in found, "nobody gets in before with_keys"


def test_keys_are_in_a_second_archive() -> None:
    first = gzip.compress(b"the first")
    initrd = system.with_keys(first, [KEY + "\n", "ssh-rsa BBBB run"])
    assert initrd.startswith(first)
    found = entries(gzip.decompress(initrd[len(first) :]))
    assert found["root/.ssh/authorized_keys"] == (
        stat.S_IFREG | 0o600,
        f"{KEY}\nssh-rsa BBBB run\n".encode(),
    )
    assert found["root"][0] & 0o777 == 0o700
    assert initrd == system.with_keys(first, [KEY, "ssh-rsa BBBB run"])


@pytest.mark.parametrize("keys", [[], [""], ["nonsense"], [KEY, f"{KEY}\ncommand ssh-rsa AAAA"]])
def test_invalid_public_key_is_refused(keys: list[str]) -> None:
    with pytest.raises(SpecError, match="public ssh key"):
        system.with_keys(b"", keys)


def test_it_is_built_once_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetches: list[list[str]] = []

    def fetch(names: Any, folder: Path) -> dict[str, Path]:
        fetches.append(list(names))
        made = {name: folder / f"{name}_1.0_amd64.deb" for name in fetches[-1]}
        for path in made.values():
            path.touch()
        return made

    class Contents:
        """A package with any file, and the modules."""

        paths = tuple(f"lib/modules/{name}.ko" for name in MODULES)

        def __init__(self, package: Path) -> None:
            self.name = package.name

        def read(self, path: str) -> bytes:
            return f"{self.name} {path}".encode()

    monkeypatch.setattr(packages, "kernel", lambda: "linux-image-6.1.0-1-cloud-amd64")
    monkeypatch.setattr(packages, "fetch", fetch)
    monkeypatch.setattr(packages, "Contents", Contents)
    monkeypatch.setattr(packages, "renamed", dict)
    one = system.build(tmp_path / "one")
    assert system.build(tmp_path / "one") == one
    assert len(fetches) == 1
    other = system.build(tmp_path / "other")
    assert other.initrd.read_bytes() == one.initrd.read_bytes()
    assert one.manifest["packages"]["perl-base"] == "1.0"
    assert one.kernel.read_bytes().endswith(b"boot/vmlinuz-6.1.0-1-cloud-amd64")
    assert sorted(p.name for p in one.kernel.parent.iterdir()) == ["initrd", "kernel", "manifest.json"]

    def nothing(*_: Any) -> Any:
        raise MachineError("apt failed")

    monkeypatch.setattr(packages, "fetch", nothing)
    with pytest.raises(MachineError):
        system.build(tmp_path / "third")
    assert system.build(tmp_path / "one") == one
