"""Raise a local testbed, take it down, say how it is. For the command line and the driver.

`up` starts the daemon and waits; `down` kills the init of the testbed's pid namespace, with which the kernel
ends every process, namespace, mount and interface of it. Both hold the testbed's lock. Neither trusts what is
written down: a testbed is found by its processes too, so leftovers of a crash do not escape `down`.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from g5kvirt import paths
from g5kvirt.errors import MachineError, SpecError, TestbedError
from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local.description import Description, load
from g5kvirt.testbeds.local.state import RUNTIME, State, directory, hosts_text, option, ssh_config, write

__all__ = ["Progress", "State", "Status", "down", "known", "status", "up"]

#: Told what was done and how many seconds it took.
Progress = Callable[[str, float], None]

_DAEMON = "g5kvirt.testbeds.local.daemon"
_UP_TIMEOUT = 60.0  # seconds, and a little for each node
_LOCK_TIMEOUT = 300.0  # another one may be building layers
_KILL_TIMEOUT = 30.0
_API_USER = "g5k"
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "ssh-keygen": "openssh-client"}


@dataclass(frozen=True)
class Status:
    """How a testbed is."""

    name: str
    state: Literal["up", "down", "broken", "unknown"]
    detail: str  #: a sentence
    pid: int | None = None
    created: float | None = None  #: seconds since the epoch
    sites: tuple[str, ...] = ()
    nodes: int = 0
    api_uri: str = ""
    netem: bool = False

    def __str__(self) -> str:
        return f"testbed {self.name}: {self.state} – {self.detail}"


def up(
    name: str | None = None,
    description: Description | None = None,
    progress: Progress | None = None,
) -> State:
    """Raise testbed ``name`` (default: the user's own), or find that it is up already.

    A dead or broken one is cleared away first. The first time, layers are built (about a minute).

    :raises SpecError: it is up with another description; take it down first.
    :raises MachineError: not root, a missing tool or package.
    :raises TestbedError: it did not come up; nothing of it is left but the log that the sentence names.
    """
    where = directory(name)
    _check_machine()
    images = layers.ensure(progress)
    with _locked(where):
        now = status(where.name)
        if now.state == "up":
            state = State.load(where.name)
            if description is not None and description.to_plain() != {
                **state.plain,
                "name": description.name,
            }:
                raise SpecError(f"testbed {where.name!r} is up with another description: take it down first.")
            return state
        _clear(where, keep_lock=True)
        try:
            return _raise(where, description or load(), images, progress)
        except BaseException:
            _keep_logs(where)
            # Whoever waits for the lock sees that its file has gone, and makes a new one.
            _clear(where)
            raise


def down(name: str | None = None) -> bool:
    """Take testbed ``name`` down, whatever is left of it. True if there was anything.

    :raises MachineError: not root.
    :raises TestbedError: a process of it does not die.
    """
    where = directory(name)
    if os.geteuid():
        raise MachineError("the local testbed needs root: use sudo.")
    if not where.exists() and not _processes(where):
        return False
    with _locked(where):
        return _clear(where)


def known() -> list[str]:
    """The names of all testbeds that left a trace on this machine, up or broken."""
    return sorted(path.name for path in RUNTIME.iterdir() if path.is_dir()) if RUNTIME.is_dir() else []


def status(name: str | None = None) -> Status:
    """How testbed ``name`` is. Asks its processes and its API, not only what is written down."""
    where = directory(name)
    if os.geteuid() and where.is_dir():
        return Status(where.name, "unknown", "it belongs to root, who alone can tell how it is: use sudo.")
    mends = f"g5kvirt local up or down{option(where.name)} mends it"
    try:
        state = State.load(where.name)
    except TestbedError as error:
        if os.geteuid() == 0 and (_processes(where) or (where / "private").exists()):
            return Status(where.name, "broken", f"processes without a state: {mends}.")
        return Status(where.name, "down", str(error))
    facts: dict[str, Any] = {
        "pid": state.pid,
        "created": state.created,
        "sites": tuple(site.name for site in state.description.sites),
        "nodes": len(state.description.nodes),
        "api_uri": state.api_uri,
        "netem": state.netem,
    }
    if not state.alive:
        return Status(where.name, "broken", f"its processes have ended: {mends}.", **facts)
    if reason := _unhealthy(state):
        return Status(where.name, "broken", f"{reason}: {mends}.", **facts)
    latency = "" if state.netem else ", no latency (this kernel has no netem)"
    sites, nodes = len(facts["sites"]), facts["nodes"]
    has = f"{sites} {'site' if sites == 1 else 'sites'}, {nodes} {'node' if nodes == 1 else 'nodes'}"
    return Status(where.name, "up", f"{has}{latency}.", **facts)


def _check_machine() -> None:
    if platform.system() != "Linux" or os.geteuid():
        raise MachineError("the local testbed needs root on Linux: use sudo.")
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise MachineError(f"{tool} is missing on this machine: apt-get install {package}.")
    for part in ("/etc", "/usr", "/var"):
        if Path(part).is_mount():  # an overlay shows one file system, not what is mounted on it
            raise MachineError(
                f"{part} is a file system of its own: the local testbed needs it to be part of /."
            )


def _unhealthy(state: State) -> str | None:
    """Why a testbed whose init runs is no good, or None."""
    if not (state.directory / "ready").exists():
        busy = _held(state.directory / "lock")
        return "it is being raised right now" if busy else "it was never raised to the end"
    host, _, port = state.api_uri.partition("//")[2].partition("/")[0].partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    except OSError as error:
        return f"its API does not answer ({error})"
    root = f"/proc/{state.pid}/root{state.directory}/private/alive"
    dead = [site.name for site in state.description.sites if not Path(root, site.name).exists()]
    return f"site {', '.join(dead)} has died" if dead else None


@contextmanager
def _locked(where: Path) -> Iterator[None]:
    """Hold the testbed's lock. `_clear` removes the file with the rest, so after waiting look again."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            where.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(where / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TestbedError(
                            f"testbed {where.name!r} is being raised or taken down by somebody else."
                        ) from None
                    time.sleep(0.05)
            if _same(fd, where / "lock"):
                yield
                return
        finally:
            os.close(fd)


def _held(lock: Path) -> bool:
    """Does anybody hold the lock?"""
    with suppress(FileNotFoundError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _same(fd: int, file: Path) -> bool:
    """Is ``fd`` the file that has this name now?"""
    try:
        return os.path.samestat(os.fstat(fd), file.stat())
    except FileNotFoundError:
        return False


def _raise(
    where: Path, description: Description, images: dict[str, Path], progress: Progress | None
) -> State:
    (where / "log").mkdir(exist_ok=True)
    key = where / "id_ed25519"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"g5kvirt {where.name}", "-f", str(key)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, timeout=30)
    write(where / "ssh_config", ssh_config(where), 0o600)
    write(where / "names.new", hosts_text(description))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        orders = {
            "directory": str(where),
            "layers": {layer: str(image) for layer, image in images.items()},
            "public_key": key.with_suffix(".pub").read_text().strip(),
            "socket_fd": listening.fileno(),
            "record": {
                "name": where.name,
                "api_uri": f"http://127.0.0.1:{listening.getsockname()[1]}/stable",
                "api_user": _API_USER,
                "api_password": secrets.token_urlsafe(18),
                "description": description.to_plain(),
                "created": time.time(),
            },
        }
        answers, progress_end = os.pipe()
        try:
            _start(where, orders, progress_end, listening.fileno())
            os.close(progress_end)
            progress_end = -1
            timeout = _UP_TIMEOUT + 0.5 * len(description.nodes)
            ready = _follow(answers, where, timeout, progress)
        finally:
            os.close(answers)
            if progress_end >= 0:
                os.close(progress_end)
    record = json.loads((where / "state.json").read_text())
    write(where / "state.json", json.dumps({**record, "netem": ready["netem"]}))
    (where / "ready").touch(mode=0o600)
    return State.load(where.name)


def _start(where: Path, orders: dict[str, Any], progress_fd: int, socket_fd: int) -> None:
    """Start the daemon; returns when its init runs and is written down."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "PYTHONPATH": layers.python_path(),
        "LANG": "C.UTF-8",
    }
    with (where / "log" / "daemon.log").open("ab") as output:
        daemon = subprocess.Popen(
            [sys.executable, "-m", _DAEMON, where.name, str(where)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
            pass_fds=(progress_fd, socket_fd),
            start_new_session=True,
        )
    daemon.communicate(json.dumps({**orders, "progress_fd": progress_fd}).encode(), timeout=60)
    if daemon.returncode:
        raise TestbedError(_sentence(where, "its first process ended at once"))


def _follow(answers: int, where: Path, timeout: float, progress: Progress | None) -> dict[str, Any]:
    """Pass progress on until the daemon is ready; what it said then."""
    deadline = time.monotonic() + timeout
    buffer = b""
    while True:
        if not select.select([answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TestbedError(_sentence(where, f"not up after {timeout:.0f} s"))
        data = os.read(answers, 65536)
        if not data:
            raise TestbedError(_sentence(where, "its daemon ended"))
        *lines, buffer = (buffer + data).split(b"\n")
        for message in map(json.loads, lines):
            if "error" in message:
                raise TestbedError(_sentence(where, message["error"]))
            if "ready" in message:
                return dict(message)
            if progress:
                progress(message["what"], message["seconds"])


def _sentence(where: Path, reason: str) -> str:
    return (
        f"testbed {where.name!r} could not be raised ({reason.rstrip('.')}); its logs: {_failed_logs(where)}."
    )


def _failed_logs(where: Path) -> Path:
    return paths.cache() / "logs" / where.name


def _keep_logs(where: Path) -> None:
    """Save the logs of a testbed that could not be raised; those of the last time, for each name."""
    if (where / "log").is_dir():
        shutil.rmtree(_failed_logs(where), ignore_errors=True)
        shutil.copytree(where / "log", _failed_logs(where))


def _processes(where: Path) -> list[int]:
    """Processes that were started as daemon of this testbed: its init, what forked from it, its starter."""
    mark = f"\0-m\0{_DAEMON}\0{where.name}\0{where}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _clear(where: Path, *, keep_lock: bool = False) -> bool:
    """End all processes of a testbed and remove its directory. True if there was anything but the lock.

    The caller holds the lock.
    """
    killed = False
    while pids := _processes(where):  # again, since one of them may have started another meanwhile
        _kill(pids, where.name)
        killed = True
    entries = [entry for entry in where.iterdir() if entry.name != "lock"] if where.exists() else []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not keep_lock:
        shutil.rmtree(where, ignore_errors=True)
        with suppress(OSError):  # other testbeds are there
            RUNTIME.rmdir()
    return killed or bool(entries)


def _kill(pids: list[int], name: str) -> None:
    """Kill and wait: when an init is gone, so is everything in its pid namespace."""
    waiting = []
    deadline = time.monotonic() + _KILL_TIMEOUT
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                waiting.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(waiting[-1], signal.SIGKILL)
        for fd in waiting:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TestbedError(f"a process of testbed {name!r} does not die; look at ps.")
    finally:
        for fd in waiting:
            os.close(fd)
