"""Notices within half a minute that a host is gone, whatever is under way on it.

Every host that is called keeps a connection, which ssh itself ends when the host has been silent for a while.
Then it is called once more: a host whose sshd was started again is no lost host.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout
from g5kvirt.remote.access import SILENCE

__all__ = ["NOTICED_WITHIN", "HostWatch"]

log = logging.getLogger(__name__)

#: Seconds that a host whose connection has ended has to let us in again.
PATIENCE = 8.0
#: Seconds in which hosts that are lost together are collected, to be called together.
COLLECTING = 0.5

#: Seconds after which a host that does not answer any more is reported.
NOTICED_WITHIN = SILENCE + COLLECTING + PATIENCE


class HostWatch:
    """Calls ``gone(host, reason)``, in a thread of its own, for each of ``hosts`` that is lost.

    A context manager. What `Fanout.call` waits for on that host ends then, with that reason. ``gone`` must
    not raise. A host is watched from the first call to it on, and not at all through jump hosts, where no
    connection is kept.
    """

    def __init__(self, fanout: Fanout, hosts: Iterable[Host], gone: Callable[[Host, str], object]) -> None:
        self._fanout = fanout
        self._hosts = {host.address: host for host in hosts}
        self._gone = gone
        self._lost: queue.SimpleQueue[Host] = queue.SimpleQueue()

    def __enter__(self) -> HostWatch:
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="watch over the hosts")
        self._leave = self._fanout.on_lost(self._connection_lost)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self._pool.shutdown(cancel_futures=True)  # waits for PATIENCE at most

    def _connection_lost(self, address: str) -> None:
        host = self._hosts.get(address)
        if host is not None:
            self._lost.put(host)
            with suppress(RuntimeError):  # we have just been left, and the pool with us
                self._pool.submit(self._call_again)

    def _call_again(self) -> None:
        """All hosts that have been lost by now, together."""
        time.sleep(COLLECTING)
        lost: set[Host] = set()
        with suppress(queue.Empty):
            while True:
                lost.add(self._lost.get_nowait())
        if not lost:  # another thread has taken them
            return
        deadline = time.monotonic() + PATIENCE

        def given_up() -> str:
            return f"no answer within {PATIENCE:g} s" if time.monotonic() > deadline else ""

        replies = calls.call_agents(
            self._fanout, dict.fromkeys(lost, protocol.document()), timeout=PATIENCE, given_up=given_up
        )
        for reply in replies:
            if not reply.ok:
                log.debug("%s is gone: %s", reply.host.name, reply.reason)
                reason = f"its host {reply.host.name} is gone ({reply.reason})"
                self._fanout.abandon(reply.host.address, reason)
                self._gone(reply.host, reason)
