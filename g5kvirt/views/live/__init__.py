"""The live view of a run in a notebook: while a step runs its wall moves, then a picture of it stays."""

from __future__ import annotations

from g5kvirt.views.live.notebook import View, show, watch

__all__ = ["View", "show", "watch"]
