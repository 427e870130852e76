"""Packages of a Debian release other than this machine's: apt on lists of its own, and a folder of packages.

Nothing of this machine's apt is changed; its mirrors are used where they have the release. Packages that were
fetched once are kept in the cache, so that another image of the same release needs only what is new in it.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from g5kvirt import paths
from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.inventory import MIB
from g5kvirt.spec.fields import show

__all__ = ["RELEASES", "Archive", "fetch_all", "fraction", "reported", "sources"]

#: Debian's number → the name of its release.
RELEASES = {12: "bookworm", 13: "trixie"}

_DEBIAN = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Seconds between two reports of progress, and for all packages.
INTERVAL = 5.0
FETCH_TIMEOUT = 1800.0
UPDATE_TIMEOUT = 300.0

_URI = re.compile(r"'(?P<uri>\S+)' (?P<file>\S+) (?P<size>\d+) ?\S*")


@dataclass(frozen=True)
class Archive:
    """A package as apt would fetch it."""

    file: str
    size: int  #: bytes

    @property
    def name(self) -> str:
        """The package's name."""
        return self.file.partition("_")[0]


def sources(release: str) -> list[str]:
    """The lines of sources.list for a release, with its updates; this machine's mirrors if they have it."""
    found: dict[str, str] = {}
    for line in _output(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"], 60
    ).splitlines():
        name, _, uri = line.partition(" ")
        found.setdefault(name, uri.rstrip("/"))
    main = found.get(release, _DEBIAN)
    security = found.get(f"{release}-security", f"{main.removesuffix('/debian')}/debian-security")
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    uris = {release: main, f"{release}-updates": main, f"{release}-security": security}
    return [f"deb {signed}{uri} {name} main" for name, uri in uris.items()]


def fetch_all(release: str, names: Sequence[str], progress: ProgressCallback) -> tuple[list[str], list[Path]]:
    """Fetch a minimal Debian with the packages ``names`` and all that these need.

    Returns the lines of sources.list and the packages' files. Raises SpecError for a package that the release
    does not have; MachineError if apt cannot fetch them.
    """
    home = paths.cache() / "packages" / release
    for folder in ("lists/partial", "archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    lines = sources(release)
    (home / "sources.list").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    progress(f"reading the package lists of Debian {release}")
    options = _options(home)
    _output(["apt-get", *options, "-q", "-o", "APT::Update::Error-Mode=any", "update"], UPDATE_TIMEOUT)
    wanted = ["?essential", "apt", *names]
    # apt lists no file that it has already: so it is shown an empty folder
    empty = home / "none"
    (empty / "partial").mkdir(parents=True, exist_ok=True)
    archives = _archives([*options, "-o", f"Dir::Cache::archives={empty}"], wanted, release)
    _fetch(options, wanted, home / "archives", archives, progress)
    files = [home / "archives" / archive.file for archive in archives]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise MachineError(f"apt did not fetch {missing[0]}", advice="check the network, then try again")
    return lines, files


def _options(home: Path) -> list[str]:
    """apt's options with which it sees one release and nothing of this machine."""
    values = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State": home,
        "Dir::State::lists": home / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": home,
        "Dir::Cache::archives": home / "archives",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    return [word for key, value in values.items() for word in ("-o", f"{key}={value}")]


def _archives(options: Sequence[str], wanted: Sequence[str], release: str) -> list[Archive]:
    argv = ["apt-get", *options, "-qq", "--print-uris", "install", "--", *wanted]
    try:
        out = _output(argv, 120)
    except MachineError as error:
        unknown = re.search(
            r"Unable to locate package ([a-z0-9+.-]+)|Package '?([a-z0-9+.-]+)'? has no", str(error)
        )
        if unknown is None:
            raise
        raise SpecError(
            f"Debian {release} has no package {show(unknown.group(1) or unknown.group(2))}",
            advice="look its name up on packages.debian.org, or with apt-cache search",
        ) from error
    # the file's name in the archive has the epoch written as %3a
    return [Archive(m["file"], int(m["size"])) for line in out.splitlines() if (m := _URI.match(line))]


def _fetch(
    options: Sequence[str],
    wanted: Sequence[str],
    folder: Path,
    archives: Iterable[Archive],
    progress: ProgressCallback,
) -> None:
    new = [a for a in archives if not _has(folder / a.file, a.size)]
    total = sum(archive.size for archive in new)
    if not new:
        return

    def fetched() -> str:
        there = sum(_size(folder / a.file) or _size(folder / "partial" / a.file) for a in new)
        return f"fetching packages: {fraction(there, total)}"

    argv = ["apt-get", *options, "-qq", "--yes", "--download-only", "install", "--", *wanted]
    with reported(fetched, progress):
        _output(argv, FETCH_TIMEOUT)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _has(path: Path, size: int) -> bool:
    return _size(path) == size


def fraction(done: float, total: float) -> str:
    """``12.3 of 75.0 MiB (16 %)``."""
    return f"{done / MIB:,.1f} of {total / MIB:,.1f} MiB ({100 * done / max(total, 1):.0f} %)"


@contextmanager
def reported(text: Callable[[], str], progress: ProgressCallback, every: float = INTERVAL) -> Iterator[None]:
    """While it lasts, ``progress(text())`` is called every few seconds if the text is new, and at its end."""
    done, last = threading.Event(), ""

    def report() -> None:
        nonlocal last
        new = text()
        if new and new != last:
            last = new
            progress(new)

    def run() -> None:
        while not done.wait(every):
            report()

    thread = threading.Thread(target=run, name="progress of a build", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    report()


def _output(argv: Sequence[str], timeout: float) -> str:
    """What a command prints. Raises MachineError with the first of its error lines."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise MachineError(
            f"images are built from Debian packages, but {argv[0]} is missing", advice="use a Debian machine"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"{argv[0]} had not ended after {time.monotonic() - began:.0f} s", advice="check the network"
        ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        lines = lines or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MachineError(f"{argv[0]} failed ({lines[0]})", advice="check the network, then try again")
    return done.stdout
