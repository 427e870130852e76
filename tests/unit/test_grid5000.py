"""The parts of Grid'5000's driver that decide; the rest runs against real OAR in tests/system."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from g5kvirt import testbeds
from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.inventory import Host, Reservation, SubNetwork, to_plain
from g5kvirt.testbeds.base import Request
from g5kvirt.testbeds.grid5000 import Grid5000, _each, _host, _mask, _number, _subnetwork, resources

NODE: dict[str, Any] = {
    "uid": "graphene-12",
    "architecture": {"nb_cores": 4},
    "main_memory": {"ram_size": 17 << 30},
    "network_adapters": [
        {"device": "bmc", "mounted": True, "management": True},
        {"device": "eth1", "mounted": False},
        {"device": "eth0", "mounted": True, "rate": 10**10, "switch": "sgraphene1"},
    ],
}


def request(**words: Any) -> Request:
    return Request({"nancy": 3, "rennes": 2}, {"nancy": 22, "rennes": 20}, 3600, "job", **words)


def test_one_site_holds_the_global_kavlan() -> None:
    asked = request(vlan_site="nancy", clusters={"rennes": "paradent"})
    assert resources(asked, "nancy") == ["{type='kavlan-global'}/vlan=1", "slash_22=1", "nodes=3"]
    assert resources(asked, "rennes") == ["slash_20=1", "{cluster='paradent'}/nodes=2"]


def test_a_machine_is_read_from_the_reference_api() -> None:
    host = _host("nancy", "graphene", NODE)
    assert host == Host("graphene-12.nancy.grid5000.fr", "nancy", "graphene", 4, 17 << 30, 1e10, "sgraphene1")
    assert host.uid == "graphene-12"


def test_a_machine_without_a_known_card_is_still_one() -> None:
    host = _host("nancy", "graphene", {**NODE, "network_adapters": []})
    assert (host.nic_rate, host.switch) == (1e9, "")


def test_machines_are_ordered_by_number_not_by_letters() -> None:
    names = [f"c-{i}.nancy.grid5000.fr" for i in (10, 2, 1)]
    assert sorted(names, key=_number) == [f"c-{i}.nancy.grid5000.fr" for i in (1, 2, 10)]


def test_a_sub_network_from_its_parameters_or_from_its_addresses() -> None:
    parameters = {"ip_prefix": "10.144.4.0/22", "gateway": "10.147.255.254"}
    assert _subnetwork("nancy", [], parameters) == SubNetwork(
        "nancy", IPv4Network("10.144.4.0/22"), IPv4Address("10.147.255.254")
    )
    # several parts in one job: execo gives no parameters then
    addresses = [(str(ip), "mac") for ip in IPv4Network("10.144.8.0/21").hosts()]
    assert _subnetwork("nancy", addresses, {}) == SubNetwork("nancy", IPv4Network("10.144.8.0/21"))
    assert _subnetwork("nancy", [], {}) is None


def test_all_sites_are_heard_before_the_first_error_is_raised() -> None:
    done = []

    def ask(site: str) -> str:
        if site == "bad":
            raise TestbedError("no")
        done.append(site)
        return site

    with pytest.raises(TestbedError, match="no"):
        _each(ask, ["bad", "nancy", "rennes"])
    assert sorted(done) == ["nancy", "rennes"]


def test_a_password_never_shows() -> None:
    assert _mask("GET http://g5k:secret@127.0.0.1:80/stable/sites") == "GET http://127.0.0.1:80/stable/sites"


def test_words_for_testbeds() -> None:
    with pytest.raises(SpecError, match="no testbed called 'grid500'"):
        testbeds.open_testbed("grid500")
    assert isinstance(Grid5000(), testbeds.Testbed)


def test_a_reservation_survives_the_journal() -> None:
    host = _host("nancy", "graphene", NODE)
    part = SubNetwork("nancy", IPv4Network("10.144.4.0/22"), IPv4Address("10.147.255.254"))
    one = Reservation({"nancy": 7}, (host,), (part, SubNetwork("x", part.network)), 14, "nancy", 1.0, 3600.0)
    assert Reservation.from_plain(to_plain(one)) == one
