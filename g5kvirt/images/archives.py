"""Tar archives as images: whether a file is one, its SHA-256, and how much is in it."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import shutil
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from g5kvirt.errors import SpecError
from g5kvirt.images import zstd
from g5kvirt.remote.tar_members import UNREADABLE, BoundedMember

__all__ = ["check_archive", "file_size", "sha256_of", "unpacked_size"]

_MODES: Mapping[str, Literal["r:", "r:gz", "r:bz2", "r:xz"]]
_MODES = {"none": "r:", "gzip": "r:gz", "bzip2": "r:bz2", "xz": "r:xz"}  # zstd: `_check_zstd`

#: Bytes: a larger gzip archive is not unpacked only to find out how much is in it.
_LARGE = 1 << 30


def file_size(path: Path, name: str) -> int:
    """The size in bytes of the image of environment ``name``.

    Raises SpecError if the file is missing, empty, or not a regular one.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, name, error) from error
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device might never end
        raise SpecError(f"the image of {name} is not a file ({path})", advice="name a tar archive")
    if not found.st_size:
        raise SpecError(f"the image of {name} is empty ({path})", advice="create the archive again")
    return found.st_size


def check_archive(path: Path, name: str, compression: str) -> None:
    """Read the head of the first file, so that a bad image is found before VMs fail one by one.

    Raises SpecError.
    """
    try:
        if compression == "zstd":
            _check_zstd(path)
        else:
            with tarfile.open(path, _MODES[compression], tarinfo=BoundedMember) as archive:
                _check_first(archive)
    except PermissionError as error:
        raise _unreadable(path, name, error) from error
    except (*UNREADABLE, zlib.error, lzma.LZMAError) as error:
        format_name = "tar archive" if compression == "none" else f"tar archive in {compression}"
        raise SpecError(
            f"the image of {name} is not a {format_name} ({path}: {error})",
            advice="correct image.compression in its description, or create the archive again",
        ) from error


def _check_first(archive: tarfile.TarFile) -> None:
    if archive.next() is None:
        raise tarfile.ReadError("there is no file in it")


def _check_zstd(path: Path) -> None:
    """As `check_archive`; what is inside is looked at only where this machine has the program zstd."""
    zstd.content_size(path)
    program = shutil.which("zstd")
    if program is None:
        return
    with subprocess.Popen(
        [program, "-d", "-c", "-q", "--", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", tarinfo=BoundedMember) as archive:
                _check_first(archive)
        finally:
            process.kill()  # the rest is not wanted


def sha256_of(path: Path, name: str) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises SpecError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, name, error) from error


def unpacked_size(path: Path, compression: str) -> int:
    """Bytes of the archive when it is unpacked; 0 if finding out would take long. Raises SpecError."""
    size = path.stat().st_size
    if compression == "none":
        return size
    if compression == "zstd":
        try:
            return zstd.content_size(path)
        except (OSError, ValueError) as error:
            raise _corrupt(path, compression, error) from error
    if compression != "gzip" or size >= _LARGE:
        return 0
    try:
        with gzip.open(path) as file:
            return sum(len(block) for block in iter(lambda: file.read(1 << 20), b""))
    except (OSError, EOFError, zlib.error) as error:
        raise _corrupt(path, compression, error) from error


def _corrupt(path: Path, compression: str, error: Exception) -> SpecError:
    return SpecError(
        f"the image {path} is corrupt, {compression} cannot read it ({error})",
        advice="create the archive again",
    )


def _unreadable(path: Path, name: str, error: OSError) -> SpecError:
    return SpecError(
        f"the image of {name} cannot be read ({path}: {error.strerror})",
        advice="correct image.file in its description, or the file's permissions",
    )
