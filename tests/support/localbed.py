"""A local testbed for tests: its marks, ssh into it, its processes, and jobs on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.testbeds.described.description import Description, make
from g5kvirt.testbeds.local import lifecycle
from g5kvirt.testbeds.local.state import State, directory

needs = [
    tool for tool in ("ssh", "ssh-keygen", "mksquashfs", "nsenter", "ip", "apt-get") if not shutil.which(tool)
]
MARKS = [
    pytest.mark.root,
    pytest.mark.local,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(bool(needs), reason=f"missing on this machine: {', '.join(needs)}"),
]

PREFIX = f"t{os.getpid()}"
DESCRIPTION = make({"nancy": 2, "rennes": 2}, cores=3, memory_gib=5, nic_gbps=0.2)
SMALL = make({"lyon": 1})


def ssh(state: State, host: str, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run ``command`` on ``host`` with the testbed's ssh configuration."""
    argv = ["ssh", "-F", str(state.ssh_config), "-o", "BatchMode=yes", host, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def on(state: State, host: str, command: str, timeout: float = 60) -> str:
    """The output of ``command`` on ``host``; the test fails if the command fails."""
    done = ssh(state, host, command, timeout)
    assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
    return done.stdout


def wait(condition: Callable[[], object], timeout: float = 60) -> None:
    """Wait until ``condition()`` is true; the test fails after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {timeout:g} s"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """Pids of the children of the main thread of ``pid``."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def below(pid: int) -> list[int]:
    """``pid`` and all its descendants: tests kill only processes from this list."""
    try:
        return [pid, *(descendant for child in children(pid) for descendant in below(child))]
    except (FileNotFoundError, ProcessLookupError):
        return []


def inside(state: State, hostname: str) -> int:
    """The first process of the container that has this name."""
    for pid in below(state.pid):
        try:
            if Path(f"/proc/{pid}/root/etc/hostname").read_text().strip() == hostname:
                return pid
        except OSError:
            continue
    raise AssertionError(f"no {hostname}")


def command_line(pid: int) -> str:
    """The command line of ``pid``, empty if it has exited."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def process_name(pid: int) -> str:
    """What ps shows for ``pid``, empty if it has exited."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def nothing_left(name: str) -> bool:
    """Whether testbed ``name`` has no process, directory or mount."""
    gone = not lifecycle._processes(directory(name)) and not directory(name).exists()
    return gone and name not in Path("/proc/self/mountinfo").read_text()


@contextmanager
def temporary_testbed(word: str, description: Description) -> Iterator[State]:
    """A testbed of these tests, which is down at the end, with nothing left."""
    name = f"{PREFIX}-{word}"
    try:
        yield lifecycle.up(name, description)
    finally:
        lifecycle.down(name)
        assert nothing_left(name)


def terminate(process: subprocess.Popen[Any]) -> None:
    """End a process that cleans up at SIGTERM; it is killed if that takes more than a minute."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)


class Job:
    """A deploy job on a frontend, deleted at the end."""

    def __init__(self, state: State, site: str, resources: str, *more: str) -> None:
        self.state, self.frontend = state, f"{site}.grid5000.fr"
        command = " ".join((f'oarsub -l "{resources},walltime=0:30:00" -t deploy -t origin=test', *more))
        text = on(state, self.frontend, f"{command} 'sleep 3600'")
        found = re.search(r"^OAR_JOB_ID=(\d+)", text, re.M)
        assert found, text
        self.id = int(found[1])

    def state_is(self, *states: str) -> bool:
        """Whether the job is in one of these states, compared exactly: "toError" is not "Error"."""
        return on(self.state, self.frontend, f"oarstat -sj {self.id}").split(":")[-1].strip() in states

    def __enter__(self) -> Job:
        # If Almighty missed the submission because of its restart, it checks again after a minute.
        try:
            wait(lambda: self.state_is("Running"), timeout=150)
        except AssertionError as error:
            seen = f"oarstat -fj {self.id}; oarnodes -s; tail -n 40 /var/log/oar.log"
            raise AssertionError(ssh(self.state, self.frontend, seen).stdout) from error
        return self

    def __exit__(self, *_: object) -> None:
        on(self.state, self.frontend, f"oardel {self.id}")
        wait(lambda: self.state_is("Error", "Terminated"))

    @property
    def nodes(self) -> list[str]:
        command = f"oarstat -pj {self.id} | oarprint network_address -f - | sort"
        return on(self.state, self.frontend, command).split()

    def deploy(self, nodes: list[str], vlan: str = "") -> str:
        options = " ".join(f"-m {node}" for node in nodes)
        return on(self.state, self.frontend, f"kadeploy3 -k -d -e debian12-min {vlan} {options}")


def kavlan(node: str, vlan: int) -> str:
    return node.replace(".", f"-kavlan-{vlan}.", 1)
