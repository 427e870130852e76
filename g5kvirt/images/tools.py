"""What the minimal system lacks for a deployment: one archive, fetched when a deployment begins.

So a netboot stays light. From Debian packages: mke2fs, kexec, extlinux with its boot record, and the
libraries that they need; and `guest/deploy`, the procedure itself. ext4 is built into Debian's cloud kernel,
so the archive holds no drivers and fits every kernel. Same packages, same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from g5kvirt.errors import MachineError
from g5kvirt.images import packages
from g5kvirt.images.minimal import cache_directory

__all__ = ["FILES", "Tools", "archive", "build", "keep"]

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

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Tools:
    """The archive (gzipped tar) and where it comes from."""

    archive: Path
    manifest: Mapping[str, Any]  #: package → version, and the SHA-256 of the archive


def build(cache: Path | None = None, progress: Progress = lambda _: None, *, refresh: bool = False) -> Tools:
    """The tools from the cache, or built into it (about 3 MB of packages).

    ``refresh`` builds anew. Raises MachineError if the packages cannot be had or are not made as expected.
    """
    procedure = resources.files("g5kvirt.images").joinpath("guest", "deploy").read_text(encoding="utf-8")
    key = hashlib.sha256(json.dumps([_RECIPE, dict(FILES), procedure]).encode()).hexdigest()[:16]
    home = (cache or cache_directory().parent / "tools") / key
    if refresh or not (home / "manifest.json").exists():

        def into(work: Path) -> None:
            progress("deployment tools: fetching e2fsprogs, kexec-tools and extlinux from Debian")
            fetched = packages.fetch(FILES, work)
            files: dict[str, bytes] = {}
            for name, package in fetched.items():
                files |= packages.members(package, FILES[name])
            versions = {name: packages.version(package) for name, package in fetched.items()}
            for package in fetched.values():
                package.unlink()
            data = gzip.compress(archive(files, procedure), 9, mtime=0)
            (work / "tools").write_bytes(data)
            manifest = {"packages": versions, "sha256": {"tools": hashlib.sha256(data).hexdigest()}}
            (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

        keep(home, into, refresh=refresh)
    return Tools(home / "tools", json.loads((home / "manifest.json").read_text(encoding="utf-8")))


def keep(home: Path, into: Callable[[Path], None], *, refresh: bool = False) -> None:
    """Build by ``into(folder)`` beside ``home``, put it there when finished; of two at once the first stays.

    What is at ``home`` is always whole: it has its manifest.json. Raises MachineError if it cannot be kept.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{home.name}.", dir=home.parent))
    except OSError as error:
        raise MachineError(
            f"{home} cannot be written: {error}; set XDG_CACHE_HOME to another place"
        ) from error
    try:
        into(work)
        if refresh and home.exists():
            shutil.rmtree(home.rename(work / "old"))
        work.chmod(0o755)
        work.rename(home)
    except OSError as error:
        if not (home / "manifest.json").exists():
            raise MachineError(f"what was built cannot be kept in {home}: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def archive(files: Mapping[str, bytes], procedure: str) -> bytes:
    """The tar archive of programs and libraries, to be unpacked at the root of the minimal system."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        made: set[str] = set()
        for path, data in sorted({**files, "deploy": procedure.encode()}.items()):
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
