"""The written way to a run's machines is what ssh understands, and the run's own."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from g5kvirt.errors import SpecError
from g5kvirt.guests.ssh import configuration
from g5kvirt.inventory import GIB, VM, Host
from g5kvirt.remote import Access, jumps

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")

OUTSIDE = "jdoe@access.grid5000.fr"


def host(site: str, number: int, vlan: int) -> Host:
    name = f"node-{number}.{site}.grid5000.fr"
    return Host(name, site, "node", 4, GIB, address=name.replace(".", f"-kavlan-{vlan}.", 1))


def ssh(file: Path, name: str, *words: str) -> dict[str, list[str]]:
    """What ``ssh -G`` makes of a name: option → its values."""
    argv = ["ssh", "-F", str(file), *words, "-G", name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        option, _, value = line.partition(" ")
        found.setdefault(option, []).append(value)
    return found


class Written:
    """A configuration of two sites, and the access that it was written for."""

    def __init__(self, folder: Path, vlan: int, outside: str = "", login: str | None = None) -> None:
        self.own = folder / "the testbed's"
        way = "  ProxyCommand enter %h\n  ProxyUseFdpass yes\n"
        self.own.write_text(f"Host *.grid5000.fr\n  User g5k\n  IdentityFile /own\n{way}")
        access = Access(ssh_config=self.own, key=folder / "key %d", jump=outside, login=login)
        self.access = access.through(*jumps.gateways(vlan, "nancy.grid5000.fr"))
        self.hosts = [host("nancy", 1, vlan), host("rennes", 2, vlan)]
        self.vms = [VM(7, "vm-7", self.hosts[1].name, "rennes", IPv4Address("10.156.0.9"), "02::7", "server")]
        self.file = folder / "config"
        self.file.write_text(configuration(self.access, outside, self.hosts, self.vms))


def proxy(found: dict[str, list[str]]) -> str | None:
    """Through what ssh goes: a jump, a command, or nothing."""
    (way,) = found.get("proxyjump", found.get("proxycommand", ["none"]))
    return way


def test_without_a_jump_the_testbeds_own_configuration_leads_to_the_hosts(tmp_path: Path) -> None:
    made = Written(tmp_path, 12)
    for name in ("node-1.nancy.grid5000.fr", "node-1-kavlan-12.nancy.grid5000.fr"):
        found = ssh(made.file, name)
        assert found["hostname"] == ["node-1-kavlan-12.nancy.grid5000.fr"]
        assert (found["user"], found["identityfile"][0]) == (["root"], f"{tmp_path}/key %%d")
        assert (proxy(found), found["proxyusefdpass"]) == ("enter %h", ["yes"])
    vm = ssh(made.file, "vm-7")
    assert (vm["hostname"], vm["user"], proxy(vm)) == (["10.156.0.9"], ["root"], made.hosts[1].address)
    assert "# server: vm-7\n" in made.file.read_text(), "groups, for a reader"
    frontend = ssh(made.file, "rennes.grid5000.fr")
    assert (frontend["user"], proxy(frontend)) == (["g5k"], "enter %h")
    assert frontend["identityfile"] == ["/own"], "a run's key is for its machines only"
    assert frontend["stricthostkeychecking"] != ["false"]


@pytest.mark.parametrize(
    ("vlan", "way"),
    [
        (12, OUTSIDE),
        (4, OUTSIDE),
        (1, f"{OUTSIDE},jdoe@nancy.grid5000.fr,jdoe@kavlan-1.nancy.grid5000.fr"),
    ],
)
def test_from_outside_through_the_access_machine_and_the_vlans_gateway(
    vlan: int, way: str, tmp_path: Path
) -> None:
    made = Written(tmp_path, vlan, OUTSIDE, "jdoe")
    assert proxy(ssh(made.file, "node-1.nancy.grid5000.fr")) == way
    assert proxy(ssh(made.file, "vm-7")) == made.hosts[1].address
    frontend = ssh(made.file, "nancy.grid5000.fr")
    assert (frontend["user"], proxy(frontend)) == (["jdoe"], OUTSIDE)
    door = ssh(made.file, "access.grid5000.fr")
    assert (door["user"], proxy(door)) == (["jdoe"], "enter %h")


@pytest.mark.parametrize(("vlan", "outside"), [(12, ""), (12, OUTSIDE), (2, OUTSIDE), (2, "")])
def test_run_connects_as_its_ssh_configuration(vlan: int, outside: str, tmp_path: Path) -> None:
    made = Written(tmp_path, vlan, outside)
    name = made.hosts[0].address
    own = subprocess.run([*made.access.prefix(), "-G", name], capture_output=True, text=True, check=True)
    written = ssh(made.file, name)
    for option in ("hostname", "user", "port", "proxyjump", "proxycommand", "proxyusefdpass"):
        said = [line.partition(" ")[2] for line in own.stdout.splitlines() if line.startswith(f"{option} ")]
        assert said == written.get(option, []), option


@pytest.mark.parametrize("outside", ["", OUTSIDE])
def test_named_configuration_leaves_other_machines_as_they_were(outside: str, tmp_path: Path) -> None:
    made = Written(tmp_path, 12, outside, "jdoe")
    made.file.write_text(configuration(made.access, outside, made.hosts, made.vms, named=True))
    vm = ssh(made.file, "vm-7")
    assert (vm["hostname"], vm["user"], proxy(vm)) == (["10.156.0.9"], ["root"], made.hosts[1].address)
    other = ssh(made.file, "node-9.nancy.grid5000.fr")
    assert (other["user"], proxy(other)) == (["g5k"], outside or "enter %h")
    assert proxy(ssh(made.file, "access.grid5000.fr")) == "enter %h", "not through itself"


def test_all_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    access = Access(ssh_config=Path("testbed"), key=Path("runs/one/key"))
    text = configuration(access, "", [host("nancy", 1, 12)], [])
    assert f'IdentityFile "{tmp_path}/runs/one/key"' in text
    assert f'Include "{tmp_path}/testbed"' in text


def test_jump_is_detected_only_where_it_is_needed() -> None:
    assert jumps.needed("laptop.example.org", False)
    assert jumps.needed("laptop", False)
    assert jumps.needed("notgrid5000.fr", False)
    assert not jumps.needed("laptop", True)
    assert not jumps.needed("fnancy.nancy.grid5000.fr", False)


def test_jump_of_the_ssh_configuration_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "laptop.example.org")
    file = tmp_path / "config"
    for text, way in {
        "Host *.grid5000.fr\n  ProxyJump somewhere\n": "",
        "Host *.grid5000.fr\n  ProxyCommand nc somewhere\n": "",
        "Host *.g5k\n  ProxyJump somewhere\n": "jdoe@access.grid5000.fr",
        "Host nancy.grid5000.fr\n  ProxyJump none\n": "jdoe@access.grid5000.fr",
    }.items():
        file.write_text(text)
        assert jumps.detect(file, "jdoe") == way, text
    assert jumps.detect(file) == "access.grid5000.fr"
    monkeypatch.setattr("socket.gethostname", lambda: "fnancy.nancy.grid5000.fr")
    assert jumps.detect(file, "jdoe") == ""


@pytest.mark.parametrize("jump", ["-oProxyCommand=x", "a b", "x;y@host", "host,", ",host", "a@b@-c"])
def test_invalid_jump_is_refused(jump: str) -> None:
    with pytest.raises(SpecError, match=r"valid (jump host|host name)"):
        jumps.check_jump(jump)


def test_valid_jumps_are_accepted() -> None:
    for jump in ("", "host", "me@host:2222", "me@a,b.example.org"):
        assert jumps.check_jump(jump) == jump


def test_only_local_vlans_have_gateways() -> None:
    assert jumps.gateways(None, "nancy.grid5000.fr") == ()
    assert [bool(jumps.gateways(n, "nancy.grid5000.fr")) for n in (1, 3, 4, 9, 10, 21)] == [True, True] + [
        False
    ] * 4
    access = Access(login="jdoe").through("a", "b")
    assert access.jump == "jdoe@a,jdoe@b"
    assert replace(access, login=None).through("c").jump == "jdoe@a,jdoe@b,c"
