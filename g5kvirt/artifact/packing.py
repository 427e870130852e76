"""An archive as one file, and out of it again: nothing that is in it is trusted before it is checked."""

from __future__ import annotations

import json
import re
import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from g5kvirt.artifact.crate import METADATA, digest
from g5kvirt.errors import RunError, SpecError

__all__ = ["MANIFEST", "VERSIONS", "check_manifest", "pack", "read_versions", "unpack", "write_manifest"]

MANIFEST = "manifest-sha256.txt"  #: as of BagIt (RFC 8493): `sha256sum -c` reads it, too
VERSIONS = "versions.json"

#: Bytes and files that an archive may unpack to: far beyond any of ours.
_LARGEST = 16 << 30
_MOST = 200_000
_EPOCH = (1980, 1, 1, 0, 0, 0)  #: the same archive has the same bytes
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
    folder; SpecError if there is something in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder} already exists", advice="choose another folder with --into")
    try:
        with zipfile.ZipFile(file) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            _check_members(file, members)
            for one in members:
                target = folder / one.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(one) as source, target.open("xb") as written:
                    shutil.copyfileobj(source, written, 1 << 20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, FileExistsError) as error:
        raise RunError(f"{file} is damaged, or not an archive of g5kvirt ({error})") from error
    check_manifest(folder)


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


def check_manifest(folder: Path) -> None:
    """Raise RunError unless every file of the manifest is there with its checksum."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise RunError(f"{folder} is not an archive of g5kvirt: it has no {MANIFEST}")
    for line in manifest.read_text(encoding="utf-8").splitlines():
        found = _LINE.fullmatch(line)
        if found is None or ".." in PurePosixPath(found[2]).parts:
            raise RunError(f"{manifest} cannot be read: {line[:100]!r} is not a checksum with a file name")
        path = folder / found[2]
        if not path.is_file() or digest(path) != found[1]:
            raise RunError(
                f"{path} is {'differs from what was archived' if path.exists() else 'missing'}",
                advice="unpack the archive again, or download it again",
            )


def read_versions(folder: Path) -> Mapping[str, str]:
    """With which software the archive was made: name → version; empty if it does not say."""
    try:
        found: Any = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
