"""The deployment workflow as data: macro-steps, variants, micro-steps; the orders and words of a driver.

SetDeploymentEnv → BroadcastEnv → BootNewEnv, as in Kadeploy3. Each macro-step has variants, tried in their
order; each variant is a sequence of micro-steps. What a micro-step does is its ``act``:

=============  ====================================  ====================================================
act            order                                 ends with
=============  ====================================  ====================================================
``reboot``     `Reboot`, through the reboot window   the answer to the command, or the next step's word
``task``       `Task`                                a word of the VM
``word``       none                                  a word of the VM
``broadcast``  `Broadcast`, once a host              a word about the host, or the next step's word
``check``      `Check`, through the check window     a positive answer; a negative one is asked again
=============  ====================================  ====================================================

`g5kvirt.provisioners.builtin.Deployment` moves VMs through a workflow; nothing here has state but `Meter`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from g5kvirt.inventory import VM

__all__ = [
    "KEXEC_MEMORY",
    "REBOOTS",
    "Act",
    "Boot",
    "Broadcast",
    "Check",
    "Into",
    "MacroStep",
    "Meter",
    "MicroStep",
    "Order",
    "Patience",
    "Reboot",
    "RebootKind",
    "Target",
    "Task",
    "Variant",
    "Word",
    "Workflow",
    "boot_order",
    "default_workflow",
]

Act = Literal["reboot", "task", "word", "broadcast", "check"]
RebootKind = Literal["soft", "hard", "relaunch"]
Into = Literal["minimal", "disk"]
Boot = Literal["kexec", "reboot", "reset"]

#: From the gentlest to the surest: the guest reboots itself; power reset; a new process for the VM.
REBOOTS: tuple[RebootKind, ...] = ("soft", "hard", "relaunch")

#: MiB with which a VM can start an environment by kexec, which must fit the unpacked kernel and initrd into
#: half of the memory. Measured with Debian's cloud kernel and ``mini``.
KEXEC_MEMORY = 144

# ---- what a workflow is made of -------------------------------------------------------------------


@dataclass(frozen=True)
class Patience:
    """Seconds that a step may take: ``first`` until enough VMs have shown how long it takes, then what
    they took times a factor, but never below ``least`` nor above ``most`` (see `Meter`)."""

    first: float
    least: float
    most: float

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.first <= self.most:
            raise ValueError(f"least, first and most must rise from above 0: {self}")


@dataclass(frozen=True)
class MicroStep:
    """One step of a VM."""

    name: str
    act: Act
    timeout: Patience
    retries: int = 0  #: reboot, broadcast: times the same order is given again before the next alternative
    alternatives: tuple[RebootKind, ...] = ()  #: reboot: the kinds, in the order in which they are tried
    into: Into = "minimal"  #: reboot: where the VM is to come up
    again_at: str = ""  #: a failure goes back to this reboot step of the variant, and its next alternative
    prepares: bool = False  #: brings a VM into its minimal system: skipped where it stands there fresh
    early: bool = False  #: broadcast: ordered when the deployment begins, before any VM needs it
    delay: float = 0.0  #: check: seconds before the first one
    every: float = 5.0  #: check: seconds between a negative answer and the next check
    lease: float = 60.0  #: check: seconds after which one without an answer counts as negative
    hint: str = ""  #: check: a word of the VM upon which it is checked at once

    def __post_init__(self) -> None:
        if (self.act == "reboot") != bool(self.alternatives):
            raise ValueError(f"step {self.name}: a reboot step, and only one, names its alternatives")
        ranks = [REBOOTS.index(kind) for kind in self.alternatives]
        if ranks != sorted(set(ranks)):
            raise ValueError(f"step {self.name}: alternatives must climb in the order {REBOOTS}")
        if self.retries and self.act not in ("reboot", "broadcast"):
            raise ValueError(f"step {self.name}: only an order can be given again, not a {self.act} step")


@dataclass(frozen=True)
class Variant:
    """One way to do a macro-step."""

    name: str
    steps: tuple[MicroStep, ...]
    retries: int = 0  #: times it is tried again before the next variant
    again_from: str = ""  #: the macro-step at which a VM begins that comes here after a failure; "": this one
    timeout: float | None = None  #: seconds for one try as a whole, not counting the wait for a window


@dataclass(frozen=True)
class MacroStep:
    """A part of the deployment with its variants, in the order in which they are tried."""

    name: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Workflow:
    """All macro-steps. Raises ValueError where names clash or lead nowhere."""

    macros: tuple[MacroStep, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        known: list[str] = []
        for macro in self.macros:
            known.append(macro.name)
            if not macro.variants:
                raise ValueError(f"macro-step {macro.name} has no variant")
            for variant in macro.variants:
                self._check(macro, variant, known, seen)
        if len(set(known)) < len(known):
            raise ValueError(f"two macro-steps have the same name: {known}")

    @staticmethod
    def _check(macro: MacroStep, variant: Variant, known: Sequence[str], seen: dict[str, str]) -> None:
        where = f"{macro.name}, variant {variant.name}"
        if not variant.steps:
            raise ValueError(f"{where} has no step")
        if variant.again_from and variant.again_from not in known:
            raise ValueError(f"{where}: again_from {variant.again_from!r} is no earlier macro-step")
        names = [step.name for step in variant.steps]
        for position, step in enumerate(variant.steps):
            if seen.setdefault(step.name, macro.name) != macro.name:
                raise ValueError(f"step {step.name} is in {seen[step.name]} and in {macro.name}: rename one")
            before = {s.name: s for s in variant.steps[:position]}
            if step.again_at and (step.again_at not in before or before[step.again_at].act != "reboot"):
                raise ValueError(f"{where}: {step.name} cannot go back to {step.again_at!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"{where} has the same step twice: {names}")

    def plain(self) -> dict[str, list[str]]:
        """Macro-step → its micro-steps of all variants, for the journal."""
        return {m.name: list(dict.fromkeys(s.name for v in m.variants for s in v.steps)) for m in self.macros}


def boot_order(memory: int) -> tuple[Boot, ...]:
    """How VMs with ``memory`` MiB boot what was deployed, for `default_workflow`.

    Where kexec cannot succeed (`KEXEC_MEMORY`), it is not tried. A larger environment than ``mini`` may need
    more; there kexec fails with that reason, and the reset follows.
    """
    return ("kexec" if memory >= KEXEC_MEMORY else "reboot", "reset")


def default_workflow(
    *,
    broadcast: Sequence[str] = ("chain",),
    boot: Sequence[Boot] = ("kexec", "reset"),
    timeouts: Mapping[str, float] | None = None,
    retries: int = 1,
    boot_seconds: float = 300.0,
) -> Workflow:
    """The workflow of a local disk deployment, as Kadeploy3 does it.

    ``broadcast`` and ``boot`` name the variants of BroadcastEnv and BootNewEnv in the order in which they
    are tried. To boot, the guest itself leaves its minimal system by ``kexec`` or ``reboot`` as its task
    says; ``reset`` is a power reset from outside, through the reboot window, and so cannot come first.
    ``timeouts`` bounds one try of a macro-step, in seconds; ``retries`` is for each variant but kexec and
    reboot, whose retry is the reset. ``boot_seconds`` is waited for a boot before any has been measured.
    Raises ValueError for a name that is not known.
    """
    bound = timeouts or {}
    if tuple(boot) not in {(first, *rest) for first in ("kexec", "reboot") for rest in ((), ("reset",))}:
        raise ValueError(f"boot must be kexec or reboot, and reset may follow; it is {tuple(boot)}")
    booted = Patience(max(boot_seconds, 30.0), 30.0, max(3 * boot_seconds, 900.0))
    command = Patience(120.0, 30.0, 300.0)
    quick = Patience(120.0, 20.0, 600.0)
    transfer = Patience(900.0, 60.0, 3600.0)

    def ready(again_at: str = "") -> MicroStep:
        return MicroStep("ready", "check", booted, again_at=again_at, delay=1.0, hint="environment")

    prepare = (
        MicroStep("reboot", "reboot", command, alternatives=REBOOTS, into="minimal", prepares=True),
        MicroStep("minimal-system", "word", booted, again_at="reboot", prepares=True),
        MicroStep("partition", "task", quick),
        MicroStep("format", "word", quick),
    )
    transport = (
        MicroStep("broadcast", "broadcast", transfer, retries=1, early=True),
        MicroStep("image", "word", transfer),
        MicroStep("postinstall", "word", quick),
        MicroStep("bootloader", "word", quick),
        MicroStep("sync", "word", Patience(300.0, 30.0, 900.0)),
    )
    leave = MicroStep("boot", "word", quick)
    reset = MicroStep("reset", "reboot", command, alternatives=("hard", "relaunch"), into="disk")
    ways = {
        "kexec": Variant("kexec", (leave, ready())),
        "reboot": Variant("reboot", (leave, ready())),
        "reset": Variant("reset", (reset, ready("reset")), retries),
    }
    untrusted = Variant("untrusted", prepare, retries, timeout=bound.get("SetDeploymentEnv"))
    carried = tuple(
        Variant(name, transport, retries, "SetDeploymentEnv", bound.get("BroadcastEnv")) for name in broadcast
    )
    booting = tuple(
        Variant(v.name, v.steps, v.retries, timeout=bound.get("BootNewEnv"))
        for v in map(ways.__getitem__, boot)
    )
    return Workflow(
        (
            MacroStep("SetDeploymentEnv", (untrusted,)),
            MacroStep("BroadcastEnv", carried),
            MacroStep("BootNewEnv", booting),
        )
    )


# ---- what the engine asks for, and what it is told ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A VM an order is for. Answers name the same ``attempt`` (and ``turn``, for checks)."""

    vm: VM
    attempt: int
    turn: int = 1


@dataclass(frozen=True, slots=True)
class Reboot:
    """Reboot these VMs: ``soft`` through the guest, ``hard`` by power reset, ``relaunch`` with a new process.

    ``into`` says where they must come up: their netboot profile is to be switched first. ``relaunch`` keeps
    the disk. Tell ``step`` for each VM when its command has returned.
    """

    vms: tuple[Target, ...]
    step: str
    kind: RebootKind
    into: Into


@dataclass(frozen=True, slots=True)
class Task:
    """Put the task files of these VMs in place; the VMs then report step by step, with their ``attempt``.

    The attempt belongs into the id of the task, and so into every report about it. ``variants``: macro-step →
    variant, so that the task names the right source of the image and the right way to boot. Nothing is told
    when the files are there; a VM whose file cannot be written is told as ``failed`` at ``step``.
    """

    vms: tuple[Target, ...]
    step: str
    variants: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Bring the image to these hosts by ``variant``; ``attempt`` is above 1 where it failed before.

    Tell each host ``ok`` when it has the whole image, or ``failed`` with a reason. VMs may fetch earlier.
    """

    hosts: tuple[str, ...]
    step: str
    variant: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Check:
    """See once whether these VMs are what ``step`` wants, within its lease; tell ``ok`` or ``failed``."""

    vms: tuple[Target, ...]
    step: str


Order = Reboot | Task | Broadcast | Check


@dataclass(frozen=True, slots=True)
class Word:
    """What was heard of a VM or a host. ``t``: seconds since the epoch when it happened, by the same clock
    as ``now``. ``attempt`` and ``turn`` are those of the order it answers; None where nobody knows.
    ``hopeless``: it failed, and would fail again in every other try and way."""

    subject: str
    step: str
    status: Literal["ok", "failed"]
    t: float
    reason: str = ""
    attempt: int | None = None
    turn: int | None = None
    hopeless: bool = False


# ---- how long a step takes ----------------------------------------------------------------------------


@dataclass
class Meter:
    """Durations of one step, and the time-out that follows from them. Constant time and memory a duration.

    Until ``enough`` were seen, `Patience.first` holds. Then the time-out is the 95th percentile of what was
    seen × ``factor``, and × (VMs active now / VMs active on average when those were seen) where that is
    more: whoever shares cores and links with more others takes longer, and the first to be done had few.
    """

    patience: Patience
    factor: float = 4.0
    enough: int = 3
    quantile: float = 0.95
    seen: int = 0
    _load: float = 0.0
    _bins: dict[int, int] = field(default_factory=dict)  # powers of _BASE: at most some tens
    _cached: float | None = None

    _BASE = math.log(1.2)

    def record(self, seconds: float, load: int) -> None:
        """A VM took ``seconds`` while ``load`` VMs were active."""
        place = math.ceil(math.log(max(seconds, 1e-3)) / self._BASE)
        self._bins[place] = self._bins.get(place, 0) + 1
        self.seen += 1
        self._load += load
        self._cached = None

    def timeout(self, load: int) -> float:
        """Seconds to wait now that ``load`` VMs are active."""
        if self.seen < self.enough:
            return self.patience.first
        if self._cached is None:
            left = self.quantile * self.seen
            for place in sorted(self._bins):
                left -= self._bins[place]
                if left <= 0:
                    break
            self._cached = math.exp(place * self._BASE)
        crowd = max(1.0, load * self.seen / max(self._load, 1.0))
        return min(max(self._cached * self.factor * crowd, self.patience.least), self.patience.most)
