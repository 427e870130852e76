"""A trial boot: an emulated VM with the devices of ours and a network of its own, watched until ssh answers.

QEMU comes from the local testbed's node layer. Its user network gives an address by DHCP and reaches nothing
else; what the guest says there is written down.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import MachineError
from g5kvirt.guests.consoles import readable
from g5kvirt.remote.result import classify_failure, last_line
from g5kvirt.testbeds.local import in_layer
from g5kvirt.trial.disk import Disk
from g5kvirt.trial.inspection import Finding
from g5kvirt.trial.traffic import dhcp_messages

__all__ = ["Observation", "Trial", "boot", "findings", "guest_arguments"]

#: A user that owns nothing on this machine, as for all our QEMUs (`hostagent.onhost.qemu`).
USER = 61_000
_READY = "cat /etc/g5kvirt-environment /proc/mounts; ls /sys/class/net"
#: Seconds between two looks, and between two logins.
_EVERY = 0.5
_LOGIN_EVERY = 3.0
_CONSOLE_LINES = 12


@dataclass(frozen=True)
class Observation:
    """The observations: text of the console, DHCP messages, messages of ssh, output of a login."""

    console: str
    dhcp: Sequence[str]
    ssh: str = ""  #: ssh's own messages of the last login
    output: str | None = None  #: of a login that succeeded
    ended: bool = False  #: QEMU has ended: the guest has panicked or switched itself off
    seconds: float = 0.0
    limit: float = 0.0


@dataclass(frozen=True)
class Trial:
    """One boot: ``scratch`` has the disk and takes what is written; ``memory`` in MiB, ``limit`` seconds."""

    disk: Disk
    scratch: Path
    key: Path
    arguments: str
    memory: int
    limit: float


def guest_arguments(arguments: str) -> str:
    """The kernel's command line for the trial: as deployed, but not silent."""
    words = [word for word in arguments.split() if word not in ("quiet", "splash")]
    if not any(word.startswith("console=ttyS0") for word in words):
        words.append("console=ttyS0")
    return " ".join(["root=/dev/vda1", "rw", *words])


def qemu_argv(trial: Trial, port: int) -> list[str]:
    """QEMU's command line: processor, disk and network card are those of our VMs (`onhost.qemu`)."""
    argv = ["qemu-system-x86_64", "-name", "trial", "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    argv += ["-machine", "pc", "-accel", "tcg,thread=single,tb-size=128", "-cpu", "qemu64,+rdrand"]
    argv += ["-m", f"{trial.memory}M", "-no-reboot", "-serial", "file:console"]
    argv += ["-kernel", "kernel", "-append", guest_arguments(trial.arguments)]
    if trial.disk.initrd is not None:
        argv += ["-initrd", "initrd"]
    argv += ["-drive", "if=none,id=disk0,format=raw,cache=unsafe,file=disk"]
    argv += ["-device", "virtio-blk-pci,drive=disk0"]
    argv += ["-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"]
    argv += ["-device", "virtio-net-pci,netdev=net0,mac=52:54:00:00:00:01,romfile="]
    return [*argv, "-object", "filter-dump,id=dump0,netdev=net0,file=network"]


def boot(trial: Trial, progress: Callable[[str], None]) -> Observation:
    """Boot, and watch until somebody is let in, QEMU ends or the time is over. Nothing is left running.

    Raises MachineError if QEMU cannot be started.
    """
    for name in ("console", "network"):
        (trial.scratch / name).touch()
    for path in (
        trial.scratch,
        *(trial.scratch / n for n in ("console", "network", "disk", "kernel", "initrd")),
    ):
        if path.exists():
            os.chown(path, USER, USER)
    port = _free_port()
    command = in_layer.argv(trial.scratch, USER, qemu_argv(trial, port))
    with (trial.scratch / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=trial.scratch,
            env=in_layer.environment(),
            start_new_session=True,
        )
    try:
        seen = _watch(trial, process, port, progress)
    finally:
        process.kill()
        process.wait(30)
    if not seen.console and not seen.dhcp and seen.ended:
        message = last_line((trial.scratch / "qemu.log").read_bytes())
        raise MachineError(f"QEMU does not run here ({message})", advice="see g5kvirt doctor")
    return seen


def _watch(
    trial: Trial, process: subprocess.Popen[bytes], port: int, progress: Callable[[str], None]
) -> Observation:
    start = logged_in = time.monotonic()
    stage, ssh = "", ""
    while True:
        now = time.monotonic()
        ended = process.poll() is not None
        console = readable((trial.scratch / "console").read_text("utf-8", "replace")).strip()
        dhcp = dhcp_messages((trial.scratch / "network").read_bytes())
        output = None
        if "ack" in dhcp and now - logged_in >= _LOGIN_EVERY and not ended:
            ssh, output = _login(trial.key, port)
            logged_in = time.monotonic()
        seen = Observation(console, dhcp, ssh, output, ended, time.monotonic() - start, trial.limit)
        if output is not None or ended or seen.seconds > trial.limit:
            return seen
        if (new := _stage(seen)) != stage:
            stage = new
            progress(f"{seen.seconds:.0f} s: {stage}")
        time.sleep(_EVERY)


def _stage(seen: Observation) -> str:
    if "ack" in seen.dhcp:
        return "it has an address; waiting for ssh"
    if "discover" in seen.dhcp:
        return "it requests an address"
    return "its kernel runs" if seen.console else "started"


def _login(key: Path, port: int) -> tuple[str, str | None]:
    """ssh's messages, and what the command printed if somebody was let in."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options += ["IdentitiesOnly=yes", "IdentityAgent=none", "ConnectTimeout=10"]
    argv = ["ssh", "-F", "/dev/null", "-n", "-T", "-i", str(key), "-p", str(port), "-l", "root"]
    argv += [word for option in options for word in ("-o", option)]
    try:
        done = subprocess.run([*argv, "127.0.0.1", _READY], capture_output=True, timeout=45)
    except subprocess.TimeoutExpired:
        return "no answer within 45 s", None
    output = done.stdout.decode(errors="replace")
    return done.stderr.decode(errors="replace"), output if "name=" in output or not done.returncode else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def findings(seen: Observation) -> list[Finding]:
    """What the boot shows about the image, in its order; later ones are left out where an earlier failed."""
    found = []
    last = "\n".join(seen.console.splitlines()[-_CONSOLE_LINES:])
    end = "it ended itself" if seen.ended else f"not within {seen.limit:.0f} s"
    if not seen.console and not seen.dhcp:
        advice = "the kernel needs a driver for serial ports, and console=ttyS0 in boot.kernel_params"
        return [Finding("boot", "fail", f"no sign of the kernel on its console, {end}", advice)]
    if _panicked(seen.console):
        advice = "is a driver for a virtio disk in the kernel or the initrd, and is the root /dev/vda1?"
        return [Finding("boot", "fail", f"the kernel has panicked:\n{last}", advice)]
    found.append(Finding("boot", "ok", "its kernel runs"))
    if "discover" not in seen.dhcp and "request" not in seen.dhcp:
        advice = (
            "a DHCP client must run on every Ethernet interface, and the kernel needs a driver for virtio-net"
        )
        found.append(
            Finding(
                "address", "fail", f"it does not request one, {end}; its console ends with\n{last}", advice
            )
        )
        return found
    if "ack" not in seen.dhcp:
        advice = "does it have a firewall, or a client that waits for other options?"
        found.append(Finding("address", "fail", f"it does not accept the offered address, {end}", advice))
        return found
    found.append(Finding("address", "ok", "by DHCP"))
    return [*found, *_ssh_findings(seen, last, end)]


def _panicked(console: str) -> bool:
    return "Kernel panic" in console or "Unable to mount root" in console or "(initramfs)" in console[-400:]


def _ssh_findings(seen: Observation, last: str, end: str) -> list[Finding]:
    if seen.output is None:
        kind, reason = classify_failure(seen.ssh.encode())
        if kind == "key":
            advice = "let root log in with a key: PermitRootLogin prohibit-password, usual AuthorizedKeysFile"
            return [Finding("ssh", "fail", f"its server does not accept root's key, {end}", advice)]
        advice = "an ssh server must start at boot, and generate its host keys if there are none"
        return [
            Finding("ssh", "fail", f"nothing answers on port 22, {end} ({reason}); console:\n{last}", advice)
        ]
    found = [Finding("ssh", "ok", f"root could log in after {seen.seconds:.0f} s (emulated)")]
    root = next((line.split()[0] for line in seen.output.splitlines() if " / " in line), "")
    mounts = [
        line.split()[0]
        for line in seen.output.splitlines()
        if len(line.split()) > 2 and line.split()[1] == "/"
    ]
    root = mounts[-1] if mounts else root
    if root.startswith("/dev/vd"):
        found.append(Finding("root", "ok", root))
    else:
        advice = (
            "its init must mount the disk (root= on the kernel command line) instead of staying in memory"
        )
        found.append(Finding("root", "fail", f"its root is {root or 'unknown'}, not the disk", advice))
    return found
