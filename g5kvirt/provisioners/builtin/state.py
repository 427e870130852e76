"""The state of one deployment: every VM's progress, and who waits for what.

`transitions` changes it. `reports`, `expiry` and `dispatch` read it: what a report means, who is late, which
orders are due.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from g5kvirt.inventory import VM
from g5kvirt.planning.windows import Window, interleave
from g5kvirt.provisioners.builtin.deadlines import Deadlines
from g5kvirt.provisioners.builtin.host_broadcasts import HostBroadcasts
from g5kvirt.provisioners.builtin.positions import Positions, VMProgress
from g5kvirt.provisioners.builtin.recorder import Recorder
from g5kvirt.provisioners.builtin.window_queue import WindowQueue
from g5kvirt.provisioners.builtin.workflow import Workflow

__all__ = ["WorkflowState"]


class WorkflowState:
    """All VMs of one deployment. Raises ValueError if two of them have the same name."""

    def __init__(
        self,
        name: str,
        vms: Sequence[VM],
        workflow: Workflow,
        *,
        reboots: Window,
        checks: Window,
        fresh: Collection[str],
        without_ssh: Collection[str],
    ) -> None:
        self.positions = Positions(workflow)
        self.vms: dict[str, VMProgress] = self.positions.at_start(interleave(vms), fresh, without_ssh)
        self.recorder = Recorder(name, len(self.vms))
        self.deadlines = Deadlines(self.positions, self.load)
        self.broadcasts = HostBroadcasts(self.load)
        self.reboots = WindowQueue(reboots)
        self.checks = WindowQueue(checks, by_host=True)
        self.awaiting_task: list[VMProgress] = []

    def load(self) -> int:
        """VMs under way that do not wait for a reboot: those that share cores and links."""
        return self.recorder.counts["open"] - self.reboots.waiting

    def leave_windows(self, progress: VMProgress) -> None:
        """Remove a VM from the windows, whether it holds a slot or waits for one."""
        self.reboots.leave(progress)
        self.checks.leave(progress)

    def request_check(self, progress: VMProgress) -> None:
        """A VM is to be checked as soon as the window allows."""
        progress.timer = 0
        self.checks.put(progress)

    def upcoming(self) -> float | None:
        """When something is due at the latest if no report comes before; None if nothing is."""
        windows = (self.reboots.next_time, self.checks.next_time)
        times = [*self.deadlines.upcoming(), *self.broadcasts.upcoming()]
        return min([*times, *(time for time in windows if time is not None)], default=None)
