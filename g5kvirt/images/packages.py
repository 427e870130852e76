"""Files out of Debian packages: fetched by apt, which checks their signatures; nothing is installed."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from g5kvirt.errors import MachineError

__all__ = [
    "KERNEL",
    "LIBC",
    "RENAMED",
    "Contents",
    "candidates",
    "fetch",
    "kernel",
    "members",
    "renamed",
    "unpack",
    "version",
]

#: The meta-package of the kernel that boots everywhere here.
KERNEL = "linux-image-cloud-amd64"

_LIB = "lib/x86_64-linux-gnu"

#: What every program that is not static needs, by package.
LIBC: Mapping[str, tuple[str, ...]] = {"libc6": (f"{_LIB}/libc.so.6", "lib64/ld-linux-x86-64.so.2")}

#: Package of Debian 12 → its name in Debian 13, and the part of its files' names that changed with it.
RENAMED: Mapping[str, tuple[str, str, str]] = {
    "libext2fs2": ("libext2fs2t64", "", ""),
    "libssl3": ("libssl3t64", "", ""),
    "libxenmisc4.17": ("libxenmisc4.20", ".so.4.17", ".so.4.20"),
}


def kernel() -> str:
    """The package that the kernel's meta-package stands for now: ``linux-image-6.1.0-…-cloud-amd64``."""
    out = _run(["apt-cache", "depends", "--important", KERNEL]).decode()
    found = re.search(r"Depends: (linux-image-\S+)", out)
    if not found:
        raise MachineError(f"apt does not know the package {KERNEL}", advice="run apt-get update")
    return found.group(1)


def candidates(names: Iterable[str]) -> dict[str, str]:
    """The versions that apt would fetch now, by name. Raises MachineError for an unknown one."""
    wanted = list(names)
    found = _candidates(wanted)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise MachineError(f"apt does not know {', '.join(missing)}", advice="run apt-get update")
    return {name: found[name] for name in wanted}


def _candidates(names: Iterable[str]) -> dict[str, str]:
    out = _run(["apt-cache", "policy", *names]).decode()
    return dict(re.findall(r"(?m)^(\S+):\n(?: .*\n)*?  Candidate: ([^(\s]\S*)$", out))


def renamed(wanted: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Package → files, for packages of Debian 12, in the names of the Debian that apt knows (`RENAMED`)."""
    changed = [name for name in wanted if name in RENAMED]
    known = _candidates(changed) if changed else {}
    result = {}
    for name, files in wanted.items():
        if name in RENAMED and name not in known:
            newer, old, new = RENAMED[name]
            result[newer] = tuple(file.replace(old, new) if old else file for file in files)
        else:
            result[name] = files
    return result


def fetch(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The package files of ``names`` in ``folder``, by name. Raises MachineError if one cannot be fetched."""
    wanted = list(names)
    user = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir=folder, prefix="packages.") as place:
        _run(["apt-get", *user, "-q", "download", *wanted], cwd=Path(place))
        found = {package.name.partition("_")[0]: package for package in Path(place).glob("*.deb")}
        missing = [name for name in wanted if name not in found]
        if missing:
            raise MachineError(
                f"apt did not fetch {', '.join(missing)}", advice="check the network and run apt-get update"
            )
        return {name: found[name].rename(folder / found[name].name) for name in wanted}


def version(package: Path) -> str:
    """The version that a package file's name carries."""
    return package.name.split("_")[1].replace("%3a", ":")


def members(package: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """The contents of the files ``wanted`` of a package, by path; see `Contents.read`."""
    contents = Contents(package)
    return {path: contents.read(path) for path in wanted}


class Contents:
    """What is in a package file. Raises MachineError if it cannot be read."""

    def __init__(self, package: Path) -> None:
        self._name = package.name
        self._tar = tarfile.open(  # noqa: SIM115 - in memory, without anything to close
            fileobj=io.BytesIO(_run(["dpkg-deb", "--fsys-tarfile", str(package)]))
        )
        self._names = {name.removeprefix("./"): name for name in self._tar.getnames()}

    @property
    def paths(self) -> list[str]:
        """All paths in it, relative to the root."""
        return list(self._names)

    def read(self, path: str) -> bytes:
        """The content of a file; links are followed.

        It is looked for below ``usr`` too, where newer Debians keep what was in ``/lib`` and ``/sbin``.
        Raises MachineError if it is missing.
        """
        name = self._names.get(path) or self._names.get(f"usr/{path}")
        file = _file(self._tar, name) if name else None
        if file is None:
            raise MachineError(
                f"{self._name} has no {path}, as in an unsupported release of Debian",
                advice="use Debian 12 or 13",
            )
        return file


def _file(tar: tarfile.TarFile, name: str) -> bytes | None:
    """A file's content; a link whose target is not in the archive under that name is looked up by name."""
    member = tar.getmember(name)
    if member.issym():
        base = member.linkname.rpartition("/")[2]
        others = [m for m in tar.getmembers() if m.isreg() and m.name.rpartition("/")[2] == base]
        member = others[0] if others else member
    file = tar.extractfile(member) if member.isreg() or member.islnk() else None
    return file.read() if file else None


def unpack(package: Path, folder: Path) -> None:
    """The whole content of a package below ``folder``."""
    _run(["dpkg-deb", "-x", str(package), str(folder)])


def _run(argv: list[str], cwd: Path | None = None) -> bytes:
    try:
        return subprocess.run(argv, capture_output=True, timeout=300, check=True, cwd=cwd).stdout
    except FileNotFoundError as error:
        raise MachineError(
            f"guest systems are built from Debian packages, but {argv[0]} is missing",
            advice="use a Debian machine",
        ) from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        lines = (error.stderr or b"").decode("utf-8", "replace").strip().splitlines()
        raise MachineError(
            f"{argv[0]} failed ({lines[-1] if lines else error})",
            advice="check the network and run apt-get update",
        ) from error
