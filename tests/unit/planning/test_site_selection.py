"""Which sites are selected for a number of hosts."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.checks import check_against
from g5kvirt.planning.services import services_per_site
from g5kvirt.planning.site_selection import select_sites
from g5kvirt.spec.spec import Spec


def machines(site: str, number: int, cores: int = 4, cluster: str = "graphene") -> list[Host]:
    return [
        Host(f"{cluster}-{i}.{site}.grid5000.fr", site, cluster, cores, 64 * GIB)
        for i in range(1, number + 1)
    ]


BED = {"lyon": machines("lyon", 3), "nancy": machines("nancy", 10), "rennes": machines("rennes", 6, cores=8)}


def spec(**words: Any) -> Spec:
    return Spec(**{"vms": 8, "hosts": 4, **words})


def test_as_few_sites_as_possible_are_selected_largest_first() -> None:
    assert select_sites(spec(), BED) == {"rennes": 4}
    assert select_sites(spec(hosts=8), BED) == {"nancy": 8}
    assert sum(select_sites(spec(hosts=12), BED).values()) == 12
    assert len(select_sites(spec(hosts=12), BED)) == 2


def test_a_given_number_of_sites_is_kept_and_hosts_are_balanced() -> None:
    assert select_sites(spec(hosts=9, sites=3), BED) == {"nancy": 3, "rennes": 3, "lyon": 3}
    assert select_sites(spec(hosts=6, sites=2), BED) == {"nancy": 3, "rennes": 3}
    # as evenly as it goes: lyon has three machines, and a service machine may be one of them
    chosen = select_sites(spec(hosts=15, sites=3), BED)
    assert chosen["lyon"] in (2, 3)
    assert max(chosen.values()) <= 7


def test_singular_and_plural_in_messages() -> None:
    with pytest.raises(CapacityError) as error:
        select_sites(spec(hosts=2), {"a": machines("a", 1), "b": machines("b", 1)})
    assert str(error.value).startswith("the specification needs 2 hosts and 1 service machine, ")
    assert str(error.value).endswith(": request at most 1 host")


def test_hosts_move_to_where_more_vms_fit() -> None:
    bed = {"a": machines("a", 6, cores=1), "b": machines("b", 6, cores=8)}
    assert select_sites(spec(hosts=6, sites=2, vms=30), bed) == {"a": 3, "b": 3}
    assert select_sites(spec(hosts=6, sites=2, vms=82), bed) == {"a": 1, "b": 5}
    with pytest.raises(CapacityError) as error:
        select_sites(spec(hosts=6, sites=2, vms=97), bed)
    assert error.value.requested == 97


def test_first_site_has_a_kavlan() -> None:
    assert select_sites(spec(), BED, ["lyon", "nancy"]) == {"nancy": 4}
    assert list(select_sites(spec(hosts=9, sites=3), BED, ["lyon"])) == ["lyon", "rennes", "nancy"]
    with pytest.raises(CapacityError, match="no site has a global KaVLAN free at that time"):
        select_sites(spec(), BED, [], "free at that time")


def test_clusters_restrict_their_sites() -> None:
    bed = {"nancy": [*machines("nancy", 9), *machines("nancy", 2, cluster="griffon")], "lyon": BED["lyon"]}
    chosen = select_sites(spec(hosts=3, clusters={"nancy": "griffon"}), bed)
    assert chosen["nancy"] <= 2
    open_spec = spec(hosts=2, clusters={"nancy": "griffon", "rennes": "x"})
    with pytest.raises(SpecError, match="unknown site 'rennes'"):
        select_sites(open_spec, bed)
    fixed = open_spec.at({"nancy": 2})
    assert (fixed.sites, fixed.hosts, fixed.clusters) == ({"nancy": 2}, 2, {"nancy": "griffon"})
    assert open_spec.at({"lyon": 2}).clusters is None


def test_refusals_have_the_numbers_and_what_would_fit() -> None:
    with pytest.raises(CapacityError) as error:
        select_sites(spec(hosts=30), BED)
    assert (error.value.requested, error.value.available) == (31, 19)
    assert "all 3 sites have only 19 machines" in str(error.value)
    assert "(nancy 10, rennes 6, lyon 3): request at most 18 hosts" in str(error.value)
    with pytest.raises(CapacityError, match="needs 4 sites, but only 3 have machines"):
        select_sites(spec(sites=4), BED)
    with pytest.raises(CapacityError, match=r"the 2 largest sites have only 16 .* or for more sites"):
        select_sites(spec(hosts=17, sites=2), BED)
    with pytest.raises(CapacityError, match="no machine can carry such a VM"):
        select_sites(spec(vm={"memory": 1 << 20}), BED)
    with pytest.raises(CapacityError, match="no machine"):
        select_sites(spec(), {})


beds = st.lists(
    st.lists(st.integers(1, 9), min_size=0, max_size=4).map(
        lambda cores: [Host(f"c-{i}", "", "c", n, 64 * GIB) for i, n in enumerate(cores)]
    ),
    max_size=4,
).map(lambda sites: {f"s{i}": hosts for i, hosts in enumerate(sites)})


@given(
    beds, st.integers(1, 6), st.one_of(st.none(), st.integers(1, 4)), st.integers(1, 3), st.integers(1, 80)
)
def test_selection_fits_and_exists_whenever_one_is_possible(
    bed: dict[str, list[Host]], hosts: int, sites: int | None, services: int, vms: int
) -> None:
    if sites is not None and sites > hosts:
        sites = None
    asked = Spec(hosts=hosts, sites=sites, services=services, vms=vms)
    try:
        chosen = select_sites(asked, bed)
    except CapacityError:
        assert not plainly_possible(asked, bed)
        return
    assert sum(chosen.values()) == hosts
    assert sites in (None, len(chosen))
    check_against(asked.at(chosen), bed)


def plainly_possible(asked: Spec, bed: dict[str, list[Host]]) -> bool:
    """By trying everything, with one service machine, which can always be put somewhere."""
    if asked.services > 1:
        return False
    counts = [asked.site_count] if asked.site_count else range(1, len(bed) + 1)
    for count in counts:
        for some in combinations([s for s in bed if bed[s]], count):
            for shares in product(*[range(1, len(bed[s]) + 1) for s in some]):
                own = dict(zip(some, shares, strict=True))
                if sum(shares) != asked.hosts:
                    continue
                services = services_per_site(own, asked.services)
                if any(own[s] + services[s] > len(bed[s]) for s in own):
                    continue
                try:
                    check_against(asked.at(own), bed)
                except CapacityError:
                    continue
                return True
    return False
