"""The minimal system: what a VM netboots into, made from Debian packages, once, and kept in a cache.

The kernel is Debian's cloud kernel, taken out of its package (nothing is installed); the initramfs holds
busybox, the drivers that the guest needs, and the agent of `guest/`. The ISO is Debian's iPXE with a
script that never gives up. Same packages, same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from g5kvirt.errors import MachineError
from g5kvirt.images import cache as build_cache
from g5kvirt.images import cpio, iso, packages
from g5kvirt.images.cache import ProgressCallback, no_progress
from g5kvirt.images.modules import MODULES, drivers

__all__ = [
    "GuestFiles",
    "MinimalSystem",
    "build",
    "build_obstacle",
    "gather",
    "gather_files",
    "initramfs",
]

#: Raised when the code would write other bytes, so that older builds are left alone.
_RECIPE = 2

#: Debian package → the files that are taken from it, besides the kernel's.
FILES: Mapping[str, tuple[str, ...]] = {
    "busybox-static": ("bin/busybox",),
    "ipxe": ("usr/lib/ipxe/ipxe.iso",),
}
PACKAGES = (packages.KERNEL, *FILES)

#: Seconds for which a build counts as up to date.
FRESH = 86400.0


@dataclass(frozen=True)
class MinimalSystem:
    """The files of a minimal system and where they come from."""

    kernel: Path
    initrd: Path
    iso: Path
    manifest: Mapping[str, Any]  #: package → version, and the SHA-256 of each file


def _recipes() -> dict[str, str]:
    """Files of this package that go into the minimal system, by name."""
    folder = resources.files("g5kvirt.images").joinpath("guest")
    files = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in ("init", "address", "agent")}
    script = resources.files("g5kvirt.images").joinpath("templates", "iso.ipxe.j2")
    return {**files, "iso.ipxe": script.read_text(encoding="utf-8")}


def _directory(cache: Path | None, recipes: Mapping[str, str]) -> Path:
    return build_cache.build_directory("minimal", json.dumps([_RECIPE, MODULES, recipes]), cache=cache)


def is_built(cache: Path | None = None) -> bool:
    """Whether it is in the cache."""
    return build_cache.is_built(_directory(cache, _recipes()))


def build_obstacle(cache: Path | None = None) -> MachineError | None:
    """Why `build` would fail on this machine, as far as known without a network; None if it would not."""
    if is_built(cache):
        return None
    try:
        packages.candidates((packages.kernel(), *PACKAGES[1:]))
    except MachineError as error:
        return error
    except OSError as error:
        return MachineError(str(error))
    return None


def build(
    cache: Path | None = None, progress: ProgressCallback = no_progress, *, refresh: bool = False
) -> MinimalSystem:
    """The minimal system from the cache, or built into it (about 30 MB of packages, a few seconds).

    Once a day apt is queried for newer packages, and the system is rebuilt with them. If that fails, or the
    packages cannot be fetched, the one in the cache is used. ``refresh`` rebuilds it in any case. Raises
    MachineError if there is no system yet and the packages cannot be fetched or have unexpected contents.
    """
    recipes = _recipes()
    directory = _directory(cache, recipes)
    there = build_cache.is_built(directory)
    anew = refresh or (there and _outdated(directory))

    def write(work: Path) -> dict[str, Any]:
        (work / "checked").touch()
        return _build_into(work, recipes, progress)

    try:
        build_cache.build(directory, write, refresh=anew)
    except MachineError as error:
        if refresh or not there:
            raise
        progress(f"minimal system: there are newer packages, but {error}; the one in the cache is used")
    manifest = build_cache.manifest(directory)
    return MinimalSystem(directory / "kernel", directory / "initrd", directory / "ipxe.iso", manifest)


def _outdated(directory: Path) -> bool:
    """Whether apt has other versions than those of a build; queries apt at most once in `FRESH` seconds.

    That takes apt from 0.05 s to 1 s of a core, depending on whether the machine keeps apt's own cache.
    """
    stamp = directory / "checked"
    if stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < FRESH:
        return False
    try:
        now = packages.candidates((packages.kernel(), *PACKAGES[1:]))
        stamp.touch()
    except (MachineError, OSError):  # no apt here, no lists, or a cache that belongs to another user
        return False
    return now != dict(build_cache.manifest(directory)["packages"])


@dataclass(frozen=True)
class GuestFiles:
    """What a guest's system is made of: Debian's kernel, drivers (`MODULES`), files of other packages."""

    release: str
    kernel: bytes
    drivers: Mapping[str, bytes]  #: file name → content, in the order of loading
    files: dict[str, bytes]  #: path → content
    versions: Mapping[str, str]  #: by package


def gather(wanted: Mapping[str, tuple[str, ...]], work: Path) -> GuestFiles:
    """The kernel and the files of ``wanted`` (package → paths), fetched into ``work``, where nothing of the
    packages stays. Raises MachineError if one cannot be fetched."""
    kernel = packages.kernel()
    release = kernel.removeprefix("linux-image-")
    wanted = packages.renamed(wanted)
    fetched = packages.fetch((kernel, *wanted), work)
    package = fetched.pop(kernel)
    tree = packages.Contents(package)
    image = tree.read(f"boot/vmlinuz-{release}")
    builtin = tree.read(f"lib/modules/{release}/modules.builtin").decode()
    loaded = drivers(MODULES, tree.paths, builtin, tree.read)
    package.unlink()
    files, versions = _taken(fetched, wanted)
    return GuestFiles(release, image, loaded, files, {kernel: packages.version(package), **versions})


def gather_files(
    wanted: Mapping[str, tuple[str, ...]], work: Path
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files of packages (package → paths), and the packages' versions; as `gather`.

    Packages are named as in Debian 12, whatever their names on this machine (`packages.RENAMED`).
    """
    wanted = packages.renamed(wanted)
    return _taken(packages.fetch(tuple(wanted), work), wanted)


def _taken(
    fetched: Mapping[str, Path], wanted: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and versions of packages that were fetched; the packages are removed."""
    files: dict[str, bytes] = {}
    for name, paths in wanted.items():
        files |= packages.members(fetched[name], paths)
    versions = {name: packages.version(package) for name, package in fetched.items()}
    for package in fetched.values():
        package.unlink()
    return files, versions


def _build_into(work: Path, recipes: Mapping[str, str], progress: ProgressCallback) -> dict[str, Any]:
    progress("minimal system: fetching the kernel, busybox and iPXE from Debian")
    found = gather(FILES, work)
    progress("minimal system: writing kernel, initrd and ISO")
    archive = initramfs(found.files["bin/busybox"], found.drivers, recipes)
    files = {
        "kernel": found.kernel,
        "initrd": gzip.compress(archive, 9, mtime=0),
        "ipxe.iso": iso.with_script(found.files["usr/lib/ipxe/ipxe.iso"], recipes["iso.ipxe"]),
    }
    for name, content in files.items():
        (work / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {"packages": found.versions, "release": found.release, "sha256": sums}


def initramfs(busybox: bytes, modules: Mapping[str, bytes], recipes: Mapping[str, str]) -> bytes:
    """The archive of the minimal system; ``modules`` (file name → content) in the order of loading."""
    applets = sorted(set(re.findall(r"[a-z]+", _APPLETS)))
    entries = [cpio.directory(path) for path in ("bin", "dev", "etc", "lib", "lib/modules", "proc", "sys")]
    entries += [cpio.directory("tmp", 0o1777), cpio.directory("run"), cpio.directory("mnt")]
    entries += [cpio.device("dev/console", 5, 1), cpio.device("dev/null", 1, 3, 0o666)]
    entries += [cpio.regular("bin/busybox", busybox, 0o755)]
    entries += [cpio.symlink(f"bin/{applet}", "busybox") for applet in applets]
    entries += [
        cpio.regular(f"lib/modules/{number:02}-{name}", content)
        for number, (name, content) in enumerate(modules.items())
    ]
    entries += [cpio.regular(name, recipes[name].encode(), 0o755) for name in ("init", "address", "agent")]
    return cpio.archive(entries)


#: Programs that the agent and its tasks call by name; busybox has them all in one file.
_APPLETS = """
sh cat cp dd df echo fdisk gunzip gzip head hostname insmod ip kill ln ls mkdir mkfifo mount mv poweroff ps
reboot rm sed sleep sync tail tar tee timeout udhcpc umount uname wget zcat
"""
