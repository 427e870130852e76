"""A prediction from a sample of the hosts says what that of all of them says, and a check uses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from g5kvirt import Spec
from g5kvirt.errors import RunError, SpecError
from g5kvirt.inventory import GIB, Host
from g5kvirt.phases.check import on_table
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.planning.preflight import Finding
from g5kvirt.prediction import expected_times, predict
from g5kvirt.prediction.sample import Sample, sample
from g5kvirt.simulation.calibration import load
from g5kvirt.simulation.world import Faults
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.simulated.driver import Simulated

HOSTS = {"nancy": 60, "rennes": 40, "lyon": 4}


def testbed(**more: Any) -> Simulated:
    def machine(site: str, number: int) -> Machine:
        small = number % 3 == 0  # every third machine is half as large
        cores, memory = (4, 8 * GIB) if small else (8, 24 * GIB)
        return Machine(Host(f"c-{number}.{site}.grid5000.fr", site, "c", cores, memory), virtual=True)

    sites = {site: tuple(machine(site, n) for n in range(1, hosts + 3)) for site, hosts in HOSTS.items()}
    return Simulated(Inventory("test", sites), load("grid5000"), **more)


SPEC = Spec(sites=HOSTS, vms=1200, services=3, vm={"memory": 350, "disk": 564})


@pytest.mark.parametrize(
    ("windows", "broadcast"),
    [
        ({}, "chain"),
        ({}, "tree"),
        ({}, "http"),
        ({"reboot": 50, "reboot_sleep": 10}, "chain"),
        ({"boot": 300}, "chain"),
        ({"boot": 80, "sleep": 4, "reboot_sleep": 2}, "http"),
    ],
)
def test_a_sample_takes_as_long_as_all(windows: dict[str, Any], broadcast: Any) -> None:
    spec = replace(SPEC, windows=windows)
    sizes = [600, 1200]
    part = sample(spec, testbed(), 300)
    assert part.factor > 3
    found = predict(part.spec, part.testbed, sizes=[part.size(n) for n in sizes], broadcast=broadcast)
    whole = predict(spec, testbed(), sizes=sizes, broadcast=broadcast)
    assert list(found.values()) == pytest.approx(list(whole.values()), rel=0.06)
    launch = [one.phases.set_index("phase").loc["launch", "seconds"] for one in (found, whole)]
    assert launch[0] == pytest.approx(launch[1], rel=0.06)


def test_a_summary_has_the_sizes_of_the_whole_and_no_tables_of_vms() -> None:
    spec = replace(SPEC, vms=2100, capacity={"max_per_host": 40, "per_core": 8, "host_reserve": 0})
    found = predict(spec, testbed(), sizes=[1, 700, 2100], summary=True)
    assert found.sampled == pytest.approx(2, rel=0.1)
    assert list(found) == [1, 700, 2100]
    assert found.scalability["deployed"].tolist() == [1, 700, 2100]
    assert "from a sample, one host in 2" in repr(found)
    with pytest.raises(RunError, match="a summary has no tables of VMs"):
        _ = found.frames


def test_a_hundred_thousand_vms_are_not_faster_than_their_links() -> None:
    calibration = load("grid5000")
    many = {
        f"s{k}": tuple(
            Machine(Host(f"c-{n}.s{k}.grid5000.fr", f"s{k}", "c", 8, 32 * GIB), virtual=True)
            for n in range(1, 700)
        )
        for k in range(10)
    }
    spec = Spec(sites=dict.fromkeys(many, 650), vms=100_000, services=40)
    found = predict(spec, Simulated(Inventory("many", many), calibration), summary=True)
    kernels = 100_000 * 15.4e6 * 8 / (30 * 1e9)  # each site has three servers, and one with DHCP alone
    launch = found.phases.set_index("phase").loc["launch", "seconds"]
    assert kernels < launch < 1.15 * kernels
    assert kernels < found[100_000]


def test_what_cannot_be_divided_is_predicted_whole() -> None:
    assert sample(SPEC, testbed(), 5000).factor == 1
    assert sample(replace(SPEC, windows={"boot": 20}), testbed(), 300).factor == 1
    assert sample(SPEC, testbed(real_cores=2), 300).factor == 1
    with pytest.raises(SpecError, match="unknown site"):
        predict(Spec(sites={"mars": 300}, vms=4000), testbed(), summary=True)


def test_sizes_of_a_sample() -> None:
    part = Sample(replace(SPEC, vms=100), testbed(), 12.0, whole=1200)
    assert [part.size(n) for n in (1, 60, 600, 1200)] == [1, 5, 50, 100]
    assert Sample(SPEC, testbed()).size(77) == 77


def walltime(spec: Spec) -> Finding:
    found = on_table(spec, "2013", expect=expected_times)
    return next(one for one in found.findings if one.what == "walltime")


def test_a_check_expects_what_is_predicted() -> None:
    spec = Spec(sites={"nancy": 3}, vms=30, walltime="1:00:00")
    plan = on_table(spec, "2013", expect=expected_times).plan
    assert plan is not None
    seconds = {one.phase: one.seconds for one in plan.expected}
    bed = open_testbed("simulated:2013")
    assert isinstance(bed, Simulated)
    phases = predict(spec, bed).phases.set_index("phase")["seconds"]
    assert seconds == pytest.approx({phase: phases[phase] for phase in seconds})
    assert list(seconds) == ["deploy", "configure", "launch", "measure"]
    assert "predicted by the calibration grid5000, assumed" in walltime(spec).message
    slow = walltime(replace(spec, windows={"reboot": 1, "reboot_sleep": 90}))
    assert (slow.status, slow.code) == ("warning", "too-short")


def test_a_check_of_what_does_not_fit_says_why_nothing_is_expected() -> None:
    large = walltime(Spec(sites={"nancy": 2}, vms=900))
    assert (large.status, large.code) == ("unknown", "no-estimate")
    assert large.message == "the expected time is not known: the VMs do not fit"
    many = walltime(Spec(sites={"reims": 60}, vms=60))
    assert many.code == "no-estimate"
    assert "60 hosts and 1 service machine at reims, which has 44 machines" in many.message


def test_a_sample_whose_server_would_be_elsewhere_is_not_taken() -> None:
    """The only server is at the larger site, and the samples of both are alike."""
    sites = {"nancy": 120, "rennes": 121}
    machines = {
        site: tuple(
            Machine(Host(f"c-{n}.{site}.grid5000.fr", site, "c", 8, 24 * GIB), virtual=True)
            for n in range(1, hosts + 3)
        )
        for site, hosts in sites.items()
    }
    bed = Simulated(Inventory("pair", machines), load("grid5000"))
    found = predict(Spec(sites=sites, vms=3000), bed, summary=True, sizes=[3000])
    assert found[3000] > 0


def test_without_sizes_a_deployment_is_on_the_vms_that_are_up() -> None:
    bed = testbed(faults=Faults(vms=0.3), seed=1)
    found = predict(Spec(sites={"nancy": 4}, vms=10, timeouts={"boot": 20, "boot_attempts": 1}), bed)
    [vms] = found
    assert 0 < vms < 10


def test_a_check_does_not_predict_for_minutes() -> None:
    spec = Spec(
        sites={"nancy": 140},
        vms=20_000,
        windows={"boot": 8},
        vm={"memory": 80, "disk": 0},
        capacity={"max_per_host": 200, "per_core": 100, "host_reserve": 0},
    )
    message = walltime(spec).message
    assert "a prediction of 20,000 VMs takes minutes" in message
