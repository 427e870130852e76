"""Where the hosts of an experiment are: sites by name, or only how many hosts and sites are to be chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from g5kvirt.errors import SpecError
from g5kvirt.spec import fields as check
from g5kvirt.spec.fields import suggest

__all__ = ["MAX_HOSTS", "Sites", "UnchosenSites", "read_clusters", "read_sites"]

MAX_HOSTS = 1_000_000

_NAME = re.compile(r"[a-z][a-z0-9-]*")


class UnchosenSites(dict[str, int]):
    """No sites yet, but how many hosts on how many sites are to be chosen.

    The numbers are kept here because `dataclasses.replace` hands on ``sites`` and nothing else about hosts.
    """

    def __init__(
        self, sites: Iterable[tuple[str, int]] = (), *, hosts: int = 0, count: int | None = None
    ) -> None:
        super().__init__(sites)
        self.hosts = hosts
        self.count = count


class Sites(NamedTuple):
    """What `read_sites` makes of ``sites`` and ``hosts``."""

    sites: Mapping[str, int]  #: site → hosts; empty if they are to be chosen
    hosts: int  #: over all sites
    site_count: int | None  #: how many sites to choose; None: as few as will do, or they are named


def read_sites(sites: object, hosts: object) -> Sites:
    """Sites by name (``hosts`` may repeat their sum), or a number of them or none with a number of hosts."""
    if isinstance(sites, UnchosenSites) and hosts is None:
        hosts, sites = sites.hosts, sites.count
    if sites is None or check.is_whole(sites):
        if hosts is None:
            raise SpecError(
                "the specification says neither which sites nor how many hosts to use",
                advice="give sites such as {'nancy': 2},"
                " or hosts such as 12, with or without a number of sites",
            )
        total = check.whole("hosts", hosts, 1, MAX_HOSTS)
        count = check.optional(check.whole, "sites", sites, 1, total)
        return Sites(UnchosenSites(hosts=total, count=count), total, count)
    named = _named(sites)
    total = sum(named.values())
    if check.optional(check.whole, "hosts", hosts, 1, MAX_HOSTS) not in (None, total):
        raise SpecError(
            f"hosts is {check.show(hosts)}, but sites add up to {total}",
            advice="leave out hosts, or give a number of sites instead of their names",
        )
    return Sites(named, total, None)


def _named(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        check.wrong("sites", "a mapping of site names to numbers of hosts such as {'nancy': 2}", value)
    if not value:
        raise SpecError(
            "sites is empty", advice="name at least one site and its number of hosts, such as {'nancy': 2}"
        )
    return {_site(site): check.whole(f"sites.{site}", number, 1, MAX_HOSTS) for site, number in value.items()}


def _site(name: object) -> str:
    needed = "a word of lower-case letters, digits and hyphens such as 'nancy'"
    return check.text("a site's name", name, _NAME, needed, 63)


def read_clusters(value: object, sites: Mapping[str, int]) -> dict[str, str] | None:
    """Site → cluster, only for ``sites`` where these are known; None if there is none."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        check.wrong(
            "clusters", "a mapping of site names to cluster names such as {'nancy': 'graphene'}", value
        )
    for site in value:
        if not isinstance(site, str) or (sites and site not in sites):
            raise SpecError(
                f"clusters names a site that is not in sites, {check.show(site)}",
                advice=suggest(site, sites),
            )
    needed = "the name of a cluster such as 'graphene'"
    return {
        _site(site): check.text(f"clusters.{site}", name, _NAME, needed, 63) for site, name in value.items()
    } or None
