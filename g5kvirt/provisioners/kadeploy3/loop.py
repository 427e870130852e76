"""Drive a deployment through Kadeploy3: ask for its parts, look at them until they are done, write down
what happens.

Parts are asked for one after the other, because the server takes requests that way; those that have begun
are looked at meanwhile. Looks cost the server time, so a slow answer makes the next look come later. Every
wait has a bound, and whatever was begun is ended, also on an interrupt.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from g5kvirt.errors import TestbedError, reason_of
from g5kvirt.provisioners.builtin.engine import Outcome
from g5kvirt.provisioners.kadeploy3.client import Client, RefusedError
from g5kvirt.provisioners.kadeploy3.event_mapping import Books
from g5kvirt.provisioners.kadeploy3.records import Sight
from g5kvirt.run.events import Event

__all__ = ["Part", "drive"]

log = logging.getLogger(__name__)

#: An answer that takes so long makes us wait that many times as long before the next question.
_EASE, _EASE_WHOLE = 4.0, 20.0
#: Seconds without any answer after which a part is given up.
_PATIENCE = 120.0


@dataclass
class Part:
    """Nodes that are asked for together."""

    nodes: tuple[str, ...]
    timeout: float  #: seconds for the answer to the request
    wid: str = ""
    over: bool = False
    look: float = 0.0  #: when it is looked at next
    whole: float = 0.0  #: when it is next asked who is done
    heard: float = 0.0  #: when it last answered
    states: Mapping[str, Sight] = field(default_factory=dict)


def drive(
    client: Client,
    books: Books,
    parts: Sequence[Part],
    request: Mapping[str, Any],
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
    write: Callable[[Sequence[Event]], object],
    limit: float,
    tick: float = 1.0,
) -> list[Outcome]:
    """Deploy all ``parts``; ``request`` are the words of `Client.deploy` besides nodes and timeout.

    ``books`` has begun. A part that is refused, gets lost, or is not done within ``limit`` seconds ends as
    failed VMs; the others go on. ``tick``: seconds between two looks at the least.
    """
    driving = _Driving(client, books, parts, request, clock, tick)
    deadline = clock() + limit
    try:
        driving.start()
        while not all(part.over for part in parts):
            driving.hear_requests()
            for part in parts:
                if part.wid and not part.over and clock() >= part.look:
                    driving.look(part)
            if clock() >= deadline:
                driving.give_up(f"Kadeploy3 was not done within {limit:.0f} s")
            write(books.news())
            sleep(tick)
        return books.outcomes
    except BaseException as error:
        driving.give_up(reason_of(error))
        raise
    finally:
        write(books.news())


class _Driving:
    def __init__(
        self,
        client: Client,
        books: Books,
        parts: Sequence[Part],
        request: Mapping[str, Any],
        clock: Callable[[], float],
        tick: float,
    ) -> None:
        self._client, self._books, self._parts = client, books, parts
        self._request, self._clock, self._tick = request, clock, tick
        self._answers: queue.SimpleQueue[tuple[Part, str, str]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._lock = threading.Lock()  # between a request that is answered and our giving up

    # ---- requests -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Ask for the parts in a thread. It is a daemon: if we end, the server lets go of its request."""
        threading.Thread(target=self._ask_for_all, name="asking Kadeploy3", daemon=True).start()

    def _ask_for_all(self) -> None:
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
                    self._answers.put((part, wid, why))
                    continue
            if wid:
                self._end(wid)

    def hear_requests(self) -> None:
        """Take in what became of the requests."""
        while not self._answers.empty():
            part, wid, why = self._answers.get()
            part.wid, part.heard = wid, self._clock()
            if not wid:
                self._close(part, (), why)

    # ---- looks --------------------------------------------------------------------------------------

    def look(self, part: Part) -> None:
        """One look at a part; what goes wrong is borne for a while."""
        began = self._clock()
        try:
            lines = self._client.log(part.wid)
            part.states = self._client.states(part.wid)
            now = self._clock()
            self._books.see(now, part.states, lines)
            part.heard = now
            part.look = now + max(self._tick, _EASE * (now - began))
            if now >= part.whole or self._seems_done(part):
                self._ask_whole(part)
        except RefusedError as refusal:
            self._close(part, (), str(refusal))
        except TestbedError as error:
            now = self._clock()
            part.look = now + self._tick
            if now - part.heard > _PATIENCE:
                self._close(part, (), str(error))

    @staticmethod
    def _seems_done(part: Part) -> bool:
        seen = part.states.values()
        return len(part.states) >= len(part.nodes) and all(not s.macro or s.state == "ko" for s in seen)

    def _ask_whole(self, part: Part) -> None:
        began = self._clock()
        progress = self._client.progress(part.wid)
        now = self._clock()
        part.whole = now + max(10 * self._tick, _EASE_WHOLE * (now - began))
        if not progress.done:
            return
        # the last lines come when all is over
        self._books.see(now, self._client.states(part.wid), self._client.log(part.wid))
        why = self._client.error(part.wid) if progress.error else ""
        self._close(part, progress.ok, why)

    def _close(self, part: Part, ok: Sequence[str], why: str) -> None:
        """A part is over: its statistics, its VMs' ends; then the server may forget it."""
        part.over = True
        rows = []
        if part.wid:
            try:
                rows = self._client.statistics(part.wid)
            except TestbedError as error:
                why = why or str(error)
            self._end(part.wid)
        self._books.end(self._clock(), part.nodes, ok, rows, why)

    # ---- the end ------------------------------------------------------------------------------------

    def give_up(self, why: str) -> None:
        """End everything that runs; VMs that are not done have failed."""
        with self._lock:
            self._stopped.set()
        while not self._answers.empty():
            part, wid, _ = self._answers.get()
            part.wid = wid
        for part in self._parts:
            if part.wid and not part.over:
                self._end(part.wid)
            part.over = True
        self._books.stop(self._clock(), why)

    def _end(self, wid: str) -> None:
        try:
            self._client.stop(wid)
        except TestbedError as error:
            log.warning("%s", error)  # nothing waits for it, and the server forgets it after hours
