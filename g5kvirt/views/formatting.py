"""Durations, sizes and counts as text for people."""

from __future__ import annotations

import math

__all__ = ["count", "duration", "size"]


def duration(seconds: float) -> str:
    """Three digits or so, with a unit: ``0.42 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def size(value: float) -> str:
    """Bytes as ``512 MiB`` or ``23.4 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit != "GiB" else f"{value:.1f} GiB"
        value /= 1024
    return f"{value:.1f} TiB"


def count(number: int, one: str, many: str = "") -> str:
    """``1 VM``, ``4,552 VMs``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
