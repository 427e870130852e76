"""Every kind of guest that is registered can be started and has words for its labels."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from g5kvirt.errors import SpecError
from g5kvirt.guests.registry import GUESTS
from g5kvirt.inventory import GIB, MIB, VM, Facts
from g5kvirt.spec.spec import Spec
from g5kvirt.views.palette import guest_description

KVM, EMULATED = (Facts(4, 8 * GIB, kvm, 0.0) for kvm in (True, False))


@pytest.mark.parametrize("kind", GUESTS)
def test_every_label_has_words(kind: str) -> None:
    guest = GUESTS[kind]
    for hosts in ([KVM], [EMULATED], [KVM, EMULATED]):
        label = guest.label(hosts)
        assert guest.words[label] == guest_description(label) != label


def test_one_emulated_host_makes_a_run_an_emulated_one() -> None:
    assert GUESTS["vm"].label([KVM, KVM]) == "kvm"
    assert GUESTS["vm"].label([KVM, EMULATED]) == "tcg"


@pytest.mark.parametrize("kind", GUESTS)
def test_start_request_has_every_vm(kind: str) -> None:
    spec = Spec(sites={"nancy": 1}, vms=2, vm={"memory": 160, "cores": 2})
    vms = [
        VM(i, f"vm-{i}", "h-1", "nancy", IPv4Address(f"10.0.0.{i}"), f"52:54:00:00:00:0{i}") for i in (1, 2)
    ]
    request = GUESTS[kind].start_request(spec, "h-1", KVM, vms)
    assert [vm["name"] for vm in request["vms"]] == ["vm-1", "vm-2"]
    size = {"memory": 160 * MIB, "cores": 2}
    assert (
        request["defaults"] == {"kind": "light", "host": "h-1"} or size.items() <= request["defaults"].items()
    )


def test_hosts_know_which_addresses_a_vm_may_use_unless_that_is_switched_off() -> None:
    vms = [VM(1, "vm-1", "h-1", "nancy", IPv4Address("10.0.0.1"), "52:54:00:00:00:01")]
    for secured, found in ((True, "10.0.0.1"), (False, None)):
        spec = Spec(sites={"nancy": 1}, vms=1, vm={"port_security": secured})
        request = GUESTS["vm"].start_request(spec, "h-1", KVM, vms, [IPv4Address("10.0.0.9")])
        (vm,) = request["vms"]
        assert vm.get("ip") == found
        assert request["dhcp_servers"] == (["10.0.0.9"] if secured else [])
    with pytest.raises(SpecError, match="port_security must be true or false, not 'no'"):
        Spec(sites={"nancy": 1}, vms=1, vm={"port_security": "no"})
