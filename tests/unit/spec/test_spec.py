"""A spec is right or there is one sentence; nothing else comes out of it."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.inventory import to_plain
from g5kvirt.spec.spec import (
    MIN_WALLTIME,
    CapacityRule,
    Spec,
    Timeouts,
    VMSpec,
    Windows,
    format_walltime,
    parse_walltime,
    suggest,
)

GOOD: dict[str, Any] = {
    "sites": {"nancy": 2, "rennes": 3},
    "vms": 16,
    "services": 2,
    "clusters": {"nancy": "graphene"},
    "walltime": "2:00:00",
    "start": "now",
    "host_environment": "debian12-min",
    "vm": {"memory": 256, "cores": 2, "disk": 100},
    "capacity": {"rule": "2013", "max_per_host": 9, "per_core": 3, "host_reserve": 512},
    "placement": "packed",
    "netboot": "tftp",
    "boot": "iso",
    "windows": {"boot": 5, "sleep": 1.5, "reboot": 3, "reboot_sleep": 2, "check": 4, "check_sleep": 0.5},
    "timeouts": {
        "reserve": 60,
        "boot": 100.5,
        "boot_attempts": 2,
        "netboot_attempts": 4,
        "set_deployment_env": 60,
        "broadcast_env": 120.5,
        "boot_new_env": 90,
        "deployment_retries": 0,
    },
    "job_name": "mine",
}


def sentence(error: pytest.ExceptionInfo[SpecError]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def test_defaults() -> None:
    spec = Spec(sites={"nancy": 2, "rennes": 2}, vms=16)
    assert spec.walltime == 3600
    assert spec.hosts == 4
    assert (spec.vm, spec.capacity, spec.windows, spec.timeouts) == (
        VMSpec(),
        CapacityRule(),
        Windows(),
        Timeouts(),
    )
    assert spec.clusters is None


def test_macro_steps_are_bounded_only_on_request() -> None:
    assert Timeouts().macro_steps == {}
    bounds = Timeouts(set_deployment_env=60, boot_new_env=1.5).macro_steps
    assert bounds == {"SetDeploymentEnv": 60, "BootNewEnv": 1.5}
    every = Spec.from_dict(GOOD).timeouts.macro_steps
    assert list(every) == ["SetDeploymentEnv", "BroadcastEnv", "BootNewEnv"]


def test_sites_to_be_chosen() -> None:
    spec = Spec(hosts=355, sites=6, vms=4552, properties="memnode >= 4096", start="first")
    assert (spec.sites, spec.hosts, spec.site_count) == ({}, 355, 6)
    assert Spec(hosts=3, vms=1).site_count is None
    chosen = spec.at({"nancy": 200, "lyon": 155})
    assert (chosen.sites, chosen.hosts, chosen.site_count) == ({"nancy": 200, "lyon": 155}, 355, None)
    assert (chosen.properties, chosen.start) == (spec.properties, "first")
    for one in (spec, chosen, Spec(hosts=3, vms=1)):
        assert Spec.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_spec_can_be_replaced_in_part() -> None:
    named = Spec(sites={"nancy": 2}, vms=4)
    assert replace(named, sites={"nancy": 3}).hosts == 3
    assert replace(named, vms=5).sites == {"nancy": 2}
    unchosen = Spec(hosts=4, sites=2, vms=4)
    other = replace(unchosen, vms=5)
    assert (other.vms, other.hosts, other.site_count, other.sites) == (5, 4, 2, {})
    assert replace(unchosen, sites={"lyon": 1}) == Spec(sites={"lyon": 1}, vms=4)
    assert replace(other, vms=4) == unchosen


def test_specs_without_sites_are_plain_data_too() -> None:
    unchosen = Spec(hosts=4, sites=2, vms=4)
    for copied in (copy.deepcopy(unchosen), pickle.loads(pickle.dumps(unchosen))):
        assert replace(copied, vms=4) == unchosen
    assert to_plain(unchosen)["sites"] == {}
    assert repr(unchosen) == "Spec(sites=2, vms=4, hosts=4)"
    assert unchosen != Spec(hosts=4, sites=1, vms=4)


def test_mistakes_are_reported_in_the_order_of_the_fields() -> None:
    with pytest.raises(SpecError, match="vms"):
        Spec(sites={"nancy": 1}, vms=0, services=0, vm={"memory": 0})


RUNS = sorted((Path(__file__).parents[3] / "data" / "runs").glob("*/run.json"))


def test_specifications_of_published_runs_are_read_and_written_as_they_are() -> None:
    assert len(RUNS) >= 6
    for file in RUNS:
        document = json.loads(file.read_text(encoding="utf-8"))["spec"]
        # what a specification has had since then has its default
        newer = {
            "guest": "vm",
            **document,
            "timeouts": {"netboot_attempts": 8, **document["timeouts"]},
            "vm": {**document["vm"], "port_security": True},
        }
        assert Spec.from_dict(document).to_dict() == newer


def test_starts() -> None:
    spec = Spec(sites={"nancy": 2}, vms=1, start="2026-12-01 19:00")
    assert spec.start == "2026-12-01 19:00:00"
    assert spec.start_seconds == 1796148000  # 18:00 UTC
    assert Spec(sites={"nancy": 2}, vms=1).start_seconds is None
    assert Spec.from_dict(spec.to_dict()) == spec


def test_nested_parts_as_dictionaries_or_objects() -> None:
    as_dict = Spec(sites={"nancy": 1}, vms=1, vm={"memory": 96}, windows={"boot": 3})
    as_objects = Spec(sites={"nancy": 1}, vms=1, vm=VMSpec(memory=96), windows=Windows(boot=3))
    assert as_dict == as_objects


def test_vms_too_small_to_boot_are_refused() -> None:
    message = r"does not boot in 79 MiB of memory: set vm.memory to at least 80 MiB"
    with pytest.raises(SpecError, match=message):
        Spec(sites={"nancy": 1}, vms=2, vm={"memory": 79})
    assert Spec(sites={"nancy": 1}, vms=2, vm={"memory": 79}, guest="light").vm.memory == 79


def test_round_trip() -> None:
    spec = Spec.from_dict(GOOD)
    assert Spec.from_dict(spec.to_dict()) == spec
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert json.dumps(to_plain(spec))


@given(
    sites=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), st.integers(1, 500), min_size=1
    ),
    vms=st.integers(1, 100_000),
    walltime=st.integers(MIN_WALLTIME, 1_000_000),
    sleep=st.none() | st.floats(0, 1000),
)
def test_every_spec_survives_json_and_yaml(
    sites: dict[str, int], vms: int, walltime: int, sleep: float | None
) -> None:
    spec = Spec(sites=sites, vms=vms, walltime=walltime, windows={"sleep": sleep})
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert Spec.from_dict(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec


def test_spec_copies_its_arguments() -> None:
    sites = {"nancy": 2}
    spec = Spec(sites=sites, vms=1)
    sites["nancy"] = -1
    assert spec.sites == {"nancy": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sites": {}}, "sites is empty"),
        ({"sites": {"nancy": 0}}, "sites.nancy"),
        ({"sites": {"nancy": -2}}, "-2"),
        ({"sites": {"nancy": True}}, "True"),
        ({"sites": {"nancy": "2"}}, "'2'"),
        ({"sites": {"Nancy; rm": 2}}, "Nancy; rm"),
        ({"sites": {3: 2}}, "site"),
        ({"sites": "nancy"}, "sites"),
        ({"sites": {"nancy": 2}, "hosts": 3}, "add up to 2"),
        ({"sites": 2}, "nor how many hosts"),
        ({"sites": None}, "nor how many hosts"),
        ({"sites": 4, "hosts": 3}, "sites"),
        ({"sites": 0, "hosts": 3}, "sites"),
        ({"sites": True, "hosts": 3}, "sites"),
        ({"sites": None, "hosts": -1}, "hosts"),
        ({"min_hosts": 0}, "min_hosts"),
        ({"min_hosts": 5000}, "min_hosts"),
        ({"properties": 'a"; rm -rf /'}, "properties"),
        ({"properties": "$(id)"}, "properties"),
        ({"properties": "  "}, "properties"),
        ({"queue": "a b"}, "queue"),
        ({"project": 3}, "project"),
        ({"job_types": "exotic"}, "a list of types such as ['exotic']"),
        ({"job_types": ["besteffort"]}, "'exotic' or 'day' or 'night' or 'destructive'"),
        ({"job_types": [3]}, "job_types"),
        ({"job_types": ["night", "day"]}, "both types 'day' and 'night'"),
        (
            {"job_types": ["day"], "walltime": "10:00:01"},
            "day cannot have a walltime of 10:00:01: give at most",
        ),
        ({"start": "tomorrow"}, "start"),
        ({"start": "2026-13-01 10:00"}, "start"),
        ({"provisioner": "kadeploy4"}, "'kadeploy3'"),
        ({"sites": None}, "sites"),
        ({"vms": 0}, "at least 1"),
        ({"vms": -5}, "-5"),
        ({"vms": 1.0}, "whole number"),
        ({"vms": math.nan}, "nan"),
        ({"vms": math.inf}, "inf"),
        ({"vms": True}, "True"),
        ({"vms": None}, "None"),
        ({"vms": 10**5000}, "at most"),
        ({"services": 0}, "services"),
        ({"clusters": {"nanci": "graphene"}}, "did you mean 'nancy'?"),
        ({"clusters": {"nancy": 3}}, "clusters.nancy"),
        ({"clusters": []}, "clusters"),
        ({"walltime": "1h"}, "cannot be read"),
        ({"walltime": "1:60"}, "cannot be read"),
        ({"walltime": "0:04:59"}, "too short"),
        ({"walltime": 299}, "too short"),
        ({"walltime": -1}, "too short"),
        ({"walltime": True}, "cannot be read"),
        ({"walltime": None}, "cannot be read"),
        ({"walltime": math.nan}, "cannot be read"),
        ({"walltime": "99999:00"}, "too long"),
        ({"start": "tomorrow"}, "'now'"),
        ({"host_environment": "-x"}, "host_environment"),
        ({"host_environment": "a b"}, "host_environment"),
        ({"host_environment": "a\n"}, "host_environment"),
        ({"host_environment": "a@"}, "name@user:version%arch"),
        ({"host_environment": "a:new"}, "name@user:version%arch"),
        ({"host_environment": "a%x86_64@me"}, "name@user:version%arch"),
        ({"vm": {"memroy": 1}}, "did you mean 'memory'?"),
        ({"vm": {"memory": 0}}, "vm.memory"),
        ({"vm": {"disk": -1}}, "vm.disk"),
        ({"vm": 3}, "vm"),
        ({"vm": {}, "vmz": 3}, "vmz"),
        ({"capacity": {"per_core": 0.5}}, "capacity.per_core"),
        ({"capacity": {"rule": 7}}, "capacity.rule"),
        ({"placement": ""}, "placement"),
        ({"netboot": "ftp"}, "'http' or 'tftp'"),
        ({"netboot": ["http"]}, "netboot"),
        ({"boot": "usb"}, "'rom' or 'iso'"),
        ({"windows": {"boot": 0}}, "windows.boot"),
        ({"windows": {"sleep": -1}}, "windows.sleep"),
        ({"windows": {"sleep": math.nan}}, "windows.sleep"),
        ({"windows": {"sleep": 10**400}}, "windows.sleep"),
        ({"windows": {"reboot": 0}}, "windows.reboot must be"),
        ({"windows": {"reboot": 2.5}}, "windows.reboot must be"),
        ({"windows": {"reboot_sleep": "1"}}, "windows.reboot_sleep must be"),
        ({"windows": {"check": 0}}, "windows.check must be"),
        ({"windows": {"check_sleep": -0.1}}, "windows.check_sleep must be"),
        ({"windows": {"checks": 3}}, "did you mean 'check'?"),
        ({"timeouts": {"boot": 0}}, "timeouts.boot"),
        ({"timeouts": {"deploy": math.inf}}, "timeouts.deploy"),
        ({"timeouts": {"boot_attempts": 0}}, "timeouts.boot_attempts"),
        ({"timeouts": {"netboot_attempts": 0}}, "timeouts.netboot_attempts"),
        ({"timeouts": {"set_deployment_env": 0}}, "timeouts.set_deployment_env must be"),
        ({"timeouts": {"broadcast_env": True}}, "timeouts.broadcast_env must be"),
        ({"timeouts": {"boot_new_env": math.nan}}, "timeouts.boot_new_env must be"),
        ({"timeouts": {"deployment_retries": -1}}, "timeouts.deployment_retries must be"),
        ({"timeouts": {"deployment_retries": 0.5}}, "timeouts.deployment_retries must be"),
        ({"timeouts": {"boot_new": 5}}, "did you mean 'boot_new_env'?"),
        ({"job_name": "a'b"}, "job_name"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as error:
        Spec.from_dict(GOOD | change)
    assert words in sentence(error)


@pytest.mark.parametrize("document", [None, [], "x", 3, {}, {"vms": 1}, {"sites": {"nancy": 1}}])
def test_other_documents_are_refused(document: Any) -> None:
    with pytest.raises(SpecError) as error:
        Spec.from_dict(document)
    sentence(error)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.sampled_from(["1:00:00", "http", "balanced", "now"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6) | st.integers() | st.sampled_from(["boot", "memory", "nancy"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@given(
    changes=st.dictionaries(
        st.sampled_from(sorted(GOOD)) | st.text(max_size=6) | st.integers(), ANYTHING, max_size=4
    ),
    drop=st.sets(st.sampled_from(sorted(GOOD)), max_size=3),
)
def test_mangled_documents_give_a_spec_or_a_sentence(changes: dict[Any, Any], drop: set[str]) -> None:
    document: dict[Any, Any] = {k: v for k, v in (GOOD | changes).items() if k not in drop}
    spec: Spec | None
    try:
        spec = Spec.from_dict(document)
    except SpecError as error:
        spec, text = None, str(error)
    else:
        text = ""
    if spec is None:
        assert text
        assert "\n" not in text
    else:
        assert Spec.from_dict(spec.to_dict()) == spec


@given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_gives_a_spec_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SpecError) as error:
        Spec.load(path)
    sentence(error)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return path


def test_load(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(GOOD))
    assert Spec.load(path) == Spec.load(str(path)) == Spec.from_dict(GOOD)


def test_unquoted_clock_is_not_a_number_in_base_60(tmp_path: Path) -> None:
    assert Spec.load(write(tmp_path, "sites: {nancy: 1}\nvms: 1\nwalltime: 10:00\n")).walltime == 36000
    assert Spec.load(write(tmp_path, "sites: {nancy: 1}\nvms: 1\nwalltime: 1:30:00\n")).walltime == 5400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sites: {nancy: 1", "line 1"),
        ("sites: {nancy: 1}\nvms: 1\nvms: 2\n", "twice"),
        ("sites: {nancy: 1}\nvms: 1\nwindow: {boot: 1}\n", "did you mean 'windows'?"),
        ("sites: {nancy: 1}\nvms: 1\nwindows: {boots: 1}\n", "did you mean 'boot'?"),
        ("", "mapping"),
        ("- 1", "mapping"),
        ("a: \x00", "YAML"),
        ("? [a]\n: b", "YAML"),
        ("!!python/object/apply:os.getpid []", "YAML"),
        ("vms: " + "9" * 5000, "YAML"),
        ("[" * 3000, "YAML"),
        ("sites: &a {nancy: *a}\nvms: 1", "refers to itself"),
    ],
)
def test_unreadable_files(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SpecError) as error:
        Spec.load(path)
    assert words in sentence(error)
    assert str(path) in str(error.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, binary, Path("a\0b")):
        with pytest.raises(SpecError) as error:
            Spec.load(path)
        sentence(error)


@given(st.integers(MIN_WALLTIME, 366 * 86400))
def test_walltimes_round_trip(seconds: int) -> None:
    assert parse_walltime(format_walltime(seconds)) == parse_walltime(seconds) == seconds


def test_walltimes_are_read_in_every_notation() -> None:
    assert parse_walltime("01:30") == parse_walltime(" 1:30:00 ") == 5400


def test_suggestions() -> None:
    assert suggest("nanci", ["nancy", "rennes"]) == "did you mean 'nancy'?"
    assert suggest("xyz", ["nancy", "rennes"]) == "known: nancy, rennes"
    assert suggest("xyz", []) == "none is known"


def test_job_types_are_each_there_once_in_yaml_too(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 1}, vms=1, job_types=["night", "exotic", "night"])
    assert spec.job_types == ("exotic", "night")
    assert spec.to_dict()["job_types"] == ["exotic", "night"]
    (tmp_path / "spec.yaml").write_text("{sites: {nancy: 1}, vms: 1, job_types: [night, exotic]}")
    assert Spec.load(tmp_path / "spec.yaml") == spec == Spec.from_dict(spec.to_dict())
    assert Spec(sites={"nancy": 1}, vms=1).job_types == ()
