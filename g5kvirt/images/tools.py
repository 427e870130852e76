"""What a deployment needs besides the minimal system: one archive, fetched when a deployment begins.

This keeps netboots small, and a second archive for images in zstd, which busybox cannot unpack, keeps other
deployments small. From Debian packages: mke2fs, kexec, extlinux with its boot record, and the
libraries that they need; and `guest/deploy`, the procedure itself. ext4 is built into Debian's cloud kernel,
so the archive holds no drivers and fits every kernel. Same packages, same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from g5kvirt.images import cache as build_cache
from g5kvirt.images import packages
from g5kvirt.images.cache import ProgressCallback, no_progress
from g5kvirt.images.minimal import gather_files

__all__ = ["FILES", "ZSTD_FILES", "Tools", "archive", "build", "build_zstd"]

_RECIPE = 1
_LIB = "lib/x86_64-linux-gnu"
_XEN = ("call", "devicemodel", "evtchn", "foreignmemory", "gnttab", "toolcore", "toollog")

#: Package → files, as the minimal system has them later.
FILES: Mapping[str, tuple[str, ...]] = {
    **packages.LIBC,
    "e2fsprogs": ("sbin/mke2fs", "etc/mke2fs.conf"),
    "libext2fs2": (f"{_LIB}/libext2fs.so.2", f"{_LIB}/libe2p.so.2"),
    "libcom-err2": (f"{_LIB}/libcom_err.so.2",),
    "libblkid1": (f"{_LIB}/libblkid.so.1",),
    "libuuid1": (f"{_LIB}/libuuid.so.1",),
    "kexec-tools": ("sbin/kexec",),
    # Debian's kexec is linked with Xen's control library, which it never calls here
    "libxenmisc4.17": (f"{_LIB}/libxenctrl.so.4.17",),
    **{f"libxen{part}1": (f"{_LIB}/libxen{part}.so.1",) for part in _XEN},
    "coreutils": ("bin/tee",),  # busybox's goes by 1 KB at a time and takes six times as long
    "extlinux": ("usr/bin/extlinux", "usr/lib/EXTLINUX/mbr.bin"),
}

#: What unpacks images in zstd, on top of `FILES`.
ZSTD_FILES: Mapping[str, tuple[str, ...]] = {
    "zstd": ("usr/bin/zstd",),
    "zlib1g": (f"{_LIB}/libz.so.1",),
    "liblzma5": (f"{_LIB}/liblzma.so.5",),
    "liblz4-1": (f"{_LIB}/liblz4.so.1",),
}


@dataclass(frozen=True)
class Tools:
    """An archive (gzipped tar) and where it comes from."""

    archive: Path
    manifest: Mapping[str, Any]  #: package → version, and the SHA-256 of the archive


def build(
    cache: Path | None = None, progress: ProgressCallback = no_progress, *, refresh: bool = False
) -> Tools:
    """The tools from the cache, or built into it (about 3 MB of packages).

    ``refresh`` rebuilds it. Raises MachineError if packages cannot be fetched or have unexpected contents.
    """
    procedure = resources.files("g5kvirt.images").joinpath("guest", "deploy").read_text(encoding="utf-8")
    message = "deployment tools: fetching e2fsprogs, kexec-tools and extlinux from Debian"
    return _build(FILES, {"deploy": procedure.encode()}, cache, lambda: progress(message), refresh=refresh)


def build_zstd(
    cache: Path | None = None, progress: ProgressCallback = no_progress, *, refresh: bool = False
) -> Tools:
    """What images in zstd need besides; as `build`."""
    message = "deployment tools: fetching zstd from Debian"
    return _build(ZSTD_FILES, {}, cache, lambda: progress(message), refresh=refresh)


def _build(
    wanted: Mapping[str, tuple[str, ...]],
    own: Mapping[str, bytes],
    cache: Path | None,
    begin: Callable[[], object],
    *,
    refresh: bool,
) -> Tools:
    texts = [content.decode() for content in own.values()]
    recipe = json.dumps([_RECIPE, dict(wanted), *texts])
    directory = build_cache.build_directory("tools", recipe, cache=cache)

    def write(work: Path) -> dict[str, Any]:
        begin()
        files, versions = gather_files(wanted, work)
        data = gzip.compress(archive({**files, **own}), 9, mtime=0)
        (work / "tools").write_bytes(data)
        return {"packages": versions, "sha256": {"tools": hashlib.sha256(data).hexdigest()}}

    build_cache.build(directory, write, refresh=refresh)
    return Tools(directory / "tools", build_cache.manifest(directory))


def archive(files: Mapping[str, bytes]) -> bytes:
    """The tar archive of programs and libraries, to be unpacked at the root of the minimal system."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        made: set[str] = set()
        for path, data in sorted(files.items()):
            for parent in [p.as_posix() for p in reversed(Path(path).parents)][1:]:
                if parent not in made:
                    made.add(parent)
                    folder = tarfile.TarInfo(parent)
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(folder)
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
