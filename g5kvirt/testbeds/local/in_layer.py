"""A command with the programs of the node layer (QEMU, busybox, …), in namespaces that end with it.

::

    python -m g5kvirt.testbeds.local.in_layer LAYER USER FOLDER COMMAND…

The command sees this machine's `/` below the layer and writes to a tmpfs, but for ``FOLDER``, which is this
machine's. It runs as ``USER`` (a number), in this machine's network.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.container import PATH

__all__ = ["argv", "enter", "environment"]


def argv(folder: Path, user: int, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command``; it is ended by SIGKILL, with all that it started.

    Builds the layer if it is missing. Raises MachineError.
    """
    layer = layers.ensure()["node"]
    return [sys.executable, "-m", __name__, str(layer), str(user), str(folder), *command]


def environment() -> dict[str, str]:
    """What `argv` needs to be run with."""
    return {**os.environ, "PYTHONPATH": layers.python_path()}


def enter(image: Path, shared: Iterable[Path], folder: Path) -> None:
    """Make the overlay the root of this process, the init of a pid namespace, and ``folder`` its directory.

    ``shared``: directories of this machine that are seen as they are, and written to.
    """
    ns.private_mounts()
    work = Path("/mnt")
    ns.mount("tmpfs", work, "tmpfs", data="mode=755")
    for name in ("layer", "upper", "work", "root"):
        (work / name).mkdir()
    mount = ["mount", "-t", "squashfs", "-o", "loop,ro", str(image), str(work / "layer")]
    subprocess.run(mount, check=True, stdin=subprocess.DEVNULL, timeout=60)
    root = work / "root"
    options = f"lowerdir={work}/layer:/,upperdir={work}/upper,workdir={work}/work"
    ns.mount("overlay", root, "overlay", data=options)
    for path in shared:
        target = root / path.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        ns.bind(path, target)
    ns.mount("proc", root / "proc", "proc")
    ns.mount("tmpfs", root / "run", "tmpfs", data="mode=755")
    ns.pivot_root(root)
    os.chdir(folder)


def _main(image: str, user: str, folder: str, *command: str) -> int:
    """Start the command as the only child of the init of a pid namespace; returns its exit code."""
    ns.die_with_parent(signal.SIGKILL)
    ns.unshare(ns.NEWNS | ns.NEWPID)
    child = os.fork()
    if not child:
        ns.die_with_parent(signal.SIGKILL)
        enter(Path(image), (Path(folder), Path("/dev"), Path("/sys")), Path(folder))
        _become(int(user), command)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(user: int, command: Sequence[str]) -> NoReturn:
    """Run ``command`` in this process, as a user without any privileges."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    ns.die_with_parent(signal.SIGKILL)  # a change of the user has undone that
    os.execvpe(command[0], list(command), {**os.environ, "PATH": PATH})  # noqa: S606


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
