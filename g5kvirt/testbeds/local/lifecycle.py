"""Start a local testbed, stop it, report its status. For the command line and the driver.

`up` starts the daemon and waits; `down` kills the init of the testbed's pid namespace, and the kernel ends
all processes, namespaces, mounts and interfaces with it. Both hold the testbed's lock. Neither relies on the
state file: a testbed is also found by its processes, so that `down` removes the leftovers of a crash.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from g5kvirt import paths
from g5kvirt.errors import MachineError, SpecError, TestbedError
from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local.description import Description, load
from g5kvirt.testbeds.local.layers import Progress
from g5kvirt.testbeds.local.shared_limits import SharedLimits
from g5kvirt.testbeds.local.state import RUNTIME, State, directory, hosts_text, option, ssh_config, write

__all__ = ["Progress", "State", "Status", "down", "status", "testbed_names", "up"]

_DAEMON = "g5kvirt.testbeds.local.daemon"
_UP_TIMEOUT = 60.0  # seconds; some more for each node
_LOCK_TIMEOUT = 300.0  # seconds; another process may be building layers
_KILL_TIMEOUT = 30.0
_API_USER = "g5k"
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "ssh-keygen": "openssh-client"}


@dataclass(frozen=True)
class Status:
    """The status of a testbed."""

    name: str
    state: Literal["up", "down", "starting", "broken", "unknown"]
    detail: str  #: a sentence
    pid: int | None = None
    created: float | None = None  #: seconds since the epoch
    sites: tuple[str, ...] = ()
    nodes: int = 0
    api_uri: str = ""
    netem: bool = False

    def __str__(self) -> str:
        return f"testbed {self.name}: {self.state} – {self.detail}"


@paths.readable_by_all()
def up(
    name: str | None = None,
    description: Description | None = None,
    progress: Progress | None = None,
) -> State:
    """Start testbed ``name`` (default: the user's own) unless it is up already.

    The remains of a broken one are removed first. The first time, layers are built (about a minute).

    :raises SpecError: it is up with another description; stop it first.
    :raises MachineError: not root, a missing tool or package.
    :raises TestbedError: it did not start; nothing remains of it but the log named in the message.
    """
    state_dir = directory(name)
    _check_machine()
    images = layers.ensure(progress)
    with _locked(state_dir):
        now = status(state_dir.name)
        if now.state == "up":
            state = State.load(state_dir.name)
            if description is not None and description.to_plain() != {
                **state.plain,
                "name": description.name,
            }:
                raise SpecError(
                    f"testbed {state_dir.name!r} is up with another description", advice="stop it first"
                )
            return state
        _clear(state_dir, keep_lock=True)
        try:
            return _bring_up(state_dir, description or load(), images, progress)
        except BaseException:
            _keep_logs(state_dir)
            # A process that waits for the lock notices that the file has gone, and creates a new one.
            _clear(state_dir)
            raise


def down(name: str | None = None) -> bool:
    """Stop testbed ``name`` and remove all its remains. True if there were any.

    :raises MachineError: not root.
    :raises TestbedError: one of its processes does not die.
    """
    state_dir = directory(name)
    if os.geteuid():
        raise MachineError("the local testbed needs root", advice="use sudo")
    if not state_dir.exists() and not _processes(state_dir):
        return False
    with _locked(state_dir):
        return _clear(state_dir)


def testbed_names() -> list[str]:
    """The names of all testbeds on this machine, up or broken."""
    return sorted(path.name for path in RUNTIME.iterdir() if path.is_dir()) if RUNTIME.is_dir() else []


def status(name: str | None = None) -> Status:
    """The status of testbed ``name``, from its processes and its API, not only its state file."""
    state_dir = directory(name)
    if os.geteuid() and state_dir.is_dir():
        return Status(
            state_dir.name, "unknown", "it belongs to root, so only root can see its status: use sudo."
        )
    remedy = f"run g5kvirt local up{option(state_dir.name)} or g5kvirt local down{option(state_dir.name)}"
    try:
        state = State.load(state_dir.name)
    except TestbedError as error:
        if os.geteuid() == 0 and (_processes(state_dir) or (state_dir / "private").exists()):
            return Status(state_dir.name, "broken", f"processes without a state file: {remedy}.")
        return Status(state_dir.name, "down", str(error))
    facts: dict[str, Any] = {
        "pid": state.pid,
        "created": state.created,
        "sites": tuple(site.name for site in state.description.sites),
        "nodes": len(state.description.nodes),
        "api_uri": state.api_uri,
        "netem": state.netem,
    }
    if not state.alive:
        return Status(state_dir.name, "broken", f"its processes have ended: {remedy}.", **facts)
    if not (state.directory / "ready").exists() and _is_locked(state.directory / "lock"):
        return Status(state_dir.name, "starting", "another process is starting it.", **facts)
    if reason := _health_problem(state):
        return Status(state_dir.name, "broken", f"{reason}: {remedy}.", **facts)
    latency = "" if state.netem else ", no latency (this kernel has no netem)"
    sites, nodes = len(facts["sites"]), facts["nodes"]
    size = f"{sites} {'site' if sites == 1 else 'sites'}, {nodes} {'node' if nodes == 1 else 'nodes'}"
    overflows = "".join(f"; {what}: {times:,}" for what, times in SharedLimits().overflows().items())
    switch = ", managed switch" if state.description.switch == "managed" else ""
    return Status(state_dir.name, "up", f"{size}{latency}{switch}{overflows}.", **facts)


def _check_machine() -> None:
    if os.geteuid():
        raise MachineError("the local testbed needs root on Linux", advice="use sudo")
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            raise MachineError(f"{tool} is missing on this machine", advice=f"run apt-get install {package}")
    for part in ("/etc", "/usr", "/var"):
        if Path(part).is_mount():  # an overlay shows one file system without its submounts
            raise MachineError(
                f"{part} is a separate file system", advice="run the local testbed where it is part of /"
            )


def _health_problem(state: State) -> str | None:
    """Why a testbed whose init runs is broken, or None."""
    if not (state.directory / "ready").exists():
        return "its start was interrupted"
    host, _, port = state.api_uri.partition("//")[2].partition("/")[0].partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            pass
    except OSError as error:
        return f"its API does not respond ({error})"
    root = f"/proc/{state.pid}/root{state.directory}/private/alive"
    dead_sites = [site.name for site in state.description.sites if not Path(root, site.name).exists()]
    return f"site {', '.join(dead_sites)} has died" if dead_sites else None


@contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Hold the testbed's lock. `_clear` removes the file too, so check after waiting that it still exists."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                            f"testbed {state_dir.name!r} is being started or stopped by another process",
                            advice="try again later",
                        ) from None
                    time.sleep(0.05)
            if _is_same_file(fd, state_dir / "lock"):
                yield
                return
        finally:
            os.close(fd)


def _is_locked(lock: Path) -> bool:
    """Whether any process holds the lock."""
    with suppress(FileNotFoundError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_same_file(fd: int, file: Path) -> bool:
    """Whether ``fd`` is the file that currently has this name."""
    try:
        return os.path.samestat(os.fstat(fd), file.stat())
    except FileNotFoundError:
        return False


def _bring_up(
    state_dir: Path, description: Description, images: dict[str, Path], progress: Progress | None
) -> State:
    (state_dir / "log").mkdir(exist_ok=True)
    SharedLimits(state_dir.parent).raise_all()
    key = state_dir / "id_ed25519"
    keygen = [
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-C",
        f"g5kvirt {state_dir.name}",
        "-f",
        str(key),
    ]
    subprocess.run(keygen, check=True, stdin=subprocess.DEVNULL, timeout=30)
    write(state_dir / "names", hosts_text(description))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        config = {
            "directory": str(state_dir),
            "layers": {layer: str(image) for layer, image in images.items()},
            "public_key": key.with_suffix(".pub").read_text().strip(),
            "socket_fd": listening.fileno(),
            "record": {
                "name": state_dir.name,
                "api_uri": f"http://127.0.0.1:{listening.getsockname()[1]}/stable",
                "api_user": _API_USER,
                "api_password": secrets.token_urlsafe(18),
                "description": description.to_plain(),
                "created": time.time(),
            },
        }
        progress_read, progress_write = os.pipe()
        try:
            _start_daemon(state_dir, config, progress_write, listening.fileno())
            begun = State.load(state_dir.name)
            write(state_dir / "ssh_config", ssh_config(state_dir, begun.pid, begun.start_time))
            os.close(progress_write)
            progress_write = -1
            timeout = _UP_TIMEOUT + 0.5 * len(description.nodes)
            ready = _wait_until_ready(progress_read, state_dir, timeout, progress)
        finally:
            os.close(progress_read)
            if progress_write >= 0:
                os.close(progress_write)
    record = json.loads((state_dir / "state.json").read_text())
    write(state_dir / "state.json", json.dumps({**record, "netem": ready["netem"]}))
    (state_dir / "ready").touch(mode=0o600)
    return State.load(state_dir.name)


def _start_daemon(state_dir: Path, config: dict[str, Any], progress_fd: int, socket_fd: int) -> None:
    """Start the daemon; returns when its init runs and is recorded."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "PYTHONPATH": layers.python_path(),
        "LANG": "C.UTF-8",
    }
    with (state_dir / "log" / "daemon.log").open("ab") as output:
        daemon = subprocess.Popen(
            [sys.executable, "-m", _DAEMON, state_dir.name, str(state_dir)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd="/",
            env=environment,
            pass_fds=(progress_fd, socket_fd),
            start_new_session=True,
        )
    daemon.communicate(json.dumps({**config, "progress_fd": progress_fd}).encode(), timeout=60)
    if daemon.returncode:
        raise TestbedError(_failure_message(state_dir, "its first process exited immediately"))


def _wait_until_ready(
    progress_read: int, state_dir: Path, timeout: float, progress: Progress | None
) -> dict[str, Any]:
    """Report progress until the daemon is ready; returns its final message."""
    deadline = time.monotonic() + timeout
    buffer = b""
    while True:
        if not select.select([progress_read], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TestbedError(_failure_message(state_dir, f"not up after {timeout:.0f} s"))
        data = os.read(progress_read, 65536)
        if not data:
            raise TestbedError(_failure_message(state_dir, "its daemon has exited"))
        *lines, buffer = (buffer + data).split(b"\n")
        for message in map(json.loads, lines):
            if "error" in message:
                raise TestbedError(_failure_message(state_dir, message["error"]))
            if "ready" in message:
                return dict(message)
            if progress:
                progress(message["step"], message["seconds"])


def _failure_message(state_dir: Path, reason: str) -> str:
    logs = _failed_logs(state_dir)
    return f"testbed {state_dir.name!r} could not be started ({reason.rstrip('.')}); its logs: {logs}."


def _failed_logs(state_dir: Path) -> Path:
    return paths.cache() / "logs" / state_dir.name


def _keep_logs(state_dir: Path) -> None:
    """Save the logs of a testbed that could not be started, one set per name."""
    if (state_dir / "log").is_dir():
        shutil.rmtree(_failed_logs(state_dir), ignore_errors=True)
        shutil.copytree(state_dir / "log", _failed_logs(state_dir))


def _processes(state_dir: Path) -> list[int]:
    """Processes with the command line of this testbed's daemon: its init, the forks of it, its parent."""
    mark = f"\0-m\0{_DAEMON}\0{state_dir.name}\0{state_dir}\0".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if mark in (entry / "cmdline").read_bytes():
                    pids.append(int(entry.name))
    return pids


def _clear(state_dir: Path, *, keep_lock: bool = False) -> bool:
    """Kill all processes of a testbed and remove its directory. True if there was more than the lock.

    The caller holds the lock.
    """
    killed = False
    while pids := _processes(state_dir):  # repeat, because one of them may have started another meanwhile
        _kill(pids, state_dir.name)
        killed = True
    entries = [entry for entry in state_dir.iterdir() if entry.name != "lock"] if state_dir.exists() else []
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if not keep_lock:
        shutil.rmtree(state_dir, ignore_errors=True)
        SharedLimits(state_dir.parent).restore()
        with suppress(OSError):  # there are other testbeds
            RUNTIME.rmdir()
    return killed or bool(entries)


def _kill(pids: list[int], name: str) -> None:
    """Kill and wait: when an init has gone, so has everything in its pid namespace."""
    waiting = []
    deadline = time.monotonic() + _KILL_TIMEOUT
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                waiting.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(waiting[-1], signal.SIGKILL)
        for fd in waiting:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TestbedError(f"a process of testbed {name!r} did not end", advice="find it with ps")
    finally:
        for fd in waiting:
            os.close(fd)
