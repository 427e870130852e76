"""Predictions: recorded runs are predicted from others, faults are injected, nothing passes for real."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from g5kvirt import Experiment, Spec, compare
from g5kvirt.errors import RunError, SpecError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.prediction import calibrate, inventory_of, predict, simulate
from g5kvirt.run.directory import find
from g5kvirt.run.journal import read_events
from g5kvirt.run.tables import Frames
from g5kvirt.simulation.calibration import Calibration, StepTime, load, save
from g5kvirt.simulation.fit import RunTimes
from g5kvirt.simulation.world import Faults
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.simulated.driver import Simulated

RUNS = Path(__file__).parents[3] / "data" / "runs"
SPEC = Spec(sites={"nancy": 2, "rennes": 2}, vms=24, vm={"memory": 350, "disk": 564})


def times(name: str) -> tuple[RunTimes, Spec]:
    run = find(RUNS, name)
    return RunTimes(read_events(run.journal), 2), Spec.from_dict(run.document["spec"])


def predicted(name: str, calibration: Calibration) -> tuple[RunTimes, RunTimes]:
    """A recorded run, and its prediction: all its deployments, each of them after a reboot."""
    real, spec = times(name)
    assert real.state.reservation is not None
    bed = Simulated(inventory_of(real.state.reservation.hosts, name), calibration, real_cores=2)
    sizes = [len(d.vms) for d in real.state.deployments.values()]
    environment = "light" if spec.guest == "light" else "mini"
    found = predict(spec, bed, sizes=sizes, environment=environment).frames.journal
    return real, RunTimes(found, 2)


def error(real: RunTimes, model: RunTimes, phase: str) -> float:
    a, b = real.phase(phase), model.phase(phase)
    assert a is not None
    assert b is not None
    return b / a - 1


@pytest.mark.parametrize(("name", "run"), [("local-emulated", "http"), ("local-light", "arp-enlarged")])
def test_a_shipped_calibration_is_that_of_its_run(name: str, run: str, tmp_path: Path) -> None:
    made = calibrate([RUNS / run], name)
    save(made, tmp_path / "made.yaml")
    assert load(str(tmp_path / "made.yaml")) == load(name)


# The split: `local-emulated` is made of the run `http` alone, `local-light` of `arp-enlarged`, with 1,000
# guests on 78 hosts. What is predicted here was not used for them.
@pytest.mark.parametrize(
    ("run", "bound"), [("window-1", 0.12), ("window-2", 0.30), ("window-4", 0.10), ("window-8", 0.10)]
)
def test_launches_with_other_windows_are_predicted(run: str, bound: float) -> None:
    real, spec = times(run)
    assert real.state.reservation is not None
    bed = Simulated(inventory_of(real.state.reservation.hosts, run), load("local-emulated"), real_cores=2)
    model = RunTimes(predict(spec, bed, sizes=[]).frames.journal, 2)
    assert abs(error(real, model, "launch")) < bound


def test_a_small_run_predicts_one_of_three_times_as_many_vms(tmp_path: Path) -> None:
    """As the how-to recommends it: 8 emulated VMs, measured on the same day, for 24."""
    real, model = predicted("emulated-24", calibrate([RUNS / "emulated-8"], "small"))
    assert abs(error(real, model, "launch")) < 0.20
    assert abs(error(real, model, "configure")) < 0.10
    measured, prediction = (
        [one.end - one.start for one in times.state.deployments.values()] for times in (real, model)
    )
    assert prediction == pytest.approx(measured, rel=0.15)
    boots = [Frames(times.events).vms.filter(like="t_").median() for times in (real, model)]
    assert boots[1].to_numpy() == pytest.approx(boots[0].to_numpy(), rel=0.20)


def test_the_full_size_is_predicted_from_a_quarter_of_it() -> None:
    real, model = predicted("slides-light", load("local-light"))
    assert abs(error(real, model, "launch")) < 0.15
    whole = [list(one.state.deployments.values())[-1] for one in (real, model)]
    measured, prediction = (one.end - one.start for one in whole)
    assert abs(prediction / measured - 1) < 0.15
    assert len(whole[1].vms) == 4552
    assert abs(error(real, model, "configure")) < 0.15


def test_the_same_seed_gives_the_same_run_to_the_byte() -> None:
    def run(seed: int) -> list[str]:
        bed = open_testbed("simulated:2013")
        assert isinstance(bed, Simulated)
        bed = Simulated(bed._inventory, bed.world.calibration, seed=seed)
        return [event.to_json() for event in predict(SPEC, bed).frames.journal]

    first = run(1)
    assert run(1) == first
    assert run(2) != first


def machines(**values: Any) -> Inventory:
    host = {"cores": 16, "memory": 64 * GIB, **values}
    sites = {
        site: tuple(
            Machine(Host(f"c-{n}.{site}.grid5000.fr", site, "c", **host), virtual=True) for n in range(1, 12)
        )
        for site in ("nancy", "rennes")
    }
    return Inventory("test", sites)


EXACT = Calibration(
    "exact",
    "kvm",
    "invented",
    boot={"power-on": StepTime(seconds=1), "minimal-system": StepTime(seconds=19)},
    deployment={"image": StepTime(seconds=2), "boot": StepTime()},
    reboot=StepTime(seconds=1),
    reboot_boot=StepTime(seconds=20),
    environment=StepTime(seconds=10),
    images={"mini": 125e6},
)


def test_a_rate_window_costs_its_pauses() -> None:
    spec = Spec(sites={"nancy": 10, "rennes": 10}, vms=200, windows={"reboot": 50, "reboot_sleep": 10})
    seconds = predict(spec, Simulated(machines(), EXACT))[200]
    least = 3 * 10 + 1 + 20 + 2 + 10  # three pauses; command, boot, image, environment of the last ones
    assert least <= seconds <= 1.15 * least
    without = predict(replace(spec, windows={}), Simulated(machines(), EXACT))[200]
    assert 33 <= without <= 1.15 * 33


def test_servers_links_bound_a_launch() -> None:
    boot = {"power-on": StepTime(), "kernel": StepTime(bytes=12.5e6), "minimal-system": StepTime()}
    bed = Simulated(machines(), replace(EXACT, boot=boot))
    found = predict(Spec(sites={"nancy": 10}, vms=100), bed, sizes=[])
    (launch,) = found.phases.set_index("phase").loc[["launch"], "seconds"]
    assert launch == pytest.approx(100 * 12.5e6 * 8 / 1e9, rel=0.03)


def test_the_first_of_a_crowd_do_not_set_the_patience_of_all() -> None:
    """600 VMs on one server's link: a few are through at once, the others need a minute and more."""
    spec = Spec(sites={"nancy": 10}, vms=600, capacity={"max_per_host": 60, "per_core": 60})
    kernel = replace(EXACT.reboot_boot, seconds=6, bytes=15.4e6, spread=0.1)
    prediction = predict(spec, Simulated(machines(memory=256 * GIB), replace(EXACT, reboot_boot=kernel)))
    assert prediction.failed == {600: 0}
    assert prediction[600] > 600 * 15.4e6 * 8 / 1e9


def test_vms_that_do_not_boot_are_given_up_and_hosts_that_die_lose_theirs() -> None:
    bed = Simulated(machines(), EXACT, faults=Faults(vms=0.1, hosts=0.2, within=10), seed=3)
    spec = Spec(sites={"nancy": 10, "rennes": 10}, vms=200)
    frames = predict(spec, bed, sizes=[100]).frames
    assert 5 <= frames.account.failed <= 40
    (row,) = frames.measurements.scalability.to_dict("records")
    assert row["deployed"] + row["failed"] == 100
    reasons = {e.reason for e in frames.journal if (e.phase, e.kind, e.status) == ("measure", "vm", "failed")}
    assert any("is gone" in reason for reason in reasons)
    assert row["deployed"] > 50


def test_hosts_that_died_stay_dead(tmp_path: Path) -> None:
    bed = Simulated(machines(), EXACT, faults=Faults(hosts=0.3, within=1), seed=1)
    spec = Spec(sites={"nancy": 10, "rennes": 10}, vms=40)
    events = list(simulate(spec, bed, tmp_path, "twice", [40, 40]).journal)
    lost = [
        {
            e.subject
            for e in events
            if e.step == "deployment"
            and e.kind == "vm"
            and e.status == "failed"
            and e.detail["deployment"] == name
            and "is gone" in e.reason
        }
        for name in ("d1", "d2")
    ]
    assert lost[0]
    assert lost[0] < lost[1]


def test_light_guests_get_their_own_environment_by_default(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 2}, vms=8, guest="light")
    with Experiment(spec, testbed="simulated:2013/local-light", name="light", runs=tmp_path) as exp:
        for phase in ("reserve", "deploy", "configure", "place", "launch"):
            getattr(exp, phase)()
        exp.measure()
        assert exp.frames.measurements.deployments["environment"].tolist() == ["light"]
        assert list(exp.predict()) == [8]


def test_a_prediction_never_passes_for_a_measurement(tmp_path: Path) -> None:
    with Experiment(SPEC, testbed="simulated:2013", name="model", runs=tmp_path) as exp:
        exp.reserve()
        exp.deploy()
        exp.configure()
        exp.place()
        assert "predicted by a model, no machine ran" in exp.launch()._repr_html_()
        exp.measure(sizes=[8, 24])
        with pytest.raises(SpecError, match="is a prediction"):
            exp.run("true")
        assert json.loads((exp.path / "run.json").read_text())["prediction"] is True
        assert not (exp.path / "ssh").exists()
        curve = exp.figures.scalability()
        assert "predicted by a model" in curve.caption
        curve.save(tmp_path / "curve")
        assert "prediction" in (tmp_path / "curve.csv").read_text().splitlines()[0]
        assert "predicted by a model" in exp._repr_html_()
    again = Experiment.open(exp.path)
    assert again.frames.account.up == 24
    both = compare(exp.path, RUNS / "http")
    assert any(run.label.endswith("(predicted)") for run in both.runs)
    with pytest.raises(RunError, match="is a prediction"):
        calibrate([exp.path], "mine")


@pytest.mark.parametrize("before", [[8], []])
def test_a_later_process_goes_on_where_the_clock_stopped(before: list[int], tmp_path: Path) -> None:
    runner = simulate(SPEC, Simulated(machines(), EXACT), tmp_path, "first", before)
    known, end = len(runner.journal), max(event.t for event in runner.journal)
    exp = Experiment.open(tmp_path / "first")
    exp._runner._testbed = Simulated(machines(), EXACT)  # as another process would open it
    assert exp.measure(sizes=[24]).summary.deployed == 24
    later = list(exp.journal)[known:]
    assert min(event.t for event in later) == pytest.approx(end)
    deployments = list(exp.journal.state.deployments.values())
    assert [len(d.vms) for d in deployments] == [*before, 24]
    assert deployments[-1].end - deployments[-1].start < 60, "nobody was waited for"


def test_what_cannot_be_predicted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no simulated testbed '1999'"):
        open_testbed("simulated:1999")
    with pytest.raises(SpecError, match=r"there is no calibration 'none\.yaml'"):
        open_testbed("simulated:2013/none.yaml")
    light = Spec(sites={"nancy": 2}, vms=4, guest="light")
    for spec, testbed in ((light, "simulated:2013"), (SPEC, "simulated:2026/local-light")):
        with pytest.raises(SpecError, match="was not made of guests of the kind"):
            Experiment(spec, testbed=testbed, name="mixed", runs=tmp_path)
    exp = Experiment(light, testbed="simulated:2013/local-light", name="light", runs=tmp_path)
    with pytest.raises(SpecError, match="'grid5000' was not made of guests of the kind 'light'"):
        exp.predict([4], calibration="grid5000")
    with pytest.raises(SpecError, match="built-in provisioner only"):
        Experiment(replace(SPEC, provisioner="kadeploy3"), testbed="simulated:2013", runs=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "boot: {power-on: {seconds: -1}, minimal-system: {}}",
            "boot.power-on.seconds must be",
        ),
        ("boot: {power-on: {seconds: .inf}, minimal-system: {}}", "from 0 on"),
        ("boot: {power-on: {cpu: true}, minimal-system: {}}", "from 0 on"),
        ("boot: {minimal-system: {}}", "boot has no step 'power-on'"),
        ("boot: {power-on: {}, minimal-system: {}, kernal: {}}", "unknown step 'kernal'.*kernel"),
        ("deployment: {boot: {}}", "deployment has no step 'image'"),
        ("check: {cpu: fast}", "check.cpu must be a number"),
        ("check: 3", "check must be a mapping"),
        ("fixed: {reserve: ten}", "fixed.reserve must be a number"),
        ("machines: {launch: {}}", "unknown step 'launch'"),
        (
            "boot: {power-on: {seconds: 1.0e+30}, minimal-system: {}}",
            "seconds must be at most 1,000,000",
        ),
        (f"hop: 1{'0' * 400}", "hop must be at most 1,000,000"),
        ("guest: dog", "guest must be one of kvm, tcg, light"),
        ("assumed: 0", "assumed must be true or false"),
        ("shared: 'no'", "shared must be true or false"),
        ("fixed: {reserve: 1.0e+9}", "fixed.reserve must be at most 1,000,000"),
        ("check: {spread: 1000}", "check.spread must be at most 10"),
        ("images: {mini: 1.0e+30}", "images.mini must be at most"),
        ("uplink_gbps: 0", "uplink_gbps must be above 0"),
        ("images: {mini: big}", "images.mini must be a number"),
        ("boots: {}", "unknown key 'boots'.*boot"),
        ("name: 3", "name must be a text"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_a_calibration_with_a_mistake_is_refused_in_a_sentence(
    change: str, message: str, tmp_path: Path
) -> None:
    good = {
        "name": "x",
        "guest": "kvm",
        "source": "y",
        "boot": {"power-on": {}, "minimal-system": {}},
        "deployment": {"image": {}, "boot": {}},
    }
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(good))
    assert load(str(path)).name == "x"
    key = change.partition(":")[0]
    left = {name: value for name, value in good.items() if name != key}
    path.write_text(yaml.safe_dump(left) + change + "\n")
    with pytest.raises(SpecError, match=message):
        load(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not text in UTF-8"):
        load(str(path))


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ({"phase": "launch", "attempt": 1}, "boot has no step 'power-on'"),
        ({"step": "power-on", "status": "ok"}, "boot has no step 'power-on'"),
        ({"step": "image"}, "deployment has no step 'image'"),
        ({"phase": "place"}, "vm-1 is on no host"),
    ],
)
def test_a_run_that_lacks_a_step_gives_no_calibration(
    dropped: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """As where no VM came up at its first try: the file could not be read again."""
    run = tmp_path / "poor"
    shutil.copytree(RUNS / "http", run)
    lines = (run / "journal.jsonl").read_text().splitlines()
    kept = [
        line
        for line in lines
        if "guests" in line or not all(json.loads(line).get(key) == value for key, value in dropped.items())
    ]
    assert len(kept) < len(lines)
    (run / "journal.jsonl").write_text("\n".join(kept) + "\n")
    with pytest.raises((RunError, SpecError), match=message):
        calibrate([run], "mine")


def test_a_run_without_a_specification_gives_no_calibration(tmp_path: Path) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(RUNS / "http", run)
    document = json.loads((run / "run.json").read_text())
    del document["spec"]
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match="damaged: the specification has no"):
        calibrate([run], "mine")


def test_a_run_that_began_is_predicted_on_its_machines(tmp_path: Path) -> None:
    """Its start is over, and what its machines had to have is not known of them any more."""
    real, _ = times("http")
    assert real.state.reservation is not None
    run = tmp_path / "dated"
    shutil.copytree(RUNS / "http", run)
    document = json.loads((run / "run.json").read_text())
    document["spec"] |= {"start": "2020-01-01 19:00:00", "properties": "cluster = 'graphene'"}
    (run / "run.json").write_text(json.dumps(document))
    assert calibrate([run], "dated").boot.keys() == load("local-emulated").boot.keys()
    exp = Experiment.open(run)
    assert list(exp.predict([2, 8])) == [2, 8], "it has its machines: no testbed is needed"
    del document["recorded"]
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match="how many cores its hosts shared"):
        calibrate([run], "dated")
