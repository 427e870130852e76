"""The plan of a broadcast: across each physical link once, down a chain of hosts. Pure.

`hostagent.onhost.relay` is what runs on the hosts; see there how a lost host is skipped. Here is the order of
the hosts and whom each takes the image from; `jobs` makes of it what each relay reads, `relays` starts them
through the host agent, `reports` reads what they report. Two alternatives, to be compared with: ``http``,
where every host takes the image from the head, and ``tree``, where TakTuk carries it to all of them.

::

    plan = chain(hosts, Payload(sha256, size), head_url="http://10.1.0.2/images/mini.tar.gz", open_at=vm_side)
    failed = relays.start(fanout, plan)
    results = relays.collect(fanout, plan, timeout=900, failed=failed, on_progress=show)
    …
    relays.stop(fanout, plan)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from g5kvirt.errors import SpecError
from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost.relay.http import URL
from g5kvirt.hostagent.onhost.relay.limits import DEFAULTS
from g5kvirt.inventory import Host

__all__ = [
    "KINDS",
    "PORT",
    "REACH",
    "ChainPlan",
    "Kind",
    "Payload",
    "Stop",
    "chain",
    "http",
    "limits_for",
    "natural",
    "order",
]

Kind = Literal["chain", "tree", "http"]
KINDS: tuple[Kind, ...] = ("chain", "tree", "http")

#: Where hosts listen for their successors and their VMs.
PORT = 25390
#: Seconds of a core to start a relay, with the other end of its call and what else is started meanwhile.
START_SECONDS = 0.2
#: A host knows so many predecessors: if it knew all, what is sent would grow with the square of the hosts.
REACH = 16
#: On the hosts' RAM disk: goes when the host agent's teardown unmounts it.
STORE = f"{protocol.HOME}/ram/images"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Payload:
    """What is broadcast: its SHA-256 (64 hexadecimal digits) and its size in bytes."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256) or self.size < 1:
            raise SpecError(
                f"an image needs a SHA-256 of 64 hexadecimal digits and at least one byte, not"
                f" {self.sha256!r} and {self.size}"
            )


@dataclass(frozen=True)
class Stop:
    """A host of the chain: where its relay listens, and from whom it takes the image, the nearest first.

    ``listen`` are (address, port) for successors, who need the token; ``open`` for VMs. ``before``: (host's
    name, URL); the last one is the head, and the site's own head, if it has one, comes behind its own hosts.
    """

    host: Host
    listen: tuple[tuple[str, int], ...]
    open: tuple[tuple[str, int], ...]
    before: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ChainPlan:
    """A whole broadcast. ``token``: the secret of this one, known to its hosts alone."""

    kind: Kind
    image: Payload
    stops: tuple[Stop, ...]
    token: str = field(repr=False)
    store: str = STORE
    limits: Mapping[str, float] = field(default_factory=dict)  #: see relay.limits
    #: the relay's name among a host's services: the same for all broadcasts to one port, so that a later one
    #: replaces one that was left behind, and its port is free
    service: str = "relay"

    @property
    def state(self) -> str:
        """Where a relay writes its last report."""
        return f"{self.store}/{self.image.sha256}.json"

    def url(self, host: Host) -> str:
        """Where the VMs of a host find the image. Raises KeyError if it is not part of the broadcast or has
        no side for VMs."""
        for stop in self.stops:
            if stop.host == host and stop.open:
                address, port = stop.open[0]
                return f"http://{_bracketed(address)}:{port}/{self.image.sha256}"
        raise KeyError(host.name)


def limits_for(hosts: int, real_cores: int | None) -> dict[str, float]:
    """The limits of as many relays that are not the usual ones (see `relay.limits`).

    Where all hosts share the ``real_cores`` of one machine, relays start one after another and answer late:
    with the limits for hosts that have their own processors, two thirds of 355 gave up before their
    predecessor had started.
    """
    if real_cores is None:
        return {}
    started = hosts * START_SECONDS / real_cores
    return {
        "grace": max(DEFAULTS["grace"], started),
        "patience": max(DEFAULTS["patience"], 3 * started),
        "answer": max(DEFAULTS["answer"], started / 20),
    }


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts ``graphene-2`` before ``graphene-10``."""
    return tuple((0, int(w)) if w.isdigit() else (1, w) for w in re.findall(r"\d+|\D+", name))


def order(hosts: Iterable[Host], first_site: str = "") -> tuple[Host, ...]:
    """Hosts along the cables: by site (the head's own first), then by switch, then by number.

    So a link between sites or switches is crossed once each way, for any number of hosts behind it.
    """
    return tuple(
        sorted(set(hosts), key=lambda h: (h.site != first_site, h.site, natural(h.switch), natural(h.name)))
    )


def chain(
    hosts: Iterable[Host],
    image: Payload,
    *,
    head_url: str,
    head_name: str = "head",
    head_site: str = "",
    heads: Mapping[str, tuple[str, str]] | None = None,
    open_at: Mapping[str, str] | None = None,
    port: int = PORT,
    store: str = STORE,
    limits: Mapping[str, float] | None = None,
    real_cores: int | None = None,
    service: str = "relay",
) -> ChainPlan:
    """Plan a chain. ``head_url``: the complete image on any HTTP server that supports ranges (nginx on
    a service machine, for example). ``heads``: site → (name, URL) of one there, where a site has its
    own: the first of its hosts takes the image from it, so that nothing comes from another site; if it is
    gone, from the site before. ``open_at``: host's name → its address in the VM network. ``real_cores``:
    those that all hosts share, if they do. ``service``: the relays' name, with a ``port`` of its own.
    Nothing is touched.

    Raises SpecError for a head URL that relays cannot use, an unknown limit, or no host.
    """
    heads = {**(heads or {}), head_site: (head_name, head_url)}
    for _, url in heads.values():
        _check(url, limits or {})
    line = order(hosts, head_site)
    if not line:
        raise SpecError("a broadcast needs at least one host")
    path = f"/{image.sha256}"
    urls = [(h.name, f"http://{_bracketed(h.address or h.name)}:{port}{path}") for h in line]
    open_at = open_at or {}
    stops = tuple(
        Stop(
            host,
            ((host.address or host.name, port),),
            ((open_at[host.name], port),) if host.name in open_at else (),
            _before(line, urls, n, heads, head_site),
        )
        for n, host in enumerate(line)
    )
    limits = {**limits_for(len(line), real_cores), **(limits or {})}
    return ChainPlan("chain", image, stops, secrets.token_hex(16), store, limits, service)


def _before(
    line: Sequence[Host],
    urls: Sequence[tuple[str, str]],
    n: int,
    heads: Mapping[str, tuple[str, str]],
    head_site: str,
) -> tuple[tuple[str, str], ...]:
    """Whom host number ``n`` takes the image from: back along its site, the site's head, then other sites.

    Of each at most `REACH`: behind more lost hosts in a row, one host has the image from a head instead.
    """
    site = line[n].site
    first = next(i for i in range(n + 1) if line[i].site == site)
    own = (heads[site],) if site in heads and site != head_site else ()
    near, far = urls[max(first, n - REACH) : n], urls[max(0, first - REACH) : first]
    return (*reversed(near), *own, *reversed(far), heads[head_site])


def http(plan: ChainPlan) -> ChainPlan:
    """The same broadcast without a chain: every host takes the image from its head."""
    hosts = {stop.host.name for stop in plan.stops}
    stops = tuple(
        replace(stop, before=tuple(place for place in stop.before if place[0] not in hosts))
        for stop in plan.stops
    )
    return replace(plan, kind="http", stops=stops)


def _check(head_url: str, limits: Mapping[str, float]) -> None:
    if not URL.fullmatch(head_url):
        raise SpecError(f"{head_url!r} is not the address of an image", advice="use http://HOST:PORT/PATH")
    unknown = sorted(set(limits) - set(DEFAULTS))
    if unknown:
        raise SpecError(
            f"{unknown[0]!r} is not a limit of a relay", advice=f"use one of {', '.join(DEFAULTS)}"
        )
    bad = [name for name, value in limits.items() if not value > 0]
    if bad:
        raise SpecError(f"{bad[0]} must be more than 0 seconds, not {limits[bad[0]]}")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
