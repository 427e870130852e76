"""The environment ``debian12-min``: Debian 12 with systemd and OpenSSH, made on request.

Its packages are installed into a directory of its own (`debian_system`), which needs root and takes a minute.
"""

from __future__ import annotations

from pathlib import Path

from g5kvirt.images import debian_system
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.images.debian_system import AFTER, BEFORE, INCLUDE, SystemRecipe
from g5kvirt.images.repository import RELEASES
from g5kvirt.netboot.services import KERNEL_ARGUMENTS

__all__ = ["DESCRIPTION", "RECIPE", "fields", "scripts", "write"]

#: The sizes are the smallest with which a deployment was tried and succeeded.
DESCRIPTION = "Debian 12, small: systemd, OpenSSH, cloud kernel; deployed with vm.memory 160, vm.disk 364 MiB"

RECIPE = [2, RELEASES[12], list(INCLUDE), dict(BEFORE), dict(AFTER)]


def scripts() -> dict[str, str]:
    """Files of this package in the image: none."""
    return {}


def fields() -> dict[str, object]:
    """The environment's description, without the image."""
    return {
        "name": "debian12-min",
        "description": DESCRIPTION,
        "boot": {"kernel": "/vmlinuz", "initrd": "/initrd.img", "kernel_params": KERNEL_ARGUMENTS},
        "filesystem": "ext4",
        "compression": "gzip",
    }


def write(work: Path, progress: ProgressCallback) -> dict[str, str]:
    """Write ``image`` (a gzipped tar) into ``work``; returns the versions of the packages in it.

    Raises MachineError without root, or with the last error of apt or mmdebstrap.
    """
    recipe = SystemRecipe(RELEASES[12], "environment debian12-min")
    return dict(debian_system.write(recipe, work, progress).packages)
