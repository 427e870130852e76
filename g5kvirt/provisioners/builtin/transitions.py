"""How a VM proceeds after a step that is done, goes back after one that failed, and ends.

The only module that moves VMs. Times: ``t`` when it happened, ``now`` when it is dealt with: what begins,
begins ``now``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from g5kvirt.provisioners.builtin.host_broadcasts import HostBroadcast
from g5kvirt.provisioners.builtin.positions import Branch, Position, VMProgress
from g5kvirt.provisioners.builtin.state import WorkflowState
from g5kvirt.provisioners.builtin.workflow import REBOOTS

__all__ = ["FailureScope", "Transitions"]

#: What a failure ends: the step, so that a reboot may help; this try of the variant; all tries of the
#: variant, so that only another one may help; the VM's whole deployment.
FailureScope = Literal["step", "try", "variant", "vm"]


class Transitions:
    """Moves the VMs of one deployment."""

    def __init__(self, state: WorkflowState) -> None:
        self._state = state
        self._positions = state.positions
        self._recorder = state.recorder
        self._deadlines = state.deadlines
        self._leave_windows = state.leave_windows

    def start(self, now: float, about: Mapping[str, Any]) -> None:
        """Start all VMs."""
        vms = self._state.vms.values()
        self._recorder.start(now, about)
        hosts = dict.fromkeys(progress.vm.host for progress in vms)
        for position in (p for branches in self._positions.macros for p in branches[0].positions):
            if position.step.act == "broadcast" and position.step.early:
                for host in hosts:
                    self._state.broadcasts.to(host, position)
        for progress in vms:
            progress.attempt_start = now
            self._enter_macro(progress, 0, now, now)

    # ---- forward ------------------------------------------------------------------------------------

    def enter(self, progress: VMProgress, t: float, now: float) -> None:
        """Begin the step at which a VM is."""
        step = progress.position.step
        if progress.fresh:
            if step.prepares:
                self._recorder.step(progress, "skipped", t)
                self._advance(progress, t, now)
                return
            progress.fresh = False
        if step.act == "reboot":
            progress.order_given = False
            self._state.reboots.put(progress)
            return
        self._deadlines.arm(progress, now)
        if step.act == "task":
            progress.order_given = False
            self._state.awaiting_task.append(progress)
        elif step.act == "check":
            progress.turn = 0
            self._deadlines.set_timer(progress, now + step.delay)
        elif step.act == "broadcast":
            self._await_broadcast(progress, t, now)

    def _await_broadcast(self, progress: VMProgress, t: float, now: float) -> None:
        broadcast = self._state.broadcasts.to(progress.vm.host, progress.position)
        if broadcast.state == "ok":
            self.complete(progress, t, now, measured=False)
        elif broadcast.state == "failed":
            self.fail(progress, t, now, f"{broadcast.host}: {broadcast.reason}", scope="variant")
        else:
            broadcast.waiting[progress] = None

    def complete(self, progress: VMProgress, t: float, now: float, *, measured: bool = True) -> None:
        """A VM's step is done. ``measured``: its duration is known."""
        position = progress.position
        if measured and not position.step.absent:
            position.meter.record(t - progress.step_start, self._state.load())
        self._recorder.step(progress, position.step.end, t)
        if position.step.act != "reboot":  # its slot is held until the VM is up
            self._leave_windows(progress)
        self._advance(progress, t, now)

    def skip_to(self, progress: VMProgress, target: Position, t: float, *, proven: bool) -> bool:
        """Move a VM to a later step that it reported; ``proven``: so the steps before it are done.

        False if one that was skipped is not proven to be done: the broadcast to its host.
        """
        verified = True
        while progress.position is not target:
            position = progress.position
            if proven or position.step.act != "broadcast":
                self._recorder.step(progress, position.step.end, t, implied=True)
                if position.step.act != "reboot":
                    self._leave_windows(progress)
            else:
                verified = False
            self._move(progress, self._positions.after(position, progress), t)
        return verified

    def _advance(self, progress: VMProgress, t: float, now: float) -> None:
        position = self._positions.after(progress.position, progress)
        self._move(progress, position, t)
        if position is None:
            self._end(progress, "deployed", t, now)
        else:
            self.enter(progress, t, now)

    def _move(self, progress: VMProgress, position: Position | None, t: float) -> None:
        """To a step, across the border of a macro-step if need be, without beginning it."""
        if position is not None and position.branch is progress.position.branch:
            self._place(progress, position, t)
            return
        self._deadlines.leave_macro(progress)
        self._recorder.macro(progress, "ok", t)
        progress.min_rank = progress.reboot_failures = 0
        if position is not None:
            self._start_macro(progress, position.branch, t)

    def _place(self, progress: VMProgress, position: Position, t: float) -> None:
        self._deadlines.leave_step(progress)
        progress.position = position
        progress.step_start = t
        progress.final_check = False

    def _enter_macro(self, progress: VMProgress, macro_index: int, t: float, now: float) -> None:
        self._start_macro(progress, self._positions.first(macro_index, progress).branch, t)
        self.enter(progress, t, now)

    def _start_macro(self, progress: VMProgress, branch: Branch, t: float) -> None:
        self._place(progress, branch.positions[0], t)
        progress.macro_attempt = progress.attempt
        self._recorder.macro(progress, "start", t)

    # ---- back ---------------------------------------------------------------------------------------

    def fail(
        self,
        progress: VMProgress,
        t: float,
        now: float,
        reason: str,
        *,
        scope: FailureScope = "step",
        silent: bool = False,
    ) -> None:
        """A VM's step failed. ``silent``: without a report, so the gentlest reboot is not worth a try."""
        self._leave_windows(progress)
        self._recorder.step(progress, "failed", t, reason=reason)
        restart = progress.position.restart
        if scope == "step" and restart is not None:
            if self._reboot_left(progress, restart):
                self._start_attempt(progress, now)
                self._place(progress, restart, t)
                self.enter(progress, t, now)
                return
        elif silent:
            progress.min_rank = max(progress.min_rank, REBOOTS.index("hard"))
        self._fail_macro(progress, t, now, reason, scope)

    @staticmethod
    def _reboot_left(progress: VMProgress, restart: Position) -> bool:
        """Whether a reboot of the same kind, or of the next one, is left."""
        progress.reboot_failures += 1
        if progress.reboot_failures <= restart.step.retries:
            return True
        progress.min_rank, progress.reboot_failures = max(progress.min_rank, progress.last_rank + 1), 0
        return progress.min_rank <= REBOOTS.index(restart.step.alternatives[-1])

    @staticmethod
    def _start_attempt(progress: VMProgress, now: float) -> None:
        progress.attempt += 1
        progress.attempt_start = now

    def _fail_macro(
        self, progress: VMProgress, t: float, now: float, reason: str, scope: FailureScope
    ) -> None:
        """Try the variant again, or the next one, or give the VM up."""
        branch = progress.position.branch
        macro_index, variant_index = branch.macro_index, branch.variant_index
        progress.reboot_failures = 0
        tries = progress.tries[macro_index] + 1
        if scope == "variant" or tries > branch.variant.retries:
            variant_index, tries = variant_index + 1, 0
        self._deadlines.leave_macro(progress)
        if scope == "vm" or variant_index >= len(branch.macro.variants):
            self._recorder.macro(progress, "failed", t, reason)
            self._end(progress, "failed", t, now, reason)
            return
        self._recorder.macro(progress, "retry", t, reason)
        progress.variants = _replaced(progress.variants, macro_index, variant_index)
        progress.tries = _replaced(progress.tries, macro_index, tries)
        self._start_attempt(progress, now)
        name = branch.macro.variants[variant_index].again_from
        names = [macro.name for macro in self._positions.workflow.macros]
        self._enter_macro(progress, names.index(name) if name else macro_index, t, now)

    def _end(
        self,
        progress: VMProgress,
        state: Literal["deployed", "failed"],
        t: float,
        now: float,
        reason: str = "",
    ) -> None:
        self._deadlines.leave_step(progress)
        self._recorder.end(progress, state, t, now, reason)

    # ---- one host -----------------------------------------------------------------------------------

    def complete_host(self, broadcast: HostBroadcast, t: float, now: float) -> None:
        """A host has the image; the VMs that wait for it continue."""
        broadcast.position.meter.record(t - broadcast.start, self._state.load())
        self._recorder.host(broadcast, "ok", t)
        for progress in broadcast.end("ok"):
            self.complete(progress, max(t, progress.step_start), now, measured=False)

    def fail_host(self, broadcast: HostBroadcast, t: float, now: float, reason: str) -> None:
        """A host has no image; it is tried again, or its VMs must do without this variant."""
        broadcast.failures += 1
        again = broadcast.failures <= broadcast.position.step.retries
        self._recorder.host(broadcast, "retry" if again else "failed", t, reason)
        if again:
            self._state.broadcasts.repeat(broadcast)
            return
        for progress in broadcast.end("failed", reason):
            t_vm = max(t, progress.step_start)
            self.fail(progress, t_vm, now, f"{broadcast.host}: {reason}", scope="variant")


def _replaced(numbers: tuple[int, ...], place: int, number: int) -> tuple[int, ...]:
    return (*numbers[:place], number, *numbers[place + 1 :])
