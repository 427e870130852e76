"""measure: an environment is deployed on VMs by a provisioner; every step of every VM is timed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.broadcast import chain
from g5kvirt.context import Context
from g5kvirt.errors import CapacityError, PhaseError, SpecError
from g5kvirt.guests import consoles
from g5kvirt.guests.registry import GUESTS
from g5kvirt.images import environments
from g5kvirt.inventory import VM
from g5kvirt.phases.load import sampled_load
from g5kvirt.planning.cluster import ClusterState, cluster_state
from g5kvirt.planning.forecast import SMALLEST
from g5kvirt.planning.windows import interleave
from g5kvirt.provisioners.base import DeploymentRequest, Installer
from g5kvirt.provisioners.events import build_progress
from g5kvirt.provisioners.registry import PROVISIONERS
from g5kvirt.provisioners.transfer import transfer_bound
from g5kvirt.simulation.world import World
from g5kvirt.spec.fields import is_whole, show

__all__ = ["MeasureRequest", "check_broadcast", "check_request", "check_sizes", "known_image", "measure"]


@dataclass(frozen=True)
class MeasureRequest:
    """What `measure` is to do, checked as far as that changes nothing."""

    environment: str
    folders: tuple[Path, ...]
    sizes: tuple[int, ...]
    repeat: int
    broadcast: chain.Kind
    image: environments.Image | None  #: None: it has to be built or fetched first
    alike: bool = False  #: a single deployment begins with a reboot, too, as several do
    group: str | None = None  #: only VMs of this group


def check_request(
    environment: str | Path | None,
    sizes: Iterable[int] | None,
    repeat: int,
    broadcast: str,
    folders: Collection[Path],
    *,
    up: int,
    provisioner: str,
    guest: str = "vm",
    group: str | None = None,
) -> MeasureRequest:
    """Check everything that can be checked before anything is touched; ``up`` VMs (of ``group``) are up.

    Raises SpecError for sizes, a number of repetitions, a kind of broadcast or an environment that cannot be
    deployed; CapacityError for a size above ``up``.
    """
    if environment is None:
        environment = SMALLEST[guest]
    if not isinstance(environment, str | Path):
        raise SpecError(f"environment must be a name or a file such as 'mini', not {show(environment)}")
    environment = str(environment) if isinstance(environment, Path) else str.__str__(environment)
    if group is not None and not up:
        raise CapacityError(f"no VM of the group {group!r} is up", requested=1, available=0)
    checked = check_sizes([up] if sizes is None else sizes, up)
    if not is_whole(repeat) or repeat < 1:
        raise SpecError(f"repeat must be a whole number of at least 1, not {show(repeat)}")
    kind = check_broadcast(broadcast, provisioner)
    described, image = environments.look_up(environment, folders)
    if described is not None:
        PROVISIONERS[provisioner].check(described)
    elif environment in environments.WITHOUT_KERNEL and GUESTS[guest].has_kernel:
        raise SpecError(
            f"the environment {environment!r} has no kernel, which VMs need",
            advice="use another environment, or guest 'light' in the specification",
        )
    return MeasureRequest(environment, tuple(folders), checked, int(repeat), kind, image, group=group)


def check_broadcast(broadcast: str, provisioner: str) -> chain.Kind:
    """``broadcast``, if the provisioner has it. Raises SpecError if not."""
    kinds = PROVISIONERS[provisioner].broadcasts
    named = isinstance(broadcast, str)
    for kind in kinds:
        if named and broadcast == kind:
            return kind
    where = "" if not named or broadcast not in chain.KINDS else f" where the provisioner is {provisioner!r}"
    raise SpecError(f"broadcast must be {' or '.join(map(repr, kinds))}{where}, not {show(broadcast)}")


def check_sizes(sizes: object, up: int) -> tuple[int, ...]:
    """Numbers of VMs as whole numbers; ``up`` VMs are up. Raises SpecError, and CapacityError above that."""
    plain = list(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str | Mapping) else []
    if not plain or not all(is_whole(n) and n >= 1 for n in plain):
        shown = show(plain or sizes)
        raise SpecError(f"sizes must be whole numbers of VMs, at least 1 each, such as [4, 8], not {shown}")
    largest = max(map(int, plain))
    if largest > up:
        raise CapacityError(
            f"sizes requests a deployment on {show(largest)} VMs, but only {up} are up",
            requested=largest,
            available=up,
            advice=f"use at most {up}",
        )
    return tuple(int(n) for n in plain)


def measure(context: Context, request: MeasureRequest) -> list[str]:
    """Deploy the environment on n of the VMs that are up, for each n of the sizes, as often as requested.

    Returns the deployments' names, as they stand in the journal. Single VMs never raise. Raises SpecError for
    an environment that proves impossible to deploy once it is built or fetched, before anything reboots;
    PhaseError if a deployment brought up no VM at all.
    """
    cluster = cluster_state(context.spec, context.journal.state)
    known = {vm.name: vm for vm in context.journal.state.placed_vms}
    state = context.journal.state
    up = interleave([known[name] for name in state.members(state.up_vms, request.group)])
    image = request.image or _obtain(context, request)
    provisioner = PROVISIONERS[context.spec.provisioner]
    installer = provisioner.prepare(context, cluster, up, image, request.broadcast)
    # Deployments of one call are to be compared, so each begins alike: with a reboot of every VM. A single
    # one may take VMs as they are, if none of them has been used.
    several = len(request.sizes) * request.repeat > 1
    alike = request.alike or several or not provisioner.skips_reboot
    with sampled_load(context, cluster, "measure"):
        return [
            _deploy(context, cluster, up[:size], image, request, repetition, installer, alike=alike)
            for repetition in range(1, request.repeat + 1)
            for size in request.sizes
        ]


def _obtain(context: Context, request: MeasureRequest) -> environments.Image:
    """The image that has to be built or fetched first; for a model, only what matters of it."""
    if context.testbed.world is not None:
        return known_image(request.environment, context.testbed.world)
    progress = build_progress(context.journal, context.run.name)
    return environments.obtain(request.environment, request.folders, progress)


def known_image(name: str, world: World) -> environments.Image:
    """An environment for which only its size matters. Raises SpecError where that is not known."""
    sizes = world.calibration.images
    if name not in sizes:
        raise SpecError(
            f"the calibration {world.calibration.name!r} does not know the size of the environment {name!r}",
            advice=f"choose from {', '.join(sizes)}, or calibrate with a run that deployed it",
        )
    return environments.Image(environments.Environment(name, ""), Path(), "", int(sizes[name]))


def _deploy(
    context: Context,
    cluster: ClusterState,
    vms: Sequence[VM],
    image: environments.Image,
    request: MeasureRequest,
    repetition: int,
    installer: Installer,
    *,
    alike: bool,
) -> str:
    """One deployment, to its end; returns its name. ``alike``: all VMs are rebooted first, fresh or not."""
    earlier = context.journal.state.deployments
    name = f"d{len(earlier) + 1}"
    used = {vm for deployment in earlier.values() for vm in (*deployment.planned, *deployment.vms)}
    untouched = [vm.name for vm in vms if vm.name not in used]
    fresh = [] if alike or len(untouched) < len(vms) else untouched
    about = {
        "environment": image.environment.name,
        "sha256": image.sha256,
        "bytes": image.size,
        "size": len(vms),
        "repetition": repetition,
        "provisioner": context.spec.provisioner,
        "broadcast": request.broadcast,
        "fresh": len(fresh),
        "vms": [vm.name for vm in vms],
        "transfer_bound": transfer_bound(cluster, vms, image, request.broadcast),
    } | ({} if request.group is None else {"group": request.group})
    outcomes = installer.deploy(DeploymentRequest(name, vms, about, fresh, untouched))
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    lost = [outcome.vm for outcome in failed]
    if not context.testbed.simulated:
        consoles.fetch(context, lost, cluster.hosts, phase="measure", deployment=name)
    if len(failed) == len(outcomes):
        first = failed[0]
        raise PhaseError(
            f"none of {len(vms)} VMs was deployed, first {first.vm.name} at {first.step}: {first.reason}",
            phase="measure",
            step=first.step,
        )
    return name
