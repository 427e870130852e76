"""What a model may never say: sooner than a link allows, a step back in time, a VM without an end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g5kvirt import Spec
from g5kvirt.errors import PhaseError, SpecError
from g5kvirt.inventory import GIB, Host
from g5kvirt.phase_runner import Broadcast
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.prediction import predict, simulate
from g5kvirt.run.events import Event
from g5kvirt.simulation.calibration import Calibration, StepTime
from g5kvirt.simulation.network import TICK, Network
from g5kvirt.simulation.timeline import Timeline
from g5kvirt.simulation.world import Faults
from g5kvirt.testbeds.simulated.driver import Simulated, simulated

IMAGE = 125e6
MODEL = Calibration(
    "invented",
    "kvm",
    "invented",
    boot={"power-on": StepTime(seconds=1), "minimal-system": StepTime(seconds=9)},
    deployment={
        "partition": StepTime(seconds=1),
        "format": StepTime(),
        "image": StepTime(seconds=2),
        "boot": StepTime(),
    },
    reboot=StepTime(seconds=1),
    reboot_boot=StepTime(seconds=10),
    environment=StepTime(seconds=5),
    images={"mini": IMAGE},
)
#: Command, boot, partitions, image written, environment: what any deployment takes.
LEAST = 1 + 10 + 1 + 2 + 5


def machines(nic: float = 1e9) -> Inventory:
    """Eight machines at each of two sites."""
    sites = {
        site: tuple(
            Machine(
                Host(f"c-{n}.{site}.grid5000.fr", site, "c", cores=16, memory=64 * GIB, nic_rate=nic),
                virtual=True,
            )
            for n in range(1, 9)
        )
        for site in ("nancy", "rennes")
    }
    return Inventory("test", sites)


def spec(vms: int, window: int | None = None, sleep: float | None = None) -> Spec:
    windows = {} if window is None else {"reboot": window, "reboot_sleep": sleep}
    return Spec(sites={"nancy": 3, "rennes": 3}, vms=vms, windows=windows)


@pytest.mark.parametrize("broadcast", ["chain", "tree", "http"])
def test_an_image_is_not_sooner_at_another_site_than_its_uplink_allows(broadcast: Broadcast) -> None:
    slow = Simulated(machines(), replace(MODEL, uplink_gbps=0.02))
    assert predict(spec(12), slow, broadcast=broadcast)[12] > IMAGE * 8 / 0.02e9
    alone = Spec(sites={"nancy": 4}, vms=12)
    assert predict(alone, slow, broadcast=broadcast)[12] < IMAGE * 8 / 0.02e9, "nothing crosses it"


def test_uplinks_of_a_description_are_those_of_the_prediction(tmp_path: Path) -> None:
    cluster = "clusters: {{{}: {{nodes: 3, cores: 8, memory_gib: 32}}}}"
    sites = ", ".join(
        f"{site}: {{uplink_gbps: {{0}}, {cluster.format(name)}}}"
        for site, name in (("nancy", "big"), ("rennes", "tall"))
    )
    seconds = []
    for rate in ("10", "0.005"):
        (tmp_path / "lab.yaml").write_text("sites: {" + sites.replace("{0}", rate) + "}")
        bed = simulated(str(tmp_path / "lab.yaml"))
        seconds.append(predict(Spec(sites={"nancy": 2, "rennes": 2}, vms=4), bed)[4])
        assert bed.sample(machines(), 2.0).world.uplink("nancy") == float(rate) * 1e9
    assert seconds[1] > 21.6e6 * 8 / 5e6 > seconds[0]


def check_order(events: Sequence[Event]) -> None:
    """No event before the one that it is written after; steps of a VM in their order, each VM with an end."""
    times = [event.t for event in events]
    assert times == sorted(times)
    asked: dict[str, set[str]] = {}
    ended: dict[str, set[str]] = defaultdict(set)
    for event in events:
        name = str(event.detail.get("deployment", event.subject))
        if event.step == "deployment" and event.status == "start" and "vms" in event.detail:
            asked[name] = set(event.detail["vms"])
        elif event.step == "deployment" and event.kind == "vm" and event.status in ("ok", "failed"):
            assert event.subject not in ended[name], "it has one end"
            ended[name].add(event.subject)
    assert asked
    assert all(ended[name] == vms for name, vms in asked.items())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vms=st.integers(1, 24),
    window=st.none() | st.integers(1, 30),
    sleep=st.none() | st.integers(1, 20),
    lost=st.sampled_from([0.0, 0.1, 0.5]),
    died=st.sampled_from([0.0, 0.3, 0.7]),
    within=st.sampled_from([0.0, 1.0, 12.0, 20.0]),
    seed=st.integers(0, 99),
)
def test_whatever_goes_wrong_each_vm_has_one_end_in_time(
    vms: int,
    window: int | None,
    sleep: int | None,
    lost: float,
    died: float,
    within: float,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bed = Simulated(machines(), MODEL, faults=Faults(lost, died, within), seed=seed)
    folder = tmp_path_factory.mktemp("run")
    wanted = spec(vms, window, sleep if window else None)
    try:
        runner = simulate(wanted, bed, folder, "one", [vms])
    except (PhaseError, SpecError):  # no VM was deployed, or fewer came up than are to be
        if lost + died == 0:
            raise
        return
    events = list(runner.journal)
    check_order(events)
    if lost + died == 0:
        (one,) = runner.journal.state.deployments.values()
        assert one.end - one.start >= LEAST
        if window and sleep:
            assert one.end - one.start >= LEAST + (-(-vms // window) - 1) * sleep


@pytest.mark.parametrize("broadcast", ["chain", "tree", "http"])
def test_nothing_comes_of_a_host_after_its_death(broadcast: Broadcast, tmp_path: Path) -> None:
    bed = Simulated(machines(), replace(MODEL, uplink_gbps=0.1), faults=Faults(hosts=0.4, within=5), seed=5)
    runner = simulate(spec(24), bed, tmp_path, "one", [24], "mini", broadcast)
    events = [event for event in runner.journal if event.phase == "measure"]
    gone = {event.reason.split()[2] for event in events if "is gone" in event.reason}
    assert gone == bed.world.dead != set()
    hosts = {event.subject for event in events if (event.kind, event.status) == ("host", "ok")}
    assert hosts.isdisjoint(gone), "they had no image before they died"


@settings(max_examples=15, deadline=None)
@given(
    vms=st.integers(1, 40),
    window=st.integers(1, 20),
    more=st.integers(1, 20),
    sleep=st.integers(1, 20),
    rate=st.sampled_from([1e7, 1e8, 1e9]),
)
def test_larger_windows_and_faster_links_are_not_slower(
    vms: int, window: int, more: int, sleep: int, rate: float
) -> None:
    boot = replace(MODEL.reboot_boot, bytes=5e6)
    calibration = replace(MODEL, reboot_boot=boot, uplink_gbps=rate / 1e9)

    def seconds(window: int, nic: float, times: float = 1.0) -> float:
        model = replace(calibration, uplink_gbps=calibration.uplink_gbps * times)
        return predict(spec(vms, window, sleep), Simulated(machines(nic), model))[vms]

    first = seconds(window, rate)
    moment = 2.0  # seconds: rates are solved four times a second, decisions taken once
    assert seconds(window + more, rate) <= first + moment
    assert seconds(window, rate * 10, 10) <= first + moment


LINK = st.floats(1e2, 1e10)
TRANSFER = st.tuples(
    st.sets(st.integers(0, 3), min_size=1), st.floats(0, 1e9), st.sampled_from([0.0, 0.1, 7.0])
)


@settings(max_examples=60, deadline=None)
@given(rates=st.tuples(LINK, LINK, LINK, LINK), transfers=st.lists(TRANSFER, min_size=1, max_size=20))
def test_no_link_carries_more_than_its_rate(
    rates: tuple[float, ...], transfers: list[tuple[set[int], float, float]]
) -> None:
    timeline = Timeline()
    network = Network(timeline, rates)
    ends: dict[int, float] = {}
    for number, (links, size, begin) in enumerate(transfers):

        def send(number: int = number, links: set[int] = links, size: float = size) -> None:
            network.send(sorted(links), size, lambda: ends.update({number: timeline.now}))

        timeline.at(begin, send)
    timeline.run(1e12)
    assert len(ends) == len(transfers)
    for link, rate in enumerate(rates):
        crossed = [number for number, (links, _, _) in enumerate(transfers) if link in links]
        carried = sum(transfers[number][1] for number in crossed)
        first = min((transfers[number][2] for number in crossed), default=0.0)
        last = max((ends[number] for number in crossed), default=0.0)
        early = TICK * len(crossed)  # one that joins between two solutions has the rate of the last
        assert carried <= (last - first + early) * rate * (1 + 1e-6) + 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vms": 1.5}, "vms is a share from 0 to 1"),
        ({"hosts": float("nan")}, "hosts is a share from 0 to 1"),
        ({"within": -5.0}, "within is a number of seconds"),
        ({"within": float("inf")}, "within is a number of seconds"),
    ],
)
def test_faults_that_cannot_be_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Faults(**values)


@pytest.mark.parametrize("nic", [0.0, -1.0, float("nan"), float("inf")])
def test_a_link_without_a_rate_is_refused(nic: float) -> None:
    with pytest.raises(SpecError, match=r"rate of c-1\.nancy\.grid5000\.fr in bits per second"):
        Simulated(machines(nic), MODEL)
