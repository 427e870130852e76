"""The kinds of guests. A new one is a module beside `qemu` and a line here; what it needs on the hosts is an
operation of the host agent (`g5kvirt.hostagent.onhost`)."""

from __future__ import annotations

from collections.abc import Mapping

from g5kvirt.guests.base import Guest
from g5kvirt.guests.light import Light
from g5kvirt.guests.qemu import Qemu

__all__ = ["GUESTS"]

GUESTS: Mapping[str, Guest] = {"vm": Qemu(), "light": Light()}
