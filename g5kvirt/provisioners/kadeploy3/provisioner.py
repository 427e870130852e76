"""Deployments by a Kadeploy3 server that we set up on a service machine, driven through its REST API.

`Kadeploy3Provisioner.prepare` makes a service machine the server and leaves it running, so that a second
measure finds it as it is; the host agent keeps it, and it goes with the machine. Its deployments leave the
same events as any other.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from g5kvirt import paths
from g5kvirt.broadcast import chain
from g5kvirt.context import Context
from g5kvirt.guests.boot_time import boot_limit
from g5kvirt.guests.commands import GuestCommands
from g5kvirt.guests.registry import GUESTS
from g5kvirt.images import cache as build_cache
from g5kvirt.images.environments import Environment, Image
from g5kvirt.inventory import VM
from g5kvirt.netboot import services
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.provisioners.base import DeploymentRequest
from g5kvirt.provisioners.events import PHASE, build_progress
from g5kvirt.provisioners.kadeploy3 import logins, system
from g5kvirt.provisioners.kadeploy3.client import KadeployClient
from g5kvirt.provisioners.kadeploy3.configuration import (
    KEY,
    Kernel,
    NetbootFiles,
    NodeCluster,
    Server,
    Timing,
    max_duration,
    nodes_of,
    tuned,
)
from g5kvirt.provisioners.kadeploy3.environment import LOCAL_BOOT, describe, identity_operation, version_of
from g5kvirt.provisioners.kadeploy3.event_mapping import EventMapper
from g5kvirt.provisioners.kadeploy3.logins import Logins
from g5kvirt.provisioners.kadeploy3.loop import DeploymentPart, drive
from g5kvirt.provisioners.kadeploy3.server import Packages, service, setup_steps
from g5kvirt.provisioners.kadeploy3.server_machine import AUTHORIZED, MARK, ServerMachine, put_vm_scripts
from g5kvirt.provisioners.kadeploy3.splitting import parts_for, post_seconds, split
from g5kvirt.provisioners.kadeploy3.ssh_tunnel import SSHTunnel
from g5kvirt.provisioners.outcome import Outcome
from g5kvirt.provisioners.readiness import (
    READY_COMMAND,
    check_key_line,
    identity_fields,
    not_ready_reason,
)
from g5kvirt.remote import File, Result

__all__ = [
    "KEXEC_MEMORY",
    "VARIANTS",
    "Kadeploy3Installer",
    "Kadeploy3Provisioner",
    "timing",
    "unreachable",
]

log = logging.getLogger(__name__)

#: Our kinds of broadcast → Kadeploy3's, in the order in which it tries them. Kascade and Kastafior are
#: programs of their own, which Debian does not have.
VARIANTS: Mapping[chain.Kind, tuple[str, ...]] = {"chain": ("Chain", "Tree"), "tree": ("Tree", "Chain")}

#: MiB with which a VM can start what was deployed by kexec out of the deployment environment, which is in its
#: memory all the time. Measured with Debian's cloud kernel and ``mini``: 192 is enough, 160 is not.
KEXEC_MEMORY = 192

#: Seconds that a VM has to say what it is, once its ssh server has let us in.
_LOGIN_TIMEOUT = 20.0

_UNREACHABLE = "Unreachable after the reboot"
#: Without `Kernel#timeout`, which Ruby 3 does not have, every test of a port fails at once and silently.
_RUBY_HINT = (
    "Kadeploy3 reached no VM after its reboot: if they are up (their consoles tell), it runs unpatched on"
    " Ruby 3, for which version 3.3 is not written; see ruby --version on %s"
)

#: Below nginx's root on the server's machine.
FOLDER = "kadeploy3"
IMAGES = f"{services.ROOT}/kadeploy3-images"


class Kadeploy3Provisioner:
    """A `g5kvirt.provisioners.base.Provisioner`."""

    broadcasts: Sequence[chain.Kind] = tuple(VARIANTS)
    skips_reboot = False

    def check(self, environment: Environment) -> None:
        """Raises SpecError for what Kadeploy3 cannot deploy."""
        describe(_compressed_description(environment), "/")

    def prepare(
        self, context: Context, cluster: ClusterState, vms: Sequence[VM], image: Image, broadcast: chain.Kind
    ) -> Kadeploy3Installer:
        """Make the first HTTP server a Kadeploy3 server for ``vms``, unless it is one already, and register
        the environment. Raises SpecError as `check`; PhaseError naming what could not be done."""
        self.check(image.environment)
        return _prepare(context, cluster, vms, image, broadcast)


@dataclass(frozen=True)
class Kadeploy3Installer:
    """A server that runs, and what it may deploy."""

    context: Context
    cluster: ClusterState
    machine: ServiceMachine
    server: Server
    nodes: NodeCluster
    image: Image  #: as it was given; the server may have it compressed
    environment: str
    version: int  #: of the environment
    program: str  #: the server's own version
    transfer: float  #: seconds of one copy of the image through the machine's link

    def deploy(self, request: DeploymentRequest) -> list[Outcome]:
        """One deployment. What was begun is ended on the server too, also on an interrupt."""
        wanted = {vm.name for vm in request.vms}
        nodes = [node for node in self.nodes.nodes if node.vm.name in wanted]
        parts = self._parts(request.vms)
        machine = self.machine.host
        events = EventMapper(request.name, nodes, offset=self.cluster.facts[machine.name].clock_offset)
        tunnel = SSHTunnel(self.context.access, machine.address, self.server.port)

        def sleep(seconds: float) -> None:
            tunnel.reconnect()
            time.sleep(seconds)

        with tunnel as url, self._logins(request) as made:
            about = {"server": machine.name, "version": self.program, "parts": len(parts)}
            events.start(time.time(), {**request.about, "kadeploy3": about})
            outcomes = drive(
                KadeployClient(url, self.server.user),
                events,
                parts,
                {
                    "environment": self.environment,
                    "version": self.version,
                    "authorized_keys": AUTHORIZED,
                    "profile": LOCAL_BOOT,
                    "operations": identity_operation(identity_fields(self.image, TaskId(request.name, 1))),
                },
                made,
                clock=time.time,
                sleep=sleep,
                write=self.context.journal.extend,
                limit=max_duration(self.nodes) + sum(part.timeout for part in parts) + 2 * logins.LIMIT,
            )
        if unreachable(outcomes):
            log.warning(_RUBY_HINT, machine.name)
        return outcomes

    def _logins(self, request: DeploymentRequest) -> Logins:
        """Logins by the VMs' hosts, with the key that may print what a VM is."""
        guests = GuestCommands(self.context, request.vms)
        root = GUESTS[self.context.spec.guest].root

        def check(vms: Sequence[VM], report: Callable[[str, str], object]) -> None:
            def read(result: Result) -> None:
                report(result.host, not_ready_reason(result, request.name, self.image, root))

            guests.run(
                [vm.name for vm in vms],
                ["sh", "-c", READY_COMMAND],
                timeout=_LOGIN_TIMEOUT,
                idempotent=True,
                key=self.context.check_key,
                attempts=1,
                on_result=read,
            )

        return Logins(check, guests.give_up, clock=time.time, limit=logins.LIMIT)

    def _parts(self, vms: Sequence[VM]) -> list[DeploymentPart]:
        node_names = {node.vm.name: node.name for node in self.nodes.nodes}
        configured = len(self.nodes.nodes)
        return [
            DeploymentPart(
                tuple(node_names[vm.name] for vm in part),
                timeout=60 + 3 * post_seconds(len(part), configured),
            )
            for part in split(vms, parts_for(len(vms), configured, self.transfer))
        ]


def unreachable(outcomes: Sequence[Outcome]) -> bool:
    """Whether every VM failed because Kadeploy3 did not reach it after a reboot."""
    return bool(outcomes) and all(o.state == "failed" and _UNREACHABLE in o.reason for o in outcomes)


def timing(context: Context, vms: int, largest: int, boot_seconds: float) -> Timing:
    """Kadeploy3's windows and time-outs: those of the large runs, unless the specification has its own.

    ``boot_seconds``: how long a boot may take here; reboots are given as long, if that is more.
    """
    spec, base = context.spec, Timing()
    bounds = spec.timeouts.macro_steps.values()
    reboot = max(base.reboot, math.ceil(boot_seconds))
    given = Timing(
        reboot_window=spec.windows.reboot or base.reboot_window,
        reboot_sleep=base.reboot_sleep
        if spec.windows.reboot_sleep is None
        else round(spec.windows.reboot_sleep),
        macro=max(base.macro, reboot, *(math.ceil(seconds) for seconds in bounds)),
        reboot=reboot,
        kexec=max(base.kexec, reboot),
        retries=spec.timeouts.deployment_retries,
    )
    return tuned(vms, largest, given)


# ------------------------------------------------------------------------------------------------- the setup
def _prepare(
    context: Context, cluster: ClusterState, vms: Sequence[VM], image: Image, broadcast: chain.Kind
) -> Kadeploy3Installer:
    service_machine = next(m for m in cluster.layout.machines if "http" in m.roles)
    machine = ServerMachine(context, service_machine)
    transfer = image.size * 8 / service_machine.host.nic_rate
    server = _server(context, service_machine, image)
    nodes = _node_cluster(context, cluster, vms, broadcast, transfer)
    progress = build_progress(context.journal, context.run.name)
    mark = _set_up(context, cluster, machine, server, nodes, vms, progress)
    packed = _compressed(image, progress)
    path = f"{IMAGES}/{packed.sha256}"
    if not machine.has(path):
        machine.put([File(packed.path, path)], "image")
    machine.serve(service(server), mark)
    described = describe(packed.environment, path, version=version_of(packed.sha256))
    name, version = described["name"], described["version"]
    with (
        context.span(PHASE, "kadeploy3-environment", "service", service_machine.host.name),
        SSHTunnel(context.access, service_machine.host.address, server.port) as url,
    ):
        client = KadeployClient(url, server.user)
        client.grant()
        client.register(described)
        program = client.version()
    return Kadeploy3Installer(
        context, cluster, service_machine, server, nodes, image, name, version, program, transfer
    )


def _set_up(
    context: Context,
    cluster: ClusterState,
    machine: ServerMachine,
    server: Server,
    nodes: NodeCluster,
    vms: Sequence[VM],
    progress: Callable[[str], None],
) -> str:
    """Make the machine the server, unless it is this one already; returns its mark."""
    pair = (context.key, context.check_key)
    run_key, check_key = (Path(f"{key}.pub").read_text(encoding="utf-8").strip() for key in pair)
    own_keys = [run_key, check_key_line(check_key)]
    deployment = system.build(progress=progress)
    steps = setup_steps(
        server,
        nodes,
        {name: str(address) for name, address in cluster.addresses.items()},
        Packages(source=context.spec.kadeploy3.repository, proxy=context.testbed.package_proxy or ""),
    )
    mark = hashlib.sha256(repr((steps, dict(deployment.manifest), own_keys)).encode()).hexdigest()
    if machine.read(MARK) != mark:
        for step in steps:
            machine.execute(step)
        keys = [machine.read(f"{KEY}.pub"), *own_keys]
        machine.authorize(cluster.hosts, keys[0])
        machine.put_boot_files(deployment, server.netboot, keys)
        put_vm_scripts(context, cluster, server.netboot, vms)
    return mark


def _server(context: Context, machine: ServiceMachine, image: Image) -> Server:
    address = next(iter(machine.addresses.values()))
    # as secret as the run's key, the same each time, and kept nowhere else
    secret = Path(context.key).read_bytes() + b"database of kadeploy3"
    return Server(
        hostname=machine.host.name,
        netboot=NetbootFiles(f"{services.WWW}/{FOLDER}", f"{address}/{FOLDER}"),
        password=hashlib.sha256(secret).hexdigest()[:32],
        cache=max(Server.cache, 2 * image.size >> 20),
    )


def _node_cluster(
    context: Context, cluster: ClusterState, vms: Sequence[VM], broadcast: chain.Kind, transfer: float
) -> NodeCluster:
    by_kexec = min(context.spec.size_of(vm.group).memory for vm in vms) >= KEXEC_MEMORY
    largest = math.ceil(len(vms) / parts_for(len(vms), len(vms), transfer))
    boot_seconds = boot_limit(context, cluster)(len(vms), 1)
    return NodeCluster(
        nodes_of(vms),
        kernel=Kernel(arguments=services.KERNEL_ARGUMENTS),
        timing=timing(context, len(vms), largest, boot_seconds),
        broadcast=VARIANTS[broadcast],
        boot=("Kexec" if by_kexec else "Classical", "HardReboot"),
    )


# ------------------------------------------------------------------------------------------------- the image
def _compressed_description(environment: Environment) -> Environment:
    return replace(environment, compression="gzip") if environment.compression == "none" else environment


def _compressed(image: Image, progress: Callable[[str], None]) -> Image:
    """The image as Kadeploy3 takes it: one that is not compressed is, once, and kept."""
    if image.environment.compression != "none":
        return image
    home = paths.cache() / "environments" / f"gzip-{image.sha256[:32]}"

    def compress(work: Path) -> dict[str, str]:
        progress(f"environment {image.environment.name}: compressing the image for Kadeploy3")
        data = gzip.compress(image.path.read_bytes(), 6, mtime=0)
        (work / "image").write_bytes(data)
        return {"sha256": hashlib.sha256(data).hexdigest()}

    build_cache.build(home, compress)
    data = (home / "image").read_bytes()
    return replace(
        image,
        environment=_compressed_description(image.environment),
        path=home / "image",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )
