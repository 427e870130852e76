"""The build cache: what is made from Debian packages is built once, by one process, and kept.

Below `paths.cache` each build has a directory ``KIND/[NAME-]KEY``; the key is a hash of its recipe, so
another recipe is another directory and old ones are left alone. A build that is there is whole:
``manifest.json`` records the sources of the build.

A process builds in ``.KEY`` beside it, which it keeps locked (flock) until the result is renamed. So a second
process waits for the first and takes its result; what a killed process left is removed by the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from g5kvirt import paths
from g5kvirt.errors import MachineError
from g5kvirt.run import file_lock

__all__ = ["ProgressCallback", "build", "build_directory", "is_built", "manifest", "no_progress"]

#: Called with a line of text about what is being done.
ProgressCallback: TypeAlias = Callable[[str], None]

#: Seconds to wait for another process that builds the same; longer than the slowest build (debian12-min).
LOCK_TIMEOUT = 2400.0

_MANIFEST = "manifest.json"


def no_progress(_: str) -> None:
    """A `ProgressCallback` for callers that show nothing."""


def build_directory(kind: str, recipe: str, name: str = "", cache: Path | None = None) -> Path:
    """Where the build of ``recipe`` is kept, built or not; ``cache`` stands in for the directory of the kind.

    ``recipe`` is the text of all that decides about the result, such as JSON.
    """
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    return (cache or paths.cache() / kind) / (f"{name}-{key}" if name else key)


def is_built(directory: Path) -> bool:
    """Whether a finished build is there."""
    return (directory / _MANIFEST).exists()


def manifest(directory: Path) -> Mapping[str, Any]:
    """What a finished build was made of, as its builder returned it."""
    found: Mapping[str, Any] = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
    return found


def build(directory: Path, builder: Callable[[Path], Mapping[str, Any]], *, refresh: bool = False) -> None:
    """Make sure that a build is in ``directory``; with ``refresh``, rebuild it.

    ``builder(folder)`` writes the files into an empty folder and returns the manifest. What it raises passes
    through, and leaves the cache as it was. Raises MachineError if the cache cannot be written, or if another
    process is still building the same after `LOCK_TIMEOUT`.
    """
    if is_built(directory) and not refresh:
        return
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with paths.readable_by_all(), _work_directory(directory) as work:
            if is_built(directory) and not refresh:
                return  # another process has built it meanwhile
            made = builder(work)
            (work / _MANIFEST).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            _put_in_place(work, directory)
    except OSError as error:
        raise _not_writable(directory, error) from error


def check_writable() -> None:
    """Raises MachineError if nothing can be built into the cache."""
    folder = paths.cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(path: Path, error: OSError) -> MachineError:
    return MachineError(
        f"{path} cannot be written ({error.strerror or error})",
        advice="make room there, or set XDG_CACHE_HOME to another directory",
    )


@contextmanager
def _work_directory(directory: Path) -> Iterator[Path]:
    """An empty folder to build in, for this process alone; it is gone afterwards. Raises OSError."""
    locked = directory.with_name(f".{directory.name}")
    lock = _lock(locked)
    try:
        _remove_folders(locked)
        work = locked / "new"
        work.mkdir(mode=0o755)
        yield work
    finally:
        _remove_folders(locked)
        with suppress(OSError):
            (locked / "lock").unlink()
        os.close(lock)  # before the folder goes: NFS keeps a file that is open, under another name
        with suppress(OSError):
            locked.rmdir()


def _remove_folders(folder: Path) -> None:
    """Remove what is half built, or was replaced, but not the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Create ``folder`` and lock it; the lock ends with the returned file descriptor, or with the process.

    A file is locked, since NFS, on which homes of Grid'5000 are, has no exclusive locks of directories.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        handle = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            file_lock.lock(handle)
            if os.path.samestat(os.fstat(handle), (folder / "lock").stat()):
                return handle
        except (FileNotFoundError, BlockingIOError):
            pass  # removed meanwhile by the process that held it, or locked
        except FileExistsError:  # removed between mkdir and its look whether it is a folder
            if folder.exists() and not folder.is_dir():
                raise
        except BaseException:
            if handle >= 0:
                os.close(handle)
            raise
        if handle >= 0:
            os.close(handle)
        if time.monotonic() > deadline:
            raise MachineError(
                f"another process has been building {folder.name[1:]} in {folder.parent} for more than"
                f" {LOCK_TIMEOUT:.0f} s",
                advice="wait for it or end it, then try again",
            )
        time.sleep(0.2)


def _put_in_place(work: Path, directory: Path) -> None:
    """Rename a finished build to its place; what was there before is removed."""
    if directory.exists():
        directory.rename(work.with_name("old"))
    work.rename(directory)
