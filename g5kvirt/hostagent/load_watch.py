"""Looks now and then how busy the hosts are while a step lasts: processors, links, VMs, services."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.watch import Watch, affordable
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout

__all__ = ["LoadWatch", "interval_for"]

#: Seconds between two looks, and for each host more, as every look is kept in the journal.
SHORTEST = 5.0
PER_HOST = 0.05
#: The share of the processors that all looks may take where all hosts share one machine.
SHARE = 0.01
#: Seconds that the hosts have for their answers.
PATIENCE = 10.0

#: Takes the answers of one look: the time, host → counters, those of this process, whether it is the first.
Take = Callable[[float, Mapping[str, Any], Mapping[str, Any], bool], object]


def interval_for(hosts: int, real_cores: int | None) -> float:
    """Seconds from one look to the next; ``real_cores``: those that all hosts share, if they do."""
    return affordable(max(SHORTEST, PER_HOST * hosts), hosts, real_cores, share=SHARE)


class LoadWatch(Watch):
    """Calls ``take`` with the counters of ``hosts`` as it begins, every few seconds, and as it ends.

    A host that does not answer is missing in a look.
    """

    def __init__(
        self, fanout: Fanout, hosts: Iterable[Host], take: Take, *, real_cores: int | None = None
    ) -> None:
        self._hosts = list(hosts)
        super().__init__(fanout, "the load", interval_for(len(self._hosts), real_cores))
        self._take = take
        self._first = True

    def begun(self) -> None:
        """The first look."""
        self.look_safely()

    def ended(self, kind: type[BaseException] | None) -> None:
        """The last look, unless it is left by an exception."""
        self._thread.join(PATIENCE)
        if kind is None:
            self.look_safely()

    def look(self) -> None:
        """Call the hosts once."""
        document = protocol.document(protocol.load())
        documents = {host: document for host in self._hosts if not self.fanout.is_gone(host.address)}
        found: dict[str, Any] = {}
        for reply in calls.call_agents(self.fanout, documents, timeout=PATIENCE):
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
