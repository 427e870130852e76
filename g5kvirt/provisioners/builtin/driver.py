"""Carrying out what a deployment orders: power, task files, the broadcast, checks by ssh.

The engine decides; here every order becomes one call of a host agent, of nginx's host or of ssh for all its
VMs at once, in a thread of a small pool, and its results become reports. What VMs report themselves comes in
from nginx's log.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from g5kvirt.context import Context
from g5kvirt.errors import reason_of
from g5kvirt.guests import consoles
from g5kvirt.guests.commands import GuestCommands
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.host_watch import HostWatch
from g5kvirt.hostagent.vm_watch import VMWatch
from g5kvirt.images.environments import Image
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot.bootlog import BootLog, Milestone
from g5kvirt.netboot.log_tail import LogTail
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.provisioners.builtin import tasks
from g5kvirt.provisioners.builtin.orders import (
    HOST_GONE,
    VM_GONE,
    BroadcastOrder,
    CheckOrder,
    Order,
    RebootOrder,
    Report,
    Target,
    TaskOrder,
    merged,
)
from g5kvirt.provisioners.builtin.task_server import TaskServer
from g5kvirt.provisioners.builtin.transfer_watch import TransferWatch
from g5kvirt.provisioners.builtin.transport import Transport
from g5kvirt.provisioners.events import PHASE
from g5kvirt.provisioners.readiness import (
    READY_COMMAND,
    check_key_line,
    not_ready_reason,
    shows_console,
    with_console,
)
from g5kvirt.remote import Result
from g5kvirt.remote.result import last_line

__all__ = ["MachineDriver"]

#: Calls of hosts for checks at once: one VM that does not answer holds up the call that it is in.
_CHECK_CALLS = 16

#: Seconds that hosts have to show the consoles of VMs that do not answer: a check has an end of its own.
_CONSOLE_TIMEOUT = 10.0

_Order = TypeVar("_Order")

#: What VMs report about a deployment; the rest of the log (dhcp, script, …) is about their boot.
_DEPLOYMENT_STEPS = {*tasks.STEPS, "minimal-system", "environment"}


class MachineDriver:
    """A `g5kvirt.provisioners.builtin.loop.Driver` over the machines of a run; a context manager.

    ``name`` is the deployment's id; ``guests`` reaches the deployed VMs. Whatever it started (threads,
    streams, relays) has ended when it is left.
    """

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        name: str,
        vms: Sequence[VM],
        image: Image,
        guests: GuestCommands,
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._name = name
        self._image = image
        public = (Path(f"{key}.pub").read_text("utf-8").strip() for key in (context.key, context.check_key))
        own, check = public
        self._authorized_keys = (own, check_key_line(check))
        self._guests = guests
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._tasks: queue.SimpleQueue[TaskOrder] = queue.SimpleQueue()
        self._waiting_checks: queue.SimpleQueue[CheckOrder] = queue.SimpleQueue()
        self._hosts = {host.name: host for host in cluster.hosts}
        used = {vm.host for vm in vms}
        service_machines = [machine.host for machine in cluster.layout.machines]
        watched = [*(host for host in cluster.hosts if host.name in used), *service_machines]
        self._host_watch = HostWatch(context.fanout, watched, self._host_gone)
        cores = context.testbed.real_cores
        self._vm_watch = VMWatch(context.fanout, cluster.hosts, vms, self._vm_gone, real_cores=cores)
        self._log = BootLog(vms)
        self._task_server = TaskServer(context, cluster)
        self._transport = Transport(context, cluster, vms, image, self._reports.put, self._submit_task)
        self._transfers = TransferWatch(
            context.fanout,
            name,
            watched,
            vms,
            image.size,
            lambda: self._transport.state_file,
            lambda events: context.journal.extend(events),
            real_cores=cores,
        )
        #: seconds of one attempt of a VM to fetch the image
        self._image_patience = max(
            tasks.TaskFile.patience, math.ceil(context.spec.timeouts.broadcast_env or 0)
        )
        self._stack = ExitStack()
        self._log_tails: list[LogTail] = []

    def __enter__(self) -> MachineDriver:
        self._pool = ThreadPoolExecutor(max_workers=6)
        self._checks = ThreadPoolExecutor(max_workers=_CHECK_CALLS)
        self._stack.callback(self._transport.stop)
        for pool in (self._pool, self._checks):
            self._stack.callback(pool.shutdown, cancel_futures=True)
        self._stack.enter_context(self._host_watch)
        self._stack.enter_context(self._vm_watch)
        self._stack.enter_context(self._transfers)
        for machine in self._cluster.layout.machines:
            if "http" in machine.roles:
                log_tail = LogTail(self._context.access, machine, self._reader(machine.host), phase=PHASE)
                self._log_tails.append(self._stack.enter_context(log_tail))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.warn_of_refused()
        if error is not None:  # else the pool would wait for what is no longer needed
            self._guests.give_up(reason_of(error))
            self._transport.stop()
        self._stack.close()

    # ---- the driver's protocol ----------------------------------------------------------------------

    def execute(self, order: Order) -> None:
        """Start it in a thread; an error becomes a report about everyone it was for."""
        match order:
            case RebootOrder():
                self._pool.submit(self._try, self._reboot, order)
            case TaskOrder():
                self._submit_task(order)
            case CheckOrder():
                self._waiting_checks.put(order)
                self._checks.submit(self._take_checks)
            case BroadcastOrder():
                self._pool.submit(self._transport.execute, order)

    def receive(self, timeout: float) -> Iterable[Report]:
        """All reports there are; waits for the first, at most ``timeout`` seconds."""
        for log_tail in self._log_tails:
            log_tail.keep_alive()
        reports = []
        try:
            reports.append(self._reports.get(timeout=max(timeout, 0.001)))
            while True:
                reports.append(self._reports.get_nowait())
        except queue.Empty:
            return reports

    # ---- reports ------------------------------------------------------------------------------------

    def _reader(self, machine: Host) -> Callable[[str], None]:
        offset = self._cluster.facts[machine.name].clock_offset

        def read(line: str) -> None:
            milestone = self._log.read(line)
            report = _report(milestone, self._name, offset) if milestone is not None else None
            if report is not None:
                self._transfers.take(report)
                self._reports.put(report)

        return read

    def _report(self, target: Target, step: str, reason: str = "", *, turn: bool = False) -> None:
        status: Literal["ok", "failed"] = "failed" if reason else "ok"
        number = target.turn if turn else None
        self._reports.put(Report(target.vm.name, step, status, time.time(), reason, target.attempt, number))

    def _try(self, do: Callable[[Any], None], order: RebootOrder | TaskOrder | CheckOrder) -> None:
        try:
            do(order)
        except Exception as error:  # noqa: BLE001 - it becomes the reason of every VM that it was for
            for target in order.vms:
                reason = f"{type(error).__name__}: {error}"
                self._report(target, order.step, reason, turn=isinstance(order, CheckOrder))

    def _host_gone(self, host: Host, reason: str) -> None:
        for log_tail in self._log_tails:
            log_tail.host_gone(host, reason)
        self._transport.lose(host.name)
        self._reports.put(Report(host.name, HOST_GONE, "failed", time.time(), reason))

    def _vm_gone(self, vm: str, reason: str, t: float) -> None:
        self._reports.put(Report(vm, VM_GONE, "failed", t, reason))

    # ---- power --------------------------------------------------------------------------------------

    def _reboot(self, order: RebootOrder) -> None:
        self._task_server.prepare_reboot(order)
        if order.kind == "soft":
            # It answers before it goes, so that a guest that is gone differs from one that refuses.
            command = ["sh", "-c", "(sleep 1; reboot -f) >/dev/null 2>&1 & echo going"]
            results = self._guests.run([t.vm.name for t in order.vms], command, timeout=15)
            for target in order.vms:
                self._report(target, order.step, results[target.vm.name].reason)
            return
        action = protocol.power("reset" if order.kind == "hard" else "cycle", [])
        by_host: dict[Host, list[Target]] = {}
        for target in order.vms:
            by_host.setdefault(self._hosts[target.vm.host], []).append(target)
        documents = {
            host: protocol.document({**action, "names": [t.vm.name for t in own]})
            for host, own in by_host.items()
        }
        timeout = self._context.spec.timeouts.command
        for reply in calls.call_agents(self._context.fanout, documents, timeout=timeout, idempotent=False):
            answers = {a.subject: a for a in reply.answers}
            for target in by_host[reply.host]:
                answer = answers.get(target.vm.name)
                reason = reply.reason or "no answer" if answer is None else answer.reason
                self._report(target, order.step, reason)

    # ---- tasks --------------------------------------------------------------------------------------

    def _submit_task(self, order: TaskOrder) -> None:
        self._tasks.put(order)
        self._pool.submit(self._take_tasks)

    def _take_tasks(self) -> None:
        """All that wait, together: they come one by one, and each would cost its server a connection."""
        for order in merged(_take_all(self._tasks)):
            self._try(self._put_tasks, order)

    def _put_tasks(self, order: TaskOrder) -> None:
        order = self._transport.ready(order)
        variant = order.variants["BroadcastEnv"]
        boot = "reboot" if order.variants["BootNewEnv"] == "reboot" else "kexec"
        if again := {target.vm.host for target in order.vms if target.attempt > 1}:
            self._transport.restart_lost_relays(variant, again)
        given = []
        for target in order.vms:
            task = tasks.task_file(
                self._image,
                task_id=TaskId(self._name, target.attempt),
                url=self._transport.url(variant, self._hosts[target.vm.host]),
                server=self._task_server.url(target.vm),
                authorized_keys=self._authorized_keys,
                boot=boot,
                patience=self._image_patience,
            )
            given.append((target, task))
        self._task_server.put_tasks(given)

    # ---- checks -------------------------------------------------------------------------------------

    def _take_checks(self) -> None:
        """All that wait, together: VMs get ready one by one, and each would cost its host a call."""
        steps: dict[str, list[Target]] = {}
        for order in _take_all(self._waiting_checks):
            steps.setdefault(order.step, []).extend(order.vms)
        for step, targets in steps.items():
            self._try(self._check, CheckOrder(tuple(targets), step))

    def _check(self, order: CheckOrder) -> None:
        """A VM is ready if it answers ssh with this deployment's identity, from its disk."""
        targets = {target.vm.name: target for target in order.vms}
        unanswered: dict[str, str] = {}  # reported with the end of its console
        root = GUESTS[self._context.spec.guest].root

        def report(result: Result) -> None:
            target = targets[result.host]
            reason = not_ready_reason(result, self._name, self._image, root)
            if shows_console(result, target.turn):
                unanswered[result.host] = reason
            else:
                self._report(target, order.step, reason, turn=True)

        command, key = ["sh", "-c", READY_COMMAND], self._context.check_key
        self._guests.run(
            list(targets), command, timeout=20, idempotent=True, key=key, attempts=1, on_result=report
        )
        hosts = list(self._hosts.values())
        vms = [targets[name].vm for name in unanswered]
        found = consoles.read(self._context, vms, hosts, size=512, timeout=_CONSOLE_TIMEOUT)
        for name, reason in unanswered.items():
            last = last_line(found[name].text.encode()) if name in found else ""
            self._report(targets[name], order.step, with_console(reason, last), turn=True)


def _take_all(waiting: queue.SimpleQueue[_Order]) -> list[_Order]:
    """All that is in a queue now."""
    taken = []
    with suppress(queue.Empty):
        while True:
            taken.append(waiting.get_nowait())
    return taken


def _report(milestone: Milestone, deployment: str, clock_offset: float) -> Report | None:
    """The report about ``deployment`` that a line of the log is; None if it is about something else."""
    task = milestone.task
    if milestone.step not in _DEPLOYMENT_STEPS:
        return None
    if task is None:
        if milestone.step != "minimal-system":
            return None
    elif task.deployment != deployment or not task.attempt:
        return None  # of a deployment before this one
    return Report(
        milestone.vm,
        milestone.step,
        milestone.status,
        milestone.t - clock_offset,
        milestone.reason,
        task.attempt if task is not None else None,
        permanent=milestone.permanent,
    )
