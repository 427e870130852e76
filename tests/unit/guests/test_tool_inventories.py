"""The inventories of other tools, and VMs for execo."""

from __future__ import annotations

import configparser
import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from g5kvirt.errors import SpecError
from g5kvirt.guests import inventories
from g5kvirt.guests.execo_hosts import options_with
from g5kvirt.guests.inventories import FORMATS, write_inventory
from g5kvirt.inventory import VM

VMS = [
    VM(1, "vm-1", "a-1.nancy.grid5000.fr", "nancy", IPv4Address("10.144.0.3"), "52:54:00:00:00:01"),
    VM(2, "vm-2", "b-1.rennes.grid5000.fr", "rennes", IPv4Address("10.156.0.3"), "52:54:00:00:00:02"),
    VM(3, "vm-3", "a-1.nancy.grid5000.fr", "nancy", IPv4Address("10.144.0.4"), "52:54:00:00:00:03"),
]

OF = ("server", "a", "b")
KINDS = [replace(vm, name=f"{group}-1", group=group) for vm, group in zip(VMS, OF, strict=True)]
KINDS.append(replace(VMS[0], name="b-2", group="b", ip=IPv4Address("10.144.0.5")))


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(inventories, "ssh_config", lambda *_: tmp_path / "ssh/config")
    state = SimpleNamespace(placed_vms=VMS)
    return SimpleNamespace(run=SimpleNamespace(path=tmp_path), journal=SimpleNamespace(state=state))


def test_ansible_has_a_group_for_each_site_and_the_way_in(context: Any, tmp_path: Path) -> None:
    found = yaml.safe_load(write_inventory(context, "ansible", VMS).read_text())["all"]
    assert found["vars"]["ansible_ssh_common_args"] == f'-F "{tmp_path}/ssh/config"'
    groups = {name: list(group["hosts"]) for name, group in found["children"].items()}
    assert groups == {"vms": ["vm-1", "vm-2", "vm-3"], "nancy": ["vm-1", "vm-3"], "rennes": ["vm-2"]}
    assert found["children"]["vms"]["hosts"]["vm-2"]["g5kvirt_address"] == "10.156.0.3"


def test_clustershell_has_a_directory_for_its_configuration(context: Any, tmp_path: Path) -> None:
    folder = write_inventory(context, "clustershell", VMS)
    clush = configparser.ConfigParser(interpolation=None)
    clush.read(folder / "clush.conf")
    assert clush["Main"]["ssh_options"] == f"-F {tmp_path}/ssh/config"
    groups = yaml.safe_load((folder / "groups.d/g5kvirt.yaml").read_text())
    assert groups == {"g5kvirt": {"vms": "vm-1,vm-2,vm-3", "nancy": "vm-1,vm-3", "rennes": "vm-2"}}


def test_hosts_and_json(context: Any) -> None:
    whole = write_inventory(context, "hosts", VMS)
    before = whole.read_text()
    some = write_inventory(context, "hosts", VMS[:2], "client")
    assert (some.parent.name, whole.read_text()) == ("client", before)
    lines = some.read_text()
    assert lines == "10.144.0.3\tvm-1\n10.156.0.3\tvm-2\n"
    found = json.loads(write_inventory(context, "json", VMS).read_text())
    assert found["vms"][2] == {
        "name": "vm-3",
        "address": "10.144.0.4",
        "mac": "52:54:00:00:00:03",
        "host": "a-1.nancy.grid5000.fr",
        "site": "nancy",
    }
    assert found["groups"]["rennes"] == ["vm-2"]


def test_groups_of_the_specification_are_groups_of_every_tool(context: Any) -> None:
    expected = {
        "vms": ["server-1", "a-1", "b-1", "b-2"],
        "server": ["server-1"],
        "a": ["a-1"],
        "b": ["b-1", "b-2"],
        "nancy": ["server-1", "b-1", "b-2"],
        "rennes": ["a-1"],
    }
    ansible = yaml.safe_load(write_inventory(context, "ansible", KINDS).read_text())["all"]["children"]
    assert {name: list(group["hosts"]) for name, group in ansible.items()} == expected
    assert ansible["vms"]["hosts"]["b-2"]["g5kvirt_group"] == "b"
    folder = write_inventory(context, "clustershell", KINDS)
    groups = yaml.safe_load((folder / "groups.d/g5kvirt.yaml").read_text())["g5kvirt"]
    assert groups == {name: ",".join(own) for name, own in expected.items()}
    document = json.loads(write_inventory(context, "json", KINDS).read_text())
    assert document["groups"] == expected
    assert [vm["group"] for vm in document["vms"]] == ["server", "a", "b", "b"]


def test_unknown_format_is_refused(context: Any) -> None:
    with pytest.raises(SpecError, match="no inventory 'ansibel': did you mean 'ansible'"):
        write_inventory(context, "ansibel", VMS)
    assert set(FORMATS) == {"ansible", "clustershell", "hosts", "json", "ssh"}


def test_execo_gets_our_configuration_in_the_place_of_any_other_way() -> None:
    wrapped = ("--pdeathsig", "TERM", "ssh", "-F", "/testbed", "-J", "access", "-o", "BatchMode=yes", "-tt")
    expected = ("--pdeathsig", "TERM", "ssh", "-o", "BatchMode=yes", "-tt", "-F", "/run/config")
    assert options_with(Path("/run/config"), wrapped) == expected
    assert options_with(Path("/run/config"), expected) == expected, "a second time it changes nothing"
    assert options_with(Path("/c"), ("-rp",)) == ("-rp", "-F", "/c")
