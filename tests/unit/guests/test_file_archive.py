"""Archives for VMs and from VMs: what is in them, and what does not get out of them."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.guests.archive import check_path, packed, sources_of, unpack
from g5kvirt.remote.tar_members import UNREADABLE


def entry(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, data


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, data in entries:
            tar.addfile(member, io.BytesIO(data))
    stream.seek(0)
    return stream


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "sub/run.sh").write_text("#!/bin/sh\n")
    (folder / "sub/run.sh").chmod(0o755)
    (folder / "latest").symlink_to("sub/run.sh")
    os.link(folder / "a", folder / "same")
    os.mkfifo(folder / "pipe")
    return folder


def test_what_is_packed_comes_out_again(tree: Path, tmp_path: Path) -> None:
    with packed([tree], "/root/input") as made:
        assert (made.folder, made.size) == ("/root", made.path.stat().st_size)
        assert made.sha256 == hashlib.sha256(made.path.read_bytes()).hexdigest()
        with tarfile.open(made.path) as tar:
            owners = {(member.uid, member.uname, member.gid) for member in tar}
            names = set(tar.getnames())
        with made.path.open("rb") as stream:
            found = unpack(stream, tmp_path / "out")
    assert not made.path.exists()
    assert owners == {(0, "", 0)}
    files = {"input", "input/a", "input/sub", "input/sub/run.sh", "input/latest", "input/same"}
    assert names == files, "a pipe is no file"
    out = tmp_path / "out/input"
    assert found.left_out == ()
    assert found.size == 3 + 10
    assert (out / "a").read_text() == (out / "same").read_text() == "one"
    assert (out / "latest").readlink() == Path("sub/run.sh")
    assert os.access(out / "sub/run.sh", os.X_OK)
    assert not os.access(out / "a", os.X_OK)
    assert int((out / "a").stat().st_mtime) == int((tree / "a").stat().st_mtime)


@pytest.mark.parametrize(
    ("sources", "target", "folder", "names"),
    [
        (["a"], "/root/b", "/root", {"b"}),
        (["a"], "/root/", "/root", {"a"}),
        (["a"], "b", ".", {"b"}),
        (["a"], "/", "/", {"a"}),
        (["a", "latest"], "/root/in", "/root/in", {"a", "run.sh"}),
    ],
)
def test_target_names_the_file_or_the_directory(
    tree: Path, sources: list[str], target: str, folder: str, names: set[str]
) -> None:
    with packed([tree / name for name in sources], target) as made, tarfile.open(made.path) as tar:
        assert (made.folder, set(tar.getnames())) == (folder, names)
        assert all(member.isreg() for member in tar), "a source that is a link is the file behind it"


def test_bad_paths_are_refused_before_anything_is_packed(tree: Path) -> None:
    for source in (tree / "nothing", [], 3, [tree, None], {"a": 1}):
        with pytest.raises(SpecError):
            sources_of(source)
    for target in ("", "a\nb", "a\0", 7, None, b"/x", "x" * 5000):
        with pytest.raises(SpecError, match="must be a path on the VMs"):
            check_path("target", target)
    with pytest.raises(SpecError, match="two sources have the same name 'a'"), packed([tree / "a"] * 2, "/x"):
        pass


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    stream = archive(
        entry("../secret", b"x"),
        entry("/secret2", b"x"),
        entry("out", type=tarfile.SYMTYPE, linkname=".."),
        entry("out/secret", b"x"),
        entry("up", type=tarfile.SYMTYPE, linkname="sub/../../secret"),
        entry("abs", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("hard", type=tarfile.LNKTYPE, linkname="../secret"),
        entry("node", type=tarfile.CHRTYPE),
        entry("in", type=tarfile.SYMTYPE, linkname="real"),
        entry("real", type=tarfile.DIRTYPE, mode=0o700),
        entry("in/through", b"x"),
        entry("fine", b"good", mode=0o4777),
    )
    found = unpack(stream, tmp_path / "folder")
    assert set(found.left_out) == {"../secret", "out", "up", "abs", "hard", "node", "in/through"}
    assert (tmp_path / "secret").read_text() == "mine"
    assert (tmp_path / "folder/secret2").read_text() == "x", "an absolute path is one below the directory"
    assert (tmp_path / "folder/out/secret").read_text() == "x", "in a directory, as the link was left out"
    assert not (tmp_path / "folder/real/through").exists()
    assert (tmp_path / "folder/fine").stat().st_mode & 0o7777 == 0o755, "no set-user-ID, not for all to write"


def test_torn_archive_is_an_error(tmp_path: Path) -> None:
    stream = archive(entry("a", b"x" * 100_000))
    with pytest.raises((tarfile.TarError, OSError)):
        unpack(io.BytesIO(stream.getvalue()[:5000]), tmp_path / "folder")


def test_links_that_go_up_behind_another_link_are_left_out(tmp_path: Path) -> None:
    def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
        return entry(name, type=tarfile.SYMTYPE, linkname=target)

    stream = archive(
        link("here", "."),
        link("out", "here/../other"),
        entry("a", type=tarfile.DIRTYPE, mode=0o700),
        link("a/up", "../fine"),
        link("a/too-far", "../../fine"),
        link("a/fine", "./b/c"),
        link("top", ".."),
    )
    found = unpack(stream, tmp_path / "folder")
    assert set(found.left_out) == {"out", "a/too-far", "top"}
    for path in (tmp_path / "folder").rglob("*"):
        assert path.resolve().is_relative_to(tmp_path / "folder")


def raw(**fields: object) -> bytes:
    """A header as somebody writes it by hand."""
    info = tarfile.TarInfo("x")
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def test_an_archive_takes_no_more_memory_room_or_time_than_it_has_bytes(tmp_path: Path) -> None:
    class Endless(io.BytesIO):
        """Zeros behind what there is."""

        def __init__(self, head: bytes) -> None:
            super().__init__(head)
            self.given = 0

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            self.given += size or 0
            assert self.given < 100 << 20, "it is read without end"
            return found + bytes(max(0, (size or 0) - len(found)))

    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        with pytest.raises(tarfile.TarError, match="a header of"):
            unpack(Endless(raw(type=kind, size=1 << 40)), tmp_path / "folder")
    negative = bytearray(raw(type=tarfile.REGTYPE, size=1))
    negative[124:136] = b"\xff" * 12  # -1 in base 256
    negative[148:156] = b"%06o\0 " % (256 + sum(negative[:148]) + sum(negative[156:]))
    with pytest.raises(tarfile.TarError, match="a header of"):
        unpack(Endless(bytes(negative)), tmp_path / "folder")
    late = archive(entry("late", b"x", mtime=8**11 - 1), entry("later", b"y", mtime=1 << 70))
    assert unpack(late, tmp_path / "late").left_out == ()
    assert (tmp_path / "late/later").read_bytes() == b"y"
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0"}
    holes = tarfile.TarInfo("holes")
    holes.pax_headers = {**headers, "GNU.sparse.size": str(1 << 50), "GNU.sparse.name": "holes"}
    stream = io.BytesIO(holes.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    assert unpack(stream, tmp_path / "holes").left_out == ("holes",)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_archive_raises_what_nobody_expects(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(archive(entry("a/b", b"x" * 600), entry("n" * 150, b"y")).getvalue())
    for _ in range(data.draw(st.integers(1, 12))):
        good[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("mutated")
    with suppress(*UNREADABLE):
        unpack(io.BytesIO(bytes(good)), folder / "in")
    assert [path.name for path in folder.iterdir()] in ([], ["in"])
