"""Can an environment be deployed on the VMs of a specification? Known before anything is reserved."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

from g5kvirt.errors import SpecError
from g5kvirt.guests.registry import GUESTS
from g5kvirt.images import environments
from g5kvirt.images.kexec import least_memory, loaded_bytes
from g5kvirt.inventory import MIB
from g5kvirt.planning.preflight import Finding, refused
from g5kvirt.provisioners.builtin.tasks import least_disk
from g5kvirt.provisioners.registry import PROVISIONERS
from g5kvirt.spec.groups import Kind
from g5kvirt.spec.spec import Spec

__all__ = ["Sizes", "check_disk", "check_environment"]

_WHAT = "VMs' environment"


def check_environment(spec: Spec, name: str, folders: Sequence[Path]) -> Iterator[Finding]:
    """Findings about the environment ``name``, or a YAML file. Nothing is built or fetched.

    A disk that is too small is a problem. Memory that is too small for kexec is a warning: such VMs are reset
    instead, which takes longer, and a system that needs more than its kernel may still not run in it.
    """
    try:
        described, image = environments.look_up(name, folders)
        if described is not None:
            PROVISIONERS[spec.provisioner].check(described)
    except SpecError as error:
        yield refused(_WHAT, "unknown-environment", error)
        return
    if image is None:
        message = f"{name}: known; its image is built or fetched for the deployment"
        yield Finding(_WHAT, "", "ok", "ok", message)
        return
    if not GUESTS[spec.guest].has_kernel:
        yield Finding(_WHAT, "", "ok", "ok", f"{name}: light guests take what they need of it")
        return
    about = image.environment
    loaded = about.loaded or loaded_bytes(image.path, about.compression, about.kernel, about.initrd)
    found = [*_disk(spec, name, about.unpacked), *_memory(spec, name, loaded)]
    yield from found
    if not found:
        needs = [f"a disk of {-(-least_disk(about.unpacked) // MIB)} MiB"] if about.unpacked else []
        needs += [f"{least_memory(loaded)} MiB of memory for kexec"] if loaded else []
        yield Finding(
            _WHAT, "", "ok", "ok", f"{name} needs {' and '.join(needs)}" if needs else f"{name}: known"
        )


Sizes = MutableMapping[tuple[str, tuple[Path, ...]], int]  #: (environment, folders) → bytes; 0: not known


def check_disk(spec: Spec, name: str, folders: Sequence[Path], sizes: Sizes) -> None:
    """Raises SpecError if there is no environment ``name``, or if it does not fit on the VMs' disks.

    ``sizes``: of the environments that were read already, since an image may be read as a whole for it.
    """
    key = (name, tuple(folders))
    if key not in sizes:
        environments.check(name, folders)
        _, image = environments.look_up(name, folders)
        sizes[key] = 0 if image is None else image.environment.unpacked
    if GUESTS[spec.guest].has_kernel:
        for finding in _disk(spec, name, sizes[key]):
            raise SpecError(finding.message, advice=finding.advice)


def _disk(spec: Spec, name: str, unpacked: int) -> Iterator[Finding]:
    needed = -(-least_disk(unpacked) // MIB)
    kind = min(spec.kinds, key=lambda kind: kind.vm.disk)
    if unpacked and kind.vm.disk < needed:
        message = f"{name} needs a disk of {needed} MiB, and {_vms(kind)} {kind.vm.disk} MiB"
        advice = f"set {_field(kind)}disk to at least {needed}"
        yield Finding(_WHAT, "", "problem", "too-small", message, advice)


def _memory(spec: Spec, name: str, loaded: int) -> Iterator[Finding]:
    needed = least_memory(loaded)
    kind = min(spec.kinds, key=lambda kind: kind.vm.memory)
    if loaded and kind.vm.memory < needed:
        message = (
            f"to start {name} by kexec takes {needed} MiB of memory, and {_vms(kind)} {kind.vm.memory} MiB:"
            " they are reset instead, which takes longer, and may be too small for it"
        )
        advice = f"set {_field(kind)}memory to at least {needed}"
        yield Finding(_WHAT, "", "warning", "too-small", message, advice)


def _vms(kind: Kind) -> str:
    return f"VMs of {kind.name} have" if kind.name else "VMs have"


def _field(kind: Kind) -> str:
    return f"the group {kind.name}'s " if kind.name else "vm."
