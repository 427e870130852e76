"""Parts of the REST API's documents, each of the type that it must have. Pure.

Each function raises ValueError with a clause that names the part and quotes what is there instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any

from g5kvirt.run.printable import short

__all__ = ["check_job", "items", "mapping", "names", "number", "seconds", "uid"]

Document = Mapping[str, Any]

_UID = re.compile(r"[a-z][a-z0-9-]{0,62}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_LATEST = 1e10  #: seconds: no time and no duration in a document is larger (the year 2286)


def wrong(what: str, value: object) -> ValueError:
    """The error for a part that has the wrong type or makes no sense."""
    return ValueError(f"{what} is missing" if value is None else f"{what} is {short(repr(value), 80)}")


def mapping(value: object, what: str) -> dict[str, Any]:
    """A part that is a document itself."""
    if not isinstance(value, dict):
        raise wrong(what, value)
    return value


def items(document: object) -> list[dict[str, Any]]:
    """The items of a collection."""
    found = mapping(document, "the collection").get("items")
    if not isinstance(found, list):
        raise wrong("items", found)
    return [mapping(item, "an item") for item in found]


def uid(document: Document) -> str:
    """Of a site or cluster."""
    found = document.get("uid")
    if not isinstance(found, str) or not _UID.fullmatch(found):
        raise wrong("uid", found)
    return found


def names(value: object, what: str) -> list[str]:
    """A list of texts; none for null."""
    found = _list(value, what)
    if not all(isinstance(name, str) for name in found):
        raise wrong(what, found)
    return found


def _list(value: object, what: str) -> list[Any]:
    found = [] if value is None else value
    if not isinstance(found, list):
        raise wrong(what, found)
    return found


def seconds(document: Document, key: str) -> float:
    """A time (seconds since the epoch) or a duration; 0 if it is null or missing, as OAR writes it too."""
    found = document.get(key)
    if found is None:
        return 0.0
    number = isinstance(found, int | float) and not isinstance(found, bool)
    if not number or not math.isfinite(found) or not 0 <= found < _LATEST:
        raise wrong(key, found)
    return float(found)


def number(value: object, what: str) -> int:
    """A whole number that is not negative, or the digits of one."""
    if isinstance(value, bool) or not isinstance(value, int | str) or not _NUMBER.fullmatch(str(value)):
        raise wrong(what, value)
    return int(value)


def check_job(document: object) -> dict[str, Any]:
    """A job's document, of which all parts that are read here have their type."""
    job = mapping(document, "the job")
    for key in ("submitted_at", "scheduled_at", "started_at", "stopped_at", "walltime"):
        seconds(job, key)
    for key in ("state", "queue", "name"):
        if not isinstance(job.get(key) or "", str):
            raise wrong(key, job[key])
    names(job.get("assigned_nodes"), "assigned_nodes")
    held = mapping(job.get("resources_by_type") or {}, "resources_by_type")
    names(held.get("cores"), "cores")
    for vlan in _list(held.get("vlans"), "vlans"):
        number(vlan, "vlans")
    for address in names(held.get("subnets"), "subnets"):
        IPv4Network(address)
    return job
