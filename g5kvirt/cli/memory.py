"""How much memory this machine has left."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory"]


def available_memory() -> int:
    """Bytes that can still be allocated: MemAvailable, or less if a control group limits it."""
    meminfo = Path("/proc/meminfo").read_text()
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in meminfo.splitlines()}
    available = fields["MemAvailable"]
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else max(0, min(available, int(limit) - used))
