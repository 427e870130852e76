"""Where VMs stand: the places of a workflow, and who is in them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from g5kvirt.inventory import VM
from g5kvirt.provisioners.builtin.workflow import (
    REBOOTS,
    MacroStep,
    Meter,
    MicroStep,
    RebootKind,
    Variant,
    Workflow,
)

__all__ = ["Route", "Spot", "State", "Track", "Way", "reboot_kind"]

State = Literal["open", "deployed", "failed"]


class Way:
    """A variant in its place in the workflow."""

    __slots__ = ("inside", "m", "macro", "spots", "v", "variant")

    def __init__(self, m: int, v: int, macro: MacroStep, variant: Variant) -> None:
        self.m, self.v, self.macro, self.variant = m, v, macro, variant
        self.inside: OrderedDict[Track, float] = OrderedDict()  # since when, if the variant has a time-out
        self.spots = [Spot(self, step) for step in variant.steps]
        for spot, follower in zip(self.spots, self.spots[1:], strict=False):
            spot.follower = follower
        named = {spot.step.name: spot for spot in self.spots}
        for spot in self.spots:
            spot.again = spot if spot.step.act == "reboot" else named.get(spot.step.again_at)


class Spot:
    """A micro-step in its place, with its time-out."""

    __slots__ = ("again", "follower", "inside", "meter", "step", "way")

    def __init__(self, way: Way, step: MicroStep) -> None:
        self.way, self.step = way, step
        self.follower: Spot | None = None  # in the same variant
        self.again: Spot | None = None  # the reboot to which a failure goes back
        self.meter = Meter(step.timeout)
        self.inside: OrderedDict[Track, float] = OrderedDict()  # since when


@dataclass(slots=True, eq=False)
class Track:
    """One VM on its way."""

    vm: VM
    name: str
    spot: Spot
    fresh: bool  #: stands in its minimal system already
    variants: tuple[int, ...]  #: of each macro-step
    tries: tuple[int, ...]  #: failed tries of the current variant of each macro-step
    state: State = "open"
    attempt: int = 1  #: every order of a kind is given once an attempt
    macro_attempt: int = 0  #: the attempt in which it entered its macro-step
    t0: float = 0.0  #: when its step began
    since: float = 0.0  #: when its last reboot was ordered
    heard_at: float = 0.0
    ordered: bool = False  #: the order that its words answer was given
    rank: int = 0  #: the gentlest reboot that is still worth a try
    chosen: int = -1  #: the rank of the last one
    tried: int = 0  #: how often that failed
    turn: int = 0  #: of checks
    timer: int = 0  #: the number of the only timer that counts; 0: none
    final: bool = False  #: overdue, but its check is still to come
    said: str = ""
    reason: str = ""


class Route:
    """All places of a workflow."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.macros = [
            [Way(m, v, macro, variant) for v, variant in enumerate(macro.variants)]
            for m, macro in enumerate(workflow.macros)
        ]
        self.ways = [way for ways in self.macros for way in ways]
        self.spots = [spot for way in self.ways for spot in way.spots]
        words = [spot.step for spot in self.spots if spot.step.act in ("word", "task")]
        #: the steps in which a VM reports its minimal system, and those that its task reports
        self.minimal = frozenset(step.name for step in words if step.prepares and step.act == "word")
        self.guest = frozenset(step.name for step in words) - self.minimal

    def tracks(self, vms: Collection[VM], fresh: Collection[str]) -> dict[str, Track]:
        """Every VM at the beginning. Raises ValueError if two have the same name."""
        first, zeros, known = self.macros[0][0].spots[0], (0,) * len(self.macros), frozenset(fresh)
        found = {vm.name: Track(vm, vm.name, first, vm.name in known, zeros, zeros) for vm in vms}
        if len(found) < len(vms):
            raise ValueError("two VMs have the same name")
        return found

    def first(self, m: int, track: Track) -> Spot:
        """The first step of the variant that a VM has come to in macro-step ``m``."""
        return self.macros[m][track.variants[m]].spots[0]

    def after(self, spot: Spot, track: Track) -> Spot | None:
        """The step after this one; None at the end."""
        if spot.follower is not None:
            return spot.follower
        m = spot.way.m + 1
        return self.first(m, track) if m < len(self.macros) else None

    def ahead(self, track: Track, name: str) -> Spot | None:
        """The later step that a word tells of, if nothing before it needs an order."""
        spot = self.after(track.spot, track)
        while spot is not None and spot.step.act not in ("reboot", "task"):
            if spot.step.act == "check":
                return spot if spot.step.hint == name else None
            if spot.step.name == name:
                return spot
            spot = self.after(spot, track)
        return None


def reboot_kind(step: MicroStep, rank: int) -> RebootKind:
    """The gentlest reboot of a step that is at least of ``rank``, or its surest."""
    worth = (kind for kind in step.alternatives if REBOOTS.index(kind) >= rank)
    return next(worth, step.alternatives[-1])
