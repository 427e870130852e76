"""Specifications against what exists: the numbers, and what would fit."""

from __future__ import annotations

from typing import Any

import pytest

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.checks import check_against
from g5kvirt.spec.spec import Spec


def machines(site: str, number: int, cluster: str = "graphene", cores: int = 4) -> list[Host]:
    return [
        Host(f"{cluster}-{i}.{site}.grid5000.fr", site, cluster, cores, 8 * GIB) for i in range(1, number + 1)
    ]


TESTBED = {
    "nancy": [*machines("nancy", 3), *machines("nancy", 2, "griffon", 2)],
    "rennes": machines("rennes", 3, "paravance"),
}


def check(**asked: Any) -> None:
    check_against(Spec(**({"sites": {"nancy": 2, "rennes": 2}, "vms": 16} | asked)), TESTBED)


def test_a_spec_that_fits_passes() -> None:
    check()
    check(sites={"nancy": 4}, vms=28)  # 3 × 8 + 4
    check(clusters={"nancy": "griffon"}, sites={"nancy": 1}, vms=4)
    check(vm={"memory": 8}, guest="light")  # as VMs, they would not boot


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"sites": {"nanci": 1}}, "unknown site 'nanci': did you mean 'nancy'"),
        ({"sites": {"mars": 1}}, "known: nancy, rennes"),
        ({"clusters": {"nancy": "grafene"}}, "unknown cluster 'grafene' at nancy: did you mean 'graphene'"),
        ({"placement": "balancd"}, "did you mean 'balanced'"),
        ({"capacity": {"rule": "2014"}}, "did you mean '2013'"),
    ],
)
def test_unknown_names_get_a_suggestion(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check(**asked)


def test_more_hosts_than_the_site_has_are_refused() -> None:
    with pytest.raises(CapacityError) as error:
        check(sites={"nancy": 2, "rennes": 4})
    assert (error.value.requested, error.value.available) == (5, 3)
    assert "needs 4 hosts and 1 service machine at rennes, which has 3 machines" in str(error.value)
    assert "at most 2 hosts there" in str(error.value)


def test_more_hosts_than_the_cluster_has_are_refused() -> None:
    with pytest.raises(
        CapacityError, match="cluster griffon at nancy, which has 2 machines: request at most 1 host"
    ):
        check(sites={"nancy": 2}, clusters={"nancy": "griffon"}, vms=1)


def test_a_service_machine_alone_fills_the_site() -> None:
    with pytest.raises(CapacityError, match="choose another site or cluster"):
        check_against(Spec(sites={"nancy": 1}, vms=1), {"nancy": machines("nancy", 1)})


def test_more_vms_than_fit_are_refused() -> None:
    with pytest.raises(CapacityError) as error:
        check(vms=100)
    assert (error.value.requested, error.value.available) == (100, 32)
    # 32 is what 4 hosts carry; nancy's 4 machines beside its service machine carry 28, rennes' 3 carry 24
    assert "carry at most 32 (nancy 16, rennes 16): request at most 32 VMs" in str(error.value)
    assert "carry 52" in str(error.value)


def test_the_numbers_in_the_advice_do_fit() -> None:
    check(vms=32)
    check(sites={"nancy": 4, "rennes": 3}, vms=52, services=1)


def test_vms_that_fit_on_no_host_are_refused() -> None:
    with pytest.raises(CapacityError, match="smaller VMs"):
        check(vm={"memory": 9000})
