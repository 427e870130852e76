"""Every kind of guest that is registered can be started and has words for its labels."""

from __future__ import annotations

import pytest

from g5kvirt.guests.registry import GUESTS
from g5kvirt.inventory import GIB, MIB, Facts
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
    request = GUESTS[kind].start_request(
        spec, "h-1", KVM, [("vm-1", "52:54:00:00:00:01"), ("vm-2", "52:54:00:00:00:02")]
    )
    assert [vm["name"] for vm in request["vms"]] == ["vm-1", "vm-2"]
    size = {"memory": 160 * MIB, "cores": 2}
    assert (
        request["defaults"] == {"kind": "light", "host": "h-1"} or size.items() <= request["defaults"].items()
    )
