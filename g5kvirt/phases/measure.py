"""measure: an environment is deployed on VMs by the Kadeploy workflow; every step of every VM is timed.

The workflow is our own or that of a Kadeploy3 server (`kadeploying`): both leave the same events.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from g5kvirt.broadcast import chain
from g5kvirt.context import Context
from g5kvirt.errors import CapacityError, PhaseError, SpecError, reason_of
from g5kvirt.guests import consoles
from g5kvirt.images import environments, tools
from g5kvirt.inventory import VM
from g5kvirt.netboot import services
from g5kvirt.planning.cluster import ClusterState, cluster_state
from g5kvirt.planning.windows import boot_timeout, check_window, interleave, reboot_window
from g5kvirt.provisioners.builtin.driver import Deployer, put_image
from g5kvirt.provisioners.builtin.engine import Deployment, Outcome
from g5kvirt.provisioners.builtin.loop import drive
from g5kvirt.provisioners.builtin.transport import image_servers
from g5kvirt.provisioners.builtin.workflow import boot_order, default_workflow
from g5kvirt.provisioners.kadeploy3 import provisioner as kadeploying
from g5kvirt.remote import File
from g5kvirt.run import state
from g5kvirt.spec.fields import is_whole, show

__all__ = ["check_asked", "check_broadcast", "measure"]

#: Carries out the deployment of a name, on these VMs; what its first event says about it. Journals all of it,
#: and gives back what became of every VM.
Provisioner: TypeAlias = Callable[[str, Sequence[VM], Mapping[str, Any]], list[Outcome]]


def measure(
    context: Context,
    environment: str,
    sizes: Sequence[int],
    repeat: int,
    variant: chain.Kind = "chain",
    folders: Collection[Path] = (),
) -> list[str]:
    """Deploy ``environment`` on ``n`` of the VMs that are up, for each n of ``sizes``, ``repeat`` times.

    They have passed `check_asked`. ``folders`` are searched for its description. Returns the deployments'
    names, as they stand in the journal. Single VMs never raise. Raises SpecError for an environment that
    cannot be deployed, before anything reboots;
    PhaseError if a deployment brought up no VM at all.
    """
    cluster = cluster_state(context.spec, context.journal)
    known = {vm.name: vm for vm in state.vms(context.journal)}
    up = interleave([known[name] for name in state.up(context.journal)])
    journal, run = context.journal, context.run.name

    def progress(what: str) -> None:
        journal.append("measure", "build", "run", run, "ok", what=what)

    image = environments.obtain(environment, folders, progress)
    carry_out: Provisioner
    if context.spec.provisioner == "kadeploy3":
        boot_seconds = _boot_seconds(context, cluster, len(up))
        raised = kadeploying.raise_server(context, cluster, up, image, variant, boot_seconds)
        carry_out = partial(kadeploying.deploy, context, cluster, raised)
    else:
        archive = tools.build(progress=progress).archive
        put_image(context, cluster.layout.machines, image, File(archive, f"{services.WWW}/tools"))
        carry_out = partial(_by_ourselves, context, cluster, image, variant)
    names = []
    for repetition in range(1, repeat + 1):
        for size in sizes:
            names.append(_deploy(context, cluster, up[:size], image, repetition, variant, carry_out))
    return names


def check_broadcast(variant: str, provisioner: str) -> None:
    """Raises SpecError for a way that there is not, or that the provisioner does not have."""
    kinds = kadeploying.VARIANTS if provisioner == "kadeploy3" else chain.KINDS
    if variant not in kinds:
        where = "" if kinds is chain.KINDS else f" where the provisioner is {provisioner!r}"
        raise SpecError(f"broadcast must be {' or '.join(map(repr, kinds))}{where}, not {show(variant)}")


def check_asked(sizes: Iterable[int], repeat: int, variant: str, up: int, provisioner: str) -> list[int]:
    """The sizes as plain numbers, where ``up`` VMs are up. Raises SpecError for what makes no sense."""
    plain = list(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str | Mapping) else []
    if not plain or not all(is_whole(n) and n >= 1 for n in plain):
        shown = show(plain or sizes)
        raise SpecError(f"sizes must be whole numbers of VMs, at least 1 each, such as [4, 8], not {shown}")
    if not is_whole(repeat) or repeat < 1:
        raise SpecError(f"repeat must be a whole number of at least 1, not {show(repeat)}")
    check_broadcast(variant, provisioner)
    largest = max(map(int, plain))
    if largest > up:
        raise CapacityError(
            f"a deployment on {show(largest)} VMs is asked for, but {up} are up: ask for at most {up}",
            asked=largest,
            available=up,
        )
    return [int(n) for n in plain]


def _deploy(
    context: Context,
    cluster: ClusterState,
    vms: Sequence[VM],
    image: environments.Image,
    repetition: int,
    variant: chain.Kind,
    carry_out: Provisioner,
) -> str:
    """One deployment, to its end; returns its name."""
    touched = state.deployments(context.journal)
    name = f"d{len(touched) + 1}"
    used = {vm for names in touched.values() for vm in names}
    about = {
        "environment": image.environment.name,
        "sha256": image.sha256,
        "size": len(vms),
        "repetition": repetition,
        "provisioner": context.spec.provisioner,
        "broadcast": variant,
        "fresh": sum(vm.name not in used for vm in vms),
        "vms": [vm.name for vm in vms],
        "transfer_bound": _transfer_bound(cluster, vms, image, variant),
    }
    outcomes = carry_out(name, vms, about)
    lost = [outcome.vm for outcome in outcomes if outcome.state == "failed"]
    consoles.fetch(context, "measure", name, lost, cluster.hosts)
    if len(lost) == len(outcomes):
        first = outcomes[0]
        raise PhaseError(
            f"none of {len(vms)} VMs was deployed, first {first.vm.name} at {first.step}: {first.reason}",
            phase="measure",
            step=first.step,
        )
    return name


def _by_ourselves(
    context: Context,
    cluster: ClusterState,
    image: environments.Image,
    variant: chain.Kind,
    name: str,
    vms: Sequence[VM],
    about: Mapping[str, Any],
) -> list[Outcome]:
    """One deployment by our own workflow."""
    spec, journal = context.spec, context.journal
    used = {vm for names in state.deployments(journal).values() for vm in names}
    deployment = Deployment(
        name,
        vms,
        default_workflow(
            broadcast=(variant,),
            boot=boot_order(spec.vm.memory),
            timeouts=spec.timeouts.macro_steps,
            retries=spec.timeouts.deployment_retries,
            boot_seconds=_boot_seconds(context, cluster, len(vms)),
        ),
        reboots=reboot_window(
            spec.windows,
            [cluster.facts[h.name] for h in cluster.hosts],
            real_cores=context.testbed.real_cores,
        ),
        checks=check_window(spec.windows, context.checks_at_once),
        fresh=[vm.name for vm in vms if vm.name not in used],
        about=about,
    )
    key = Path(context.key + ".pub").read_text(encoding="utf-8").strip()
    try:
        with Deployer(context, cluster, name, vms, image, key) as driver:
            return drive(deployment, driver, clock=time.time, write=journal.extend)
    except BaseException as error:  # an interrupt too: every VM has an end in the journal
        deployment.stop(time.time(), reason_of(error))
        journal.extend(deployment.events())
        raise


def _boot_seconds(context: Context, cluster: ClusterState, vms: int) -> float:
    """How long a boot may take where so many boot at once."""
    facts = [cluster.facts[h.name] for h in cluster.hosts]
    cores = context.testbed.real_cores or sum(f.cores for f in facts)
    return context.spec.timeouts.boot or boot_timeout(vms, cores, kvm=all(f.kvm for f in facts))


def _transfer_bound(
    cluster: ClusterState, vms: Sequence[VM], image: environments.Image, variant: chain.Kind
) -> float:
    """Seconds that the transfer of the image takes at the least, by the link rates in the inventory.

    It crosses the link of each site's head and of every host of these VMs once, by plain HTTP a head's link
    once for each host that takes from it: bytes × 8 / (bits per second) of the link that takes longest.
    """
    heads = image_servers(cluster.layout.machines)
    first = next(iter(heads.values()))
    used = {vm.host for vm in vms}
    hosts = [h for h in cluster.hosts if h.name in used]
    served = Counter(heads.get(h.site, first).host for h in hosts)
    times = {head: number if variant == "http" else 1 for head, number in served.items()}
    return max(times.get(m, 1) / m.nic_rate for m in (*hosts, *times)) * image.size * 8
