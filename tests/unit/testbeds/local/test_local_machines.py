"""The life cycle of nodes, with fake containers and a network that only records commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import dhcpd, network
from g5kvirt.testbeds.local.container_spec import ContainerSpec
from g5kvirt.testbeds.local.machines import ContainerPaths, Machines
from g5kvirt.testbeds.local.spawner import Container, Spawner

BED = make({"nancy": 2, "rennes": 1})
ONE, TWO, THREE = BED.nodes
GLOBAL = BED.site("nancy").global_vlan.id


class FakeContainer:
    def __init__(self, spec: ContainerSpec, pid: int, fails: bool) -> None:
        self.spec, self.pid, self.alive, self.fails = spec, pid, True, fails
        self.called: list[dict[str, Any]] = []

    def expect(self, key: str, timeout: float = 0) -> Any:
        if self.fails:
            raise TestbedError(f"{self.spec.name}: sshd does not start")
        return True

    def send(self, **_: Any) -> None:
        pass

    def call(self, timeout: float = 0, **message: Any) -> None:
        self.called.append(message)

    def kill(self, timeout: float = 0) -> None:
        self.alive = False


class FakeSpawner:
    def __init__(self) -> None:
        self.made: list[FakeContainer] = []
        self.fails = False

    def start(self, spec: ContainerSpec) -> FakeContainer:
        self.made.append(FakeContainer(spec, 100 + len(self.made), self.fails))
        return self.made[-1]


class World:
    """Machines over fakes; ``lines`` are the commands for ip, ``alive`` the running containers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.spawner = FakeSpawner()
        self.lines: list[str] = []
        monkeypatch.setattr(network, "apply", lambda batch, *_, **__: self.lines.extend(batch.ip))
        monkeypatch.setattr(dhcpd, "_folder", lambda container: folder)
        here = Path("/x")
        self.routers = routers = {
            site.name: FakeContainer(ContainerSpec(site.name, "", "", ""), 10 + i, False)
            for i, site in enumerate(BED.sites)
        }
        self.machines = Machines(
            BED,
            cast(Spawner, self.spawner),
            ContainerPaths(here, {"node": here}, here, here),
            lambda site: cast(Container, routers[site]),
        )
        for site in BED.sites:
            self.machines.start_all(site)

    @property
    def alive(self) -> list[FakeContainer]:
        return [container for container in self.spawner.made if container.alive]

    def of(self, uid: str) -> FakeContainer:
        [found] = [container for container in self.alive if container.spec.name == uid]
        return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


def dhcp_calls(world: World, site: str) -> list[str]:
    """What the container of a site was told about DHCP servers: their names, "-" before those to stop."""
    calls = world.routers[site].called
    return [f"-{call['stop']}" if "stop" in call else call["service"][0] for call in calls]


def test_new_nodes_are_clean_and_have_no_authorized_keys(world: World) -> None:
    assert sorted(container.spec.name for container in world.alive) == sorted(node.uid for node in BED.nodes)
    assert world.machines.dirty("nancy") == {}
    assert not any("authorized_keys" in path for container in world.alive for path in container.spec.files)


def test_deployment_replaces_the_container_of_the_node(world: World) -> None:
    old = world.of(ONE.uid)
    world.machines.deploy(ONE, "debian12-min", GLOBAL, "key")
    assert not old.alive
    assert len(world.alive) == 3
    assert world.of(ONE.uid).spec.files["/root/.ssh/authorized_keys"] == (0o600, "key")
    assert list(world.machines.dirty("nancy")) == [ONE.fqdn]
    assert world.machines.dirty("rennes") == {}
    gone, new = (
        world.lines.index(f"link del n{ONE.index}"),
        world.lines.index(f"link set n1 master vlan{GLOBAL} up"),
    )
    assert gone < new


def test_bridges_of_a_vlan_are_created_once_and_on_the_site_of_its_gateway(world: World) -> None:
    world.machines.deploy(THREE, "debian12-min", GLOBAL, "")
    world.machines.deploy(THREE, "debian12-min", GLOBAL, "")
    world.machines.deploy(ONE, "debian12-min", GLOBAL, "")
    assert sum(line.startswith(f"link add vlan{GLOBAL} ") for line in world.lines) == 2
    with pytest.raises(TestbedError, match="rennes has no KaVLAN 4711"):
        world.machines.deploy(THREE, "debian12-min", 4711, "")


def test_cleaning_deploys_the_standard_environment(world: World) -> None:
    world.machines.deploy(ONE, "debian12-min", None, "key")
    world.machines.clean(ONE, world.machines.dirty("nancy")[ONE.fqdn])
    assert world.machines.dirty("nancy") == {}
    assert "/root/.ssh/authorized_keys" not in world.of(ONE.uid).spec.files


def test_cleaning_skips_a_node_that_was_redeployed_meanwhile(world: World) -> None:
    world.machines.deploy(ONE, "debian12-min", None, "first")
    seen = world.machines.dirty("nancy")[ONE.fqdn]
    world.machines.deploy(ONE, "debian12-min", None, "second")
    kept = world.of(ONE.uid)
    world.machines.clean(ONE, seen)
    assert kept.alive


def test_dead_node_is_dirty_and_cleaning_restarts_it(world: World) -> None:
    world.of(ONE.uid).kill()
    world.of(TWO.uid).kill()
    assert set(world.machines.dirty("nancy")) == {ONE.fqdn, TWO.fqdn}
    with pytest.raises(TestbedError, match="is not running"):
        world.machines.set_vlan(ONE, GLOBAL)
    for node in (ONE, TWO):
        world.machines.clean(node, world.machines.dirty("nancy")[node.fqdn])
    assert world.machines.dirty("nancy") == {}
    assert world.of(ONE.uid).alive
    assert world.of(TWO.uid).alive


def test_set_vlan_moves_link_and_address(world: World) -> None:
    same = world.of(ONE.uid)
    world.machines.set_vlan(ONE, GLOBAL)
    assert same.alive
    assert f"link set n1 master vlan{GLOBAL}" in world.lines
    assert any(f"addr add {BED.kavlan_ip(ONE, GLOBAL)}/" in line for line in world.lines)
    assert list(world.machines.dirty("nancy")) == [ONE.fqdn]


def test_node_that_fails_to_start_is_stopped(world: World) -> None:
    world.spawner.fails = True
    with pytest.raises(TestbedError, match="sshd does not start"):
        world.machines.deploy(ONE, "debian12-min", None, "")
    assert list(world.machines.dirty("nancy")) == [ONE.fqdn]
    assert sorted(container.spec.name for container in world.alive) == sorted([TWO.uid, THREE.uid])


def test_a_kavlan_has_one_dhcp_server_on_the_site_of_its_gateway(world: World, tmp_path: Path) -> None:
    for node in (THREE, ONE, TWO):
        world.machines.deploy(node, "debian12-min", GLOBAL, "")
    world.machines.deploy(THREE, "debian12-min", 4, "")
    assert dhcp_calls(world, "nancy") == [f"dhcpd vlan{GLOBAL}"]
    assert dhcp_calls(world, "rennes") == ["dhcpd vlan4"]
    _, command, user = world.routers["nancy"].called[0]["service"]
    assert command[-1] == f"vlan{GLOBAL}", "it listens there only"
    assert user == "root"
    assert (tmp_path / f"vlan{GLOBAL}.leases").read_text() == ""


def test_dhcp_server_that_was_switched_off_is_back_when_the_kavlan_is_empty(world: World) -> None:
    server = f"dhcpd vlan{GLOBAL}"
    for node in (ONE, THREE):
        world.machines.deploy(node, "debian12-min", GLOBAL, "")
    world.machines.set_dhcp("rennes", GLOBAL, on=False)
    world.machines.set_dhcp("rennes", GLOBAL, on=False)
    world.machines.deploy(ONE, "debian12-min", GLOBAL, "")
    world.machines.clean(ONE, world.machines.dirty("nancy")[ONE.fqdn])
    assert dhcp_calls(world, "nancy") == [server, f"-{server}"], "there is still a node"
    world.machines.clean(THREE, world.machines.dirty("rennes")[THREE.fqdn])
    assert dhcp_calls(world, "nancy") == [server, f"-{server}", server]
    world.machines.set_dhcp("nancy", GLOBAL, on=True)
    assert dhcp_calls(world, "nancy")[3:] == []


def test_dhcp_server_can_be_switched_off_before_the_first_node_comes(world: World) -> None:
    world.machines.set_dhcp("nancy", 4, on=False)
    world.machines.deploy(ONE, "debian12-min", 4, "")
    assert dhcp_calls(world, "nancy") == ["dhcpd vlan4", "-dhcpd vlan4"]
