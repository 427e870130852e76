"""A specification as a user would write it, without default values."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from g5kvirt.spec.clock import format_walltime

__all__ = ["short_repr"]

#: Shown first, or derived from these.
_SHOWN_FIRST = {"sites", "vms", "hosts", "site_count"}


def short_repr(spec: Any, default: Any) -> str:
    """``Spec(sites=…, vms=…)`` with the fields that differ from those of the specification ``default``."""
    if dict(spec.sites):
        shown: dict[str, Any] = {"sites": dict(spec.sites), "vms": spec.vms}
    else:  # not chosen yet
        shown = {"sites": spec.site_count, "vms": spec.vms, "hosts": spec.hosts}
    shown |= {
        field.name: getattr(spec, field.name)
        for field in fields(spec)
        if field.name not in _SHOWN_FIRST and getattr(spec, field.name) != getattr(default, field.name)
    }
    if "walltime" in shown:
        shown["walltime"] = format_walltime(spec.walltime)
    words = (f"{name}={_part(value)}" for name, value in shown.items() if value is not None)
    return f"{type(spec).__name__}({', '.join(words)})"


def _part(value: Any) -> str:
    """A part of a specification as the dictionary of what differs from its defaults; any other value."""
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
    return repr(changed)
