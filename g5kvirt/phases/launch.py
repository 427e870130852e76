"""launch: the VMs are powered on, netboot into the minimal system and report in.

One thread decides, with `Boots` as its memory: it hears of powered-on VMs from the host agents and of
everything else from the logs of dnsmasq and nginx, which stream in from the service machines. So no VM
is ever asked anything, and thousands of them cost no connection each.
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
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import MIB, VM, Host
from g5kvirt.netboot.boot_tracker import Boot, Boots
from g5kvirt.netboot.bootlog import BootLog, Milestone
from g5kvirt.netboot.log_tail import Follower
from g5kvirt.phases.configure import ISO, boot_plan, serve
from g5kvirt.planning.cluster import ClusterState, cluster_state
from g5kvirt.planning.windows import boot_timeout, boot_window, interleave
from g5kvirt.run import state
from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import Status

__all__ = ["launch"]

#: Seconds between two looks at the clock while nothing is heard.
TICK = 0.25

#: Seconds that the first power-on may have the machines for itself before the services hear of the VMs.
HEAD_START = 0.5


def launch(context: Context) -> Mapping[str, Any]:
    """Boot every VM, or say at which step each one stopped and why.

    VMs that an earlier call brought up are left as they are. Single VMs never raise; raises PhaseError if
    not one came up.
    """
    spec, journal = context.spec, context.journal
    cluster = cluster_state(spec, journal)
    vms = state.vms(journal)
    configured = state.detail(journal, "configure")
    assert configured is not None  # the order of the phases sees to it
    plan = boot_plan(context, cluster, tuple(vms), configured["addresses"])

    facts = [cluster.facts[h.name] for h in cluster.hosts]
    cores = context.testbed.real_cores or sum(f.cores for f in facts)
    kvm = all(f.kvm for f in facts)
    guest = context.testbed.guest or ("kvm" if kvm else "tcg")
    journal.append("launch", "guests", "run", context.run.name, "ok", guest=guest)

    def patience(in_flight: int, attempt: int) -> float:
        if spec.timeouts.boot is not None:
            return spec.timeouts.boot
        return boot_timeout(in_flight, cores, kvm=kvm, attempt=attempt)

    boots = Boots(
        interleave(vms),
        boot_window(spec.windows, facts, real_cores=context.testbed.real_cores),
        patience,
        spec.timeouts.boot_attempts,
    )
    for name in state.up(journal):
        boots.already_up(name)
    try:
        _Launch(context, cluster, boots).run(lambda: serve(context, cluster, plan, phase="launch"))
    except Stopped as stopped:  # unlike after Ctrl-C, no later call can go on with what is on its way
        _end_all(context, boots, str(stopped))
        raise
    up, failed = boots.count("up"), boots.count("failed")
    if up == 0:
        first = next(b for b in boots.boots.values() if b.state == "failed")
        raise PhaseError(
            f"none of {failed} VMs came up, first {first.vm.name} on {first.vm.host}: {first.reason}",
            phase="launch",
            step=first.at,
        )
    return {"up": up, "failed": failed}


def _end_all(context: Context, boots: Boots, reason: str) -> None:
    """Every VM that is not up has failed where it is."""
    now = time.time()
    context.journal.extend(
        Event("launch", "launch", "vm", b.vm.name, "failed", now, b.attempt, {"at": b.at, "reason": reason})
        for b in boots.boots.values()
        if b.state not in ("up", "failed")
    )


@dataclass(frozen=True)
class _Ask:
    """One power-on that was asked for; the VM may be at its next attempt when the answer comes."""

    name: str
    mac: str
    attempt: int


class _Launch:
    """The loop of one launch, and what it has running."""

    def __init__(self, context: Context, cluster: ClusterState, boots: Boots) -> None:
        self.context = context
        self.cluster = cluster
        self.boots = boots
        self.heard: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.hosts = {h.name: h for h in cluster.hosts}
        self.log = BootLog(boot.vm for boot in boots.boots.values())
        self.early: dict[str, list[tuple[Milestone, float]]] = {}  # heard before the answer to a power-on
        self.ending: list[Future[None]] = []  # what is still done about VMs that were given up

    def run(self, register: Callable[[], None]) -> None:
        """Until every VM is up or failed; whatever happens, streams and threads have ended afterwards.

        ``register`` makes the VMs known to the services. The first power-on goes before it: a VM's firmware
        takes longer until it asks for an address, and asks again.
        """
        with ExitStack() as stack:
            # Few at a time: a batch is one connection a host, and batches wait for each other's sshd.
            pool = ThreadPoolExecutor(max_workers=4)
            stack.callback(pool.shutdown, cancel_futures=True)
            first = self._go_on(pool)
            wait(first, timeout=HEAD_START)
            registered = pool.submit(register)
            followers = [
                stack.enter_context(Follower(self.context, m, self._reader(m.host)))
                for m in self.cluster.layout.machines
            ]
            while not self.boots.finished:
                if registered.done():
                    registered.result()  # raises what went wrong there
                self._go_on(pool)
                for follower in followers:
                    follower.keep_alive()
                self._listen()
            registered.result()
            for ending in self.ending:
                ending.result()

    def _go_on(self, pool: ThreadPoolExecutor) -> list[Future[list[calls.AgentReply]]]:
        """Give up on who is overdue, power on who may start now."""
        now = time.time()
        late = self.boots.overdue(now)
        for boot in late:
            self._say_again_or_failed(boot, now)
        if dead := [boot for boot in late if boot.state == "failed"]:
            self.ending.append(pool.submit(self._stop, [boot.vm for boot in dead]))
        batch = self.boots.due(now)
        return [self._power_on(batch, pool, now)] if batch else []

    def _listen(self) -> None:
        """Wait for a word, then take all that are there."""
        try:
            self.heard.get(timeout=TICK)()
            while True:
                self.heard.get_nowait()()
        except queue.Empty:
            return

    def _stop(self, dead: Sequence[VM]) -> None:
        """End VMs that are given up, which would take cores from the others; their last words are kept."""
        consoles.fetch(self.context, "launch", "launch", dead, list(self.hosts.values()))
        names: dict[Host, list[str]] = {}
        for vm in dead:
            names.setdefault(self.hosts[vm.host], []).append(vm.name)
        documents = {host: protocol.document(protocol.stop(own)) for host, own in names.items()}
        calls.call_agents(self.context.fanout, documents, timeout=self.context.spec.timeouts.command)

    # ---- power-on ---------------------------------------------------------------------------------

    def _power_on(
        self, batch: Sequence[Boot], pool: ThreadPoolExecutor, now: float
    ) -> Future[list[calls.AgentReply]]:
        by_host: dict[Host, list[_Ask]] = {}
        for boot in batch:
            ask = _Ask(boot.vm.name, boot.vm.mac, boot.attempt)
            by_host.setdefault(self.hosts[boot.vm.host], []).append(ask)
            self._say(ask.name, ask.attempt, "power-on", "start", now)
        documents = {host: self._document(host, own) for host, own in by_host.items()}
        fanout = self.context.fanout
        timeout = self.context.spec.timeouts.command
        future = pool.submit(calls.call_agents, fanout, documents, timeout=timeout)
        future.add_done_callback(lambda f: self.heard.put(lambda: self._answered(f, by_host)))
        return future

    def _document(self, host: Host, asked: Sequence[_Ask]) -> bytes:
        """One round trip for all VMs of a host; a VM that had its chance before is stopped first."""
        spec = self.context.spec
        again = [ask.name for ask in asked if ask.attempt > 1]
        order = protocol.start(
            [protocol.vm(ask.name, ask.mac) for ask in asked],
            memory=spec.vm.memory * MIB,
            disk=spec.vm.disk * MIB,
            cores=spec.vm.cores,
            kvm=self.cluster.facts[host.name].kvm,
            boot=spec.boot,
            iso=ISO if spec.boot == "iso" else None,
        )
        return protocol.document(*([protocol.stop(again)] if again else []), order)

    def _answered(self, future: Future[list[calls.AgentReply]], asked: Mapping[Host, Sequence[_Ask]]) -> None:
        for heard in future.result():
            answers = {a.subject: a for a in heard.answers if a.op == "start"}
            offset = self.cluster.facts[heard.host.name].clock_offset
            for ask in asked[heard.host]:
                answer = answers.get(ask.name)
                if answer is not None and answer.ok:
                    t = float(answer.detail["power_on"]) - offset
                    self._say(ask.name, ask.attempt, "power-on", "ok", t)
                    self.boots.powered_on(ask.name, ask.attempt, t)
                    for seen, when in self.early.pop(ask.name, []):
                        self._reached(seen, when)
                else:
                    now = time.time()
                    reason = answer.reason if answer is not None else heard.reason or "no answer for it"
                    self._say(ask.name, ask.attempt, "power-on", "failed", now, {"reason": reason})
                    if boot := self.boots.refused(ask.name, ask.attempt, reason):
                        self._say_again_or_failed(boot, now)

    # ---- milestones -------------------------------------------------------------------------------

    def _reader(self, machine: Host) -> Callable[[str], None]:
        """What to do with each line of a service machine's logs; called in another thread."""
        offset = self.cluster.facts[machine.name].clock_offset

        def read(line: str) -> None:
            if seen := self.log.read(line):
                self.heard.put(lambda: self._reached(seen, seen.t - offset))

        return read

    def _reached(self, seen: Milestone, t: float) -> None:
        if self.boots.reached(seen.vm, seen.step, t):
            self._say(seen.vm, self.boots.boots[seen.vm].attempt, seen.step, "ok", t, seen.detail)
        elif self.boots.boots[seen.vm].state in ("waiting", "starting"):
            self.early.setdefault(seen.vm, []).append((seen, t))

    def _say_again_or_failed(self, boot: Boot, now: float) -> None:
        status: Status = "failed" if boot.state == "failed" else "retry"
        detail = {"at": boot.at, "reason": boot.reason}
        self._say(boot.vm.name, boot.attempt, "launch", status, now, detail)

    def _say(
        self,
        name: str,
        attempt: int,
        step: str,
        status: Status,
        t: float,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        self.context.journal.extend([Event("launch", step, "vm", name, status, t, attempt, detail or {})])
