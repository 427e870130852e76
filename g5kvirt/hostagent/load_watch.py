"""Looks now and then how busy the hosts are while a step lasts: processors, links, VMs, services."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout

__all__ = ["LoadWatch", "interval_for"]

log = logging.getLogger(__name__)

#: Seconds between two looks, and for each host more, as every look is kept in the journal.
SHORTEST = 5.0
PER_HOST = 0.05
#: Seconds of a core that a look costs a host: 20 ms for a call as of `VMWatch`, 6 ms to read 180 processes
#: (measured). And the share of the processors that all looks may take where all hosts share one machine.
COST = 0.03
SHARE = 0.01
#: Seconds that the hosts have for their answers.
PATIENCE = 10.0

#: Takes the answers of one look: the time, host → counters, those of this process, whether it is the first.
Take = Callable[[float, Mapping[str, Any], Mapping[str, Any], bool], object]


def interval_for(hosts: int, real_cores: int | None) -> float:
    """Seconds from one look to the next; ``real_cores``: those that all hosts share, if they do."""
    shared = hosts * COST / (SHARE * real_cores) if real_cores else 0.0
    return max(SHORTEST, PER_HOST * hosts, shared)


class LoadWatch:
    """Calls ``take`` with the counters of ``hosts`` as it begins, every few seconds, and as it ends.

    In a thread of its own. A host that does not answer is missing in a look. Where no connections are kept
    (through jump hosts) there are no looks. A context manager.
    """

    def __init__(
        self, fanout: Fanout, hosts: Iterable[Host], take: Take, *, real_cores: int | None = None
    ) -> None:
        self._fanout = fanout
        self._hosts = list(hosts)
        self._take = take
        self._interval = interval_for(len(self._hosts), real_cores)
        self._first = True
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch over the load", daemon=True)

    def __enter__(self) -> LoadWatch:
        if self._fanout.keeps_connections:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
            if kind is None:
                self._look_safely()

    def _run(self) -> None:
        self._look_safely()
        while not self._left.wait(self._interval):
            self._look_safely()

    def _look_safely(self) -> None:
        try:
            self._look()
        except Exception:  # a look that fails must not be the last
            log.debug("the load of the hosts could not be read", exc_info=True)

    def _look(self) -> None:
        document = protocol.document(protocol.load())
        documents = {host: document for host in self._hosts if not self._fanout.is_gone(host.address)}
        found: dict[str, Any] = {}
        for reply in calls.call_agents(self._fanout, documents, timeout=PATIENCE):
            for answer in reply.answers:
                if answer.op == "load" and answer.ok:
                    found[reply.host.name] = dict(answer.detail)
        if found:
            self._take(time.time(), found, _here(), self._first)
            self._first = False


def _here() -> dict[str, Any]:
    """The machine on which this process runs, and the CPU seconds of the process and its children."""
    import resource  # not on Windows, where runs are only read

    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        machine = os.uname().nodename
    return {"machine": machine, "cpu": round(sum(one.ru_utime + one.ru_stime for one in used), 2)}
