"""The events of links between VMs: made here, and read here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from g5kvirt.run.events import Event
from g5kvirt.spec.links import Link

__all__ = [
    "LINKS",
    "LINK_TEST",
    "is_link_measured",
    "is_links_set",
    "link_measured",
    "link_measurement_of",
    "links_of",
    "links_set",
]

LINKS = "links"  #: the step of `links_set`
LINK_TEST = "link-test"  #: the step of `link_measured`


def links_set(run: str, links: Iterable[Link], t: float | None = None) -> Event:
    """These links between VMs are in force from now on, in the place of others."""
    return Event(
        "launch",
        LINKS,
        "run",
        run,
        "ok",
        time.time() if t is None else t,
        1,
        {"links": [link.to_plain() for link in links]},
    )


def is_links_set(event: Event) -> bool:
    """True for `links_set`."""
    return (event.phase, event.step, event.status) == ("launch", LINKS, "ok") and "links" in event.detail


def links_of(event: Event) -> tuple[Link, ...]:
    """The links of `links_set`."""
    return tuple(Link.from_plain(plain) for plain in event.detail["links"])


def link_measured(
    run: str,
    link: Link,
    ends: Sequence[str],
    vms: Sequence[str],
    found: Mapping[str, Any],
    t: float | None = None,
) -> Event:
    """One direction of a link was measured: ``ends`` and ``vms`` from and to, ``found`` what was seen."""
    detail = {"link": link.to_plain(), "ends": list(ends), "vms": list(vms), "found": dict(found)}
    return Event("launch", LINK_TEST, "run", run, "ok", time.time() if t is None else t, 1, detail)


def is_link_measured(event: Event) -> bool:
    """True for `link_measured`."""
    return (event.phase, event.step) == ("launch", LINK_TEST)


def link_measurement_of(event: Event) -> tuple[Link, Sequence[str], Sequence[str], Mapping[str, Any]]:
    """(link, from and to, their VMs, what was found) of `link_measured`."""
    detail = event.detail
    return Link.from_plain(detail["link"]), detail["ends"], detail["vms"], detail["found"]
