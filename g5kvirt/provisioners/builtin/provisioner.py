"""The built-in provisioner: images and tools go to the servers, then each deployment runs the workflow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from g5kvirt.broadcast import chain
from g5kvirt.context import Context
from g5kvirt.errors import reason_of
from g5kvirt.guests.boot_time import boot_limit, environment_factor
from g5kvirt.guests.commands import GuestCommands
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls
from g5kvirt.images import tools
from g5kvirt.images.environments import Environment, Image
from g5kvirt.inventory import VM
from g5kvirt.netboot import services
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.planning.windows import check_window, reboot_window
from g5kvirt.provisioners.base import DeploymentRequest, Installer
from g5kvirt.provisioners.builtin.driver import MachineDriver
from g5kvirt.provisioners.builtin.engine import Deployment
from g5kvirt.provisioners.builtin.loop import Driver, drive
from g5kvirt.provisioners.builtin.simulated_driver import SimulatedDriver
from g5kvirt.provisioners.builtin.transport import IMAGES
from g5kvirt.provisioners.builtin.workflow import REBOOTS, boot_order, default_workflow
from g5kvirt.provisioners.events import PHASE, build_progress
from g5kvirt.provisioners.outcome import Outcome
from g5kvirt.provisioners.transfer import image_servers
from g5kvirt.remote import File
from g5kvirt.run.outbox import Outbox

__all__ = ["BuiltinProvisioner", "put_image"]


class BuiltinProvisioner:
    """A `g5kvirt.provisioners.base.Provisioner`; it can deploy every environment."""

    broadcasts: Sequence[chain.Kind] = chain.KINDS
    skips_reboot = True

    def check(self, environment: Environment) -> None:
        """Raises nothing: what `g5kvirt.images.environments` can describe, the guest can deploy."""

    def prepare(
        self, context: Context, cluster: ClusterState, vms: Sequence[VM], image: Image, broadcast: chain.Kind
    ) -> Installer:
        """Put the image and the deployment tools on the service machines. Raises PhaseError."""
        if context.testbed.world is None:
            progress = build_progress(context.journal, context.run.name)
            archives = [File(tools.build(progress=progress).archive, f"{services.WWW}/tools")]
            if image.environment.compression == "zstd":
                archive = tools.build_zstd(progress=progress).archive
                archives.append(File(archive, f"{services.WWW}/tools-zstd"))
            put_image(context, cluster.layout.machines, image, archives)
        return _Installer(context, cluster, image, broadcast)


def put_image(
    context: Context, machines: Sequence[ServiceMachine], image: Image, archives: Sequence[File]
) -> None:
    """Put the image on each site's head of the broadcast, and the deployment tools on every HTTP server."""
    servers = [m.host for m in machines if "http" in m.roles]
    heads = [m.host for m in image_servers(machines).values()]
    path = f"{services.WWW}/{IMAGES}/{image.sha256}"
    limit = context.spec.timeouts.command
    for hosts, files, step in ((heads, [File(image.path, path)], "image"), (servers, archives, "tools")):
        calls.send_files(context.fanout, context.journal, hosts, files, step=step, phase=PHASE, timeout=limit)


@dataclass(frozen=True)
class _Installer:
    context: Context
    cluster: ClusterState
    image: Image
    broadcast: chain.Kind

    def deploy(self, request: DeploymentRequest) -> list[Outcome]:
        """One deployment by the built-in workflow."""
        context = self.context
        deployment, outbox = self._deployment(request), Outbox(context.journal.extend)
        try:
            with self._driver(request) as driver:
                return drive(deployment, driver, clock=context.now, write=outbox.send)
        except BaseException as error:  # an interrupt too: every VM has an end in the journal
            deployment.stop(context.now(), reason_of(error))
            outbox.send(deployment.events())
            raise

    def _driver(self, request: DeploymentRequest) -> AbstractContextManager[Driver]:
        """What carries the orders out: the machines, or the model in their place."""
        context, world = self.context, self.context.testbed.world
        if world is not None:
            return SimulatedDriver(world, self.cluster, request.vms, self.image.size)
        guests = GuestCommands(context, request.vms)
        return MachineDriver(context, self.cluster, request.name, request.vms, self.image, guests)

    def _deployment(self, request: DeploymentRequest) -> Deployment:
        context, spec = self.context, self.context.spec
        guest = GUESTS[spec.guest]
        boot_seconds = boot_limit(context, self.cluster)(len(request.vms), 1)
        factor = environment_factor(self.image.environment.unpacked) if guest.has_kernel else 1.0
        memory = min(spec.size_of(vm.group).memory for vm in request.vms)
        workflow = default_workflow(
            broadcast=(self.broadcast,),
            boot=boot_order(memory, self.image.environment.loaded)
            if guest.has_kernel
            else ("reboot", "reset"),
            reboots=REBOOTS if guest.has_kernel else REBOOTS[1:],
            timeouts=spec.timeouts.macro_steps,
            retries=spec.timeouts.deployment_retries,
            boot_seconds=boot_seconds,
            environment_seconds=factor * boot_seconds,
        ).without(guest.absent_steps)
        facts = [self.cluster.facts[host.name] for host in self.cluster.hosts]
        return Deployment(
            request.name,
            request.vms,
            workflow,
            reboots=reboot_window(spec.windows, facts, guest.label, real_cores=context.testbed.real_cores),
            checks=check_window(spec.windows, context.host_checks_at_once(facts)),
            fresh=request.fresh,
            without_ssh=request.without_ssh,
            about=request.about,
        )
