"""Files for hosts: packed here into one tar stream, installed there all or nothing."""

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
    """A file to copy to hosts: a local file or bytes, and absolute path and permission bits on the host."""

    source: Path | bytes
    target: str
    mode: int = 0o644


def pack(files: Sequence[File], mark: str) -> bytes:
    """The tar stream: a list for ``sha256sum -c``, then the files under temporary names.

    ``mark`` is part of the temporary names, which are in the directories of the targets so that a rename is
    atomic. Raises SpecError for a path that is not absolute, a duplicate target, or an unreadable source.
    """
    contents: dict[str, tuple[bytes, int]] = {}
    for file in files:
        target = posixpath.normpath(file.target)
        if not target.startswith("/") or target == "/" or "\n" in target or "\\" in target:
            raise SpecError(f"{file.target!r} is not an absolute path of a file on a host")
        if target in contents:
            raise SpecError(f"two files have the same target {target}", advice="give each file its own path")
        contents[target] = _content(file.source), file.mode & 0o7777
    named = {_temporary(target, mark): content for target, content in contents.items()}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, (data, _) in named.items())
    stream, now = io.BytesIO(), int(time.time())
    # USTAR, which busybox can read too; PAX headers only for names that need one
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, (data, mode) in {_list(files, mark): (sums.encode(), 0o600), **named}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, now
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def unpack_argv(files: Sequence[File], mark: str) -> tuple[str, ...]:
    """The command that reads the stream, verifies every checksum, and only then renames the files into place.

    On any failure the temporary files are removed; missing directories are created. The names are read from
    the list in the stream: a command line is limited to 128 KiB, which is only some hundred files.
    """
    folders = sorted({posixpath.dirname(posixpath.normpath(file.target)) for file in files})
    lines = [
        "set -e",
        f"list={shlex.quote(_list(files, mark))}",
        'clean() { if [ -f "$list" ]; then',
        rf"""  sed -n 's/^.\{{66\}}\(.*\.{mark}\)$/\1/p' "$list" |""",
        r"""  tr '\n' '\0' | xargs -0 rm -f -- "$list"; fi; }""",
        "trap clean EXIT",
        f"mkdir -p -- {shlex.join(folders)}",
        "tar -x -P -p --no-same-owner -f -",
        'sha256sum -c "$list" >/dev/null',
        "while IFS= read -r line; do",
        '  temporary=${line#*"  "} name=${line##*/.}',
        f'  mv -f -T -- "$temporary" "${{temporary%/*}}/${{name%.{mark}}}"',
        'done <"$list"',
        'rm -f -- "$list"',
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


def _list(files: Sequence[File], mark: str) -> str:
    """Temporary path of the list: in the directory of the first file."""
    return posixpath.join(posixpath.dirname(posixpath.normpath(files[0].target)), f".g5kvirt.{mark}")
