"""Images of light guests: what an archive can do to its host, which is nothing."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import time
from pathlib import Path

import pytest
from zstdmaker import stored

from g5kvirt.hostagent.onhost.light import image
from g5kvirt.hostagent.onhost.light.image import ImageStore
from g5kvirt.hostagent.onhost.light.loop import Loop, sleep

SHA = "ab" * 32


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    info.uid, info.gid = os.getuid(), os.getgid()
    return info


def unpack(place: Path, data: bytes, compression: str = "none") -> tuple[str, Path]:
    """Why it failed, or "", and where the image is."""
    loop = Loop()
    store = ImageStore(str(place), loop)
    writer = store.writer(SHA)
    assert writer is not None
    writer.write(data)
    results: list[str] = []

    async def run() -> None:
        results.append(await writer.unpack(compression))
        await sleep(0.01)  # an event, after which the loop looks whether it is done

    loop.spawn(run())
    end = time.monotonic() + 20
    loop.run(lambda: not results and time.monotonic() < end)
    writer.close()
    return results[0], Path(store.directory(SHA))


def test_an_image_in_zstd_is_unpacked(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("needs the program zstd")
    reason, root = unpack(tmp_path / "images", stored(archive((member("etc/name"), b"vm"))), "zstd")
    assert reason == ""
    assert (root / "etc/name").read_bytes() == b"vm"


def test_a_host_without_zstd_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    reason, root = unpack(tmp_path / "images", b"", "zstd")
    assert "the host has no zstd: install that package" in reason
    assert not root.exists()


def test_members_that_lead_out_of_the_image_stay_inside_or_are_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    inside = tmp_path / "images"
    data = archive(
        (member("bin/sh"), b"#!"),
        (member("../victim"), b"evil"),
        (member(str(victim)), b"evil"),
        (member("link", tarfile.SYMTYPE, str(tmp_path)), b""),
        (member("link/victim"), b"evil"),
        (member("hard", tarfile.LNKTYPE, "../../victim"), b""),
    )
    reason, root = unpack(inside, data)
    assert victim.read_text() == "mine"
    assert victim.stat().st_nlink == 1
    assert reason or (root / "bin/sh").exists()
    assert "previous errors" not in reason, "the error itself is named"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "victim"]


def test_device_files_of_a_debian_are_left_out(tmp_path: Path) -> None:
    data = archive(
        (member("./dev", tarfile.DIRTYPE, mode=0o755), b""),
        (member("./dev/null", tarfile.CHRTYPE), b""),
        (member("dev/zero", tarfile.CHRTYPE), b""),
        (member("./usr/lib/dev/kept"), b"x"),
    )
    reason, root = unpack(tmp_path / "images", data)
    assert reason == ""
    assert list((root / "dev").iterdir()) == []
    assert (root / "usr/lib/dev/kept").read_bytes() == b"x"


def test_setuid_files_are_out_of_reach_of_other_users(tmp_path: Path) -> None:
    reason, root = unpack(tmp_path / "images", archive((member("bin/su", mode=0o4755), b"#!")))
    assert not reason
    assert root.joinpath("bin/su").stat().st_mode & stat.S_ISUID, "the guest may have what it wants"
    assert stat.S_IMODE(root.parent.stat().st_mode) == 0o700


def test_an_archive_that_unpacks_to_very_much_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "MOST", 1 << 20)
    many = archive(*((member(f"f{i}"), os.urandom(1 << 20)) for i in range(200)))
    reason, root = unpack(tmp_path / "images", many)
    assert "unpacks to more than 1 MiB" in reason
    assert not root.exists()
    assert list(root.parent.iterdir()) == [], "nothing of it stays"


def test_guests_that_wait_for_the_writer_go_on_when_it_ends(tmp_path: Path) -> None:
    loop = Loop()
    store = ImageStore(str(tmp_path / "images"), loop)
    writer = store.writer(SHA)
    assert writer is not None
    assert store.writer(SHA) is None, "one writes it"
    woken: list[int] = []

    async def wait(number: int) -> None:
        await store.written(SHA)
        woken.append(number)
        await sleep(0.0)

    async def end() -> None:
        await sleep(0.05)
        assert not woken
        loop.cancel(given_up)
        writer.close()
        await sleep(0.05)

    for number in range(3):
        loop.spawn(wait(number))
    given_up = loop.spawn(wait(3))
    loop.spawn(end())
    deadline = time.monotonic() + 5
    loop.run(lambda: len(woken) < 3 and time.monotonic() < deadline)
    assert sorted(woken) == [0, 1, 2]
    assert not store.is_ready(SHA)
