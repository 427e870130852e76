"""measure: an environment is deployed on VMs by the Kadeploy workflow; every step of every VM is timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from g5kvirt.errors import CapacityError, PhaseError, SpecError
from g5kvirt.inventory import VM
from g5kvirt.phases import recall
from g5kvirt.phases.context import Context
from g5kvirt.phases.deploying import Deployer, put_image
from g5kvirt.planning.windows import SlotWindow, boot_timeout, interleave, window_for
from g5kvirt.provision import broadcast, environments, netboot, tools
from g5kvirt.provision.deployment import Deployment, drive
from g5kvirt.provision.workflow import default_workflow
from g5kvirt.remote import File

__all__ = ["CHECKS", "measure"]

#: Deployed VMs that are asked for their identity at once; each is two ssh processes here.
CHECKS = 8


def measure(
    context: Context,
    environment: str,
    sizes: Sequence[int],
    repeat: int,
    variant: broadcast.Kind = "chain",
) -> list[str]:
    """Deploy ``environment`` on ``n`` of the VMs that are up, for each n of ``sizes``, ``repeat`` times.

    Returns the deployments' names, as they stand in the journal. Single VMs never raise. Raises SpecError for
    what cannot be deployed, before anything reboots; PhaseError if a deployment brought up no VM at all.
    """
    stand = recall.stand(context.spec, context.journal)
    known = {vm.name: vm for vm in recall.vms(context.journal)}
    up = interleave([known[name] for name in recall.up(context.journal)])
    _check(sizes, repeat, variant, len(up))
    journal, run = context.journal, context.run.name

    def progress(what: str) -> None:
        journal.append("measure", "build", "run", run, "ok", what=what)

    image = environments.obtain(environment, progress=progress)
    archive = tools.build(progress=progress).archive
    put_image(context, stand.layout.machines, image, File(archive, f"{netboot.WWW}/tools"))
    names = []
    for repetition in range(1, repeat + 1):
        for size in sizes:
            # Not every deployment begins with the same VMs: none may be worn in more than the others.
            names.append(_deploy(context, stand, up[:size], image, repetition, variant))
    return names


def _check(sizes: Sequence[int], repeat: int, variant: str, up: int) -> None:
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise SpecError(f"sizes must be whole numbers of VMs, at least 1 each, such as [4, 8], not {sizes!r}")
    if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
        raise SpecError(f"repeat must be a whole number of at least 1, not {repeat!r}")
    if variant not in ("chain", "http"):
        raise SpecError(f"broadcast must be 'chain' or 'http', not {variant!r}")
    if max(sizes) > up:
        raise CapacityError(
            f"a deployment on {max(sizes)} VMs is asked for, but {up} are up: ask for at most {up}",
            asked=max(sizes),
            available=up,
        )


def _deploy(
    context: Context,
    stand: recall.Stand,
    vms: Sequence[VM],
    image: environments.Image,
    repetition: int,
    variant: broadcast.Kind,
) -> str:
    """One deployment, to its end; returns its name."""
    journal = context.journal
    touched = recall.deployments(journal)
    name = f"d{len(touched) + 1}"
    used = {vm for names in touched.values() for vm in names}
    facts = [stand.facts[h.name] for h in stand.hosts]
    cores = context.testbed.real_cores or sum(f.cores for f in facts)
    kvm = all(f.kvm for f in facts)
    deployment = Deployment(
        name,
        vms,
        default_workflow(broadcast=(variant,), boot_seconds=boot_timeout(len(vms), cores, kvm=kvm)),
        reboots=window_for(context.spec.windows, facts, real_cores=context.testbed.real_cores),
        checks=SlotWindow(CHECKS),
        fresh=[vm.name for vm in vms if vm.name not in used],
        about={
            "environment": image.environment.name,
            "sha256": image.sha256,
            "size": len(vms),
            "repetition": repetition,
            "broadcast": variant,
            "vms": [vm.name for vm in vms],
        },
    )
    key = Path(context.key + ".pub").read_text(encoding="utf-8").strip()
    try:
        with Deployer(context, stand, name, vms, image, key) as driver:
            outcomes = drive(deployment, driver, clock=time.time, write=journal.extend)
    except BaseException as error:  # an interrupt too: every VM has an end in the journal
        deployment.stop(time.time(), "interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
        journal.extend(deployment.events())
        raise
    if not any(outcome.state == "deployed" for outcome in outcomes):
        first = outcomes[0]
        raise PhaseError(
            f"none of {len(vms)} VMs was deployed, first {first.vm.name} at {first.step}: {first.reason}",
            phase="measure",
            step=first.step,
        )
    return name
