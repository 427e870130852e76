"""An archive as one file, and out of it again: nothing that is in it is trusted before it is checked."""

from __future__ import annotations

import errno
import json
import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from g5kvirt.artifact.crate import METADATA, digest
from g5kvirt.errors import RunError, SpecError
from g5kvirt.run.printable import short
from g5kvirt.views.formatting import count

__all__ = ["MANIFEST", "VERSIONS", "check_manifest", "pack", "read_versions", "unpack", "write_manifest"]

MANIFEST = "manifest-sha256.txt"  #: as of BagIt (RFC 8493): `sha256sum -c` reads it, too
VERSIONS = "versions.json"

#: Bytes and files that an archive may unpack to: far beyond any of ours.
_LARGEST = 16 << 30
_MOST = 200_000
_READ = ("run.json", "journal.jsonl", "journal.jsonl.xz")  #: what figures are drawn of
_AGAIN = "unpack the archive again, or download it again"
_EPOCH = (1980, 1, 1, 0, 0, 0)  #: the same archive has the same bytes
#: What zipfile raises for bytes that are wrong.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
#: Names that cannot be, or cannot be together; None is of bz2, for bytes that are wrong.
_NAMES = (None, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write_manifest(folder: Path) -> list[str]:
    """Write the checksum of every file below ``folder``; returns their names, the manifest's too."""
    names = _files(folder)
    lines = "".join(f"{digest(folder / name)}  {name}\n" for name in names)
    (folder / MANIFEST).write_text(lines, encoding="utf-8")
    return sorted([*names, MANIFEST])


def pack(folder: Path, file: Path) -> None:
    """Write all files below ``folder`` as a zip, whole or not at all."""
    temporary = file.with_name(f".{file.name}.part")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in _files(folder):
                info = zipfile.ZipInfo(name, _EPOCH)
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                info.create_system = 3
                with (
                    (folder / name).open("rb") as source,
                    archive.open(info, "w", force_zip64=True) as target,
                ):
                    shutil.copyfileobj(source, target, 1 << 20)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def unpack(file: Path, folder: Path) -> None:
    """Unpack an archive into ``folder``, which is new or empty, and check it (`check_manifest`).

    Raises RunError for a file that is no archive of ours, or is damaged, or has names that lead out of the
    folder, or files without a checksum, and leaves nothing; SpecError if there is something in the folder.
    """
    there = folder.exists()
    if there and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder} already exists", advice="choose another folder with --into")
    try:
        _extract(file, folder)
        listed = check_manifest(folder)
        if more := [name for name in _files(folder) if name not in listed and name != MANIFEST]:
            raise RunError(
                f"{file} has {count(len(more), 'file')} that its {MANIFEST} does not list: {short(more[0])}",
                advice="download it again",
            )
    except BaseException:
        for path in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if folder.is_dir() and not there:
            folder.rmdir()
        raise


def _extract(file: Path, folder: Path) -> None:
    """Write the files of an archive into ``folder``. Raises RunError."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            _check_members(file, members)
            for one in members:
                target = folder / one.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(one) as source, target.open("xb") as written:
                    shutil.copyfileobj(source, written, 1 << 20)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NAMES:
            raise  # no room, no permission
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunError(f"{file} is damaged, or not an archive of g5kvirt ({short(str(reason))})") from error


def _check_members(file: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise RunError for names that lead out of the folder, links, and sizes that no archive has."""
    names = {one.filename for one in members}
    if MANIFEST not in names or METADATA not in names:
        raise RunError(f"{file} is not an archive of g5kvirt", advice="choose one made by g5kvirt archive")
    for one in members:
        path = PurePosixPath(one.filename)
        is_link = stat.S_ISLNK(one.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in one.filename or is_link:
            raise RunError(f"{file} contains a path outside its folder: {one.filename!r}")
    if len(members) > _MOST or sum(one.file_size for one in members) > _LARGEST:
        raise RunError(f"{file} would unpack to more than {_LARGEST >> 30} GiB or {_MOST:,} files")


def check_manifest(folder: Path) -> set[str]:
    """The names in the manifest. Raise RunError unless each is there with its checksum, as is every run."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise RunError(f"{folder} is not an archive of g5kvirt: it has no {MANIFEST}")
    listed = set()
    for line in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        inside = PurePosixPath(found[2]) if found else PurePosixPath("..")
        if found is None or inside.is_absolute() or ".." in inside.parts:
            raise RunError(f"{manifest} cannot be read: {line[:100]!r} is not a checksum with a file name")
        path = folder / inside
        if not path.is_file() or digest(path) != found[1]:
            raise RunError(
                f"{short(str(path))} {'differs from what was archived' if path.exists() else 'is missing'}",
                advice=_AGAIN,
            )
        listed.add(inside.as_posix())
    for name in _files(folder / "runs"):
        if PurePosixPath(name).name in _READ and f"runs/{name}" not in listed:
            raise RunError(f"{folder}/runs/{short(name)} was not archived: it has no checksum", advice=_AGAIN)
    return listed


def read_versions(folder: Path) -> Mapping[str, str]:
    """With which software the archive was made: name → version; empty if it does not say."""
    try:
        found: Any = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    known = found if isinstance(found, dict) else {}
    return {short(str(name), 40): short(str(value), 40) for name, value in known.items()}


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
