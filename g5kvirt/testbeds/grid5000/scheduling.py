"""When jobs are to start: at once, at a date, or in the first slot that all sites and the charter allow."""

from __future__ import annotations

import getpass
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from g5kvirt.errors import TestbedError
from g5kvirt.planning.availability import Agenda, Need, first_slot, lacking, moments
from g5kvirt.spec.clock import check_start, format_walltime
from g5kvirt.testbeds.base import Request
from g5kvirt.testbeds.grid5000 import charter
from g5kvirt.testbeds.grid5000.calendar import HORIZON
from g5kvirt.testbeds.grid5000.frontends import each, mask, short

if TYPE_CHECKING:
    from g5kvirt.testbeds.grid5000.driver import Grid5000

__all__ = ["first_start", "judge", "start_of"]

_AT_ONCE = 60.0  #: seconds within which a slot is asked for without a date, which would be past too soon
_DAY = 86400.0


def start_of(bed: Grid5000, request: Request) -> float | None:
    """The start of an advance reservation; None: as soon as it goes. Raises SpecError, TestbedError."""
    now = time.time()
    start: float | None = None
    if request.start == "first":
        agenda, needs = _asked(bed, request)
        start = _first(bed, request, agenda, needs)
        if start is None:
            raise TestbedError(_no_slot(agenda, needs, request.walltime))
        return None if start < now + _AT_ONCE else math.ceil(start)
    if not isinstance(request.start, str):
        start = request.start
        check_start(start)
    if bed.settings.charter:
        at = now if start is None else start
        if why := bed.judge(request, at, at + request.walltime)(at):
            raise TestbedError(why)
    return start


def first_start(bed: Grid5000, request: Request) -> float | None:
    """The first slot of the sites' calendars that holds the request and keeps to the charter."""
    return _first(bed, request, *_asked(bed, request))


def _asked(bed: Grid5000, request: Request) -> tuple[Agenda, dict[str, Need]]:
    sites = list(request.machines)
    agenda = bed.calendar(sites, request.queue)
    able = bed.select(request.properties, sites) if request.properties else {}
    hosts = bed.hosts() if request.clusters else {}
    needs = {}
    for site, machines in request.machines.items():
        among: set[str] | None = None
        if site in request.clusters:
            among = {h.name for h in hosts[site] if h.cluster == request.clusters[site]}
        if site in able:
            among = set(able[site]) if among is None else among & set(able[site])
        needs[site] = Need(machines, among, request.subnetworks.get(site), site == request.vlan_site)
    return agenda, needs


def _first(bed: Grid5000, request: Request, agenda: Agenda, needs: Mapping[str, Need]) -> float | None:
    if not bed.settings.charter:
        return first_slot(agenda, needs, request.walltime)
    why = bed.judge(request, agenda.start, agenda.end + request.walltime)
    edges = charter.day_edges(agenda.start, agenda.end, charter.french_working_days())
    return first_slot(agenda, needs, request.walltime, allowed=lambda t: not why(t), also=edges)


def _no_slot(agenda: Agenda, needs: Mapping[str, Need], walltime: float) -> str:
    last = moments(agenda)[-1]
    words = {site: lacking(agenda.sites[site], need, last, walltime) for site, need in needs.items()}
    missing = "; ".join(f"{site}: {word}" for site, word in words.items() if word)
    return (
        f"there is no slot of {format_walltime(int(walltime))} within {HORIZON / _DAY:.0f} days in which all"
        f" sites have what is asked{f' ({missing})' if missing else ''}: ask for fewer machines, a shorter"
        " walltime or other sites"
    )


def judge(bed: Grid5000, request: Request, since: float, until: float) -> Callable[[float], str]:
    """Why jobs that start at a time between the two would break the charter; empty if they do not.

    The user's other jobs are asked for once. Raises TestbedError if a site does not say them.
    """
    from execo_g5k.config import g5k_configuration

    user = bed.settings.user or g5k_configuration.get("api_username") or getpass.getuser()
    working = charter.french_working_days()
    everything = bed.hosts()

    def used_at(site: str) -> charter.Used:
        hosts = {h.name: h for h in everything[site]}
        # What is used on the first and on the last day counts from its morning to its evening.
        return charter.used_by(charter.spent(site, user, since - _DAY, until + _DAY, hosts), working)

    try:
        used = dict(zip(request.machines, each(used_at, list(request.machines)), strict=True))
    except Exception as error:
        raise TestbedError(
            f"nobody says what is used up of the usage charter ({mask(short(error))}): is the API up?"
        ) from error

    submitted = time.time()

    def why(t: float) -> str:
        if words := charter.crossing(t, request.walltime, submitted, working):
            return words
        for site, machines in request.machines.items():
            asked, cores = charter.at_worst(everything[site], machines, request.clusters.get(site))
            if words := charter.breach(site, asked, cores, t, request.walltime, used[site], working):
                return words
        return ""

    return why
