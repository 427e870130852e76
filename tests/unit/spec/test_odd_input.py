"""Values that people pass from pandas and numpy, and YAML with traps: one sentence, or what they meant."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt import Experiment, Spec
from g5kvirt.errors import SpecError
from g5kvirt.images import descriptions
from g5kvirt.spec.yaml_files import LARGEST, load_yaml


class Rude(str):
    """Text that cannot even be shown."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


ODD = [
    pd.NA,
    pd.NaT,
    float("nan"),
    np.array([1, 2]),
    pd.Series({"a": 1}),
    Rude("x\ny"),
    object(),
    {1: 2},
    b"x",
]
FIELDS = [
    "sites",
    "hosts",
    "vms",
    "min_hosts",
    "services",
    "clusters",
    "properties",
    "queue",
    "job_types",
    "walltime",
    "start",
    "vm",
    "windows",
    "guest",
    "netboot",
    "placement",
    "job_name",
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", FIELDS)
def test_an_odd_value_is_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(SpecError) as error:
        Spec(**({"sites": {"nancy": 1}, "vms": 1} | {name: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", [Rude("x y"), 3, None, ("a",), "n" * 300])
def test_an_odd_key_is_one_sentence(key: Any) -> None:
    for arguments in ({"sites": {key: 1}}, {"vm": {key: 1}}, {"clusters": {key: "graphene"}}):
        with pytest.raises(SpecError):
            Spec(**({"sites": {"nancy": 1}, "vms": 1} | arguments))


def test_an_unknown_argument_is_a_sentence_as_in_a_file() -> None:
    with pytest.raises(SpecError, match="unknown key 'window' in the specification: did you mean 'windows'"):
        Spec(sites={"nancy": 1}, vms=1, window=3)  # type: ignore[arg-type]


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    spec = Spec(sites={"nancy": int(np.int64(2))}, vms=np.int32(3))  # type: ignore[arg-type]
    assert spec == Spec(sites={"nancy": 2}, vms=3)
    assert type(spec.vms) is int


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("odd")
    exp = Experiment(Spec(sites={"nancy": 2}, vms=2), testbed="simulated:2013", name="odd", runs=folder)
    for step in (exp.reserve, exp.deploy, exp.configure, exp.place, exp.launch):
        step()
    return exp


@pytest.mark.parametrize("value", [*ODD, None, 3.5], ids=lambda value: type(value).__name__)
def test_odd_arguments_of_a_measurement_are_one_sentence(launched: Experiment, value: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: launched.measure(broadcast=value),
        lambda: launched.measure(sizes=[value]),
        lambda: launched.measure(repeat=value),
        lambda: launched.start(value),
        lambda: launched.predict(calibration=value),
        lambda: launched.predict([value]),
        lambda: launched.predict([0]),
    ]
    if value is not None:  # the environment that suits the guests
        calls.append(lambda: launched.measure(environment=value))
    for call in calls:
        with pytest.raises(SpecError) as error:
            call()
        assert "\n" not in str(error.value)


# ---- dates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "2026-10-25 02:30 occurs twice that night"),
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "2026-10-25 02:30 occurs twice that night"),
        ("2026-10-25 02:00", "2026-10-25 02:00 occurs twice that night"),
        ("2026-03-29 02:30", "2026-03-29 02:30 does not occur that night"),
    ],
)
def test_a_start_at_an_hour_that_is_doubled_or_skipped(given: Any, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        Spec(sites={"nancy": 1}, vms=1, start=given)


@given(st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)))
def test_a_start_is_the_moment_that_was_given_or_refused(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    try:
        spec = Spec(sites={"nancy": 1}, vms=1, start=moment)  # type: ignore[arg-type]
    except SpecError:
        assert moment.month in (3, 10)
    else:
        assert spec.start_seconds == moment.timestamp()


# ---- YAML ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("08", "08"),
        ("0130", "0130"),
        ("0", 0),
        ("-3", -3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("2e3", 2000.0),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2026-12-01", "2026-12-01"),
    ],
)
def test_numbers_are_what_people_read(text: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"key: {text}\n")
    found = load_yaml(path)["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["!!bool maybe", "!!timestamp soon", "!!int x", "!!float []", "!!binary 3", "!!timestamp 2026-99-99"],
)
def test_a_tag_that_does_not_fit_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"vms: {text}\n")
    with pytest.raises(SpecError, match="cannot be read as YAML"):
        load_yaml(path)


def test_aliases_are_bounded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join([*lines, "name: x", "description: *a8"]))
    tracemalloc.start()
    with pytest.raises(SpecError, match="aliases repeat too much"):
        descriptions.load(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    path.write_text("a: &a [*a]\n")
    with pytest.raises(SpecError, match="refers to itself"):
        load_yaml(path)


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe.yaml", tmp_path / "large.yaml"
    os.mkfifo(pipe)
    large.write_text("a: " + "x" * LARGEST)
    for path, problem in (
        (pipe, "is not a file"),
        (large, "is larger than 1 MiB"),
        (tmp_path, "is not a file"),
    ):
        with pytest.raises(SpecError, match=problem):
            load_yaml(path)
