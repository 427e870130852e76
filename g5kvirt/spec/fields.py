"""Checks of a specification's fields: each stores the plain value, or raises SpecError with one sentence."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import date
from difflib import get_close_matches
from numbers import Integral, Real
from typing import NoReturn, TypeVar

from g5kvirt.errors import SpecError

__all__ = [
    "LONGEST",
    "assign",
    "choice",
    "count",
    "is_whole",
    "keys",
    "near",
    "part",
    "seconds",
    "show",
    "whole",
    "word",
    "wrong",
]

LONGEST = 366 * 86400  #: seconds that anything may be asked to last

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def near(word: str, known: Iterable[str]) -> str:
    """A clause that helps after a mistyped ``word``: the nearest known name, or all of them."""
    names = sorted(known)
    close = get_close_matches(word.lower()[:64], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"


_T = TypeVar("_T")


def assign(owner: object, name: str, value: object) -> None:
    object.__setattr__(owner, name, value)


class _Short(reprlib.Repr):
    """Plain values as Python writes them, dates as people do; of anything else, what it is."""

    def repr_instance(self, x: object, level: int) -> str:
        if isinstance(x, date):
            return str(x)
        if x is None or isinstance(x, str | bytes | Real | complex):
            return super().repr_instance(x, level)
        return f"something of the type {type(x).__name__[:40]}"


def show(value: object) -> str:
    """A short text of any value, however large or strange."""
    try:
        text = _Short().repr(value)
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything; the sentence must come out
        text = "a very long number" if isinstance(value, int) else f"<{type(value).__name__}>"
    return text.replace("\n", " ")


def wrong(name: str, needed: str, value: object) -> NoReturn:
    raise SpecError(f"{name} must be {needed}, not {show(value)}")


def count(owner: object, name: str, *, minimum: int, maximum: int, unit: str = "") -> None:
    """Check the whole number at ``owner``'s field and store it as a plain int."""
    key = name.rpartition(".")[2]
    assign(owner, key, whole(name, getattr(owner, key), minimum, maximum, unit))


def is_whole(value: object) -> bool:
    """A whole number, and not a truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: object, minimum: int, maximum: int, unit: str = "") -> int:
    of = f" of {unit}" if unit else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        wrong(name, f"a whole number{of} of at least {minimum}" if not unit else f"a whole number{of}", value)
    number = int(value)
    if number < minimum:
        wrong(name, f"a whole number{of}, at least {minimum}", value)
    if number > maximum:
        wrong(name, f"a whole number{of}, at most {maximum}", value)
    return number


def seconds(owner: object, name: str, *, minimum: float) -> None:
    key = name.rpartition(".")[2]
    value = getattr(owner, key)
    if isinstance(value, bool) or not isinstance(value, Real):
        wrong(name, "a number of seconds", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not minimum <= number <= LONGEST:  # false for NaN too
        wrong(name, f"a number of seconds from {minimum:g} to {LONGEST}", value)
    assign(owner, key, int(number) if number.is_integer() else number)


def word(owner: object, name: str) -> None:
    value = getattr(owner, name.rpartition(".")[2])
    if not isinstance(value, str) or len(value) > 200 or not _WORD.fullmatch(value):
        wrong(name, "a name of letters, digits and . _ + - that starts with a letter or digit", value)


def choice(owner: object, name: str, known: tuple[str, ...]) -> None:
    value = getattr(owner, name)
    if not isinstance(value, str) or value not in known:
        wrong(name, " or ".join(repr(k) for k in known), value)


def keys(document: object, known: Iterable[str], where: str) -> None:
    if not isinstance(document, Mapping):
        wrong(where, "a mapping of keys to values", document)
    names = list(known)
    for key in document:
        if not isinstance(key, str) or key not in names:
            raise SpecError(f"unknown key {show(key)} in {where}: {near(str(key)[:64], names)}")


def part(part: type[_T], name: str, value: object) -> _T:
    if isinstance(value, part):
        return value
    if value is None:
        return part()
    keys(value, [f.name for f in fields(part)], name)  # type: ignore[arg-type]
    assert isinstance(value, Mapping)
    return part(**value)
