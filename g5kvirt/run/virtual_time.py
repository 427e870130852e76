"""The time of predictions, which no measured run can have."""

from __future__ import annotations

__all__ = ["EPOCH", "is_virtual"]

#: When a simulated run begins: at no time in particular, so that it can be repeated exactly.
EPOCH = 1_000_000_000.0


def is_virtual(t: float) -> bool:
    """Whether a time is one of a simulated run: they begin in 2001, and no other run did."""
    return EPOCH <= t < EPOCH + 2e8
