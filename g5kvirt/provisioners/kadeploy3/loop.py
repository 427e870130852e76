"""Drive a deployment through Kadeploy3: submit its parts, poll them until they are done, record what happens.

Parts are submitted one after the other, because the server takes requests that way; those that have begun
are polled meanwhile. Polls cost the server time, so a slow answer makes the next poll come later. Every wait
has a bound, and everything that was started is ended, also on an interrupt. VMs that Kadeploy3 is done with
are logged in to meanwhile (`logins`): one is deployed when that has found what was deployed.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from g5kvirt.errors import TestbedError, reason_of
from g5kvirt.provisioners.kadeploy3.client import KadeployClient, RefusedError
from g5kvirt.provisioners.kadeploy3.event_mapping import EventMapper
from g5kvirt.provisioners.kadeploy3.logins import Logins
from g5kvirt.provisioners.kadeploy3.records import NodeState
from g5kvirt.provisioners.outcome import Outcome
from g5kvirt.run.events import Event

__all__ = ["DeploymentPart", "drive"]

log = logging.getLogger(__name__)

#: The next request waits so many times as long as the last one took.
_POLL_PAUSE, _STATUS_PAUSE = 4.0, 20.0
#: Seconds without any answer after which a part is given up.
_MAX_SILENCE = 120.0
#: Seconds that an end waits for a request that is under way, to end what it started.
_SUBMIT_END = 20.0


@dataclass
class DeploymentPart:
    """Nodes that are deployed together, by one deployment of Kadeploy3's."""

    nodes: tuple[str, ...]
    timeout: float  #: seconds for the answer to the request
    wid: str = ""
    over: bool = False
    next_poll: float = 0.0
    next_status: float = 0.0  #: when the nodes that are done are queried next
    last_answer: float = 0.0
    states: Mapping[str, NodeState] = field(default_factory=dict)


def drive(
    client: KadeployClient,
    events: EventMapper,
    parts: Sequence[DeploymentPart],
    request: Mapping[str, Any],
    logins: Logins,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
    write: Callable[[Sequence[Event]], object],
    limit: float,
    tick: float = 1.0,
) -> list[Outcome]:
    """Deploy all ``parts``; ``request`` are the arguments of `Client.deploy` besides nodes and timeout.

    ``events`` has begun. What an earlier, interrupted call may have left running on these nodes is ended
    first. A part that is refused, gets lost, or is not done within ``limit`` seconds ends as
    failed VMs; the others continue. ``tick``: seconds between two polls at the least.
    """
    loop = _Loop(client, events, parts, request, clock, tick)
    deadline = clock() + limit
    try:
        loop.start()
        while not (all(part.over for part in parts) and events.finished):
            loop.take_submitted()
            for part in parts:
                if part.wid and not part.over and clock() >= part.next_poll:
                    loop.poll(part)
            logins.begin(events.take_up())
            for login in logins.take():
                events.logged_in(login.t, login.vm, login.reason)
            if clock() >= deadline:
                loop.give_up(f"Kadeploy3 was not done within {limit:.0f} s")
            write(events.take())
            sleep(tick)
        return events.outcomes
    except BaseException as error:
        loop.give_up(reason_of(error))
        raise
    finally:
        write(events.take())


class _Loop:
    def __init__(
        self,
        client: KadeployClient,
        events: EventMapper,
        parts: Sequence[DeploymentPart],
        request: Mapping[str, Any],
        clock: Callable[[], float],
        tick: float,
    ) -> None:
        self._client, self._events, self._parts = client, events, parts
        self._request, self._clock, self._tick = request, clock, tick
        self._submitted: queue.SimpleQueue[tuple[DeploymentPart, str, str]] = queue.SimpleQueue()
        self._submitter = threading.Thread(
            target=self._submit_all, name="submitting to Kadeploy3", daemon=True
        )
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # between a part that is submitted and our giving up

    # ---- requests -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Submit the parts in a thread; a daemon, so that nothing waits long for a slow server."""
        self._submitter.start()

    def _submit_all(self) -> None:
        try:
            self._client.stop_those_of([name for part in self._parts for name in part.nodes])
        except TestbedError as error:
            log.warning("%s", error)  # the requests will say more
        for part in self._parts:
            if self._stopped.is_set():
                return
            wid, why = "", ""
            try:
                wid = self._client.deploy(part.nodes, timeout=part.timeout, **self._request)
            except TestbedError as error:
                why = str(error)
            with self._lock:
                if not self._stopped.is_set():
                    self._submitted.put((part, wid, why))
                    continue
            if wid:
                self._stop_deployment(wid)

    def take_submitted(self) -> None:
        """Take in the results of the submitted parts."""
        while not self._submitted.empty():
            part, wid, why = self._submitted.get()
            part.wid, part.last_answer = wid, self._clock()
            if not wid:
                self._close(part, (), why)

    # ---- polls --------------------------------------------------------------------------------------

    def poll(self, part: DeploymentPart) -> None:
        """Poll a part once; errors are tolerated for a while."""
        began = self._clock()
        try:
            lines = self._client.log(part.wid)
            part.states = self._client.states(part.wid)
            now = self._clock()
            self._events.poll(now, part.states, lines)
            part.last_answer = now
            part.next_poll = now + max(self._tick, _POLL_PAUSE * (now - began))
            if now >= part.next_status or self._seems_done(part):
                self._check_status(part)
        except RefusedError as refusal:
            self._close(part, (), str(refusal))
        except TestbedError as error:
            now = self._clock()
            part.next_poll = now + self._tick
            if now - part.last_answer > _MAX_SILENCE:
                self._close(part, (), str(error))

    @staticmethod
    def _seems_done(part: DeploymentPart) -> bool:
        seen = part.states.values()
        return len(part.states) >= len(part.nodes) and all(not s.macro or s.state == "ko" for s in seen)

    def _check_status(self, part: DeploymentPart) -> None:
        began = self._clock()
        status = self._client.status(part.wid)
        now = self._clock()
        part.next_status = now + max(10 * self._tick, _STATUS_PAUSE * (now - began))
        if not status.done:
            self._events.failed_for_good(now, status.ko)
            return
        # the last lines come when all is over
        self._events.poll(now, self._client.states(part.wid), self._client.log(part.wid))
        why = self._client.error(part.wid) if status.error else ""
        self._close(part, status.ok, why)

    def _close(self, part: DeploymentPart, ok: Sequence[str], why: str) -> None:
        """A part is over: take its statistics, end its VMs; then the server may forget it."""
        part.over = True
        rows = []
        if part.wid:
            try:
                rows = self._client.statistics(part.wid)
            except TestbedError as error:
                why = why or str(error)
            self._stop_deployment(part.wid)
        self._events.end(self._clock(), part.nodes, ok, rows, why)

    # ---- the end ------------------------------------------------------------------------------------

    def give_up(self, why: str) -> None:
        """End everything that runs; VMs that are not done have failed."""
        with self._lock:
            self._stopped.set()
        while not self._submitted.empty():
            part, wid, _ = self._submitted.get()
            part.wid = wid
        for part in self._parts:
            if part.wid and not part.over:
                self._stop_deployment(part.wid)
            part.over = True
        self._events.stop(self._clock(), why)
        if self._submitter.is_alive():
            # the server starts what was requested, even if nobody hears its answer
            self._submitter.join(_SUBMIT_END)

    def _stop_deployment(self, wid: str) -> None:
        try:
            self._client.stop(wid)
        except TestbedError as error:
            log.warning("%s", error)  # nothing waits for it, and the server forgets it after hours
