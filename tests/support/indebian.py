"""Run a command in the root directory of another Debian, as if this machine were one.

    python tests/support/indebian.py ROOT COMMAND…

``ROOT`` becomes the root of a mount and pid namespace of its own; ``/dev``, ``/sys``, the network, the name
servers and the certificates are those of this machine. Everything ends with this process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import inlayer

from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.container import PATH

#: What the other Debian takes over from this machine, so that its network works.
NETWORK_FILES = ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt")


def argv(root: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` there; it can only be killed with SIGKILL."""
    return [sys.executable, str(Path(__file__)), str(root), *command]


def _enter(root: Path) -> None:
    ns.private_mounts()
    ns.bind(root, root)  # a mount of its own, which can become the root
    for name in ("dev", "sys"):
        ns.mount(f"/{name}", root / name, None, ns.MS_BIND | ns.MS_REC)
    for name in NETWORK_FILES:
        here, there = Path("/", name).resolve(), root / name
        if here.exists() and there.parent.is_dir():
            there.unlink(missing_ok=True)
            there.write_bytes(here.read_bytes())
    ns.mount("proc", root / "proc", "proc")
    for name in ("run", "tmp"):
        ns.mount("tmpfs", root / name, "tmpfs", data="mode=755" if name == "run" else "mode=1777")
    ns.pivot_root(root)
    os.chdir("/")


def _main(root: Path, command: list[str]) -> int:
    ns.die_with_parent(signal.SIGKILL)
    own = ("PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    environment |= {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
    return inlayer.contain(lambda: _enter(root), command, environment)


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
