"""Carrying out what a deployment orders: power, task files, the broadcast, checks by ssh.

The engine (`g5kvirt.provisioners.builtin`) decides; here every order becomes one call of a host agent, of
nginx's host or of ssh for all its VMs at once, in a thread of a small pool, and what came of it becomes
words. What VMs report of themselves comes in from nginx's log.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

from g5kvirt.context import Context
from g5kvirt.errors import reason_of
from g5kvirt.guests.ssh import vm_access
from g5kvirt.hostagent import calls, protocol
from g5kvirt.images import environments
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot import services
from g5kvirt.netboot.bootlog import BootLog
from g5kvirt.netboot.log_tail import Follower
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.provisioners.builtin import tasks
from g5kvirt.provisioners.builtin.transport import IMAGES, Transport, image_servers
from g5kvirt.provisioners.builtin.workflow import Broadcast, Check, Order, Reboot, Target, Task, Word
from g5kvirt.remote import Fanout, File

__all__ = ["Deployer", "put_image"]

#: Words of VMs that are about a deployment; the others (dhcp, script, …) are about their boot.
_HEARD = {*tasks.STEPS, "minimal-system", "environment"}


def put_image(
    context: Context, machines: Sequence[ServiceMachine], image: environments.Image, tools: File
) -> None:
    """Put the image on each site's head of the broadcast, and the deployment tools on every HTTP server."""
    servers = [m.host for m in machines if "http" in m.roles]
    heads = [m.host for m in image_servers(machines).values()]
    path = f"{services.WWW}/{IMAGES}/{image.sha256}"
    for hosts, file, step in ((heads, File(image.path, path), "image"), (servers, tools, "tools")):
        limit = context.spec.timeouts.command
        calls.send_files(
            context.fanout, context.journal, hosts, [file], step=step, phase="measure", timeout=limit
        )


class Deployer:
    """A `g5kvirt.provisioners.builtin.Driver` over the machines of a run; a context manager.

    ``name`` is the deployment's id. Whatever it started (threads, streams, relays) has ended when it is left.
    """

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        name: str,
        vms: Sequence[VM],
        image: environments.Image,
        authorized_key: str,
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._name = name
        self._vms = vms
        self._image = image
        self._key = authorized_key
        self._words: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._hosts = {host.name: host for host in cluster.hosts}
        self._log = BootLog(vms)
        self._guests = Fanout(vm_access(context, vms), window=context.checks_at_once, tree_from=None)
        self._transport = Transport(context, cluster, vms, image, self._words.put, self._order_task)
        self._stack = ExitStack()
        self._followers: list[Follower] = []

    def __enter__(self) -> Deployer:
        self._pool = ThreadPoolExecutor(max_workers=6)
        # VMs get ready one by one, and each check waits for its VM: as many as their window lets in
        self._checks = ThreadPoolExecutor(max_workers=self._context.checks_at_once)
        self._stack.callback(self._transport.stop)
        for pool in (self._pool, self._checks):
            self._stack.callback(pool.shutdown, cancel_futures=True)
        for machine in self._cluster.layout.machines:
            if "http" in machine.roles:
                follower = Follower(self._context, machine, self._reader(machine.host))
                self._followers.append(self._stack.enter_context(follower))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # else the pool would wait for the end of what nobody needs any more
            self._guests.give_up(reason_of(error))
            self._transport.stop()
        self._stack.close()

    # ---- what the engine asks -----------------------------------------------------------------------

    def carry_out(self, order: Order) -> None:
        """Start it in a thread; what goes wrong becomes words about everyone it was for."""
        match order:
            case Reboot():
                self._pool.submit(self._try, self._reboot, order)
            case Task():
                self._order_task(order)
            case Check():
                self._checks.submit(self._try, self._check, order)
            case Broadcast():
                self._pool.submit(self._transport.carry, order)

    def hear(self, timeout: float) -> Iterable[Word]:
        """All words there are; waits for the first, at most ``timeout`` seconds."""
        for follower in self._followers:
            follower.keep_alive()
        words = []
        try:
            words.append(self._words.get(timeout=max(timeout, 0.001)))
            while True:
                words.append(self._words.get_nowait())
        except queue.Empty:
            return words

    # ---- words ----------------------------------------------------------------------------------------

    def _reader(self, machine: Host) -> Callable[[str], None]:
        offset = self._cluster.facts[machine.name].clock_offset

        def read(line: str) -> None:
            seen = self._log.read(line)
            if seen is None or seen.step not in _HEARD:
                return
            attempt = None
            if seen.deployment:
                name, _, number = seen.deployment.rpartition(".")
                if name != self._name or not number.isdecimal():
                    return  # of a deployment before this one
                attempt = int(number)
            elif seen.step != "minimal-system":
                return
            t, hopeless = seen.t - offset, seen.hopeless
            word = Word(seen.vm, seen.step, seen.status, t, seen.reason, attempt, hopeless=hopeless)
            self._words.put(word)

        return read

    def _tell(self, target: Target, step: str, reason: str = "", *, turn: bool = False) -> None:
        status: Literal["ok", "failed"] = "failed" if reason else "ok"
        number = target.turn if turn else None
        self._words.put(Word(target.vm.name, step, status, time.time(), reason, target.attempt, number))

    def _try(self, do: Callable[[Any], None], order: Reboot | Task | Check) -> None:
        try:
            do(order)
        except Exception as error:  # noqa: BLE001 - it becomes the reason of every VM that it was for
            for target in order.vms:
                reason = f"{type(error).__name__}: {error}"
                self._tell(target, order.step, reason, turn=isinstance(order, Check))

    # ---- power ----------------------------------------------------------------------------------------

    def _reboot(self, order: Reboot) -> None:
        self._switch_profiles(order)
        if order.kind == "soft":
            # It answers before it goes, so that a guest that is gone is told from one that refuses.
            command = ["sh", "-c", "(sleep 1; reboot -f) >/dev/null 2>&1 & echo going"]
            results = self._guests.run([t.vm.name for t in order.vms], command, timeout=15)
            for target in order.vms:
                self._tell(target, order.step, results[target.vm.name].reason)
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
        for heard in calls.call_agents(self._context.fanout, documents, timeout=timeout, idempotent=False):
            answers = {a.subject: a for a in heard.answers}
            for target in by_host[heard.host]:
                answer = answers.get(target.vm.name)
                reason = heard.reason or "no answer" if answer is None else answer.reason
                self._tell(target, order.step, reason)

    def _switch_profiles(self, order: Reboot) -> None:
        """What VMs boot next, and no task that they would begin again. On their HTTP servers."""
        for machine, own in self._by_server(order.vms):
            files = [tasks.task_path(t.vm.name, services.WWW) for t in own]
            if order.into == "disk":
                self._put(machine, [self._from_disk(target.vm) for target in own])
                self._remove(machine, files)
            else:
                self._remove(machine, [*(services.vm_script_path(t.vm) for t in own), *files])

    def _from_disk(self, vm: VM) -> File:
        """The VM's own iPXE script with which it boots what is on its disk."""
        address = self._cluster.layout.address("http", vm.site, vm.index)
        script = services.ipxe_script(services.Netboot(self._cluster.layout, ()), address, profile="disk")
        return File(script.encode(), services.vm_script_path(vm))

    # ---- tasks ----------------------------------------------------------------------------------------

    def _order_task(self, order: Task) -> None:
        self._tasks.put(order)
        self._pool.submit(self._take_tasks)

    def _take_tasks(self) -> None:
        """All that wait, together: they come one by one, and each would cost its server a connection."""
        waiting: dict[str, tuple[Task, Target]] = {}
        while not self._tasks.empty():
            with suppress(queue.Empty):  # another thread took it
                order = self._tasks.get_nowait()
                waiting |= {target.vm.name: (order, target) for target in order.vms}
        groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[tuple[Task, Target]]] = {}
        for order, target in waiting.values():  # of a VM that was started over meanwhile, its last task
            groups.setdefault((order.step, tuple(order.variants.items())), []).append((order, target))
        for group in groups.values():
            self._try(self._task, replace(group[0][0], vms=tuple(target for _, target in group)))

    def _task(self, order: Task) -> None:
        order = self._transport.ready(order)
        variant = order.variants["BroadcastEnv"]
        boot = "reboot" if order.variants["BootNewEnv"] == "reboot" else "kexec"
        if again := {target.vm.host for target in order.vms if target.attempt > 1}:
            self._transport.mend(variant, again)
        for machine, own in self._by_server(order.vms):
            files = []
            for target in own:
                address = self._cluster.layout.address("http", target.vm.site, target.vm.index)
                task = tasks.task_for(
                    self._image,
                    deployment=f"{self._name}.{target.attempt}",
                    url=self._transport.url(variant, self._hosts[target.vm.host]),
                    server=f"http://{address}",
                    authorized_keys=[self._key],
                    boot=boot,
                )
                text = tasks.render(task).encode()
                files.append(File(text, tasks.task_path(target.vm.name, services.WWW)))
                if boot == "reboot":
                    files.append(self._from_disk(target.vm))
            self._put(machine, files)

    def _by_server(self, targets: Sequence[Target]) -> list[tuple[ServiceMachine, list[Target]]]:
        """The HTTP servers, each with the VMs that it serves."""
        found: dict[str, tuple[ServiceMachine, list[Target]]] = {}
        for target in targets:
            machine = self._cluster.layout.server("http", target.vm.site, target.vm.index)
            found.setdefault(machine.host.name, (machine, []))[1].append(target)
        return list(found.values())

    def _put(self, machine: ServiceMachine, files: Sequence[File]) -> None:
        host = machine.host.address
        result = self._context.fanout.put([host], files, timeout=self._context.spec.timeouts.command)[host]
        if not result.ok:
            raise RuntimeError(f"{machine.host.name} did not take the VMs' files: {result.reason}")

    def _remove(self, machine: ServiceMachine, paths: Sequence[str]) -> None:
        host = machine.host.address
        command = ["xargs", "-0", "rm", "-f", "--"]  # a window of VMs is more than a command's words may be
        names = "\0".join(paths).encode()
        timeout = self._context.spec.timeouts.command
        fanout = self._context.fanout
        result = fanout.run([host], command, stdin=names, timeout=timeout, idempotent=True)[host]
        if not result.ok:
            raise RuntimeError(f"{machine.host.name} did not remove the VMs' files: {result.reason}")

    # ---- ready --------------------------------------------------------------------------------------------

    def _check(self, order: Check) -> None:
        """Ready is who answers ssh with this deployment's identity, from its disk."""
        names = [target.vm.name for target in order.vms]
        results = self._guests.run(names, ["sh", "-c", tasks.READY_COMMAND], timeout=20, idempotent=True)
        for target in order.vms:
            result = results[target.vm.name]
            reason = result.reason or self._not_ready(result.text)
            self._tell(target, order.step, reason, turn=True)

    def _not_ready(self, said: str) -> str:
        identity = tasks.read_ready(said)
        if identity is None:
            return "it answers ssh, but not as a deployed environment"
        if identity.deployment.rpartition(".")[0] != self._name or identity.sha256 != self._image.sha256:
            return f"it runs another deployment, {identity.deployment} of {identity.environment}"
        if not identity.root.startswith("/dev/vd"):
            return f"its root is {identity.root}, not the disk"
        return ""
