"""How busy a host is: counters of its processors, its link, its VMs and services, all since it started.

Nothing is started for it and nothing is kept: two queries give the difference. One look reads a line for
each process on the host.
"""

from __future__ import annotations

import os
import re
import time

from .qemu import known_vms, vm_paths
from .records import load_record, read_text
from .services import known_services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results

#: Columns of a line ``cpu`` of /proc/stat in which a processor works (proc_stat(5)): user, nice, system, irq,
#: softirq, steal. Guests are part of user.
_BUSY = (0, 1, 2, 5, 6, 7)


def load(request: Record, home: str) -> Results:
    """Cores, busy seconds of them, memory in use, bytes over the link, CPU seconds of VMs and services."""
    stat, tick = read_text("/proc/stat"), os.sysconf("SC_CLK_TCK")
    ticks = [int(word) for word in stat.split("\n", 1)[0].split()[1:]]
    memory = {
        line.split(":")[0]: int(line.split()[1]) << 10 for line in read_text("/proc/meminfo").splitlines()
    }
    received, sent = link_bytes(home)
    now, (parents, seconds) = time.time(), processes(tick)
    vms = {int(load_record(vm_paths(home, name)["json"]).get("pid", 0)) for name in known_vms(home)}
    services = {
        name: {int(load_record(f"{home}/services/{name}/state.json").get("pid", 0))}
        for name in known_services(home)
    }
    detail = {
        "t": now,
        "machine": read_text("/proc/sys/kernel/random/boot_id", "").strip()[:8],
        "cores": len(re.findall(r"(?m)^cpu\d", stat)),
        "busy": sum(ticks[column] for column in _BUSY) / tick,
        "memory": memory["MemTotal"] - memory["MemAvailable"],
        "received": received,
        "sent": sent,
        "vms": round(cpu_of(vms, parents, seconds), 2),
        "services": {name: round(cpu_of(pids, parents, seconds), 2) for name, pids in services.items()},
    }
    yield os.uname().nodename, detail


def link_bytes(home: str) -> tuple[int, int]:
    """Bytes that the host's link has received and sent: the bridge's, or that of the default route."""
    nic = load_record(f"{home}/bridge.json").get("nic") or next(
        (
            words[0]
            for words in map(str.split, read_text("/proc/self/net/route", "").splitlines()[1:])
            if words[1] == "00000000"
        ),
        "",
    )
    for line in read_text("/proc/self/net/dev").splitlines()[2:]:
        name, _, rest = line.partition(":")
        if name.strip() == nic:
            words = rest.split()
            return int(words[0]), int(words[8])
    return 0, 0


def processes(tick: int) -> tuple[dict[int, int], dict[int, float]]:
    """Of every process its parent, and its CPU seconds with those of children that it has waited for."""
    parents, seconds = {}, {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = read_text(f"/proc/{name}/stat").rsplit(")", 1)[1].split()
        except (OSError, IndexError):  # it has just ended
            continue
        parents[int(name)] = int(fields[1])
        seconds[int(name)] = sum(map(int, fields[11:15])) / tick
    return parents, seconds


def cpu_of(roots: set[int], parents: dict[int, int], seconds: dict[int, float]) -> float:
    """CPU seconds of processes and all that they have started."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found, left = set(), [pid for pid in roots if pid]
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return sum(seconds.get(pid, 0.0) for pid in found)
