"""What kexec loads is read from the image: the kernel's header, and the initrd, wherever links lead."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import pytest

from g5kvirt.images.kexec import KERNEL_RESERVE, least_memory, loaded_bytes

INIT_SIZE, INITRD = 58_580_992, 300_000


def kernel(init_size: int = INIT_SIZE, magic: bytes = b"HdrS", version: int = 0x20F) -> bytes:
    data = bytearray(400_000)
    data[0x202:0x206] = magic
    struct.pack_into("<H", data, 0x206, version)
    struct.pack_into("<I", data, 0x260, init_size)
    return bytes(data)


def archive(path: Path, *members: tuple[str, bytes | str], compression: str = "") -> Path:
    """Files, and links (text: the target; hard ones begin with ``=``)."""
    with tarfile.open(path, f"w:{compression}") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                continue
            info.type = tarfile.LNKTYPE if content.startswith("=") else tarfile.SYMTYPE
            info.linkname = content.removeprefix("=")
            tar.addfile(info)
    return path


DEBIAN: tuple[tuple[str, bytes | str], ...] = (
    ("./boot/initrd.img-6", b"i" * INITRD),
    ("./boot/vmlinuz-6", kernel()),
    ("./initrd.img", "boot/initrd.img-6"),
    ("./vmlinuz", "boot/vmlinuz-6"),
)


@pytest.mark.parametrize(
    ("name", "compression"), [("none", ""), ("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz")]
)
def test_of_a_debian(name: str, compression: str, tmp_path: Path) -> None:
    image = archive(tmp_path / "image", *DEBIAN, compression=compression)
    assert loaded_bytes(image, name, "/vmlinuz", "/initrd.img") == INIT_SIZE + INITRD
    assert loaded_bytes(image, name, "/boot/vmlinuz-6", "") == INIT_SIZE


@pytest.mark.parametrize(
    "members",
    [
        [("usr/boot/k", kernel()), ("boot", "usr/boot"), ("vmlinuz", "/boot/k")],
        [("boot/k", kernel()), ("boot/link", "../boot/./k"), ("vmlinuz", "boot/link")],
        [("boot/k", kernel()), ("vmlinuz", "=boot/k")],
        [("vmlinuz", kernel())],
    ],
)
def test_links_are_followed(members: list[tuple[str, bytes | str]], tmp_path: Path) -> None:
    assert loaded_bytes(archive(tmp_path / "image", *members), "none", "/vmlinuz", "") == INIT_SIZE


@pytest.mark.parametrize(
    "members",
    [
        [("vmlinuz", kernel(magic=b"ELF!"))],
        [("vmlinuz", kernel(version=0x209))],
        [("vmlinuz", b"HdrS")],
        [("vmlinuz", "vmlinuz")],
        [("vmlinuz", "a"), ("a", "vmlinuz")],
        [("other", kernel())],
    ],
)
def test_what_is_not_known_is_zero(members: list[tuple[str, bytes | str]], tmp_path: Path) -> None:
    assert loaded_bytes(archive(tmp_path / "image", *members), "none", "/vmlinuz", "") == 0


def test_an_initrd_that_is_not_there_and_a_broken_archive_are_not_known(tmp_path: Path) -> None:
    image = archive(tmp_path / "image", ("vmlinuz", kernel()))
    assert loaded_bytes(image, "none", "/vmlinuz", "/initrd.img") == 0
    (tmp_path / "broken").write_bytes(image.read_bytes()[:700])
    assert loaded_bytes(tmp_path / "broken", "none", "/vmlinuz", "") == 0
    assert loaded_bytes(image, "gzip", "/vmlinuz", "") == 0
    assert loaded_bytes(image, "zstd", "/vmlinuz", "") == 0


def test_half_of_the_memory_holds_it() -> None:
    loaded = 66 << 20
    assert least_memory(loaded) == 2 * 66 + KERNEL_RESERVE
    assert least_memory(loaded + 1) == 2 * 66 + 1 + KERNEL_RESERVE
