"""Run a command on this machine as if the packages of the node layer were installed: sshd, QEMU, dnsmasq, …

    python tests/system/inlayer.py python -m pytest tests/system/test_remote.py -k relay

The command sees this machine's `/` below the node layer; its writes go to a tmpfs. The checkout, the Python
environment, the cache, /tmp and the network are those of this machine; mounts and processes are in separate
namespaces, so that everything ends with this process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from g5kvirt import paths
from g5kvirt.testbeds.local import in_layer, layers
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.container import PATH

CHECKOUT = Path(__file__).resolve().parents[2]

#: Environment variable that is set for the command inside the layer.
INSIDE = "G5KVIRT_TESTS_IN_LAYER"

#: The tests that need programs of the layer; test_in_layer.py runs them there.
FILES = (
    "test_remote.py",
    "test_boot_vm.py",
    "test_deploy_vm.py",
    "test_apt.py",
    "test_port_security.py",
    "test_links.py",
    "test_libssh.py",
)


def argv(command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` inside; it can only be killed with SIGKILL."""
    return [sys.executable, str(Path(__file__)), *command]


def _shared() -> Iterator[Path]:
    """Directories to share with this machine, and those on other file systems, which an overlay hides."""
    cache = paths.cache()
    cache.mkdir(parents=True, exist_ok=True)
    yield from (Path("/tmp"), Path("/dev"), Path("/sys"), CHECKOUT, cache)
    for prefix in map(Path, (sys.prefix, sys.base_prefix)):
        if prefix.stat().st_dev != Path("/").stat().st_dev:
            yield prefix


def _init(command: list[str], environment: dict[str, str]) -> int:
    """Run ``command`` and reap all other processes; returns its exit code."""
    main = os.fork()
    if not main:
        os.execvpe(command[0], command, environment)
    while True:
        pid, status = os.wait()
        if pid == main:
            return os.waitstatus_to_exitcode(status)


def contain(enter: Callable[[], object], command: list[str], environment: dict[str, str]) -> int:
    """Run ``command`` in mount and pid namespaces, which ``enter`` sets up; returns its exit code."""
    ns.unshare(ns.NEWNS | ns.NEWPID)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ns.die_with_parent(signal.SIGKILL)
    enter()
    return _init(command, environment)


def _main(command: list[str]) -> int:
    ns.die_with_parent(signal.SIGKILL)
    image = layers.ensure()["node"]
    path = f"{Path(sys.prefix) / 'bin'}:{PATH}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": layers.python_path(), INSIDE: "1"}
    return contain(lambda: in_layer.enter(image, _shared(), Path.cwd()), command, environment)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
