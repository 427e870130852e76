"""Powers VMs on by the agents of their hosts, and reads from the logs of the services how far they are.

What a VM does is read from the logs of dnsmasq and nginx, which stream in from the service machines. So no VM
is ever polled, and thousands of them cost no connection each.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from types import TracebackType

from g5kvirt.context import Context
from g5kvirt.guests import consoles
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.host_watch import HostWatch
from g5kvirt.hostagent.vm_watch import VMWatch
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot.boot_loop import BootReport, HostGone, PoweredOn, PowerOn, VMGone
from g5kvirt.netboot.bootlog import BootLog
from g5kvirt.netboot.log_tail import LogTail
from g5kvirt.planning.cluster import ClusterState

__all__ = ["MachineBoots"]

#: Seconds that the first power-on may have the machines for itself before the services get the VMs' entries.
HEAD_START = 0.5


class MachineBoots:
    """A `g5kvirt.netboot.boot_loop.BootDriver` over the machines of a run; a context manager.

    ``register`` makes the VMs known to the services. The first power-on goes before it, where a firmware
    takes longer until it requests an address, and repeats that. ``dhcp_servers``: see
    `Guest.start_request`. Streams and threads have ended when it is left; what went wrong with the services
    is raised by `receive`, or then.
    """

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        vms: Sequence[VM],
        register: Callable[[], None],
        dhcp_servers: Sequence[IPv4Address] = (),
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._vms = vms
        self._register = register
        self._dhcp_servers = dhcp_servers
        self._has_firmware = GUESTS[context.spec.guest].has_kernel
        self._hosts = {host.name: host for host in cluster.hosts}
        self._log = BootLog(vms)
        # Threads never decide: they put in here what they have to report, as a call that may raise instead.
        self._inbox: queue.SimpleQueue[Callable[[], Iterable[BootReport]]] = queue.SimpleQueue()
        self._registered: Future[None] | None = None
        self._stopping: list[Future[None]] = []  # VMs that were given up
        self._log_tails: list[LogTail] = []
        self._stack = ExitStack()

    def __enter__(self) -> MachineBoots:
        # Few at a time: a batch is one connection per host, and batches wait for each other's sshd.
        self._pool = ThreadPoolExecutor(max_workers=4)
        self._stack.callback(self._pool.shutdown, cancel_futures=True)
        watched = [*self._hosts.values(), *(machine.host for machine in self._cluster.layout.machines)]
        fanout, cores = self._context.fanout, self._context.testbed.real_cores
        self._stack.enter_context(HostWatch(fanout, watched, self._host_gone))
        self._stack.enter_context(
            VMWatch(fanout, self._hosts.values(), self._vms, self._vm_gone, real_cores=cores)
        )
        if not self._has_firmware:
            self._register()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.warn_of_refused()
        with self._stack:
            if error is None:
                for ending in (*([self._registered] if self._registered else []), *self._stopping):
                    ending.result()

    # ---- the driver's protocol ----------------------------------------------------------------------

    def power_on(self, orders: Sequence[PowerOn]) -> None:
        """One request for all VMs of a host."""
        by_host: dict[Host, list[PowerOn]] = {}
        for order in orders:
            by_host.setdefault(self._hosts[order.vm.host], []).append(order)
        documents = {host: self._document(host, own) for host, own in by_host.items()}
        timeout = self._context.spec.timeouts.command
        future = self._pool.submit(calls.call_agents, self._context.fanout, documents, timeout=timeout)
        future.add_done_callback(lambda done: self._inbox.put(lambda: self._answers(done.result(), by_host)))
        if not self._log_tails:
            if self._has_firmware:
                wait([future], timeout=HEAD_START)
                self._registered = self._pool.submit(self._register)
            self._follow_logs()

    def stop(self, vms: Sequence[VM]) -> None:
        """Their consoles are kept."""
        self._stopping.append(self._pool.submit(self._stop, vms))

    def receive(self, timeout: float) -> Iterable[BootReport]:
        """All reports there are; waits for the first, at most ``timeout`` seconds."""
        if self._registered is not None and self._registered.done():
            self._registered.result()  # raises what went wrong there
        for log_tail in self._log_tails:
            log_tail.keep_alive()
        waiting: list[Callable[[], Iterable[BootReport]]] = []
        try:
            waiting.append(self._inbox.get(timeout=timeout))
            while True:
                waiting.append(self._inbox.get_nowait())
        except queue.Empty:
            return self._reports(waiting)

    @staticmethod
    def _reports(waiting: Iterable[Callable[[], Iterable[BootReport]]]) -> Iterator[BootReport]:
        """The reports of each, one by one: those before one that raises are taken."""
        for call in waiting:
            yield from call()

    # ---- inside -------------------------------------------------------------------------------------

    def _follow_logs(self) -> None:
        for machine in self._cluster.layout.machines:
            log_tail = LogTail(self._context.access, machine, self._reader(machine.host), phase="launch")
            self._log_tails.append(self._stack.enter_context(log_tail))

    def _reader(self, machine: Host) -> Callable[[str], None]:
        """What to do with each line of a service machine's logs; called in another thread."""
        offset = self._cluster.facts[machine.name].clock_offset

        def read(line: str) -> None:
            if milestone := self._log.read(line):
                report = replace(milestone, t=milestone.t - offset)
                self._inbox.put(lambda: [report])

        return read

    def _host_gone(self, host: Host, reason: str) -> None:
        for log_tail in self._log_tails:
            log_tail.host_gone(host, reason)
        gone = HostGone(host.name, time.time(), reason)
        self._inbox.put(lambda: [gone])

    def _vm_gone(self, vm: str, reason: str, t: float) -> None:
        gone = VMGone(vm, t, reason)
        self._inbox.put(lambda: [gone])

    def _document(self, host: Host, orders: Sequence[PowerOn]) -> bytes:
        """One round trip for all VMs of a host; a VM that had its chance before is stopped first."""
        again = [order.vm.name for order in orders if order.attempt > 1]
        vms = [order.vm for order in orders]
        spec, facts = self._context.spec, self._cluster.facts[host.name]
        start = GUESTS[spec.guest].start_request(spec, host.name, facts, vms, self._dhcp_servers)
        return protocol.document(*([protocol.stop(again)] if again else []), start)

    def _answers(
        self, replies: Sequence[calls.AgentReply], orders: Mapping[Host, Sequence[PowerOn]]
    ) -> list[BootReport]:
        """What the host agents answered."""
        reports: list[BootReport] = []
        for reply in replies:
            answers = {a.subject: a for a in reply.answers if a.op == "start"}
            offset = self._cluster.facts[reply.host.name].clock_offset
            for order in orders[reply.host]:
                answer = answers.get(order.vm.name)
                if answer is not None and answer.ok:
                    known = float(answer.detail["power_on"]) - offset
                    since = self._cluster.reservation.start
                    t, reason = power_on_time(known, since, reply.result.end), ""
                else:
                    t = time.time()
                    reason = answer.reason if answer is not None else reply.reason or "no answer for it"
                reports.append(PoweredOn(order.vm.name, order.attempt, t, reason))
        return reports

    def _stop(self, dead: Sequence[VM]) -> None:
        """End VMs that are given up, which would take cores from the others; keep their consoles."""
        consoles.fetch(self._context, dead, list(self._hosts.values()), phase="launch")
        names: dict[Host, list[str]] = {}
        for vm in dead:
            names.setdefault(self._hosts[vm.host], []).append(vm.name)
        documents = {
            host: protocol.document(protocol.stop(own))
            for host, own in names.items()
            if not self._context.fanout.is_gone(host.address)
        }
        calls.call_agents(self._context.fanout, documents, timeout=self._context.spec.timeouts.command)


def power_on_time(t: float, since: float, answered: float) -> float:
    """When a VM was powered on, as its host says, if that can be: after ``since``, as the reservation began.

    Else when the host answered. Its clock may have been set since it was compared with ours, and a VM of
    tomorrow would be waited for until then.
    """
    return t if since <= t <= answered else answered
