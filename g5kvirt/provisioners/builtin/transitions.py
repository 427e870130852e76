"""How a VM goes on from a step that is done, back from one that failed, and how it ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from g5kvirt.inventory import VM
from g5kvirt.planning.windows import Window, interleave
from g5kvirt.provisioners.builtin.deadlines import Deadlines
from g5kvirt.provisioners.builtin.hosts import Hosts, Part
from g5kvirt.provisioners.builtin.positions import Route, Spot, Track, Way
from g5kvirt.provisioners.builtin.recorder import Account
from g5kvirt.provisioners.builtin.window_queue import Queue
from g5kvirt.provisioners.builtin.workflow import REBOOTS, Workflow

__all__ = ["Moves", "Spoilt"]

#: What a failure ends: the step, so that a reboot may help; this try of the variant; all tries of the
#: variant, so that only another one may help; everything.
Spoilt = Literal["step", "try", "variant", "vm"]


class Moves:
    """All VMs of one deployment, and how they move. Times: ``t`` when it happened, ``now`` when it is dealt
    with: what begins, begins ``now``."""

    def __init__(
        self,
        name: str,
        vms: Sequence[VM],
        workflow: Workflow,
        *,
        reboots: Window,
        checks: Window,
        fresh: Collection[str],
    ) -> None:
        self.route = Route(workflow)
        self.tracks = self.route.tracks(interleave(vms), fresh)
        self.account = Account(name, len(self.tracks))
        self.deadlines = Deadlines(self.route, self.load)
        self.hosts = Hosts(self.load)
        self.reboots = Queue(reboots)
        self.checks = Queue(checks)
        self.tasks: list[Track] = []  # that want their task

    def load(self) -> int:
        """VMs on their way that do not wait for a reboot: those that share cores and links."""
        return self.account.counts["open"] - self.reboots.waiting

    # ---- on -----------------------------------------------------------------------------------------

    def begin(self, now: float, about: Mapping[str, Any]) -> None:
        """All VMs set out."""
        self.account.begin(now, about)
        hosts = dict.fromkeys(track.vm.host for track in self.tracks.values())
        for spot in (spot for ways in self.route.macros for spot in ways[0].spots):
            if spot.step.act == "broadcast" and spot.step.early:
                for host in hosts:
                    self.hosts.part(host, spot)
        for track in self.tracks.values():
            track.since = now
            self._enter_macro(track, 0, now, now)

    def enter(self, track: Track, t: float, now: float) -> None:
        """Begin the step in which it stands."""
        spot, step = track.spot, track.spot.step
        if track.fresh:
            if step.prepares:
                self.account.step(track, "skipped", t)
                self._advance(track, t, now)
                return
            track.fresh = False
        if step.act == "reboot":
            track.ordered = False
            self.reboots.put(track)
            return
        self.deadlines.arm(track, now)
        if step.act == "task":
            track.ordered = False
            self.tasks.append(track)
        elif step.act == "check":
            track.turn = 0
            self.deadlines.set_timer(track, now + step.delay)
        elif step.act == "broadcast":
            part = self.hosts.part(track.vm.host, spot)
            if part.state == "ok":
                self.ok(track, t, now, measured=False)
            elif part.state == "failed":
                self.failed(track, t, now, f"{part.name}: {part.reason}", spoilt="variant")
            else:
                part.waiting[track] = None

    def ok(self, track: Track, t: float, now: float, *, measured: bool = True) -> None:
        """Its step is done. ``measured``: it is known how long it took."""
        if measured:
            track.spot.meter.record(t - track.t0, self.load())
        self.account.step(track, "ok", t)
        if track.spot.step.act != "reboot":  # its slot is held until the VM is up
            self.release(track)
        self._advance(track, t, now)

    def jump(self, track: Track, target: Spot, t: float, *, proven: bool) -> bool:
        """To a later step, because a word tells of it; ``proven``: so it has done all those before it.

        False if one that was jumped is not proven to be done: the broadcast to its host.
        """
        sure = True
        while track.spot is not target:
            spot = track.spot
            if proven or spot.step.act != "broadcast":
                self.account.step(track, "ok", t, implied=True)
                if spot.step.act != "reboot":
                    self.release(track)
            else:
                sure = False
            self._move(track, self.route.after(spot, track), t)
        return sure

    def want_check(self, track: Track) -> None:
        """It is to be checked as soon as the window allows."""
        track.timer = 0
        self.checks.put(track)

    def release(self, track: Track) -> None:
        """It gives back what it holds of the windows, or wants of them."""
        self.reboots.leave(track)
        self.checks.leave(track)

    def _advance(self, track: Track, t: float, now: float) -> None:
        spot = self.route.after(track.spot, track)
        self._move(track, spot, t)
        if spot is None:
            self._end(track, "deployed", t, now)
        else:
            self.enter(track, t, now)

    def _move(self, track: Track, spot: Spot | None, t: float) -> None:
        """To a step, across the border of a macro-step if need be, without beginning it."""
        if spot is not None and spot.way is track.spot.way:
            self._stand(track, spot, t)
            return
        self.deadlines.macro_over(track)
        self.account.macro(track, "ok", t)
        track.rank = track.tried = 0
        if spot is not None:
            self._begin_macro(track, spot.way, t)

    def _stand(self, track: Track, spot: Spot, t: float) -> None:
        self.deadlines.step_over(track)
        track.spot = spot
        track.t0 = t
        track.final = False

    def _enter_macro(self, track: Track, m: int, t: float, now: float) -> None:
        spot = self.route.first(m, track)
        self._begin_macro(track, spot.way, t)
        self.enter(track, t, now)

    def _begin_macro(self, track: Track, way: Way, t: float) -> None:
        self._stand(track, way.spots[0], t)
        track.macro_attempt = track.attempt
        self.account.macro(track, "start", t)

    # ---- back ---------------------------------------------------------------------------------------

    def failed(
        self,
        track: Track,
        t: float,
        now: float,
        reason: str,
        *,
        spoilt: Spoilt = "step",
        silent: bool = False,
    ) -> None:
        """Its step failed. ``silent``: nothing was heard, so the gentlest reboot is not worth a try."""
        self.release(track)
        self.account.step(track, "failed", t, reason=reason)
        if spoilt == "step" and track.spot.again is not None:
            if self._reboot_again(track, track.spot.again):
                self._retry(track, now)
                self._stand(track, track.spot.again, t)
                self.enter(track, t, now)
                return
        elif silent:
            track.rank = max(track.rank, REBOOTS.index("hard"))
        self._macro_failed(track, t, now, reason, spoilt)

    @staticmethod
    def _reboot_again(track: Track, back: Spot) -> bool:
        """Whether a reboot of the same kind, or of the next one, is left."""
        track.tried += 1
        if track.tried <= back.step.retries:
            return True
        track.rank, track.tried = max(track.rank, track.chosen + 1), 0
        return track.rank <= REBOOTS.index(back.step.alternatives[-1])

    @staticmethod
    def _retry(track: Track, now: float) -> None:
        track.attempt += 1
        track.since = now

    def _macro_failed(self, track: Track, t: float, now: float, reason: str, spoilt: Spoilt) -> None:
        """Try the variant again, or the next one, or give the VM up."""
        way = track.spot.way
        m, v = way.m, way.v
        track.tried = 0
        tries = track.tries[m] + 1
        if spoilt == "variant" or tries > way.variant.retries:
            v, tries = v + 1, 0
        self.deadlines.macro_over(track)
        if spoilt == "vm" or v >= len(way.macro.variants):
            self.account.macro(track, "failed", t, reason)
            self._end(track, "failed", t, now, reason)
            return
        self.account.macro(track, "retry", t, reason)
        track.variants = _with(track.variants, m, v)
        track.tries = _with(track.tries, m, tries)
        self._retry(track, now)
        name = way.macro.variants[v].again_from
        names = [macro.name for macro in self.route.workflow.macros]
        self._enter_macro(track, names.index(name) if name else m, t, now)

    def _end(
        self, track: Track, state: Literal["deployed", "failed"], t: float, now: float, reason: str = ""
    ) -> None:
        self.deadlines.step_over(track)
        self.account.end(track, state, t, now, reason)

    # ---- one host -----------------------------------------------------------------------------------

    def host_ok(self, part: Part, t: float, now: float) -> None:
        """A host has the image; the VMs that wait for it go on."""
        part.spot.meter.record(t - part.since, self.load())
        self.account.host(part, "ok", t)
        for track in part.end("ok"):
            self.ok(track, max(t, track.t0), now, measured=False)

    def host_failed(self, part: Part, t: float, now: float, reason: str) -> None:
        """A host has no image; it is tried again, or its VMs must do without this variant."""
        part.tried += 1
        again = part.tried <= part.spot.step.retries
        self.account.host(part, "retry" if again else "failed", t, reason)
        if again:
            self.hosts.again(part)
            return
        for track in part.end("failed", reason):
            self.failed(track, max(t, track.t0), now, f"{part.name}: {reason}", spoilt="variant")


def _with(numbers: tuple[int, ...], place: int, number: int) -> tuple[int, ...]:
    return (*numbers[:place], number, *numbers[place + 1 :])
