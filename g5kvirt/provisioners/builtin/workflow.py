"""The deployment workflow as data: macro-steps, variants, micro-steps. Nothing here has state.

SetDeploymentEnv → BroadcastEnv → BootNewEnv, as in Kadeploy3. Each macro-step has variants, tried in their
order; each variant is a sequence of micro-steps. What a micro-step does is its ``act``:

=============  =========================================  ==============================================
act            order                                      ends with
=============  =========================================  ==============================================
``reboot``     `RebootOrder`, through the reboot window   the command's result, or the next step's report
``task``       `TaskOrder`                                a report of the VM
``report``     none                                       a report of the VM
``broadcast``  `BroadcastOrder`, once per host            a report on the host, or the next step's report
``check``      `CheckOrder`, through the check window     a positive result; a negative one is repeated
=============  =========================================  ==============================================

`g5kvirt.provisioners.builtin.engine.Deployment` moves VMs through a workflow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from g5kvirt.images.kexec import least_memory
from g5kvirt.provisioners.builtin.meter import TimeoutRange

__all__ = [
    "KEXEC_MEMORY",
    "REBOOTS",
    "SETTINGS",
    "Act",
    "Boot",
    "Into",
    "MacroStep",
    "MicroStep",
    "RebootKind",
    "Variant",
    "Workflow",
    "boot_order",
    "default_workflow",
]

Act = Literal["reboot", "task", "report", "broadcast", "check"]
RebootKind = Literal["soft", "hard", "relaunch"]
Into = Literal["minimal", "disk"]
Boot = Literal["kexec", "reboot", "reset"]

#: From the gentlest to the surest: the guest reboots itself; power reset; a new process for the VM.
REBOOTS: tuple[RebootKind, ...] = ("soft", "hard", "relaunch")

#: Macro-step → the field of a specification that bounds one try of it.
SETTINGS = {
    "SetDeploymentEnv": "timeouts.set_deployment_env",
    "BroadcastEnv": "timeouts.broadcast_env",
    "BootNewEnv": "timeouts.boot_new_env",
}

#: MiB with which a VM can start an environment by kexec, which must fit the unpacked kernel and initrd into
#: half of the memory. Measured with Debian's cloud kernel and ``mini``.
KEXEC_MEMORY = 144

# ---- the parts of a workflow ----------------------------------------------------------------------


@dataclass(frozen=True)
class MicroStep:
    """One step of a VM."""

    name: str
    act: Act
    timeout: TimeoutRange
    retries: int = 0  #: reboot, broadcast: times the same order is given again before the next alternative
    alternatives: tuple[RebootKind, ...] = ()  #: reboot: the kinds, in the order in which they are tried
    into: Into = "minimal"  #: reboot: where the VM is to come up
    again_at: str = ""  #: a failure goes back to this reboot step of the variant, and its next alternative
    prepares: bool = False  #: brings a VM into its minimal system: skipped where it stands there fresh
    absent: bool = False  #: this kind of guest has no such step: recorded as skipped, never timed
    early: bool = False  #: broadcast: ordered when the deployment begins, before any VM needs it
    delay: float = 0.0  #: check: seconds before the first one
    every: float = 5.0  #: check: seconds between a negative answer and the next check
    lease: float = 60.0  #: check: seconds after which one without an answer counts as negative
    hint: str = ""  #: check: a report of the VM upon which it is checked at once

    def __post_init__(self) -> None:
        if (self.act == "reboot") != bool(self.alternatives):
            raise ValueError(f"step {self.name}: a reboot step, and only one, names its alternatives")
        ranks = [REBOOTS.index(kind) for kind in self.alternatives]
        if ranks != sorted(set(ranks)):
            raise ValueError(f"step {self.name}: alternatives must climb in the order {REBOOTS}")
        if self.retries and self.act not in ("reboot", "broadcast"):
            raise ValueError(f"step {self.name}: only an order can be given again, not a {self.act} step")

    @property
    def end(self) -> Literal["ok", "skipped"]:
        """What the journal says of it when a VM has it behind itself."""
        return "skipped" if self.absent else "ok"


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
    setting: str = ""  #: the field of a specification that bounds one try, and is named where time runs out


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
            raise ValueError(f"{where}: again_from {variant.again_from!r} is not an earlier macro-step")
        names = [step.name for step in variant.steps]
        for position, step in enumerate(variant.steps):
            if seen.setdefault(step.name, macro.name) != macro.name:
                raise ValueError(f"step {step.name} is in {seen[step.name]} and in {macro.name}: rename one")
            before = {s.name: s for s in variant.steps[:position]}
            if step.again_at and (step.again_at not in before or before[step.again_at].act != "reboot"):
                raise ValueError(f"{where}: {step.name} cannot go back to {step.again_at!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"{where} has the same step twice: {names}")

    def without(self, absent: Collection[str]) -> Workflow:
        """This workflow for guests that do not have the steps named in ``absent``.

        Raises ValueError for a step that there is not.
        """
        unknown = set(absent) - {name for names in self.plain().values() for name in names}
        if unknown:
            raise ValueError(f"the workflow has no step {', '.join(sorted(unknown))}")

        def marked(variant: Variant) -> Variant:
            return replace(
                variant, steps=tuple(replace(step, absent=step.name in absent) for step in variant.steps)
            )

        return Workflow(
            tuple(replace(macro, variants=tuple(map(marked, macro.variants))) for macro in self.macros)
        )

    def plain(self) -> dict[str, list[str]]:
        """Macro-step → its micro-steps of all variants, for the journal."""
        return {m.name: list(dict.fromkeys(s.name for v in m.variants for s in v.steps)) for m in self.macros}


def boot_order(memory: int, loaded: int = 0) -> tuple[Boot, ...]:
    """How VMs with ``memory`` MiB boot what was deployed, for `default_workflow`.

    Where kexec cannot succeed, it is not tried. ``loaded``: bytes of the environment that it loads; where
    they are not known (0), `KEXEC_MEMORY` counts: a larger environment than ``mini`` may need more, there
    kexec fails with that reason, and the reset follows.
    """
    needed = least_memory(loaded) if loaded else KEXEC_MEMORY
    return ("kexec" if memory >= needed else "reboot", "reset")


def default_workflow(
    *,
    broadcast: Sequence[str] = ("chain",),
    boot: Sequence[Boot] = ("kexec", "reset"),
    timeouts: Mapping[str, float] | None = None,
    retries: int = 1,
    boot_seconds: float = 300.0,
    environment_seconds: float | None = None,
    reboots: Sequence[RebootKind] = REBOOTS,
) -> Workflow:
    """The workflow of a local disk deployment, as Kadeploy3 does it.

    ``broadcast`` and ``boot`` name the variants of BroadcastEnv and BootNewEnv in the order in which they
    are tried. To boot, the guest itself leaves its minimal system by ``kexec`` or ``reboot``, as in its
    task; ``reset`` is a power reset from outside, through the reboot window, and so cannot come first.
    ``timeouts`` bounds one try of a macro-step, in seconds; none of its steps is given up before that.
    ``retries`` is for each variant but kexec and reboot, whose retry is the reset. ``boot_seconds`` is waited
    for a boot before any has been measured, ``environment_seconds`` for a boot of what is deployed (default:
    the same).
    ``reboots``: how a VM is brought into its minimal system, in this order.
    Raises ValueError for a name that is not known.
    """
    bound = timeouts or {}
    if tuple(boot) not in {(first, *rest) for first in ("kexec", "reboot") for rest in ((), ("reset",))}:
        raise ValueError(f"boot must be kexec or reboot, and reset may follow; it is {tuple(boot)}")
    command, quick = (_patient(bounds, boot_seconds) for bounds in (_COMMAND, _QUICK))
    limit = bound.get("BroadcastEnv")
    steps = _patient_steps(_broadcast_steps(quick), limit)
    broadcasts = tuple(Variant(name, steps, retries, "SetDeploymentEnv", limit) for name in broadcast)
    environment = boot_seconds if environment_seconds is None else environment_seconds
    boots = _boot_variants(_booted(environment), command, quick, retries, bound.get("BootNewEnv"))
    preparation = _preparation(_booted(boot_seconds), command, quick, tuple(reboots))
    limit = bound.get("SetDeploymentEnv")
    untrusted = Variant("untrusted", _patient_steps(preparation, limit), retries, timeout=limit)
    variants = ((untrusted,), broadcasts, tuple(boots[name] for name in boot))
    return Workflow(
        tuple(MacroStep(name, ways, SETTINGS[name]) for name, ways in zip(SETTINGS, variants, strict=True))
    )


def _booted(seconds: float) -> TimeoutRange:
    """For a boot that takes at most ``seconds``, as far as is known before one was measured."""
    return TimeoutRange(max(seconds, 30.0), 30.0, max(3 * seconds, 900.0))


def _patient_steps(steps: Sequence[MicroStep], limit: float | None) -> tuple[MicroStep, ...]:
    """Steps of a macro-step for which ``limit`` was requested: none of them ends it sooner."""
    return tuple(replace(step, timeout=step.timeout.at_least(limit)) for step in steps)


_COMMAND = TimeoutRange(120.0, 30.0, 300.0)
_QUICK = TimeoutRange(120.0, 20.0, 600.0)
_TRANSFER = TimeoutRange(900.0, 60.0, 3600.0)


def _patient(bounds: TimeoutRange, boot_seconds: float) -> TimeoutRange:
    """Until it is measured, no step is given up sooner than a boot, which knows how many share a core."""
    return TimeoutRange(max(bounds.first, boot_seconds), bounds.least, max(bounds.most, boot_seconds))


def _preparation(
    booted: TimeoutRange, command: TimeoutRange, quick: TimeoutRange, reboots: tuple[RebootKind, ...]
) -> tuple[MicroStep, ...]:
    """Into the minimal system, and the disk made ready."""
    return (
        MicroStep("reboot", "reboot", command, alternatives=reboots, into="minimal", prepares=True),
        MicroStep("minimal-system", "report", booted, again_at="reboot", prepares=True),
        MicroStep("partition", "task", quick),
        MicroStep("format", "report", quick),
    )


def _broadcast_steps(quick: TimeoutRange) -> tuple[MicroStep, ...]:
    """The image to the hosts and onto the disk."""
    return (
        MicroStep("broadcast", "broadcast", _TRANSFER, retries=1, early=True),
        MicroStep("image", "report", _TRANSFER),
        MicroStep("postinstall", "report", quick),
        MicroStep("bootloader", "report", quick),
        MicroStep("sync", "report", TimeoutRange(300.0, 30.0, 900.0)),
    )


def _boot_variants(
    booted: TimeoutRange, command: TimeoutRange, quick: TimeoutRange, retries: int, limit: float | None
) -> dict[str, Variant]:
    """Each way out of the minimal system into the environment."""

    def ready(again_at: str = "") -> MicroStep:
        return MicroStep("ready", "check", booted, again_at=again_at, delay=1.0, hint="environment")

    leave = MicroStep("boot", "report", quick)
    reset = MicroStep("reset", "reboot", command, alternatives=("hard", "relaunch"), into="disk")
    by_itself, from_outside = (
        _patient_steps(steps, limit) for steps in ((leave, ready()), (reset, ready("reset")))
    )
    return {
        "kexec": Variant("kexec", by_itself, timeout=limit),
        "reboot": Variant("reboot", by_itself, timeout=limit),
        "reset": Variant("reset", from_outside, retries, timeout=limit),
    }
