"""The live view of a run in a notebook: a widget while a phase runs, then a static picture of it."""

from __future__ import annotations

from g5kvirt.views.live.notebook import View, watch

__all__ = ["View", "watch"]
