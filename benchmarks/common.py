"""The output of every benchmark: one line of JSON per figure, with the machine it was measured on."""

from __future__ import annotations

import json
import os
import platform

__all__ = ["machine", "report"]

os.environ.setdefault("G5KVIRT_VIEW", "none")  # a display takes processor time from what is measured


def machine() -> str:
    """A short description of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, {platform.machine()}"


def report(name: str, value: float, unit: str, bound: float) -> bool:
    """Print one figure as JSON; True if it is within its bound."""
    figure = {"name": name, "value": round(value, 3), "unit": unit, "bound": round(bound, 3)}
    print(json.dumps(figure | {"ratio": round(value / bound, 3), "machine": machine()}, ensure_ascii=False))
    return value <= bound
