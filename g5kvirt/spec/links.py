"""Links between VMs: latency, rate and loss between two groups or sites.

::

    Link("client", "server", latency="10ms", rate="100mbit", loss=0.01)
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from g5kvirt.errors import SpecError
from g5kvirt.spec.fields import check_fields, checked_by, flag, keys, show, suggest, text, wrong

__all__ = ["MAX_LINKS", "Link", "check_ends", "read_links"]

MAX_LINKS = 256

_END = re.compile(r"[a-z][a-z0-9-]{0,62}")
_END_NEEDED = "the name of a group or a site such as 'client'"
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]+)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
#: Seconds, and bits per second: what tc takes.
_LATENCIES = (1e-6, 60.0)
_RATES = (8e3, 400e9)


def _latency(name: str, value: object) -> float:
    return _amount(name, value, _SECONDS, _LATENCIES, "a time such as '10ms', from '1us' to '60s'")


def _rate(name: str, value: object) -> float:
    return _amount(name, value, _BITS, _RATES, "a rate such as '100mbit', from '8kbit' to '400gbit'")


def _loss(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        wrong(name, "the part of packets that is lost, above 0 and at most 1 such as 0.01", value)
    return float(value)


def _amount(
    name: str, value: object, units: Mapping[str, float], limits: tuple[float, float], needed: str
) -> float:
    """A number of the base unit, or a text with a unit."""
    number = math.nan
    if isinstance(value, str) and (found := _AMOUNT.fullmatch(value)) and found[2] in units:
        number = float(found[1]) * units[found[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if not limits[0] <= number <= limits[1]:
        wrong(name, needed, value)
    return number


@dataclass(frozen=True)
class Link:
    """The latency, rate or loss of traffic between the VMs of two groups or sites, or within one.

    At least one of latency, rate and loss is required. A link applies to IPv4 traffic between VMs only, not
    to traffic between VMs and hosts or services, so it does not affect boots and deployments. If several
    links match two VMs, the first one in the list applies.
    """

    first: str = field(metadata=checked_by(text, _END, _END_NEEDED))  #: name of a group or a site
    #: name of a group or a site; the same as ``first`` for traffic within it
    second: str = field(metadata=checked_by(text, _END, _END_NEEDED))
    #: one-way delay, such as ``"10ms"``, or seconds; a ping takes twice as long
    latency: float | str | None = field(default=None, kw_only=True, metadata=checked_by(_latency))
    #: maximum rate at which each VM receives from all VMs at the other end together, such as ``"100mbit"``,
    #: or bits per second
    rate: float | str | None = field(default=None, kw_only=True, metadata=checked_by(_rate))
    #: fraction of packets lost, such as 0.01
    loss: float | None = field(default=None, kw_only=True, metadata=checked_by(_loss))
    #: if False, the link applies only to traffic from ``first`` to ``second``
    symmetric: bool = field(default=True, kw_only=True, metadata=checked_by(flag))

    def __post_init__(self) -> None:
        check_fields(self, f"the link {self.first}–{self.second}")
        if self.latency is None and self.rate is None and self.loss is None:
            raise SpecError(f"the link {self} changes nothing", advice="give it a latency, a rate or a loss")

    @property
    def needs_netem(self) -> bool:
        """Whether the link requires netem in the hosts' kernels."""
        return self.latency is not None or self.loss is not None

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """The directions that the link applies to, as pairs (from, to)."""
        there, back = (self.first, self.second), (self.second, self.first)
        return (there, back) if self.symmetric and there != back else (there,)

    def to_plain(self) -> dict[str, Any]:
        """The link as plain data, as in YAML and in the journal."""
        given = {"latency": self.latency, "rate": self.rate, "loss": self.loss}
        plain: dict[str, Any] = {"between": [self.first, self.second]}
        plain |= {key: value for key, value in given.items() if value is not None}
        return plain if self.symmetric else {**plain, "symmetric": False}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Link:
        """Create a link from plain data, the reverse of `to_plain`. Raises SpecError."""
        known = ("between", "latency", "rate", "loss", "symmetric")
        found = dict(keys(plain, known, "a link"))
        ends = found.pop("between", None)
        if not isinstance(ends, list | tuple) or len(ends) != 2:
            wrong("between of a link", "two groups or sites such as [client, server]", ends)
        return cls(*ends, **found)

    def __str__(self) -> str:
        return f"{self.first}–{self.second}"


def read_links(links: object) -> tuple[Link, ...]:
    """The links of a list. Raises SpecError."""
    if not isinstance(links, Sequence) or isinstance(links, str) or len(links) > MAX_LINKS:
        wrong("links", f"a list of at most {MAX_LINKS} links such as [Link('client', 'server', ...)]", links)
    found = []
    for item in links:
        if not isinstance(item, Link | Mapping):
            raise SpecError(
                f"each of links must be a Link, not {show(item)}",
                advice="write Link('client', 'server', latency='10ms'), in YAML"
                " {between: [client, server], latency: 10ms}",
            )
        found.append(item if isinstance(item, Link) else Link.from_plain(item))
    return tuple(found)


def check_ends(links: Sequence[Link], groups: Collection[str], sites: Collection[str]) -> None:
    """Raises SpecError if an end is neither a group nor a site, or is both."""
    for link in links:
        for end in (link.first, link.second):
            if end in groups and end in sites:
                raise SpecError(
                    f"the link {link} may mean the group or the site {end!r}", advice="rename the group"
                )
            if end not in groups and end not in sites:
                raise SpecError(
                    f"the link {link} ends at {end!r}, which is neither a group nor a site",
                    advice=suggest(end, [*groups, *sites]),
                )
