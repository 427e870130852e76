"""The request for a specification, and the selection of sites by what is free."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

import pytest

from g5kvirt.errors import CapacityError, TestbedError
from g5kvirt.inventory import GIB, Host
from g5kvirt.phases.reservation_request import request_for, with_sites
from g5kvirt.planning.availability import Calendar, SiteCalendar
from g5kvirt.planning.inventories import Machine
from g5kvirt.spec.spec import Spec

NOW = 1_900_000_000.0
HOSTS = {
    site: [Host(f"c-{i}.{site}.grid5000.fr", site, "c", 4, 16 * GIB) for i in range(1, 5)]
    for site in ("lyon", "nancy", "rennes")
}


class Bed:
    """Three sites of four machines; ``busy``: site → seconds for which its machines are taken."""

    def __init__(
        self,
        busy: Mapping[str, float] = {},
        vlans: Sequence[str] = ("lyon", "nancy", "rennes"),
        pool: str = "10.144.0.0/20",
        without: Sequence[str] = (),
    ) -> None:
        self.without = without
        subnets = dict.fromkeys(IPv4Network(pool).subnets(new_prefix=22), ())
        self.known = Calendar(
            NOW,
            NOW + 86400,
            {
                site: SiteCalendar(
                    {h.name: [(0, NOW + busy[site])] if site in busy else [] for h in own},
                    {14: []} if site in vlans else {},
                    subnets,
                )
                for site, own in HOSTS.items()
            },
        )
        self.calls: list[str] = []

    real_cores: int | None = None

    def machines(self) -> Mapping[str, Sequence[Machine]]:
        return {
            site: [Machine(h, virtual=site not in self.without) for h in own] for site, own in HOSTS.items()
        }

    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, set[str]]:
        self.calls.append(properties)
        return {site: {h.name for h in HOSTS[site] if site in properties} for site in sites}

    def calendar(
        self, sites: Sequence[str], queue: str | None = None, job_types: Collection[str] = ()
    ) -> Calendar:
        self.calls.append(f"calendar of {queue} {list(job_types)}")
        return self.known


def chosen(bed: Bed, **words: Any) -> Mapping[str, int]:
    return with_sites(Spec(**{"hosts": 2, "vms": 4, **words}), bed).sites  # type: ignore[arg-type]


def test_given_sites_are_kept() -> None:
    bed = Bed()
    spec = Spec(sites={"nancy": 2}, vms=4)
    assert with_sites(spec, bed) is spec  # type: ignore[arg-type]
    assert bed.calls == []


def test_sites_free_now_are_selected() -> None:
    assert chosen(Bed()) == {"lyon": 2}
    bed = Bed(busy={"lyon": 100, "nancy": 100})
    assert chosen(bed, queue="production", job_types=["exotic"]) == {"rennes": 2}
    assert bed.calls == ["calendar of production ['exotic']"]


def test_busy_sites_are_selected_if_none_is_free_now() -> None:
    assert chosen(Bed(busy=dict.fromkeys(HOSTS, 100.0))) == {"lyon": 2}


def test_sites_free_at_the_date_are_selected() -> None:
    bed = Bed(busy={"lyon": 5000, "nancy": 9000})
    later = "2030-03-17 20:16:40"  # in Paris: an hour and a half later
    spec = with_sites(Spec(hosts=2, vms=4, sites=1, start=later), bed)  # type: ignore[arg-type]
    assert spec.start_seconds == NOW + 5400
    assert spec.sites == {"lyon": 2}
    with pytest.raises(CapacityError, match="free at that time"):
        chosen(Bed(busy=dict.fromkeys(HOSTS, 50000.0)), start=later)


def test_start_first_selects_at_the_first_possible_time() -> None:
    bed = Bed(busy={"lyon": 9000, "nancy": 5000, "rennes": 7000})
    assert chosen(bed, start="first") == {"nancy": 2}
    assert set(chosen(bed, start="first", hosts=6)) == {"nancy", "rennes"}
    assert set(chosen(bed, start="first", hosts=3, sites=3)) == set(HOSTS)
    with pytest.raises(TestbedError, match="no slot of 1:00:00"):
        chosen(Bed(busy=dict.fromkeys(HOSTS, 90000.0)), start="first")


def test_first_site_has_a_kavlan_and_all_have_subnetworks() -> None:
    assert chosen(Bed(vlans=["rennes"])) == {"rennes": 2}
    assert next(iter(chosen(Bed(vlans=["rennes"]), hosts=6))) == "rennes"
    with pytest.raises(TestbedError, match="no slot"):
        chosen(Bed(vlans=[]), start="first")
    small = Bed(pool="10.144.0.0/22")
    with pytest.raises(CapacityError, match="no site has a sub-network /21 free"):
        chosen(
            small,
            vms=1100,
            hosts=2,
            start="2030-03-17 20:16:40",
            capacity={"max_per_host": 999, "per_core": 999},
            guest="light",
            vm={"memory": 1, "disk": 1},
        )


def test_only_machines_with_the_properties_are_selected() -> None:
    bed = Bed()
    assert chosen(bed, properties="site = 'rennes'") == {"rennes": 2}
    assert bed.calls[0] == "site = 'rennes'"
    with pytest.raises(
        CapacityError, match=r"only 4 machines with these properties .* request at most 3 hosts"
    ):
        chosen(bed, properties="site = 'rennes'", hosts=9)


def test_machines_that_cannot_virtualize_are_not_selected() -> None:
    assert chosen(Bed(without=["lyon"])) == {"nancy": 2}
    emulated = Bed(without=list(HOSTS))
    with pytest.raises(CapacityError):
        chosen(emulated)
    emulated.real_cores = 2
    assert chosen(emulated) == {"lyon": 2}


def test_impossible_specs_are_refused_without_reading_the_calendar() -> None:
    bed = Bed()
    with pytest.raises(CapacityError, match="request at most 11 hosts"):
        chosen(bed, hosts=30)
    assert bed.calls == []


def test_request_for_has_all_of_the_specification() -> None:
    spec = Spec(
        sites={"nancy": 2, "rennes": 1},
        vms=1100,
        walltime="2:00:00",
        properties="memnode > 1",
        queue="q",
        project="p",
        clusters={"rennes": "c"},
        start="2030-03-17 20:16:40",
        timeouts={"reserve": 5},
    )
    request = request_for(spec, "job-x")
    assert request.machines == {"nancy": 3, "rennes": 1}
    assert request.subnetworks == {"nancy": 21, "rennes": 21}
    assert (request.walltime, request.start_timeout, request.vlan_site) == (7200, 5, "nancy")
    assert (request.properties, request.queue, request.project) == ("memnode > 1", "q", "p")
    assert (request.clusters, request.start, request.earlier) == ({"rennes": "c"}, NOW + 5400, None)
    for word in ("now", "first"):
        assert request_for(Spec(sites={"nancy": 2}, vms=1, start=word), "j").start == word
