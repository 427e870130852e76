"""Files and directories as one tar archive: packed here for VMs, and unpacked here from VMs."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from g5kvirt.errors import SpecError
from g5kvirt.remote.tar_members import BoundedMember
from g5kvirt.spec.fields import show

__all__ = ["Archive", "Unpacked", "check_path", "packed", "sources_of", "unpack"]

#: Characters of a path on a VM.
LONGEST_PATH = 4000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A tar archive on this machine, and the directory of a VM in which it is to be unpacked."""

    path: Path
    sha256: str
    size: int  #: bytes
    folder: str


@dataclass(frozen=True)
class Unpacked:
    """What an archive gave: bytes of the files that were written, and names of what was left out."""

    size: int
    left_out: tuple[str, ...]


def check_path(name: str, path: object) -> str:
    """A path on a VM, below root's home if it is relative. Raises SpecError for anything else."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or len(text) > LONGEST_PATH or re.search(r"[\0\r\n]", text):
        raise SpecError(f"{name} must be a path on the VMs such as '/root/input', not {show(path)}")
    return text


def sources_of(source: object) -> list[Path]:
    """The files and directories of this machine that are to be copied. Raises SpecError."""
    given = [source] if isinstance(source, str | Path) else source
    if not isinstance(given, Sequence) or not given or not all(isinstance(one, str | Path) for one in given):
        raise SpecError(f"source must be a file, a directory or a list of them, not {show(source)}")
    found = [Path(one).expanduser() for one in given]
    for path in found:
        if not path.exists():
            raise SpecError(f"there is no file or directory {str(path)!r}", advice=f"here is {Path.cwd()}")
        if not os.access(path, os.R_OK):
            raise SpecError(f"{str(path)!r} cannot be read", advice="change its permissions")
    return found


@contextmanager
def packed(sources: Sequence[Path], target: str) -> Iterator[Archive]:
    """Pack files and directories for ``target`` on the VMs, into a temporary file.

    A ``target`` that ends with ``/`` is the directory into which they go under their own names, as several
    sources always do; any other is the path that the only source gets. Symbolic links stay what they are,
    except a source itself. Raises SpecError for what cannot be read, or two sources of one name.
    """
    inside = target.endswith("/") or len(sources) > 1
    path = target.rstrip("/")
    folder = (path or "/") if inside else posixpath.dirname(path) or "."
    names = [source.resolve().name if inside else posixpath.basename(path) for source in sources]
    if not all(names) or names[0] in (".", ".."):
        raise SpecError(f"target {target!r} names no file", advice="give a path such as '/root/input'")
    if len(set(names)) < len(names):
        raise SpecError(
            f"two sources have the same name {max(names, key=names.count)!r}", advice="copy them one by one"
        )
    with tempfile.NamedTemporaryFile(prefix="g5kvirt-", suffix=".tar") as file:
        try:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for source, name in zip(sources, names, strict=True):
                    tar.add(source.resolve(), name, filter=_plain)
        except OSError as error:
            where = error.filename or file.name
            raise SpecError(f"{where} cannot be packed ({error.strerror or error})") from error
        file.flush()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        yield Archive(Path(file.name), digest.hexdigest(), file.tell(), folder)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """A member for any tar: of root, its time in whole seconds. Sockets, pipes and devices are left out."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = int(member.mtime)
    return member


def unpack(stream: IO[bytes], folder: Path) -> Unpacked:
    """Write files and directories of a tar archive into ``folder``, which is made if needed.

    What comes from a VM is not trusted: nothing is written outside ``folder`` or through a link. Symbolic
    links out of it, sockets, devices and files with holes, which may be of any size, are left out; a hard
    link becomes a copy. Raises OSError, and one of `tar_members.UNREADABLE` for a torn archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size, left_out = 0, []
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=BoundedMember) as tar:
        for member in tar:
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            path = folder.joinpath(*parts)
            if ".." in parts or _through_link(folder, parts[:-1]):
                left_out.append(member.name)
            elif member.isdir() and not path.is_symlink():
                path.mkdir(parents=True, exist_ok=True)
            elif member.issym() and _leads_inside(parts, member.linkname):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to(member.linkname)
            elif member.islnk() and (copied := _linked(folder, member.linkname)) is not None:
                _write(copied, path, member)
            elif not member.isreg() or member.issparse():
                left_out.append(member.name)
            else:
                content = tar.extractfile(member)
                assert content is not None
                _write(content, path, member)
                size += member.size
    return Unpacked(size, tuple(left_out))


def _through_link(folder: Path, parents: Sequence[str]) -> bool:
    """Whether the directory of a member is reached through a symbolic link that is there already."""
    return any(folder.joinpath(*parents[:n]).is_symlink() for n in range(1, len(parents) + 1))


def _leads_inside(parts: Sequence[str], link: str) -> bool:
    """Whether a symbolic link stays below the directory into which all is unpacked.

    It may go up at its beginning only: behind a name, which may be a link itself, it would go up from there.
    """
    steps = [step for step in link.split("/") if step not in ("", ".")]
    up = next((n for n, step in enumerate(steps) if step != ".."), len(steps))
    return not link.startswith("/") and up < len(parts) and ".." not in steps[up:]


def _linked(folder: Path, name: str) -> IO[bytes] | None:
    """The file that a hard link is to, if it is one that was written before."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    path = folder.joinpath(*parts)
    if ".." in parts or _through_link(folder, parts) or not path.is_file():
        return None
    return path.open("rb")


def _write(content: IO[bytes], path: Path, member: tarfile.TarInfo) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
    path.chmod(0o600 | member.mode & 0o155)
    with suppress(OverflowError, ValueError, OSError):  # a time beyond all clocks
        os.utime(path, (member.mtime, member.mtime))
