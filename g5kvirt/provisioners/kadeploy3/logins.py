"""Logins to VMs that Kadeploy3 is done with: each is tried until it finds what was deployed, within a bound.

Kadeploy3 calls a node deployed when its ssh port is open. What answers there may not let anyone in yet, or be
something else than what was deployed; only a login tells. All VMs that wait are logged in to together, by
their hosts.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from g5kvirt.errors import reason_of
from g5kvirt.inventory import VM

__all__ = ["LIMIT", "Login", "Logins"]

#: Seconds after which a VM whose ssh port is open, and that shows nothing of what was deployed, has failed.
LIMIT = 120.0
#: Seconds between two logins to a VM.
_PAUSE = 3.0
#: Calls of hosts at once: one VM that does not answer holds up the call that it is in.
_CALLS = 4

#: Logs in to VMs, and says of each, as soon as it is known, why it is not what was deployed; "" if it is.
Check = Callable[[Sequence[VM], Callable[[str, str], object]], object]


@dataclass(frozen=True)
class Login:
    """The end of the logins to a VM: ``t`` in seconds since the epoch; ``reason``: why it failed, or ""."""

    vm: str
    t: float
    reason: str


class Logins:
    """A context manager; threads that it started have ended when it is left.

    ``check`` is called in threads. ``give_up`` makes calls of it that run end early, with a reason.
    """

    def __init__(
        self,
        check: Check,
        give_up: Callable[[str], object],
        *,
        clock: Callable[[], float],
        limit: float = LIMIT,
    ) -> None:
        self._check, self._give_up, self._clock, self._limit = check, give_up, clock, limit
        self._deadlines: dict[str, float] = {}
        self._due: list[tuple[float, VM]] = []  #: from when on it may be logged in to
        self._answers: queue.SimpleQueue[tuple[VM, float, str]] = queue.SimpleQueue()

    def __enter__(self) -> Logins:
        self._pool = ThreadPoolExecutor(max_workers=_CALLS, thread_name_prefix="login")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_up("the deployment is over" if error is None else reason_of(error))
        self._pool.shutdown(cancel_futures=True)

    def begin(self, vms: Sequence[VM]) -> None:
        """Log in to these from now on."""
        now = self._clock()
        for vm in vms:
            self._deadlines[vm.name] = now + self._limit
            self._due.append((now, vm))

    def take(self) -> list[Login]:
        """What has ended since the last call; begins the logins that are due."""
        ended = []
        while not self._answers.empty():
            vm, t, reason = self._answers.get()
            if reason and t < self._deadlines[vm.name]:
                self._due.append((t + _PAUSE, vm))
            else:
                ended.append(Login(vm.name, t, reason))
        now = self._clock()
        due = [vm for at, vm in self._due if at <= now]
        if due:
            self._due = [(at, vm) for at, vm in self._due if at > now]
            self._pool.submit(self._log_in, due)
        return ended

    def _log_in(self, vms: Sequence[VM]) -> None:
        waiting = {vm.name: vm for vm in vms}

        def report(name: str, reason: str) -> None:
            self._answers.put((waiting.pop(name), self._clock(), reason))

        try:
            self._check(vms, report)
            missing = "its host gave no answer"
        except Exception as error:  # noqa: BLE001 - it becomes the reason of every VM that it was for
            missing = reason_of(error)
        for name in list(waiting):
            report(name, missing)
