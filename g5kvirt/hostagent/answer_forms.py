"""What the answers of a host agent look like: a host may be in somebody else's hands.

A good answer whose detail has another form is none (`g5kvirt.hostagent.protocol.parse`), so that its host has
failed, with that reason, and nobody who reads answers has to expect everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from ipaddress import ip_interface
from typing import Any

__all__ = ["check_detail"]

Check = Callable[[object], bool]

#: Seconds since the epoch, bytes, ticks: all are below.
_LARGEST = 1e18
#: Characters of a word such as a name, a version, a reason.
_LONGEST_WORD = 4096


def _number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) < _LARGEST  # type: ignore[arg-type]


def _count(value: object) -> bool:
    return isinstance(value, int) and _number(value) and value >= 0


def _above_zero(value: object) -> bool:
    return _count(value) and value != 0


def _truth(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _word(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_WORD


def _interface(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(ip_interface(value))
    except ValueError:
        return False


def _none_or(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _words_to(check: Check) -> Check:
    return lambda value: (
        isinstance(value, Mapping) and all(_word(key) and check(one) for key, one in value.items())
    )


#: Operation → what has to be in the detail of a good answer.
_NEEDED: Mapping[str, Mapping[str, Check]] = {
    "facts": {
        "cores": _above_zero,
        "memory": _above_zero,
        "available": _count,
        "kvm": _truth,
        "kvm_reason": _word,
        "kvm_known": _words_to(_word),
        "qemu": _none_or(_word),
        "missing": _each(_word),
        "kernel": _word,
        "began": _number,
        "clock": _number,
    },
    "start": {"power_on": _number},
    "transfers": {"have": _count, "taken": _words_to(_count), "t": _number},
    "ssh": {
        "code": _none_or(_number),
        "out": _text,
        "err": _text,
        "begun": _none_or(_number),
        "seconds": _number,
    },
    "load": {
        "t": _number,
        "machine": _word,
        "cores": _count,
        **dict.fromkeys(("busy", "memory", "received", "sent", "vms"), _number),
        "services": _words_to(_number),
    },
}
#: What may be there, whatever the operation.
_POSSIBLE: Mapping[str, Check] = {
    "addresses": _each(_interface),
    "bytes": _count,
    "err64": _text,
    "installed": _each(_word),
    "keys": _words_to(_word),
    "log": _text,
    "out64": _text,
    "state": _word,
    "stopped": _word,
    "text": _text,
    "unchanged": _truth,
}


def check_detail(op: str, detail: Mapping[str, Any]) -> None:
    """Raises ValueError if a good answer of ``op`` cannot have this detail, KeyError if a part is missing."""
    for key, check in _NEEDED.get(op, {}).items():
        if not check(detail[key]):
            raise ValueError(f"{key} has another form")
    for key, check in _POSSIBLE.items():
        if key in detail and not check(detail[key]):
            raise ValueError(f"{key} has another form")
