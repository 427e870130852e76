"""The structure of zstd files: how much is in them, and whether they are whole."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zstdmaker import MAGIC, skippable, stored

from g5kvirt.images.zstd import content_size

PROGRAM = shutil.which("zstd") or ""


def size(folder: Path, data: bytes) -> int:
    path = folder / "x.zst"
    path.write_bytes(data)
    return content_size(path)


@pytest.mark.parametrize("length", [0, 1, 5000, 1 << 17, 300_001])
def test_content_size_is_read_off_the_frames(tmp_path: Path, length: int) -> None:
    assert size(tmp_path, stored(b"x" * length)) == length
    assert size(tmp_path, skippable(b"abc") + stored(b"x" * length) + stored(b"yz")) == length + 2
    assert size(tmp_path, stored(b"x" * length, size=False)) == 0, "not known"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not zstd"),
        (b"no archive at all", "not zstd"),
        (skippable(b"abc"), "not zstd"),
        (MAGIC, "truncated"),
        (MAGIC + b"\xa8" + bytes(7), "not zstd"),  # a reserved bit
        (MAGIC + b"\x00\x58" + b"\x07\x00\x00", "a block is corrupt"),
        (stored(b"abc")[:-1], "truncated"),
        (stored(b"abc") + b"trailing", "other data after"),
        (skippable(b"abc")[:-1], "truncated"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        size(tmp_path, data)


@pytest.mark.skipif(not PROGRAM, reason="needs the program zstd")
@pytest.mark.parametrize("option", ["-1", "-19", "--no-check", "--long=27", "--ultra"])
@pytest.mark.parametrize("data", [b"", b"x", bytes(1 << 20), bytes(range(256)) * 3000])
def test_what_the_program_writes_is_read(tmp_path: Path, option: str, data: bytes) -> None:
    (tmp_path / "plain").write_bytes(data)
    subprocess.run([PROGRAM, "-q", option, tmp_path / "plain"], check=True, timeout=60)
    assert content_size(tmp_path / "plain.zst") == len(data)
    packed = subprocess.run(
        [PROGRAM, "-q", option], input=data, stdout=subprocess.PIPE, check=True, timeout=60
    )
    assert size(tmp_path, packed.stdout) in (0, len(data)), "from a pipe it does not know"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([MAGIC, stored(b"ab"), skippable(b"c")]))))
def test_mangled_files_have_a_size_or_one_error(tmp_path: Path, pieces: list[bytes]) -> None:
    try:
        found = size(tmp_path, b"".join(pieces))
    except ValueError:
        return
    assert found >= 0
