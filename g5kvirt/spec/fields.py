"""Checks of single values: each returns the plain value, or raises SpecError with one sentence.

``name`` is what the sentence calls the value, such as ``vm.memory``.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from datetime import date
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from g5kvirt.errors import SpecError

__all__ = [
    "LONGEST",
    "check_fields",
    "checked_by",
    "choice",
    "flag",
    "is_whole",
    "keys",
    "optional",
    "part",
    "seconds",
    "show",
    "store",
    "suggest",
    "text",
    "whole",
    "word",
    "wrong",
]

LONGEST = 366 * 86400  #: seconds: the longest duration that is accepted anywhere

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

_T = TypeVar("_T")
_P = ParamSpec("_P")


# ---------------------------------------------------------------------------------------- parts of sentences
def suggest(word: object, known: Iterable[str]) -> str:
    """The clause after a mistyped ``word``: the nearest known name, or all of them."""
    names = sorted(known)
    if isinstance(word, str) and (close := get_close_matches(str.lower(word)[:64], names, n=1, cutoff=0.6)):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"


class _Short(reprlib.Repr):
    """Plain values as Python writes them, dates as people do; of anything else, its type."""

    def repr_instance(self, x: object, level: int) -> str:
        if isinstance(x, date):
            return str(x)
        if x is None or isinstance(x, str | bytes | Real | complex):
            return super().repr_instance(x, level)
        return f"something of the type {type(x).__name__[:40]}"


def show(value: object) -> str:
    """A short text of any value, however large or strange."""
    try:
        shown = _Short().repr(value)
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything; the sentence must come out
        shown = "a very long number" if isinstance(value, int) else f"<{type(value).__name__}>"
    return shown.replace("\n", " ")


def wrong(name: str, needed: str, value: object) -> NoReturn:
    """Raise the usual sentence: ``vms must be a whole number of at least 1, not 'x'``."""
    raise SpecError(f"{name} must be {needed}, not {show(value)}")


# ---------------------------------------------------------------------------------------------------- checks
def is_whole(value: object) -> bool:
    """A whole number, and not a truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: object, minimum: int, maximum: int, unit: str = "") -> int:
    """A whole number (of ``unit``) from ``minimum`` to ``maximum``."""
    of = f" of {unit}" if unit else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        wrong(name, f"a whole number of {unit or f'at least {minimum}'}", value)
    number = int(value)
    if number < minimum:
        wrong(name, f"a whole number{of}, at least {minimum}", value)
    if number > maximum:
        wrong(name, f"a whole number{of}, at most {maximum}", value)
    return number


def flag(name: str, value: object) -> bool:
    """A truth value."""
    if not isinstance(value, bool):
        wrong(name, "true or false", value)
    return value


def seconds(name: str, value: object, minimum: float) -> float:
    """A number of seconds from ``minimum`` to `LONGEST`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        wrong(name, "a number of seconds", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not minimum <= number <= LONGEST:  # false for NaN too
        wrong(name, f"a number of seconds from {minimum:g} to {LONGEST}", value)
    return int(number) if number.is_integer() else number


def text(name: str, value: object, pattern: str | re.Pattern[str], needed: str, longest: int = 1000) -> str:
    """A text that matches ``pattern`` as a whole; ``needed`` describes what it must be."""
    if not isinstance(value, str) or len(value) > longest or not re.fullmatch(pattern, value):
        wrong(name, needed, value)
    return str.__str__(value)  # of a subclass, the plain text


def word(name: str, value: object) -> str:
    """A name without spaces or characters that mean something to a shell."""
    needed = "a name of letters, digits and . _ + - that starts with a letter or digit"
    return text(name, value, _WORD, needed, 200)


def choice(name: str, value: object, known: Iterable[str]) -> str:
    """One of ``known``."""
    names = tuple(known)
    if not isinstance(value, str) or value not in names:
        wrong(name, " or ".join(map(repr, names)), value)
    return value


def optional(
    check: Callable[Concatenate[str, object, _P], _T],
    name: str,
    value: object,
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T | None:
    """None, or what ``check`` returns for the value."""
    return None if value is None else check(name, value, *args, **kwargs)


# ---------------------------------------------------------------------------------- mappings and dataclasses
def keys(document: object, known: Iterable[str], where: str) -> Mapping[str, Any]:
    """A mapping that has no other keys than ``known``."""
    if not isinstance(document, Mapping):
        wrong(where, "a mapping of keys to values", document)
    names = list(known)
    for key in document:
        if not isinstance(key, str) or key not in names:
            raise SpecError(f"unknown key {show(key)} in {where}", advice=suggest(key, names))
    return document


def part(kind: type[_T], name: str, value: object) -> _T:
    """A dataclass from its mapping; itself if it is one already, with all defaults for None."""
    if isinstance(value, kind):
        return value
    if value is None:
        return kind()
    return kind(**keys(value, [f.name for f in fields(kind)], name))  # type: ignore[arg-type]


def checked_by(check: Callable[..., object], *limits: object) -> Mapping[str, object]:
    """A field's ``metadata`` for `check_fields`: ``check(name, value, *limits)`` gives what is stored."""
    return {"check": lambda name, value: check(name, value, *limits)}


def check_fields(owner: Any, name: str) -> None:
    """Check the fields of a frozen dataclass that is being made; one whose default is None may be None."""
    for f in fields(owner):
        value = getattr(owner, f.name)
        if value is not None or f.default is not None:
            store(owner, **{f.name: f.metadata["check"](f"{name}.{f.name}", value)})


def store(owner: object, **values: object) -> None:
    """Set fields of a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(owner, name, value)
