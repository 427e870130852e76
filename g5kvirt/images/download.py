"""Fetching an image by HTTP: resumed after an interruption, checked by its SHA-256, whole or not there.

What has arrived is in ``NAME.part`` beside the file's final place, which one process at a time holds locked.
It stays there when a download fails half-way, and the next one resumes from there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.run import file_lock

if TYPE_CHECKING:
    import requests

__all__ = ["Download", "fetch"]

TIMEOUT = 60.0  #: seconds until a server must have answered, and between two pieces of the file
TOTAL_TIMEOUT = 6 * 3600.0  #: seconds for one image
ATTEMPTS = 3  #: connections for one image; each resumes where the one before ended
REPORT_EVERY = 5.0  #: seconds between two lines of progress
_BLOCK = 1 << 16  #: bytes


@dataclass(frozen=True)
class Download:
    """A file to be fetched."""

    name: str  #: what error messages call it, such as ``the image of mine``
    url: str
    sha256: str  #: 64 hexadecimal digits


class _LostConnectionError(Exception):
    """The connection ended before the file did; another one may continue."""


def fetch(download: Download, path: Path, progress: ProgressCallback) -> None:
    """Make sure that the file is at ``path``; ``progress`` gets lines with the bytes so far.

    Raises SpecError if it cannot be fetched or has another SHA-256, MachineError if it cannot be written.
    """
    deadline = time.monotonic() + TOTAL_TIMEOUT
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial_file(path, download, deadline) as part:
            if path.exists():
                return  # another process has fetched it meanwhile
            _complete(download, part, progress, deadline)
            os.fsync(part.fileno())
            Path(part.name).rename(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room there" if full else "correct its permissions"
        raise MachineError(
            f"{download.name} cannot be written to {path.parent} ({error.strerror or error})",
            advice=f"{advice}, or set XDG_CACHE_HOME to another directory",
        ) from error


@contextmanager
def _partial_file(path: Path, download: Download, deadline: float) -> Iterator[BufferedRandom]:
    """``NAME.part``, locked; it is removed if nothing is in it."""
    part = path.with_name(f"{path.name}.part")
    while True:
        file = part.open("ab+")
        try:
            file_lock.lock(file.fileno())
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                break
        except (BlockingIOError, FileNotFoundError):
            pass  # another process fetches it, or has just renamed it
        file.close()
        if time.monotonic() > deadline:
            raise _cannot(download, "another process is still fetching it: wait for it or end it")
        time.sleep(0.2)
    try:
        yield file
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()
        file.close()


def _complete(download: Download, part: BufferedRandom, progress: ProgressCallback, deadline: float) -> None:
    """Fetch what is missing, over several connections if need be, and compare the SHA-256."""
    for attempt in range(1, ATTEMPTS + 1):
        resumed = _size(part) > 0
        try:
            _receive(download, part, progress, deadline)
        except _LostConnectionError as error:
            if attempt < ATTEMPTS:
                continue
            advice = "try again: the download will resume" if _size(part) else "check the URL and the network"
            raise _cannot(download, f"{error}: {advice}") from error
        part.seek(0)
        found = hashlib.file_digest(part, "sha256").hexdigest()
        if found == download.sha256:
            return
        part.truncate(0)
        if not resumed or attempt == ATTEMPTS:  # else the first half may be that of an older file
            raise SpecError(
                f"the file at {download.url} does not have the SHA-256 given for {download.name},"
                f" but {found}",
                advice="correct the description, or have the file on the server corrected",
            )


def _receive(download: Download, part: BufferedRandom, progress: ProgressCallback, deadline: float) -> None:
    """Append what is still missing. Raises SpecError, _LostConnectionError, or the disk's OSError."""
    import requests  # takes longer to import than most commands take
    import urllib3.exceptions

    try:
        with _request(download, _size(part)) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # there is no more; the SHA-256 shows whether the file is right
            if response.status_code != requests.codes.partial_content:
                part.truncate(0)
            _write(download, response, part, progress, deadline)
    except requests.exceptions.SSLError as error:
        advice = "correct the URL, or name the authority's certificate in REQUESTS_CA_BUNDLE"
        reason = f"the server's certificate is not accepted ({_reason(error)}): {advice}"
        raise _cannot(download, reason) from error
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _LostConnectionError(f"the server sent nothing for {TIMEOUT:.0f} s") from error
    except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
        raise _LostConnectionError(_reason(error)) from error
    except requests.RequestException as error:
        raise _cannot(download, f"{_reason(error)}: correct the URL") from error
    finally:
        part.flush()


def _request(download: Download, have: int) -> requests.Response:
    """The answer to a request for all but the first ``have`` bytes. Raises SpecError for a refusal."""
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    response = requests.get(download.url, headers=headers, stream=True, timeout=TIMEOUT)
    codes = requests.codes
    if response.status_code not in (codes.ok, codes.partial_content, codes.requested_range_not_satisfiable):
        response.close()
        answer = f"the server answers {response.status_code} {response.reason}".strip()
        raise _cannot(download, f"{answer}: correct the URL, or put the file there")
    return response


def _write(
    download: Download,
    response: requests.Response,
    part: BufferedRandom,
    progress: ProgressCallback,
    deadline: float,
) -> None:
    """Write the body as it arrives, byte for byte: an archive must not be decompressed on the way."""
    have = _size(part)
    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdecimal() else 0
    reported = 0.0
    for block in response.raw.stream(_BLOCK, decode_content=False):
        part.write(block)
        have += len(block)
        now = time.monotonic()
        if now > deadline:
            limit = f"{TOTAL_TIMEOUT / 3600:.0f} h"
            raise _cannot(
                download, f"it takes longer than {limit}: use a faster server; the download will resume"
            )
        if now - reported >= REPORT_EVERY or have == total:
            reported = now
            progress(f"{download.name}: {_megabytes(have, total)} fetched")
    if have < total:
        raise _LostConnectionError(f"the connection ended after {have:,} of {total:,} bytes")


def _megabytes(have: int, total: int) -> str:
    if not total:
        return f"{have / 1e6:,.1f} MB"
    return f"{have / 1e6:,.1f} of {total / 1e6:,.1f} MB ({have / total:.0%})"


def _size(part: BufferedRandom) -> int:
    return part.seek(0, os.SEEK_END)


def _cannot(download: Download, reason: str) -> SpecError:
    return SpecError(f"{download.name} cannot be fetched from {download.url}: {reason}")


def _reason(error: BaseException) -> str:
    """What is behind an error of requests or urllib3, on one line."""
    while True:
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    reason = " ".join(str(error.args[-1] if error.args else error).split())
    return reason[:200] or type(error).__name__
