"""Milestones from the lines that real dnsmasq and nginx wrote."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.inventory import VM
from g5kvirt.netboot.bootlog import BootLog, Milestone
from g5kvirt.netboot.task_id import TaskId

VM_1 = VM(1, "vm-1", "h", "nancy", IPv4Address("10.144.1.1"), "02:00:90:00:00:01")
LOG = BootLog([VM_1])


def access(uri: str, **changes: object) -> str:
    entry = {"t": 12.5, "took": 0.25, "from": "10.144.1.1", "uri": uri, "status": 200, "bytes": 10} | changes
    return json.dumps(entry)


def test_dhcp_is_the_acknowledgement() -> None:
    prefix = "1795350131.387595 dnsmasq-dhcp[15]: "
    assert LOG.read(prefix + "DHCPDISCOVER(br0) 02:00:90:00:00:01 ") is None
    assert LOG.read(prefix + "DHCPOFFER(br0) 10.144.1.1 02:00:90:00:00:01 ") is None
    seen = LOG.read(prefix + "DHCPACK(br0) 10.144.1.1 02:00:90:00:00:01 vm-1")
    assert seen == Milestone("vm-1", "dhcp", 1795350131.387595, {"ip": "10.144.1.1"})


def test_tftp_transfers_are_milestones_too() -> None:
    prefix = "1795350131.387595 dnsmasq-tftp[15]: sent /var/lib/g5kvirt/www/"
    for file, step in (("boot-http-10-144-0-1.ipxe", "script"), ("kernel", "kernel"), ("initrd", "initrd")):
        seen = LOG.read(f"{prefix}{file} to 10.144.1.1")
        assert seen is not None
        assert seen.step == step
    assert LOG.read(f"{prefix}image.tgz to 10.144.1.1") is None


def test_http_transfers_carry_their_duration() -> None:
    for uri, step in (("/boot/02-00-90-00-00-01", "script"), ("/kernel", "kernel"), ("/initrd", "initrd")):
        assert LOG.read(access(uri)) == Milestone("vm-1", step, 12.5, {"seconds": 0.25, "bytes": 10})


def test_a_report_is_the_step_that_it_names() -> None:
    seen = LOG.read(access("/report?step=minimal-system&name=vm-1&up=4.9"))
    assert seen == Milestone("vm-1", "minimal-system", 12.5, {"name": "vm-1", "up": "4.9"})


@pytest.mark.parametrize(
    "line",
    [
        access("/kernel", status=404),
        access("/kernel", status=499),  # nginx: the VM hung up in the middle
        access("/kernel", **{"from": "10.144.1.2"}),
        access("/report?name=vm-1"),
        access("/images/kernel"),
        access("//["),
        access("/kernel")[:-5],
        "{}",
        "",
        "1795350131.387595 supervisor: ended with 1, again in 0.2 s",
        "1.0 dnsmasq-dhcp[15]: DHCPACK(br0) 10.144.1.9 02:00:90:00:00:09 other",
    ],
)
def test_other_lines_are_not_milestones(line: str) -> None:
    assert LOG.read(line) is None


@given(st.text())
def test_no_line_raises(line: str) -> None:
    LOG.read(line)
    LOG.read("{" + line)


def test_reports_of_a_deployment_carry_its_id_and_how_the_step_ended() -> None:
    good = LOG.read(access("/report?step=format&name=vm-1&up=9.1&deployment=d1.2&status=ok"))
    assert good is not None
    assert (good.step, good.task, good.status, good.reason) == ("format", TaskId("d1", 2), "ok", "")
    bad = LOG.read(access("/report?step=image&deployment=d1.2&status=failed&reason=No%20space%20%26%20time"))
    assert bad is not None
    assert (bad.step, bad.status, bad.reason) == ("image", "failed", "No space & time")
    mute = LOG.read(access("/report?step=image&deployment=d1.2&status=failed&reason="))
    assert mute is not None
    assert mute.reason == "no reason given"


def test_milestones_of_a_boot_belong_to_no_deployment() -> None:
    seen = LOG.read(access("/kernel"))
    assert seen is not None
    assert (seen.task, seen.status, seen.reason) == (None, "ok", "")
