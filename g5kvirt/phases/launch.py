"""launch: the VMs are powered on, netboot into the minimal system and report in.

One thread decides, with a `BootTracker` as its memory: powered-on VMs are reported by the host agents and
everything else is read from the logs of dnsmasq and nginx, which stream in from the service machines. So no
VM is ever polled, and thousands of them cost no connection each.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, Stopped
from g5kvirt.guests import consoles
from g5kvirt.guests.boot_time import boot_limit
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot.boot_tracker import BootTracker, TrackedBoot
from g5kvirt.netboot.bootlog import BootLog, Milestone
from g5kvirt.netboot.log_tail import LogTail
from g5kvirt.phases.configure import boot_plan, serve
from g5kvirt.planning.cluster import ClusterState, cluster_state
from g5kvirt.planning.windows import boot_window
from g5kvirt.run import event_types
from g5kvirt.run.vocabulary import Status

__all__ = ["launch"]

#: Seconds between two looks at the clock while nothing is reported.
TICK = 0.25

#: Seconds that the first power-on may have the machines for itself before the services get the VMs' entries.
HEAD_START = 0.5


def launch(context: Context) -> Mapping[str, Any]:
    """Boot every VM, or record at which step each one stopped and why.

    VMs that an earlier call brought up are left as they are. Single VMs never raise; raises PhaseError if
    not one came up.
    """
    journal = context.journal
    cluster = cluster_state(context.spec, journal.state)
    vms = journal.state.placed_vms
    configured = journal.state.detail("configure")
    assert configured is not None  # the order of the phases sees to it
    plan = boot_plan(context, cluster, tuple(vms), configured["addresses"])
    facts = [cluster.facts[h.name] for h in cluster.hosts]
    guest = context.testbed.guest or GUESTS[context.spec.guest].label(facts)
    journal.extend([event_types.guest_kind(context.run.name, guest)])
    tracker = _tracker(context, cluster, vms)
    try:
        _Launch(context, cluster, tracker).run(lambda: serve(context, cluster, plan, phase="launch"))
    except Stopped as stopped:  # unlike after Ctrl-C, no later call can go on with what is under way
        _fail_all(context, tracker, str(stopped))
        raise
    up, failed = tracker.count("up"), tracker.count("failed")
    if up == 0:
        first = next(b for b in tracker.boots.values() if b.state == "failed")
        raise PhaseError(
            f"none of {failed} VMs came up, first {first.vm.name} on {first.vm.host}: {first.reason}",
            phase="launch",
            step=first.at,
        )
    return {"up": up, "failed": failed}


def _tracker(context: Context, cluster: ClusterState, vms: Sequence[VM]) -> BootTracker:
    """All VMs, those that an earlier call brought up among them."""
    facts = [cluster.facts[h.name] for h in cluster.hosts]
    guest = GUESTS[context.spec.guest]
    tracker = BootTracker(
        guest.start_order(vms),
        boot_window(context.spec.windows, facts, guest.label, real_cores=context.testbed.real_cores),
        boot_limit(context, cluster),
        context.spec.timeouts.boot_attempts,
    )
    for name in context.journal.state.up_vms:
        tracker.already_up(name)
    return tracker


def _fail_all(context: Context, tracker: BootTracker, reason: str) -> None:
    """Every VM that is not up has failed where it is."""
    now = time.time()
    context.journal.extend(
        event_types.boot_failed(b.vm.name, now, b.attempt, b.at, reason)
        for b in tracker.boots.values()
        if b.state not in ("up", "failed")
    )


@dataclass(frozen=True)
class _PowerOn:
    """One requested power-on; the VM may be at its next attempt when the answer comes."""

    name: str
    mac: str
    attempt: int


class _Launch:
    """The loop of one launch, with its streams and threads.

    Threads never decide: they put what they have to report into the inbox, as a call that the loop makes.
    """

    def __init__(self, context: Context, cluster: ClusterState, tracker: BootTracker) -> None:
        self.context = context
        self.cluster = cluster
        self.tracker = tracker
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.hosts = {h.name: h for h in cluster.hosts}
        self.log = BootLog(boot.vm for boot in tracker.boots.values())
        self.stopping: list[Future[None]] = []  # VMs that were given up

    def run(self, register: Callable[[], None]) -> None:
        """Run until every VM is up or failed; streams and threads have ended afterwards in any case.

        ``register`` makes the VMs known to the services. The first power-on goes before it, where a firmware
        takes longer until it requests an address, and repeats that.
        """
        with ExitStack() as stack:
            # Few at a time: a batch is one connection per host, and batches wait for each other's sshd.
            pool = ThreadPoolExecutor(max_workers=4)
            stack.callback(pool.shutdown, cancel_futures=True)
            has_firmware = GUESTS[self.context.spec.guest].has_kernel
            if has_firmware:
                wait(self._advance(pool), timeout=HEAD_START)
            registered = pool.submit(register)
            if not has_firmware:
                registered.result()
            log_tails = [
                stack.enter_context(
                    LogTail(self.context.access, machine, self._reader(machine.host), phase="launch")
                )
                for machine in self.cluster.layout.machines
            ]
            while not self.tracker.finished:
                if registered.done():
                    registered.result()  # raises what went wrong there
                self._advance(pool)
                for log_tail in log_tails:
                    log_tail.keep_alive()
                self._process_inbox()
            registered.result()
            for stopping in self.stopping:
                stopping.result()

    def _advance(self, pool: ThreadPoolExecutor) -> list[Future[list[calls.AgentReply]]]:
        """Give up VMs that are overdue, power on those that may start now."""
        now = time.time()
        late = self.tracker.overdue(now)
        for boot in late:
            self._record_setback(boot, now)
        if dead := [boot.vm for boot in late if boot.state == "failed"]:
            self.stopping.append(pool.submit(self._stop, dead))
        batch = self.tracker.due(now)
        return [self._power_on(batch, pool, now)] if batch else []

    def _process_inbox(self) -> None:
        """Wait for a report, then take all that are there."""
        try:
            self.inbox.get(timeout=TICK)()
            while True:
                self.inbox.get_nowait()()
        except queue.Empty:
            return

    def _stop(self, dead: Sequence[VM]) -> None:
        """End VMs that are given up, which would take cores from the others; keep their consoles."""
        consoles.fetch(self.context, dead, list(self.hosts.values()), phase="launch")
        names: dict[Host, list[str]] = {}
        for vm in dead:
            names.setdefault(self.hosts[vm.host], []).append(vm.name)
        documents = {host: protocol.document(protocol.stop(own)) for host, own in names.items()}
        calls.call_agents(self.context.fanout, documents, timeout=self.context.spec.timeouts.command)

    # ---- power-on ---------------------------------------------------------------------------------

    def _power_on(
        self, batch: Sequence[TrackedBoot], pool: ThreadPoolExecutor, now: float
    ) -> Future[list[calls.AgentReply]]:
        by_host: dict[Host, list[_PowerOn]] = {}
        for boot in batch:
            request = _PowerOn(boot.vm.name, boot.vm.mac, boot.attempt)
            by_host.setdefault(self.hosts[boot.vm.host], []).append(request)
            self._record(request.name, request.attempt, "power-on", "start", now)
        documents = {host: self._document(host, own) for host, own in by_host.items()}
        fanout = self.context.fanout
        timeout = self.context.spec.timeouts.command
        future = pool.submit(calls.call_agents, fanout, documents, timeout=timeout)
        future.add_done_callback(lambda f: self.inbox.put(lambda: self._powered_on(f.result(), by_host)))
        return future

    def _document(self, host: Host, requests: Sequence[_PowerOn]) -> bytes:
        """One round trip for all VMs of a host; a VM that had its chance before is stopped first."""
        again = [request.name for request in requests if request.attempt > 1]
        vms = [(request.name, request.mac) for request in requests]
        spec, facts = self.context.spec, self.cluster.facts[host.name]
        start = GUESTS[spec.guest].start_request(spec, host.name, facts, vms)
        return protocol.document(*([protocol.stop(again)] if again else []), start)

    def _powered_on(
        self, replies: Sequence[calls.AgentReply], requests: Mapping[Host, Sequence[_PowerOn]]
    ) -> None:
        """Take in what the host agents answered."""
        for reply in replies:
            answers = {a.subject: a for a in reply.answers if a.op == "start"}
            offset = self.cluster.facts[reply.host.name].clock_offset
            for request in requests[reply.host]:
                answer = answers.get(request.name)
                if answer is not None and answer.ok:
                    self._started(request, float(answer.detail["power_on"]) - offset)
                else:
                    reason = answer.reason if answer is not None else reply.reason or "no answer for it"
                    self._refused(request, reason)

    def _started(self, request: _PowerOn, t: float) -> None:
        self._record(request.name, request.attempt, "power-on", "ok", t)
        for reached in self.tracker.powered_on(request.name, request.attempt, t):
            self._record(request.name, request.attempt, reached.step, "ok", reached.t, reached.detail)

    def _refused(self, request: _PowerOn, reason: str) -> None:
        now = time.time()
        self._record(request.name, request.attempt, "power-on", "failed", now, {"reason": reason})
        if boot := self.tracker.refused(request.name, request.attempt, reason):
            self._record_setback(boot, now)

    # ---- milestones -------------------------------------------------------------------------------

    def _reader(self, machine: Host) -> Callable[[str], None]:
        """What to do with each line of a service machine's logs; called in another thread."""
        offset = self.cluster.facts[machine.name].clock_offset

        def read(line: str) -> None:
            if milestone := self.log.read(line):
                self.inbox.put(lambda: self._reached(milestone, milestone.t - offset))

        return read

    def _reached(self, milestone: Milestone, t: float) -> None:
        name, step = milestone.vm, milestone.step
        if self.tracker.reached(name, step, t, milestone.detail):
            self._record(name, self.tracker.boots[name].attempt, step, "ok", t, milestone.detail)

    # ---- the journal ------------------------------------------------------------------------------

    def _record_setback(self, boot: TrackedBoot, now: float) -> None:
        """A VM is tried again, or has failed."""
        make = event_types.boot_failed if boot.state == "failed" else event_types.boot_retried
        self.context.journal.extend([make(boot.vm.name, now, boot.attempt, boot.at, boot.reason)])

    def _record(
        self,
        name: str,
        attempt: int,
        step: str,
        status: Status,
        t: float,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        self.context.journal.extend([event_types.boot_step(name, step, status, t, attempt, detail)])
