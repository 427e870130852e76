"""Tables and queues of the kernel that all network namespaces of this machine share.

On a real testbed each machine has its own, and `configure` sizes them there. Here all hosts and guests use
those of the one machine, which exist in its first network namespace only. At their stock size they fill up:
with 361 nodes the ARP table (1,024 entries) was full 57,044 times and the backlog queue (1,000 packets)
dropped 6.3 million packets, and logins hung for a minute. So they are raised while a testbed is up, and put
back when the last one is down.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from g5kvirt.planning.addressing import neighbour_tables
from g5kvirt.testbeds.local.state import RUNTIME, write

__all__ = ["LIMITS", "STOCK_ARP_TABLE", "SharedLimits", "overflow_counts", "too_small"]

#: Setting → the least value with which a testbed runs. Entries and packets cost memory only while they exist.
LIMITS: Mapping[str, int] = {
    **neighbour_tables(32_768),
    "net.core.netdev_max_backlog": 300_000,  # packets per core; 361 nodes on two cores then lost none
}

#: The ARP table as Linux has it: beyond 1,024 entries new ones are refused.
STOCK_ARP_TABLE: Mapping[str, int] = {
    "net.ipv4.neigh.default.gc_thresh1": 128,
    "net.ipv4.neigh.default.gc_thresh2": 512,
    "net.ipv4.neigh.default.gc_thresh3": 1024,
}

#: What `overflow_counts` counts, in words.
FULL, DROPPED = "ARP table full", "packets dropped by a full backlog queue"


def too_small(current: Mapping[str, int]) -> dict[str, int]:
    """The settings that are lower than `LIMITS`."""
    return {key: value for key, value in current.items() if value < LIMITS[key]}


class SharedLimits:
    """The limits of this machine; ``runtime`` is the directory with one directory per testbed.

    What they were before is kept in ``runtime``, so that any process can put them back.
    """

    def __init__(self, runtime: Path = RUNTIME, proc: Path = Path("/proc")) -> None:
        self._runtime = runtime
        self._record = runtime / "limits.json"
        self._proc = proc

    def current(self) -> dict[str, int]:
        """The settings of `LIMITS` that exist here: none of them does in another network namespace."""
        return {key: int(self._file(key).read_text()) for key in LIMITS if self._file(key).exists()}

    def raise_all(self) -> dict[str, str]:
        """Raise what is lower than `LIMITS`. Returns what the machine refused: setting → reason."""
        with self._locked():
            record = self._load()
            refused = {}
            record.setdefault("counts", overflow_counts(self._proc))
            before = record.setdefault("before", {})
            small = too_small(self.current())
            for key, value in small.items():
                before.setdefault(key, value)
            write(self._record, json.dumps(record))  # first: a process that is killed here leaves a way back
            for key in small:
                try:
                    self._file(key).write_text(f"{LIMITS[key]}\n")
                except OSError as error:  # a container's /proc/sys may be read-only
                    refused[key] = str(error.strerror)
        return refused

    def restore(self) -> None:
        """Put back what was raised, unless a testbed is left; what was changed since then stays as it is."""
        if not self._runtime.is_dir():
            return
        with self._locked():
            if any(entry.is_dir() for entry in self._runtime.iterdir()):
                return
            current = self.current()
            for key, value in self._load().get("before", {}).items():
                if current.get(key) == LIMITS.get(key):
                    with suppress(OSError):  # read-only since then: nothing that can be done about it
                        self._file(key).write_text(f"{value}\n")
            self._record.unlink(missing_ok=True)

    @contextmanager
    def other(self, values: Mapping[str, int]) -> Iterator[None]:
        """Other values for as long as the block lasts, such as `STOCK_ARP_TABLE`: to measure what they cost.

        They are those of the whole machine. Raises OSError if they cannot be set.
        """
        before = {key: self._file(key).read_text() for key in values}
        try:
            for key, value in values.items():
                self._file(key).write_text(f"{value}\n")
            yield
        finally:
            for key, text in before.items():
                self._file(key).write_text(text)

    def overflows(self) -> dict[str, int]:
        """How often a table or queue was full since the first testbed was started: what → times, if any."""
        before = self._load().get("counts", {})
        counts = overflow_counts(self._proc)
        return {what: more for what, count in counts.items() if (more := count - before.get(what, count)) > 0}

    def _file(self, key: str) -> Path:
        return self._proc / "sys" / key.replace(".", "/")

    def _load(self) -> dict[str, Any]:
        try:
            record = json.loads(self._record.read_text())
            return record if isinstance(record, dict) else {}
        except (FileNotFoundError, PermissionError, ValueError):  # nothing was raised, or not by this user
            return {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process changes them at a time; held for milliseconds."""
        fd = os.open(self._runtime, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def overflow_counts(proc: Path = Path("/proc")) -> dict[str, int]:
    """How often the ARP table was full and how many packets the backlog queues dropped, since the boot.

    The columns ``table_fulls`` of /proc/net/stat/arp_cache, one line per core in hexadecimal after the
    header, and the second of /proc/net/softnet_stat.
    """
    counts = {}
    with suppress(OSError, ValueError, IndexError):  # no such file in this kernel or container
        header, *lines = (proc / "net/stat/arp_cache").read_text().splitlines()
        column = header.split().index("table_fulls")
        counts[FULL] = sum(int(line.split()[column], 16) for line in lines)
    with suppress(OSError, ValueError, IndexError):
        lines = (proc / "net/softnet_stat").read_text().splitlines()
        counts[DROPPED] = sum(int(line.split()[1], 16) for line in lines)
    return counts
