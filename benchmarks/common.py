"""What every benchmark ends with: one line of JSON a figure, and the machine it was measured on."""

from __future__ import annotations

import json
import os
import platform

__all__ = ["machine", "say"]


def machine() -> str:
    """The machine in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, {platform.machine()}"


def say(name: str, value: float, unit: str, bound: float) -> bool:
    """Print the line of one figure; True if it keeps its bound."""
    figure = {"name": name, "value": round(value, 3), "unit": unit, "bound": round(bound, 3)}
    print(json.dumps(figure | {"ratio": round(value / bound, 3), "machine": machine()}, ensure_ascii=False))
    return value <= bound
