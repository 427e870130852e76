"""The machine of the server: what is put and run there, each a step of the journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot import services
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.provisioners.events import PHASE
from g5kvirt.provisioners.kadeploy3 import system
from g5kvirt.provisioners.kadeploy3.configuration import ETC, Kernel, NetbootFiles, vm_script
from g5kvirt.provisioners.kadeploy3.server import Command, SetupStep
from g5kvirt.remote import File, Result

__all__ = ["AUTHORIZED", "MARK", "ServerMachine", "put_vm_scripts"]

AUTHORIZED = f"{ETC}/authorized_keys"
#: What the machine was made into; written last.
MARK = f"{ETC}/g5kvirt-made"

_NO_REPOSITORY = (
    "Debian does not have Kadeploy3: give the line of sources.list for a place that has it, such as"
    " kadeploy3={'repository': 'deb [trusted=yes] http://packages.example/kadeploy ./'} in the specification,"
    " or provisioner='g5kvirt'"
)


class ServerMachine:
    """The service machine that is, or becomes, the Kadeploy3 server. Raises PhaseError where a step fails."""

    def __init__(self, context: Context, machine: ServiceMachine) -> None:
        self._context, self._host = context, machine.host

    def read(self, path: str) -> str:
        """A short file, stripped; "" if there is none."""
        result = self._run(Command(("sh", "-c", 'if [ -e "$1" ]; then cat "$1"; fi', "sh", path)))
        if not result.ok:
            raise self._failed(f"{path} cannot be read", "kadeploy3", result.reason)
        return result.text.strip()

    def has(self, path: str) -> bool:
        """Whether a file is there; those that we put somewhere are there whole, or not at all."""
        return self._run(Command(("test", "-s", path))).ok

    def put(self, files: Sequence[File], step: str) -> None:
        """Put files there."""
        _send(self._context, [self._host], files, f"kadeploy3-{step}")

    def execute(self, setup: SetupStep) -> None:
        """Carry out one step of the setup, unless there is nothing to do."""
        step = f"kadeploy3-{setup.name.replace(' ', '-')}"
        with self._context.span(PHASE, step, "host", self._host.name) as found:
            if setup.unless is not None and self._run(setup.unless).ok:
                found["unchanged"] = True
                return
            if setup.files:
                self._put_files(setup, step)
            for command in setup.commands:
                result = self._run(command)
                if not result.ok:
                    what = f"{' '.join(command.argv[:8])} failed"
                    packages = setup.name == "packages"
                    raise self._failed(what, step, _error_lines(result), packages=packages)

    def authorize(self, hosts: Sequence[Host], key: str) -> None:
        """Let the server reboot VMs by the agents of their hosts."""
        script = (
            "umask 077; mkdir -p /root/.ssh; file=/root/.ssh/authorized_keys; "
            'grep -qxF -- "$1" "$file" 2>/dev/null || printf "%s\\n" "$1" >> "$file"'
        )
        timeout = self._context.spec.timeouts.command
        # its power script calls this version of the agent; they may have been configured by another one
        calls.install_agent(self._context.fanout, hosts, timeout=timeout)
        results = self._context.fanout.run(
            [h.address for h in hosts], ["sh", "-c", script, "sh", key], timeout=timeout, idempotent=True
        )
        replies = calls.replies_of(hosts, results)
        calls.require(self._context.journal, PHASE, "kadeploy3-key", replies)

    def put_boot_files(self, deployment: system.System, boot: NetbootFiles, keys: Sequence[str]) -> None:
        """The system that VMs boot for a deployment, with the keys that it and the deployed one accept."""
        kernel = Kernel()
        initrd = system.with_keys(deployment.initrd.read_bytes(), keys)
        files = [
            File(deployment.kernel, f"{boot.repository}/{kernel.vmlinuz}"),
            File(initrd, f"{boot.repository}/{kernel.initrd}"),
            File("".join(f"{key}\n" for key in keys).encode(), AUTHORIZED),
        ]
        self.put(files, "deployment-environment")

    def serve(self, service: Mapping[str, Any], mark: str) -> None:
        """Keep the server running, restarted if it was reinstalled; then the machine gets this mark."""
        files = [*service["files"], protocol.file(MARK, mark)]
        document = protocol.document({**service, "files": files})
        timeout = self._context.spec.timeouts.command + float(service["limit"])
        replies = calls.call_agents(self._context.fanout, {self._host: document}, timeout=timeout)
        calls.require(self._context.journal, PHASE, "kadeploy3-server", replies)

    def _run(self, command: Command) -> Result:
        at = self._host.address
        stdin = command.stdin.encode() or None
        fanout = self._context.fanout
        return fanout.run([at], command.argv, stdin=stdin, timeout=command.timeout, idempotent=True)[at]

    def _put_files(self, setup: SetupStep, step: str) -> None:
        files = [File(c.text.encode(), c.path, c.mode) for c in setup.files]
        at = self._host.address
        result = self._context.fanout.put([at], files, timeout=self._context.spec.timeouts.command)[at]
        if not result.ok:
            raise self._failed("its files cannot be put there", step, result.reason)

    def _failed(self, what: str, step: str, reason: str, *, packages: bool = False) -> PhaseError:
        repository = self._context.spec.kadeploy3.repository
        if not packages:
            advice = "nothing has been rebooted; fix that and call measure() again"
        elif repository:
            advice = f"check that {repository!r} is right and that {self._host.name} can reach it"
        else:
            advice = _NO_REPOSITORY
        return PhaseError(
            f"{self._host.name} cannot be set up as a Kadeploy3 server: {what} ({reason}); {advice}",
            phase=PHASE,
            step=step,
        )


def put_vm_scripts(context: Context, cluster: ClusterState, boot: NetbootFiles, vms: Sequence[VM]) -> None:
    """From now on VMs boot what Kadeploy3 has for them: their own scripts, each on its own HTTP server."""
    script = vm_script(boot).encode()
    for machine in cluster.layout.machines:
        own = [
            vm
            for vm in vms
            if "http" in machine.roles and cluster.layout.server("http", vm.site, vm.index) == machine
        ]
        if own:
            files = [File(script, services.vm_script_path(vm)) for vm in own]
            _send(context, [machine.host], files, "kadeploy3-scripts")


def _send(context: Context, hosts: Sequence[Host], files: Sequence[File], step: str) -> None:
    limit = context.spec.timeouts.command
    calls.send_files(context.fanout, context.journal, hosts, files, step=step, phase=PHASE, timeout=limit)


def _error_lines(result: Result) -> str:
    lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("E: ")]
    return "; ".join(errors[:3]) or result.reason
