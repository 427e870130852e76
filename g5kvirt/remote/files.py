"""Files for hosts: packed here as one tar stream, put in place there all or nothing."""

from __future__ import annotations

import hashlib
import io
import posixpath
import shlex
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import SpecError

__all__ = ["File", "pack", "unpack_argv"]


@dataclass(frozen=True)
class File:
    """A file to put on hosts: a local file or bytes, the absolute path there, the permission bits there."""

    source: Path | bytes
    target: str
    mode: int = 0o644


def pack(files: Sequence[File], mark: str) -> tuple[bytes, list[str]]:
    """The tar stream with the files under temporary names, and the lines for ``sha256sum -c``.

    ``mark`` makes the temporary names, which lie beside the targets so that a rename is atomic. Raises
    SpecError for a path that is not absolute, a target that is named twice, or a source that cannot be read.
    """
    stream, sums, seen = io.BytesIO(), [], set[str]()
    # the USTAR format is what busybox reads, too; PAX headers only where a name needs one
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            target = posixpath.normpath(file.target)
            if not target.startswith("/") or target == "/" or "\n" in target or "\\" in target:
                raise SpecError(f"{file.target!r} is no absolute path of a file on a host")
            if target in seen:
                raise SpecError(f"two files are to become {target}: give each its own path")
            seen.add(target)
            data = _content(file.source)
            entry = tarfile.TarInfo(_temporary(target, mark))
            entry.size, entry.mode, entry.mtime = len(data), file.mode & 0o7777, int(time.time())
            tar.addfile(entry, io.BytesIO(data))
            digest = hashlib.sha256(data).hexdigest()
            sums.append(f"{digest}  {entry.name}")
    return stream.getvalue(), sums


def unpack_argv(files: Sequence[File], mark: str, sums: Sequence[str]) -> tuple[str, ...]:
    """The command that takes the stream, checks every sum, and only then renames every file into place.

    Whatever fails, the temporary files are removed; missing folders are made.
    """
    targets = [posixpath.normpath(file.target) for file in files]
    temporary = [_temporary(target, mark) for target in targets]
    folders = sorted({posixpath.dirname(target) for target in targets})
    lines = [
        "set -e",
        f"trap 'rm -f -- '{shlex.quote(shlex.join(temporary))} EXIT",
        f"mkdir -p -- {shlex.join(folders)}",
        "tar -x -P -p --no-same-owner -f -",
        f"printf '%s\\n' {shlex.join(sums)} | sha256sum -c - >/dev/null",
        *(f"mv -f -T -- {shlex.join(pair)}" for pair in zip(temporary, targets, strict=True)),
    ]
    return ("sh", "-c", "\n".join(lines))


def _content(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise SpecError(f"{source} cannot be read: {error.strerror}") from error


def _temporary(target: str, mark: str) -> str:
    return posixpath.join(posixpath.dirname(target), f".{posixpath.basename(target)}.{mark}")
