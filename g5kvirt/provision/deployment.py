"""Where every VM is on its way through a workflow. No I/O, no clock of its own, no thread a VM.

A `Deployment` is told what was heard and asked what to do next; a `Driver` does it. ::

    deployment = Deployment("d1", vms, default_workflow(), reboots=SlotWindow(50), checks=SlotWindow(100))
    outcomes = drive(deployment, driver, clock=time.time, write=journal.extend)

A driver has two methods: `Driver.carry_out` starts an order (`Reboot`, `Task`, `Broadcast`, `Check`) and
returns at once; `Driver.hear` waits for words, at most so long. Orders name the ``attempt`` of each VM; a
word that answers an order, or comes from a task, names the same one, and a word about another attempt is not
heard. Words may come late, twice, in the wrong order or never:

- a word about a later step means that the steps before it are done, unless one of them needs an order;
- a word without an attempt counts from the VM's last reboot order on (less `CLOCK_SLACK`);
- silence ends at a time-out that is measured (`Meter`) and never applies to time spent waiting for a window;
- a VM that reports its minimal system in the middle of its task, or instead of its environment, has failed.

A failure goes back to a reboot of the next kind (soft, hard, relaunch), then to another try of the variant,
then to the next variant, then ends the VM as failed at that step with what it said last. VMs wait for
nothing but their own steps and the windows. Every event costs constant time (checks: a heap), whatever the
number of VMs: deadlines of a step lie in a queue, in order, because all its VMs have the same time-out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from g5kvirt.inventory import VM
from g5kvirt.journal import Event, Kind, Status
from g5kvirt.planning.windows import Window, interleave
from g5kvirt.provision.workflow import (
    REBOOTS,
    Broadcast,
    Check,
    MacroStep,
    Meter,
    MicroStep,
    Order,
    Reboot,
    RebootKind,
    Target,
    Task,
    Variant,
    Word,
    Workflow,
)

__all__ = ["CLOCK_SLACK", "Deployment", "Driver", "Outcome", "drive"]

#: Clocks of hosts and service machines, corrected by their measured offsets, may still differ so much.
CLOCK_SLACK = 0.5


class Driver(Protocol):
    """Does what a deployment orders, and hears what comes of it."""

    def carry_out(self, order: Order) -> None:
        """Start it and return at once; what cannot be done is heard as ``failed``, never raised."""

    def hear(self, timeout: float) -> Iterable[Word]:
        """All words there are; waits for the first one, at most ``timeout`` seconds."""


@dataclass(frozen=True)
class Outcome:
    """What became of one VM: ``deployed``, or ``failed`` at a named step."""

    vm: VM
    state: Literal["open", "deployed", "failed"]
    macro: str  #: where it is, or ended
    step: str
    attempt: int
    reason: str  #: why it failed; "" otherwise
    said: str  #: what was heard of it last


class _Spot:
    """A micro-step in its place in the workflow, with its time-out and its deadlines."""

    __slots__ = ("again", "deadlines", "hosts", "m", "macro", "meter", "s", "step", "v", "variant")

    def __init__(self, m: int, v: int, s: int, macro: MacroStep, variant: Variant, step: MicroStep) -> None:
        self.m, self.v, self.s = m, v, s
        self.macro, self.variant, self.step = macro, variant, step
        names = [other.name for other in variant.steps]
        self.again = s if step.act == "reboot" else names.index(step.again_at) if step.again_at else None
        self.meter = Meter(step.timeout)
        self.deadlines: deque[tuple[float, _Track, int]] = deque()  # since, VM, its pulse then
        self.hosts: deque[tuple[float, _HostPart, int]] = deque()  # since, broadcast to a host, its attempt


@dataclass(slots=True, eq=False)
class _Track:
    """One VM on its way."""

    vm: VM
    name: str
    host: str
    spot: _Spot
    fresh: bool
    variants: tuple[int, ...]  # of each macro-step
    tries: tuple[int, ...]  # failed tries of the current variant of each macro-step
    state: Literal["open", "deployed", "failed"] = "open"
    attempt: int = 1  # every order of a kind is given once an attempt
    macro_attempt: int = 0  # the attempt in which it entered its macro-step
    macro_armed: bool = False
    pulse: int = 0  # rises with every step: older deadlines and places in queues are void
    t0: float = 0.0  # when its step began
    since: float = 0.0  # when its last reboot was ordered
    heard_at: float = 0.0
    ordered: bool = False  # the order that its words answer was given
    queued: _Queue | None = None
    slot: bool = False  # of the reboot window
    rank: int = 0  # the gentlest reboot that is still worth a try
    chosen: int = -1  # the rank of the last one
    tried: int = 0  # how often that failed
    turn: int = 0  # of checks
    in_check: bool = False
    final: bool = False  # overdue, but its check is still to come
    said: str = ""
    reason: str = ""


class _Queue:
    """VMs that wait for a window. Who left is skipped when its turn comes."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.live = 0
        self.held = 0  # slots
        self.last: float | None = None
        self.again: float | None = None
        self._line: deque[tuple[_Track, int]] = deque()

    def put(self, track: _Track) -> None:
        self._line.append((track, track.pulse))
        track.queued = self
        self.live += 1

    def leave(self, track: _Track) -> None:
        track.queued = None
        self.live -= 1

    def take(self, now: float) -> list[_Track]:
        """Those who may go now; each holds a slot."""
        decision = self.window.decide(now, waiting=self.live, in_flight=self.held, last=self.last)
        self.again = decision.again
        batch: list[_Track] = []
        while len(batch) < decision.start:
            track, pulse = self._line.popleft()
            if track.queued is self and track.pulse == pulse:
                self.leave(track)
                batch.append(track)
        if batch:
            self.held += len(batch)
            self.last = now
        return batch


class _HostPart:
    """The broadcast to one host, and the VMs that wait for it."""

    __slots__ = ("attempt", "name", "reason", "spot", "state", "t", "tried", "waiting")

    def __init__(self, name: str, spot: _Spot) -> None:
        self.name, self.spot = name, spot
        self.state: Literal["running", "ok", "failed"] = "running"
        self.attempt = 0
        self.tried = 0  # how often it failed
        self.t = 0.0  # when it began
        self.reason = ""
        self.waiting: list[tuple[_Track, int]] = []


class Deployment:
    """All VMs of one deployment.

    ``name`` is its id in the journal; ``about`` goes into its first event (environment, size, repetition).
    ``fresh`` names the VMs that stand in their minimal system already: those are not rebooted first.
    Both windows are asked for as many VMs as may go now; a `SlotWindow`'s slot is held until the VM is up (a
    check: until it is answered), a `RateWindow` lets so many go in each period.
    """

    def __init__(
        self,
        name: str,
        vms: Sequence[VM],
        workflow: Workflow,
        *,
        reboots: Window,
        checks: Window,
        fresh: Collection[str] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.workflow = workflow
        self._about = dict(about or {})
        self._spots = [
            [
                [_Spot(m, v, s, macro, way, step) for s, step in enumerate(way.steps)]
                for v, way in enumerate(ways)
            ]
            for m, macro in enumerate(workflow.macros)
            for ways in [macro.variants]
        ]
        self._all = [spot for macro in self._spots for variant in macro for spot in variant]
        first, known = self._spots[0][0][0], frozenset(fresh)
        self._zeros = (0,) * len(workflow.macros)
        self._tracks = {vm.name: self._track(vm, first, vm.name in known) for vm in interleave(vms)}
        if len(self._tracks) < len(vms):
            raise ValueError("two VMs have the same name")
        self._minimal = frozenset(s.step.name for s in self._all if s.step.prepares and s.step.act == "word")
        self._guest = (
            frozenset(s.step.name for s in self._all if s.step.act in ("word", "task")) - self._minimal
        )
        self._reboots = _Queue(reboots)
        self._checks = _Queue(checks)
        self._timers: list[tuple[float, int, _Track, int, int]] = []  # a heap: next checks, ends of leases
        self._timer_number = 0
        self._macro_deadlines: dict[tuple[int, int], deque[tuple[float, _Track, int]]] = {}
        self._parts: dict[tuple[int, int, str], _HostPart] = {}
        self._host_orders: dict[str, list[_HostPart]] = {}  # in the order of their attempts
        self._tasks: list[_Track] = []
        self._broadcasts: list[_HostPart] = []
        self._out: list[Event] = []
        self._now = 0.0
        self._begun = False
        self._counts = {"open": len(self._tracks), "deployed": 0, "failed": 0}

    # ---- what can be asked --------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True when every VM is deployed or failed, and that has been written down."""
        return self._begun and self._counts["open"] == 0

    def count(self, state: Literal["open", "deployed", "failed"]) -> int:
        """How many VMs are in ``state``; the three numbers always add up to the VMs asked for."""
        return self._counts[state]

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of every VM, in the order in which they were started."""
        return [
            Outcome(k.vm, k.state, k.spot.macro.name, k.spot.step.name, k.attempt, k.reason, k.said)
            for k in self._tracks.values()
        ]

    def events(self) -> list[Event]:
        """What happened since this was last asked, for the journal."""
        news, self._out = self._out, []
        return news

    def wake(self) -> float | None:
        """When to ask for `orders` again at the latest, if nothing is heard before; None: no need."""
        if self.finished:
            return None
        times = [
            spot.deadlines[0][0] + spot.meter.timeout(self._active) for spot in self._all if spot.deadlines
        ]
        times += [
            line[0][0] + (self._spots[m][v][0].variant.timeout or 0.0)
            for (m, v), line in self._macro_deadlines.items()
            if line
        ]
        times += [spot.hosts[0][0] + spot.meter.timeout(self._active) for spot in self._all if spot.hosts]
        if self._timers:
            times.append(self._timers[0][0])
        times += [queue.again for queue in (self._reboots, self._checks) if queue.again is not None]
        return min(times, default=None)

    # ---- what it is told and asked ------------------------------------------------------------------

    def tell(self, word: Word, now: float) -> bool:
        """Something was heard; False if it is no news: late, said before, of an earlier attempt, not ours."""
        self._now = now = max(self._now, now)
        track = self._tracks.get(word.subject)
        if track is None:
            return self._tell_host(word, now)
        if track.state != "open" or not self._begun:
            return False
        if word.attempt is None:
            if word.t < track.since - CLOCK_SLACK:
                return False
        elif word.attempt != track.attempt:
            return False
        t = max(min(word.t, now), track.t0)
        step = track.spot.step
        if step.act == "check":
            return self._tell_check(track, word, t, now)
        if step.act in ("reboot", "task") and not track.ordered:
            return False
        jumped = word.step != step.name
        if jumped:
            target = self._ahead(track, word.step)
            if target is None:
                return self._tell_behind(track, word, t, now)
            while track.spot is not target:
                if track.spot.step.act != "broadcast" or word.status == "ok":
                    self._passed(track, t, implied=True)
                self._move(track, self._next(track, track.spot), t)
            if target.step.act == "check":
                self._heard(track, word)
                self._enter(track, target, t, now)
                self._checks.put(track)
                return True
        self._heard(track, word)
        if word.status == "ok":
            self._ok(track, t, now, measured=not jumped)
        else:
            self._failed(track, t, now, word.reason or "no reason was given", silent=False)
        return True

    def orders(self, now: float) -> list[Order]:
        """What to do now. Everything in it counts as ordered from here on."""
        self._now = now = max(self._now, now)
        if not self._begun:
            self._begin(now)
        self._overdue(now)
        self._ring(now)
        return [
            *self._broadcast_orders(now),
            *self._reboot_orders(now),
            *self._task_orders(),
            *self._check_orders(now),
        ]

    def stop(self, now: float, reason: str) -> None:
        """End every VM that is not done yet as failed where it is, because of ``reason``."""
        if not self._begun:
            self._begin(now)
        for track in [k for k in self._tracks.values() if k.state == "open"]:
            t = max(now, track.t0)
            self._release(track)
            self._say(track, "failed", t, reason=reason)
            self._say_macro(track, "failed", t, reason)
            self._end(track, "failed", t, reason)

    # ---- words --------------------------------------------------------------------------------------

    @staticmethod
    def _heard(track: _Track, word: Word) -> None:
        track.said = f"{word.step} {word.status}" + (f": {word.reason}" if word.reason else "")
        track.heard_at = word.t

    def _ahead(self, track: _Track, name: str) -> _Spot | None:
        """The later step that a word tells of, if nothing before it needs an order."""
        spot = self._next(track, track.spot)
        while spot is not None and spot.step.act not in ("reboot", "task"):
            if spot.step.act == "check":
                return spot if spot.step.hint == name else None
            if spot.step.name == name:
                return spot
            spot = self._next(track, spot)
        return None

    def _tell_behind(self, track: _Track, word: Word, t: float, now: float) -> bool:
        """A word about a step that is over."""
        if self._fell_back(track, word):
            reason = f"came back to its minimal system after {track.said}"
            self._failed(track, t, now, reason, silent=False)
            return True
        if word.status == "failed" and word.attempt is not None and word.step in self._guest:
            self._heard(track, word)
            self._failed(track, t, now, f"{word.step}: {word.reason or 'no reason was given'}", silent=False)
            return True
        return False

    def _fell_back(self, track: _Track, word: Word) -> bool:
        """Does the word say that the VM restarted, unasked, into its minimal system?"""
        step = track.spot.step
        return (
            word.step in self._minimal
            and word.status == "ok"
            and word.attempt is None
            and step.act in ("word", "broadcast", "check")
            and not step.prepares
            and word.t > max(track.heard_at, track.since) + CLOCK_SLACK
        )

    def _tell_check(self, track: _Track, word: Word, t: float, now: float) -> bool:
        step = track.spot.step
        if word.step == step.name:
            if word.status == "ok":
                if not track.turn:
                    return False  # nobody looked in this attempt
                self._heard(track, word)
                self._ok(track, t, now)
                return True
            if not track.in_check or word.turn not in (None, track.turn):
                return False
            self._heard(track, word)
            self._not_yet(track, t, now)
            return True
        if word.step == step.hint and word.status == "ok":
            if track.in_check or track.queued is not None:
                return False
            self._heard(track, word)
            self._checks.put(track)
            return True
        if self._fell_back(track, word):
            self._failed(track, t, now, f"came back to its minimal system after {track.said}", silent=False)
            return True
        return False

    def _not_yet(self, track: _Track, t: float, now: float) -> None:
        """A check was answered in the negative, or not at all."""
        self._release_check(track)
        if track.final:
            seconds = t - track.t0
            self._failed(track, t, now, self._overdue_reason(track, seconds), silent=True)
        else:
            self._set_timer(track, now + track.spot.step.every)

    def _tell_host(self, word: Word, now: float) -> bool:
        given = self._host_orders.get(word.subject)
        attempt = word.attempt if word.attempt is not None else len(given or ())
        if not given or not 1 <= attempt <= len(given):
            return False
        part = given[attempt - 1]
        if part.state != "running" or part.attempt != attempt or word.step != part.spot.step.name:
            return False
        t = max(min(word.t, now), part.t)
        if word.status == "failed":
            self._part_failed(part, t, now, word.reason or "no reason was given")
            return True
        part.state = "ok"
        part.spot.meter.record(t - part.t, self._active)
        self._say_host(part, "ok", t)
        for track in self._waiting(part):
            self._ok(track, max(t, track.t0), now, measured=False)
        return True

    # ---- orders -------------------------------------------------------------------------------------

    def _reboot_orders(self, now: float) -> list[Order]:
        groups: dict[tuple[str, RebootKind, Any], list[Target]] = {}
        for track in self._reboots.take(now):
            step = track.spot.step
            kinds = [kind for kind in step.alternatives if REBOOTS.index(kind) >= track.rank]
            kind = kinds[0] if kinds else step.alternatives[-1]
            track.chosen = REBOOTS.index(kind)
            track.slot = track.ordered = True
            track.t0 = track.since = now
            self._arm(track, now)
            groups.setdefault((step.name, kind, step.into), []).append(Target(track.vm, track.attempt))
        return [Reboot(tuple(vms), *key) for key, vms in groups.items()]

    def _task_orders(self) -> list[Order]:
        groups: dict[tuple[str, tuple[int, ...]], list[Target]] = {}
        tasks, self._tasks = self._tasks, []
        for track in tasks:
            if track.state == "open" and track.spot.step.act == "task" and not track.ordered:
                track.ordered = True
                key = (track.spot.step.name, track.variants)
                groups.setdefault(key, []).append(Target(track.vm, track.attempt))
        macros = self.workflow.macros
        return [
            Task(tuple(vms), step, {m.name: m.variants[v].name for m, v in zip(macros, chosen, strict=True)})
            for (step, chosen), vms in groups.items()
        ]

    def _broadcast_orders(self, now: float) -> list[Order]:
        groups: dict[tuple[str, str, int], list[str]] = {}
        parts, self._broadcasts = self._broadcasts, []
        for part in parts:
            given = self._host_orders.setdefault(part.name, [])
            given.append(part)
            part.attempt = len(given)
            part.t = now
            part.spot.hosts.append((now, part, part.attempt))
            self._say_host(part, "start", now)
            key = (part.spot.step.name, part.spot.variant.name, part.attempt)
            groups.setdefault(key, []).append(part.name)
        return [Broadcast(tuple(hosts), *key) for key, hosts in groups.items()]

    def _check_orders(self, now: float) -> list[Order]:
        groups: dict[str, list[Target]] = {}
        for track in self._checks.take(now):
            track.turn += 1
            track.in_check = True
            self._set_timer(track, now + track.spot.step.lease)
            groups.setdefault(track.spot.step.name, []).append(Target(track.vm, track.attempt, track.turn))
        return [Check(tuple(vms), step) for step, vms in groups.items()]

    # ---- time ---------------------------------------------------------------------------------------

    @property
    def _active(self) -> int:
        """VMs that are on their way and do not wait for a reboot: those that share cores and links."""
        return self._counts["open"] - self._reboots.live

    def _arm(self, track: _Track, now: float) -> None:
        spot = track.spot
        if spot.step.act != "broadcast":  # there the host has the deadline
            spot.deadlines.append((now, track, track.pulse))
        if not track.macro_armed and spot.variant.timeout is not None:
            track.macro_armed = True
            line = self._macro_deadlines.setdefault((spot.m, spot.v), deque())
            line.append((now, track, track.macro_attempt))

    def _set_timer(self, track: _Track, due: float) -> None:
        self._timer_number += 1
        heapq.heappush(self._timers, (due, self._timer_number, track, track.pulse, track.turn))

    def _ring(self, now: float) -> None:
        """Checks that are due again, and checks that were not answered in time."""
        while self._timers and self._timers[0][0] <= now:
            _, _, track, pulse, turn = heapq.heappop(self._timers)
            if track.pulse != pulse or track.turn != turn or track.queued is not None:
                continue
            if track.in_check:
                track.said = f"no answer to a check within {track.spot.step.lease:.0f} s"
                self._not_yet(track, now, now)
            else:
                self._checks.put(track)

    def _overdue(self, now: float) -> None:
        for spot in self._all:
            line = spot.deadlines
            while line:
                since, track, pulse = line[0]
                if track.pulse == pulse:
                    seconds = spot.meter.timeout(self._active)
                    if now < since + seconds:
                        break
                    if track.in_check or (track.queued is not None and spot.step.act == "check"):
                        track.final = True
                    else:
                        self._failed(track, now, now, self._overdue_reason(track, seconds), silent=True)
                line.popleft()
        for (m, v), macro_line in self._macro_deadlines.items():
            variant = self._spots[m][v][0].variant
            bound = variant.timeout or 0.0
            while macro_line:
                since, track, attempt = macro_line[0]
                here = track.state == "open" and (track.spot.m, track.macro_attempt) == (m, attempt)
                if here and now < since + bound:
                    break
                macro_line.popleft()
                if here:
                    said = track.said or "nothing"
                    reason = f"{track.spot.macro.name} took longer than {bound:.0f} s, last: {said}"
                    self._failed(track, now, now, reason, silent=True, whole=True)
        for spot in self._all:
            while spot.hosts:
                since, part, attempt = spot.hosts[0]
                if part.state == "running" and part.attempt == attempt:
                    seconds = spot.meter.timeout(self._active)
                    if now < since + seconds:
                        break
                    self._part_failed(part, now, now, f"not there within {seconds:.0f} s")
                spot.hosts.popleft()

    @staticmethod
    def _overdue_reason(track: _Track, seconds: float) -> str:
        if track.spot.step.act == "check":
            return f"not {track.spot.step.name} within {seconds:.0f} s, last: {track.said or 'nothing'}"
        return f"nothing after {track.said or 'the order'} within {seconds:.0f} s"

    # ---- one VM -------------------------------------------------------------------------------------

    def _track(self, vm: VM, spot: _Spot, fresh: bool) -> _Track:
        return _Track(vm, vm.name, vm.host, spot, fresh, self._zeros, self._zeros)

    def _begin(self, now: float) -> None:
        self._begun = True
        about = self._about | {"asked": len(self._tracks), "workflow": self.workflow.plain()}
        self._event("deployment", "run", self.name, "start", now, 1, **about)
        for variants in self._spots:
            for spot in (s for s in variants[0] if s.step.act == "broadcast" and s.step.early):
                for host in dict.fromkeys(k.host for k in self._tracks.values()):
                    self._part(host, spot)
        for track in self._tracks.values():
            track.since = now
            self._enter_macro(track, 0, now, now)
        if not self._tracks:
            self._event("deployment", "run", self.name, "ok", now, 1, deployed=0, failed=0)

    def _next(self, track: _Track, spot: _Spot) -> _Spot | None:
        variant = self._spots[spot.m][spot.v]
        if spot.s + 1 < len(variant):
            return variant[spot.s + 1]
        if spot.m + 1 < len(self._spots):
            return self._spots[spot.m + 1][track.variants[spot.m + 1]][0]
        return None

    def _enter_macro(self, track: _Track, m: int, t: float, now: float) -> None:
        self._begin_macro(track, self._spots[m][track.variants[m]][0], t)
        self._enter(track, track.spot, t, now)

    def _begin_macro(self, track: _Track, spot: _Spot, t: float) -> None:
        track.spot = spot
        track.macro_attempt = track.attempt
        track.macro_armed = False
        self._say_macro(track, "start", t)

    def _move(self, track: _Track, spot: _Spot | None, t: float) -> None:
        """To a step, across the border of a macro-step if need be, without beginning it."""
        track.pulse += 1
        track.t0 = t
        track.final = False
        if spot is None or spot.m != track.spot.m:
            self._say_macro(track, "ok", t)
            track.rank = track.tried = 0
            if spot is not None:
                self._begin_macro(track, spot, t)
        if spot is not None:
            track.spot = spot

    def _enter(self, track: _Track, spot: _Spot, t: float, now: float) -> None:
        """Begin a step."""
        track.pulse += 1
        track.spot = spot
        track.t0 = t
        track.final = False
        step = spot.step
        if track.fresh:
            if step.prepares:
                self._say(track, "skipped", t)
                self._advance(track, t, now)
                return
            track.fresh = False
        if step.act == "reboot":
            track.ordered = False
            self._reboots.put(track)
            return
        self._arm(track, now)
        if step.act == "task":
            track.ordered = False
            self._tasks.append(track)
        elif step.act == "check":
            track.turn = 0
            self._set_timer(track, now + step.delay)
        elif step.act == "broadcast":
            part = self._part(track.host, spot)
            if part.state == "ok":
                self._ok(track, t, now, measured=False)
            elif part.state == "failed":
                self._failed(track, t, now, f"{part.name}: {part.reason}", silent=False, hopeless=True)
            else:
                part.waiting.append((track, track.pulse))

    def _advance(self, track: _Track, t: float, now: float) -> None:
        spot = self._next(track, track.spot)
        self._move(track, spot, t)
        if spot is None:
            self._end(track, "deployed", t)
        else:
            self._enter(track, spot, t, now)

    def _ok(self, track: _Track, t: float, now: float, *, measured: bool = True) -> None:
        if measured:
            track.spot.meter.record(t - track.t0, self._active)
        self._passed(track, t)
        self._advance(track, t, now)

    def _passed(self, track: _Track, t: float, *, implied: bool = False) -> None:
        """A step is over; with it the slots it held, but that of a reboot waits for the next step."""
        if implied:
            self._say(track, "ok", t, implied=True)
        else:
            self._say(track, "ok", t)
        if track.spot.step.act != "reboot":
            self._release(track)

    def _release_check(self, track: _Track) -> None:
        if track.in_check:
            track.in_check = False
            self._checks.held -= 1

    def _release(self, track: _Track) -> None:
        if track.queued is not None:
            track.queued.leave(track)
        if track.slot:
            track.slot = False
            self._reboots.held -= 1
        self._release_check(track)

    def _failed(
        self,
        track: _Track,
        t: float,
        now: float,
        reason: str,
        *,
        silent: bool,
        whole: bool = False,
        hopeless: bool = False,
    ) -> None:
        """A step failed, and if ``whole`` its macro-step; ``hopeless``: so would the same variant again."""
        spot = track.spot
        self._release(track)
        self._say(track, "failed", t, reason=reason)
        if spot.again is not None and not whole:
            back = self._spots[spot.m][spot.v][spot.again]
            track.tried += 1
            again = track.tried <= back.step.retries
            if not again:
                track.rank, track.tried = max(track.rank, track.chosen + 1), 0
                again = track.rank <= REBOOTS.index(back.step.alternatives[-1])
            if again:
                track.attempt += 1
                track.since = now
                self._enter(track, back, t, now)
                return
        elif silent:
            track.rank = max(track.rank, REBOOTS.index("hard"))
        self._macro_failed(track, t, now, reason, hopeless)

    def _macro_failed(self, track: _Track, t: float, now: float, reason: str, hopeless: bool) -> None:
        """Try the variant again, or the next one, or give the VM up."""
        spot = track.spot
        m, v = spot.m, spot.v
        track.tried = 0
        tries = track.tries[m] + 1
        if hopeless or tries > spot.variant.retries:
            v, tries = v + 1, 0
        if v >= len(spot.macro.variants):
            self._say_macro(track, "failed", t, reason)
            self._end(track, "failed", t, reason)
            return
        self._say_macro(track, "retry", t, reason)
        track.variants = _with(track.variants, m, v)
        track.tries = _with(track.tries, m, tries)
        track.attempt += 1
        track.since = now
        name = spot.macro.variants[v].again_from
        names = [macro.name for macro in self.workflow.macros]
        self._enter_macro(track, names.index(name) if name else m, t, now)

    def _end(self, track: _Track, state: Literal["deployed", "failed"], t: float, reason: str = "") -> None:
        track.pulse += 1
        track.state, track.reason = state, reason
        self._counts["open"] -= 1
        self._counts[state] += 1
        detail: dict[str, Any] = {"said": track.said}
        if state == "failed":
            detail |= {"macro": track.spot.macro.name, "at": track.spot.step.name, "reason": reason}
        status: Status = "ok" if state == "deployed" else "failed"
        self._event("deployment", "vm", track.name, status, t, track.attempt, **detail)
        if not self._counts["open"]:
            status = "ok" if self._counts["deployed"] else "failed"
            numbers = {name: self._counts[name] for name in ("deployed", "failed")}
            self._event("deployment", "run", self.name, status, self._now, 1, **numbers)

    # ---- one host -----------------------------------------------------------------------------------

    def _part(self, host: str, spot: _Spot) -> _HostPart:
        """The broadcast to a host; ordered when it is first asked for."""
        key = (spot.m, spot.v, host)
        if key not in self._parts:
            self._parts[key] = _HostPart(host, spot)
            self._broadcasts.append(self._parts[key])
        return self._parts[key]

    def _part_failed(self, part: _HostPart, t: float, now: float, reason: str) -> None:
        part.tried += 1
        again = part.tried <= part.spot.step.retries
        self._say_host(part, "retry" if again else "failed", t, reason)
        if again:
            self._broadcasts.append(part)
            return
        part.state, part.reason = "failed", reason
        for track in self._waiting(part):
            self._failed(track, max(t, track.t0), now, f"{part.name}: {reason}", silent=False, hopeless=True)

    @staticmethod
    def _waiting(part: _HostPart) -> list[_Track]:
        waiting, part.waiting = part.waiting, []
        return [track for track, pulse in waiting if track.pulse == pulse]

    # ---- what happened ------------------------------------------------------------------------------

    def _say(self, track: _Track, status: Status, t: float, **more: Any) -> None:
        """A micro-step of a VM is over; ``seconds``: how long it took, waits for a window left out."""
        detail = {"deployment": self.name, "seconds": round(t - track.t0, 6)}
        if more:
            detail |= more
        step = track.spot.step.name
        self._out.append(Event("measure", step, "vm", track.name, status, t, track.attempt, detail))

    def _say_macro(self, track: _Track, status: Status, t: float, reason: str = "") -> None:
        spot = track.spot
        detail = {"deployment": self.name, "variant": spot.variant.name}
        if reason:
            detail["reason"] = reason
        attempt = track.macro_attempt
        self._out.append(Event("measure", spot.macro.name, "vm", track.name, status, t, attempt, detail))

    def _say_host(self, part: _HostPart, status: Status, t: float, reason: str = "") -> None:
        more = {"variant": part.spot.variant.name} | ({"reason": reason} if reason else {})
        self._event(part.spot.step.name, "host", part.name, status, t, part.attempt, **more)

    def _event(
        self, step: str, kind: Kind, subject: str, status: Status, t: float, attempt: int, **detail: Any
    ) -> None:
        detail = {"deployment": self.name} | detail
        self._out.append(Event("measure", step, kind, subject, status, t, attempt, detail))


def _with(numbers: tuple[int, ...], place: int, number: int) -> tuple[int, ...]:
    return (*numbers[:place], number, *numbers[place + 1 :])


def drive(
    deployment: Deployment,
    driver: Driver,
    *,
    clock: Callable[[], float],
    write: Callable[[Sequence[Event]], object],
    tick: float = 1.0,
) -> list[Outcome]:
    """Until every VM is deployed or failed; what happens is written as it happens.

    ``tick``: seconds after which the clock is looked at although nothing was heard.
    """
    try:
        while True:
            now = clock()
            for order in deployment.orders(now):
                driver.carry_out(order)
            write(deployment.events())
            if deployment.finished:
                return deployment.outcomes
            wake = deployment.wake()
            wait = tick if wake is None else min(tick, max(0.0, wake - now))
            for word in driver.hear(wait):
                deployment.tell(word, clock())
    finally:
        write(deployment.events())
