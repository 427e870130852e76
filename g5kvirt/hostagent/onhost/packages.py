"""Debian packages that are missing, installed by apt without starting what comes with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

from .processes import kill_group
from .records import read_text, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results

#: Debian's maintainer scripts call it to learn whether a service may be started; 101 forbids it.
POLICY_FILE = "/usr/sbin/policy-rc.d"
#: No questions, messages in English, and no restart of services.
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "NEEDRESTART_SUSPEND": "1"}

DENY_POLICY = "#!/bin/sh\n# by g5kvirt, while it installs packages: nothing starts by itself\nexit 101\n"


def packages(request: Record, home: str) -> Results:
    """Install the Debian packages of missing programs, from the network; one answer for all.

    ``programs``: program, or library, → its package. Nothing that comes with them is started: a web server of
    the distribution's would take the port that ours is about to listen on.
    """
    wanted: Record = request["programs"]
    missing = [p for p in wanted if not is_installed(p)]
    names = sorted({str(wanted[p]) for p in missing})
    subject = os.uname().nodename
    if not names:
        yield subject, {"unchanged": True}
        return
    if not shutil.which("apt-get"):
        raise OSError("there is no apt-get")
    root = str(request.get("root", ""))  # of the policy's file, for tests
    deadline = time.monotonic() + float(request.get("limit", 600.0))
    with ServicesBlocked(root + POLICY_FILE):
        install(names, request.get("proxy") or "", request.get("options", []), deadline)
    left = [p for p in missing if not is_installed(p)]
    if left:
        raise OSError(f"{', '.join(names)} is installed, but does not provide {', '.join(left)}")
    yield subject, {"installed": names, "programs": missing}


def is_installed(name: str) -> bool:
    """Whether a program is there, or a library (``libNAME.so.VERSION``)."""
    if ".so." not in name:
        return shutil.which(name) is not None
    return any(os.path.exists(f"/usr/{d}/{name}") for d in (f"lib/{os.uname().machine}-linux-gnu", "lib64"))


class ServicesBlocked:
    """While it is active, no service starts on installation; an earlier policy is restored afterwards."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.aside = f"{path}.g5kvirt"

    def __enter__(self) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        # left by an agent that was killed: the earlier policy has already been put aside
        if os.path.lexists(self.path) and read_text(self.path, "") != DENY_POLICY:
            os.replace(self.path, self.aside)
        write_text(self.path, DENY_POLICY, 0o755)

    def __exit__(self, *_: object) -> None:
        if os.path.lexists(self.aside):
            os.replace(self.aside, self.path)
        else:
            os.remove(self.path)


def install(names: list[str], proxy: str, options: list[str], deadline: float) -> None:
    """``apt-get install``, without and then with new package lists. Raises OSError with apt's reason."""
    command, update = apt_commands(names, proxy, options)
    code, _ = run_package_manager(command, deadline)
    if code == 0:
        return
    # A dpkg that was cut short, or lists that are missing or old; whether it helped, the next try shows.
    run_package_manager(["dpkg", "--configure", "-a"], deadline)
    old, why = run_package_manager(update, deadline)
    code, out = run_package_manager(command, deadline)
    if code:
        reason = apt_error(out) or f"apt-get ended with {code} without a message"
        raise OSError(f"{reason}; its package lists are outdated: {apt_error(why)}" if old else reason)


def apt_commands(names: list[str], proxy: str, options: list[str]) -> tuple[list[str], list[str]]:
    """What installs packages, and what brings new lists of them; ``proxy``: its URL, or empty."""
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::Retries=2"]
    for word in ("http", "https"):
        apt += ["-o", f"Acquire::{word}::Timeout=20"]
        apt += ["-o", f"Acquire::{word}::Proxy={proxy}"] if proxy else []
    apt += options
    # Whoever configured a package by hand keeps its configuration.
    command = [*apt, "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
    command += ["--no-install-recommends", "install", "--", *names]
    return command, [*apt, "-o", "APT::Update::Error-Mode=any", "update"]


def run_package_manager(command: list[str], deadline: float) -> tuple[int, str]:
    """Run a program of a package manager to its end; past ``deadline`` it is ended with all it started."""
    environment = {**os.environ, **ENVIRONMENT}
    left = deadline - time.monotonic()
    if left <= 0:
        raise OSError("there was no time left")
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # dpkg lets its package be whole
        try:
            process.communicate(timeout=10.0)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            process.communicate()
        raise OSError(f"{' '.join(command[:1])} did not finish in time") from None
    return process.returncode, out


def apt_error(out: str) -> str:
    """The reason in apt's output: dpkg's own error, else the last error or warning that gives one."""
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    dpkg = [line for line in lines if "subprocess returned error" in line or line.startswith("dpkg: error")]
    errors = [line[3:] for line in lines if line.startswith(("E: ", "W: "))]
    # these stand behind the lines that say why
    reasons = [
        e for e in errors if not e.startswith(("Unable to fetch some archives", "Some index files failed"))
    ]
    return (dpkg or reasons or errors or lines or [""])[-1][:400]
