"""`g5kvirt image check`: inspection, then a trial boot; one list of findings."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from g5kvirt import paths
from g5kvirt.errors import MachineError
from g5kvirt.images.environments import Image
from g5kvirt.run.keys import make_key
from g5kvirt.trial import boot as trial_boot
from g5kvirt.trial.archive import read_tree, unpack
from g5kvirt.trial.disk import make_disk
from g5kvirt.trial.inspection import Finding, inspect

__all__ = ["LIMIT", "check_image"]

#: Seconds that a boot may take. An emulated Debian needs a minute on a free core, five on a busy machine.
LIMIT = 900.0


def check_image(
    image: Image,
    progress: Callable[[str], None],
    *,
    memory: int = 512,
    limit: float = LIMIT,
    boots: bool = True,
) -> list[Finding]:
    """What is right and what is wrong with an image. It is booted unless the archive lacks what that takes.

    ``memory`` of the VM in MiB; ``limit``: seconds for the boot. Raises SpecError for an archive that cannot
    be read, MachineError without root, or where QEMU does not run.
    """
    if boots and os.geteuid() != 0:
        raise MachineError(
            "booting an image requires root", advice="use sudo, or only read the archive: --no-boot"
        )
    environment = image.environment
    parent = paths.cache() / "trials"
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=parent))
    try:
        progress(f"reading {image.path}")
        tree = read_tree(image.path, environment.compression, scratch)
        found = inspect(tree, environment)
        if not boots or any(
            finding.state == "fail" for finding in found if finding.name in ("kernel", "initrd")
        ):
            return found
        progress("unpacking it and creating a disk")
        root = scratch / "root"
        root.mkdir(mode=0o755)
        unpack(image.path, environment.compression, root, scratch)
        key = scratch / "key"
        make_key(key, "g5kvirt trial")
        public = key.with_suffix(".pub").read_text(encoding="utf-8").strip()
        identity = f"name={environment.name}\nsha256={image.sha256}\ndeployment=trial\nserver=\n"
        machine = scratch / "machine"
        machine.mkdir(mode=0o755)
        disk = make_disk(environment, root, machine, public, identity)
        shutil.rmtree(root)
        scratch.chmod(0o755)
        progress(f"booting it with {memory} MiB of memory, emulated; at most {limit:.0f} s")
        trial = trial_boot.Trial(disk, machine, key, environment.kernel_arguments, memory, limit)
        return [*found, *trial_boot.findings(trial_boot.boot(trial, progress))]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
