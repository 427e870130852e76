"""The VMs' files on the HTTP servers: tasks, and what a VM boots next."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence

from g5kvirt.context import Context
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import VM
from g5kvirt.netboot import services
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.provisioners.builtin import tasks
from g5kvirt.provisioners.builtin.orders import RebootOrder, Target
from g5kvirt.provisioners.builtin.tasks import TaskFile

__all__ = ["TaskServer"]


class TaskServer:
    """Puts files of VMs on their HTTP servers and removes them. Raises RuntimeError where one refuses."""

    def __init__(self, context: Context, cluster: ClusterState) -> None:
        self._context = context
        self._layout = cluster.layout
        self._announced: dict[tuple[str, str], dict[str, TaskId]] = {}  # (server, host) → VM → its task
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._announces = not GUESTS[context.spec.guest].has_kernel

    def url(self, vm: VM) -> str:
        """The address of a VM's HTTP server."""
        return f"http://{self._layout.address('http', vm.site, vm.index)}"

    def put_tasks(self, given: Sequence[tuple[Target, TaskFile]]) -> None:
        """Hand these VMs their tasks; one that is to boot by a reset finds the way to its disk, too."""
        by_vm = {target.vm.name: task for target, task in given}
        for machine, targets in self._by_server([target for target, _ in given]):
            files = {}
            for target in targets:
                task = by_vm[target.vm.name]
                files[tasks.task_path(target.vm.name, services.WWW)] = tasks.render(task)
                if task.boot == "reboot":
                    files |= self._disk_script(target.vm)
            self._put(machine, files, {target.vm: by_vm[target.vm.name].id for target in targets})

    def prepare_reboot(self, order: RebootOrder) -> None:
        """Set what VMs boot next, and remove the tasks that they would begin again."""
        for machine, targets in self._by_server(order.vms):
            none = dict.fromkeys(target.vm for target in targets)
            over = [tasks.task_path(target.vm.name, services.WWW) for target in targets]
            scripts: dict[str, str] = {}
            for target in targets:
                if order.into == "disk":
                    scripts |= self._disk_script(target.vm)
                else:
                    over.append(services.vm_script_path(target.vm))
            self._put(machine, scripts, none, over)

    def _announcements(
        self, machine: ServiceMachine, tasks_now: Mapping[VM, TaskId | None]
    ) -> dict[str, str]:
        """What hosts of light guests read instead of a file for each; ``tasks_now``: what has changed."""
        changed: dict[str, dict[str, TaskId]] = {}
        for vm, task in tasks_now.items() if self._announces else ():
            known = self._announced.setdefault((machine.host.name, vm.host), {})
            known.pop(vm.name, None)
            if task is not None:
                known[vm.name] = task
            changed[vm.host] = known
        return {
            tasks.announcement_path(host, services.WWW): tasks.announcement(known)
            for host, known in changed.items()
        }

    def _disk_script(self, vm: VM) -> dict[str, str]:
        """The VM's own iPXE script with which it boots from its disk."""
        address = self._layout.address("http", vm.site, vm.index)
        script = services.ipxe_script(services.Netboot(self._layout, ()), address, profile="disk")
        return {services.vm_script_path(vm): script}

    def _by_server(self, targets: Sequence[Target]) -> list[tuple[ServiceMachine, list[Target]]]:
        """The HTTP servers, each with the VMs that it serves."""
        found: dict[str, tuple[ServiceMachine, list[Target]]] = {}
        for target in targets:
            machine = self._layout.server("http", target.vm.site, target.vm.index)
            found.setdefault(machine.host.name, (machine, []))[1].append(target)
        return list(found.values())

    def _put(
        self,
        machine: ServiceMachine,
        files: Mapping[str, str],
        tasks_now: Mapping[VM, TaskId | None],
        over: Sequence[str] = (),
    ) -> None:
        """Put files (path → content), announce the tasks that VMs have now, remove what is over."""
        # one thread at a time: an announcement must not be replaced by an earlier one
        with self._locks[machine.host.name]:
            every = {**files, **self._announcements(machine, tasks_now)}
            document = protocol.document(protocol.files(every, remove=over))
            timeout = self._context.spec.timeouts.command
            (reply,) = calls.call_agents(self._context.fanout, {machine.host: document}, timeout=timeout)
        if not reply.ok:
            raise RuntimeError(f"{machine.host.name} could not store the VMs' files: {reply.reason}")
