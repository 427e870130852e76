"""A run with groups, on the model: names, tables, map, deployments of one group, predictions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt import Experiment, Group, Spec
from g5kvirt.errors import CapacityError, RunError, SpecError
from g5kvirt.guests import run
from g5kvirt.guests.registry import GUESTS
from g5kvirt.inventory import GIB, MIB, VM, Facts
from g5kvirt.remote import Result
from g5kvirt.run.tables import Frames
from g5kvirt.sweeps import check_measure

SPEC = Spec(
    sites={"nancy": 2, "rennes": 2},
    vms=[Group("server", 2, memory=1024, cores=2), Group("client", 6)],
    clusters={"nancy": "graphene", "rennes": "paradent"},
)


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    made = Experiment(SPEC, "simulated:2013", name="groups", runs=tmp_path_factory.mktemp("runs"))
    for phase in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(made, phase)()
    made.measure("mini", sizes=[2, 4], group="client")
    made.measure("mini")
    return made


def test_tables_have_the_group_of_every_vm(exp: Experiment) -> None:
    vms = exp.frames.vms
    assert list(vms.columns[:4]) == ["index", "name", "group", "host"]
    assert vms.groupby("group").size().to_dict() == {"server": 2, "client": 6}
    assert (vms["name"].str.rpartition("-")[0] == vms["group"]).all()
    assert set(vms["name"]) == {"server-1", "server-2", *(f"client-{n}" for n in range(1, 7))}
    assert [vm.group for vm in exp.journal.state.placed_vms] == list(vms["group"])
    assert "client 6 on 4 hosts, server 2 on 2 hosts" in str(exp.place())


def test_a_deployment_takes_vms_of_its_group_only(exp: Experiment) -> None:
    tables = exp.frames.measurements
    assert list(tables.deployments["group"]) == ["client", "client", ""]
    assert list(tables.deployments["deployed"]) == [2, 4, 8]
    assert list(tables.scalability["group"]) == ["client", "client", ""]
    in_first = tables.vms[tables.vms["deployment"] != "d3"]
    assert set(in_first["group"]) == {"client"}
    assert list(tables.vms.columns).index("group") == list(tables.vms.columns).index("vm") + 1
    assert tables.only(["d3"]).vms["group"].value_counts().to_dict() == {"client": 6, "server": 2}


def test_what_is_wrong_with_a_group_is_said_before_anything_reboots(exp: Experiment) -> None:
    events = len(exp.journal)
    with pytest.raises(SpecError, match="there is no group 'clients' in this run"):
        exp.measure("mini", group="clients")
    with pytest.raises(CapacityError, match="3 VMs, but only 2 are up"):
        exp.measure("mini", sizes=[3], group="server")
    assert len(exp.journal) == events
    with pytest.raises(CapacityError, match="only 2 are launched"):
        check_measure(SPEC, {"sizes": [3], "group": "server"})
    with pytest.raises(SpecError, match="this run has no groups"):
        check_measure(Spec(sites={"nancy": 1}, vms=2), {"group": "server"})


def test_map_shows_groups(exp: Experiment, tmp_path: Path) -> None:
    exp.figures.map(by="group").save(tmp_path / "map")
    assert set(exp.figures.map(by="group").data["group"]) == {"client", "server"}
    alone = Experiment(Spec(sites={"nancy": 2}, vms=2), "simulated:2013", name="alone", runs=tmp_path)
    for phase in ("reserve", "deploy", "configure", "place"):
        getattr(alone, phase)()
    with pytest.raises(RunError, match="has no groups"):
        alone.figures.map(by="group")
    assert "group" not in alone.frames.vms
    assert "groups" not in str(alone.place())


def test_run_opened_again_has_its_groups(exp: Experiment) -> None:
    again = Experiment.open(exp.path)
    assert again.spec == exp.spec
    columns = ["name", "group", "host", "state"]
    assert Frames(again.journal).vms[columns].equals(exp.frames.vms[columns])


def test_prediction_of_many_vms_keeps_the_groups(exp: Experiment) -> None:
    many = [Group("server", 400, memory=1024, cores=2), Group("client", 3600)]
    large = Experiment(Spec(hosts=300, vms=many), "simulated:2013", name="many", runs=exp.path.parent)
    found = large.predict([4000], summary=True)
    assert found.sampled > 1
    assert found.scalability["deployed"].tolist() == [4000]


def test_hosts_start_each_vm_with_the_size_of_its_group(exp: Experiment) -> None:
    vms: list[VM] = exp.journal.state.placed_vms
    request = GUESTS["vm"].start_request(SPEC, "h", Facts(4, 8 * GIB, True), vms)
    sizes = {vm["name"]: (vm["memory"] // MIB, vm["cores"]) for vm in request["vms"]}
    assert sizes["server-2"] == (1024, 2)
    assert sizes["client-1"] == (160, 1)


class Echo:
    """In the place of `GuestCommands`: every VM prints its name."""

    def __init__(self, _context: Any, vms: list[VM]) -> None:
        self.vms = vms

    def run(self, names: list[str], _argv: list[str], *, timeout: float) -> dict[str, Result]:
        return {name: Result(name, True, 0, name.encode(), b"", 0.0, timeout) for name in names}


def test_command_goes_to_deployed_vms_of_a_group(exp: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "GuestCommands", Echo)
    context: Any = SimpleNamespace(journal=exp.journal, spec=exp.spec, run=SimpleNamespace(name="groups"))

    def run_on(names: list[str] | None, group: str | None) -> list[dict[str, object]]:
        return run.run_on(context, "hostname", run.group_names(context, names, group, "run"), 5)

    rows = run_on(None, "server")
    assert [row["out"] for row in rows] == ["server-1", "server-2"]
    assert len(run_on(None, None)) == 8
    with pytest.raises(SpecError, match="there is no group 'servers' in this run"):
        run_on(None, "servers")
    with pytest.raises(SpecError, match="takes vms or a group, not both"):
        run_on(["server-1"], "server")
