"""The archive of an image: listed in one pass, and unpacked."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images import packages
from g5kvirt.remote.tar_members import UNREADABLE, BoundedMember
from g5kvirt.trial.inspection import Tree

__all__ = ["read_tree", "unpack"]

#: Compression → what unpacks it from standard input to standard output, and its Debian package.
_PROGRAMS = {
    "gzip": ("gzip", "gzip"),
    "bzip2": ("bzip2", "bzip2"),
    "xz": ("xz", "xz-utils"),
    "zstd": ("zstd", "zstd"),
}
#: Files whose content decides about a boot, and the most bytes that are read of one.
_TEXTS = ("etc/fstab", "etc/machine-id")
_LONGEST = 1 << 16
#: Seconds to unpack an image.
_LIMIT = 1800.0


def read_tree(path: Path, compression: str, scratch: Path) -> Tree:
    """All members of the archive. Raises SpecError if it is none, MachineError if it cannot be read here."""
    tree = Tree()
    with _unpacked(path, compression, scratch) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=BoundedMember) as archive:
                for member in archive:
                    link = member.linkname if member.issym() else ""
                    tree.add(member.name, _mode(member), link, member.size)
                    if member.islnk():  # as large as what it is a second name of
                        tree.add(member.name, _mode(member), size=tree.sizes.get(_plain(member.linkname), 0))
                    if _plain(member.name) in _TEXTS and member.isreg() and member.size < _LONGEST:
                        file = archive.extractfile(member)
                        tree.texts[_plain(member.name)] = (
                            file.read().decode("utf-8", "replace") if file else ""
                        )
        except UNREADABLE as error:
            raise SpecError(
                f"{path} is not a tar archive in {compression} ({error})",
                advice="correct image.compression in its description, or create the archive again",
            ) from error
    return tree


def _plain(name: str) -> str:
    return name.removeprefix("./").strip("/")


def _mode(member: tarfile.TarInfo) -> int:
    kind = 0o120000 if member.issym() else 0o040000 if member.isdir() else 0o100000
    return kind | (member.mode & 0o7777)


def unpack(path: Path, compression: str, folder: Path, scratch: Path) -> None:
    """Unpack the archive into ``folder``, with owners and device nodes. Raises SpecError, MachineError."""
    with _unpacked(path, compression, scratch) as stream:
        argv = ["tar", "-x", "--numeric-owner", "-p", "-f", "-", "-C", str(folder)]
        done = subprocess.run(argv, stdin=stream, stderr=subprocess.PIPE, timeout=_LIMIT)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [str(done.returncode)]
        raise SpecError(f"{path} cannot be unpacked ({lines[-1]})", advice="create the archive again")


@contextmanager
def _unpacked(path: Path, compression: str, scratch: Path) -> Iterator[IO[bytes]]:
    """The archive without its compression, as a stream."""
    if compression == "none":
        with path.open("rb") as file:
            yield file
        return
    name, package = _PROGRAMS[compression]
    program = shutil.which(name)
    if program is None:
        (fetched,) = packages.fetch([package], scratch).values()
        packages.unpack(fetched, scratch / package)
        program = next((str(p) for p in (scratch / package).glob(f"**/bin/{name}")), "")
        if not program:
            raise MachineError(f"{name} is missing", advice=f"run apt-get install {package}")
    with subprocess.Popen(
        [program, "-d", "-c", "--", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()
