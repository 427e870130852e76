"""The positions in a workflow, and how far each VM has come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from g5kvirt.inventory import VM
from g5kvirt.provisioners.builtin.meter import Meter
from g5kvirt.provisioners.builtin.workflow import (
    REBOOTS,
    MacroStep,
    MicroStep,
    RebootKind,
    Variant,
    Workflow,
)
from g5kvirt.provisioners.outcome import OutcomeState

__all__ = ["Branch", "Position", "Positions", "VMProgress", "reboot_kind"]


class Branch:
    """A variant in its place in the workflow."""

    __slots__ = ("inside", "macro", "macro_index", "positions", "variant", "variant_index")

    def __init__(self, macro_index: int, variant_index: int, macro: MacroStep, variant: Variant) -> None:
        self.macro_index, self.variant_index = macro_index, variant_index
        self.macro, self.variant = macro, variant
        self.inside: OrderedDict[VMProgress, float] = OrderedDict()  # since when, if there is a time-out
        self.positions = [Position(self, step) for step in variant.steps]
        for position, follower in zip(self.positions, self.positions[1:], strict=False):
            position.follower = follower
        named = {position.step.name: position for position in self.positions}
        for position in self.positions:
            is_reboot = position.step.act == "reboot"
            position.restart = position if is_reboot else named.get(position.step.again_at)


class Position:
    """A micro-step in its place in the workflow, with its time-out."""

    __slots__ = ("branch", "follower", "inside", "meter", "restart", "step")

    def __init__(self, branch: Branch, step: MicroStep) -> None:
        self.branch, self.step = branch, step
        self.follower: Position | None = None  # in the same variant
        self.restart: Position | None = None  # the reboot to which a failure goes back
        self.meter = Meter(step.timeout)
        self.inside: OrderedDict[VMProgress, float] = OrderedDict()  # since when


@dataclass(slots=True, eq=False)
class VMProgress:
    """How far one VM has come."""

    vm: VM
    name: str
    position: Position
    fresh: bool  #: is in its minimal system already
    variants: tuple[int, ...]  #: of each macro-step
    tries: tuple[int, ...]  #: failed tries of the current variant of each macro-step
    state: OutcomeState = "open"
    attempt: int = 1  #: every order of a kind is given once an attempt
    macro_attempt: int = 0  #: the attempt in which it entered its macro-step
    step_start: float = 0.0
    attempt_start: float = 0.0  #: when its attempt began, or its last reboot was ordered
    last_report_time: float = 0.0
    order_given: bool = False  #: the order that its reports answer
    min_rank: int = 0  #: the gentlest reboot that is still worth a try
    last_rank: int = -1  #: of its last reboot
    reboot_failures: int = 0  #: of reboots of that rank
    turn: int = 0  #: of checks
    timer: int = 0  #: the number of the only timer that counts; 0: none
    final_check: bool = False  #: overdue, but its check is still to come
    last_report: str = ""
    reason: str = ""


class Positions:
    """All positions of a workflow."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.macros = [
            [Branch(m, v, macro, variant) for v, variant in enumerate(macro.variants)]
            for m, macro in enumerate(workflow.macros)
        ]
        self.branches = [branch for branches in self.macros for branch in branches]
        self.all = [position for branch in self.branches for position in branch.positions]
        reported = [position.step for position in self.all if position.step.act in ("report", "task")]
        #: the steps in which a VM reports its minimal system, and those that its task reports
        self.minimal = frozenset(step.name for step in reported if step.prepares and step.act == "report")
        self.guest = frozenset(step.name for step in reported) - self.minimal

    def at_start(
        self, vms: Collection[VM], fresh: Collection[str], without_ssh: Collection[str]
    ) -> dict[str, VMProgress]:
        """Every VM at the beginning. Raises ValueError if two have the same name."""
        first, zeros, known = self.macros[0][0].positions[0], (0,) * len(self.macros), frozenset(fresh)
        found = {vm.name: VMProgress(vm, vm.name, first, vm.name in known, zeros, zeros) for vm in vms}
        if len(found) < len(vms):
            raise ValueError("two VMs have the same name")
        for name in without_ssh:
            found[name].min_rank = REBOOTS.index("hard")
        return found

    def first(self, macro_index: int, progress: VMProgress) -> Position:
        """The first step of the variant that a VM has come to in a macro-step."""
        return self.macros[macro_index][progress.variants[macro_index]].positions[0]

    def after(self, position: Position, progress: VMProgress) -> Position | None:
        """The step after this one; None at the end."""
        if position.follower is not None:
            return position.follower
        following = position.branch.macro_index + 1
        return self.first(following, progress) if following < len(self.macros) else None

    def ahead(self, progress: VMProgress, name: str) -> Position | None:
        """The later step that a report is about, if nothing before it needs an order."""
        position = self.after(progress.position, progress)
        while position is not None and position.step.act not in ("reboot", "task"):
            if position.step.act == "check":
                return position if position.step.hint == name else None
            if position.step.name == name:
                return position
            position = self.after(position, progress)
        return None


def reboot_kind(step: MicroStep, min_rank: int) -> RebootKind:
    """The gentlest reboot of a step that is at least of ``min_rank``, or its surest."""
    worth = (kind for kind in step.alternatives if REBOOTS.index(kind) >= min_rank)
    return next(worth, step.alternatives[-1])
