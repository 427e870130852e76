"""Network interfaces by ip(8): names, addresses, taps."""

from __future__ import annotations

import json

from .processes import run, run_checked
from .records import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def ip_json(*commands: str) -> list[Any]:
    """What one ip(8) answers to several commands: a list for each."""
    lines = run_checked(["ip", "-j", "-batch", "-"], "\n".join(commands) + "\n").splitlines()
    answers = [json.loads(line) for line in lines if line.startswith("[")]  # it may warn, too
    if len(answers) != len(commands):
        raise OSError(f"ip gave {len(answers)} answers to {len(commands)} commands: {'; '.join(commands)}")
    return answers


def interface_names() -> set[str]:
    """Names of the network interfaces of this network namespace (no need for /sys)."""
    return {line.partition(":")[0].strip() for line in read_text("/proc/self/net/dev").splitlines()[2:]}


def create_taps(taps: list[str], bridge: str) -> None:
    """All taps of a host in one ``ip -batch``; one that fails does not stop the others (QEMU will say so)."""
    here = interface_names()
    missing = [tap for tap in taps if tap not in here]
    lines = [f"tuntap add dev {tap} mode tap" for tap in missing]
    lines += [f"link set {tap} addrgenmode none master {bridge} up" for tap in missing]
    if missing:
        run(["ip", "-force", "-batch", "-"], "\n".join(lines) + "\n")
