"""Tables of deployments: rows, macro-steps, summaries, scalability, and what an unfinished one looks like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from exactmaker import deploy
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.provisioners.builtin.workflow import default_workflow
from g5kvirt.run.deployment_tables import Measurements, column
from g5kvirt.run.events import Event
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import MACROS


def test_vms_table_has_one_row_per_vm_and_deployment() -> None:
    table = Measurements.of([*deploy("a", environment="mini"), *deploy("b", 3, 2000.0, repetition=2)]).vms
    assert list(zip(table["deployment"], table["vm"], strict=True)) == [
        *(("a", f"vm-{i}") for i in (1, 2)),
        *(("b", f"vm-{i}") for i in (1, 2, 3)),
    ]
    assert set(table["outcome"]) == {"deployed"}
    assert list(table["requested"]) == [2, 2, 3, 3, 3]
    assert list(table["repetition"]) == [1, 1, 2, 2, 2]
    assert list(table["environment"]) == ["mini", "mini", "", "", ""]
    row = table.iloc[0]
    assert (row["reboot_start"], row["reboot_end"], row["reboot_attempt"]) == (1000.0, 1001.0, 1)
    assert (row["minimal_system_duration"], row["minimal_system_outcome"]) == (1.0, "ok")
    assert (row["SetDeploymentEnv_start"], row["SetDeploymentEnv_duration"]) == (1000.0, 4.0)
    assert row["duration"] == row["BootNewEnv_end"] - row["SetDeploymentEnv_start"]
    assert (row["reset_attempt"], row["reset_outcome"]) == (0, "")
    assert pd.isna(row["reset_start"])


def test_repeated_end_of_a_macro_step_is_counted_once() -> None:
    events = deploy(bad_images={"vm-1": 1})
    ends = [e for e in events if e.step in MACROS and e.subject == "vm-1" and e.status != "start"]
    before = Measurements.of(events).vms
    repeated = [again for e in events for again in ((e, replace(e, t=e.t + 5)) if e in ends else (e,))]
    assert ends
    pd.testing.assert_frame_equal(Measurements.of(repeated).vms, before)


def test_macro_steps_of_a_summary_are_those_of_the_deployed_vms() -> None:
    """A VM whose image is always wrong succeeded twice at the steps before: the breakdown leaves its times
    out, and so does this."""
    known = Measurements.of(deploy(bad_images={"vm-1": 99}))
    table = known.vms.set_index("vm")
    assert table["outcome"].to_dict() == {"vm-1": "failed", "vm-2": "deployed"}
    assert set(table["SetDeploymentEnv_outcome"]) == {"ok"}
    assert table["SetDeploymentEnv_duration"].to_dict() == {"vm-1": 8.0, "vm-2": 4.0}
    assert known.summary().macros == {
        "SetDeploymentEnv": (4.0, 4.0),
        "BroadcastEnv": (4.0, 4.0),
        "BootNewEnv": (3.0, 3.0),
    }


def test_vms_table_has_last_attempts_and_attempts_table_all() -> None:
    events = deploy(bad_images={"vm-1": 1})
    row = Measurements.of(events).vms.set_index("vm").loc["vm-1"]
    assert (row["outcome"], row["attempts"]) == ("deployed", 2)
    assert (row["image_attempt"], row["image_outcome"]) == (2, "ok")
    tries = Measurements.of(events).attempts.query("vm == 'vm-1' and step == 'image'")
    assert list(tries["outcome"]) == ["failed", "ok"]
    assert list(tries["attempt"]) == [1, 2]
    assert list(tries["reason"]) == ["sha256", ""]
    assert set(tries["macro"]) == {"BroadcastEnv"}


def test_macro_steps_of_a_vm_add_up_to_its_duration() -> None:
    table = Measurements.of(deploy(bad_images={"vm-1": 1})).vms
    added = sum(table[f"{macro}_duration"] for macro in MACROS)
    assert list(added) == pytest.approx(list(table["duration"]))
    tries = Measurements.of(deploy(bad_images={"vm-1": 1})).macros.set_index("macro")["tries"]
    assert dict(tries) == {"SetDeploymentEnv": 3, "BroadcastEnv": 3, "BootNewEnv": 2}


def test_failed_vms_have_step_and_reason() -> None:
    events = deploy(number=4, bad_images={"vm-1": 9, "vm-2": 9})
    table = Measurements.of(events).vms.set_index("vm")
    assert list(table["outcome"]) == ["failed", "failed", "deployed", "deployed"]
    bad = table.loc["vm-1"]
    assert (bad["failed_macro"], bad["failed_at"], bad["reason"]) == ("BroadcastEnv", "image", "sha256")
    assert bad["last_report"] == "image failed: sha256"
    whole = Measurements.of(events).summary()
    assert (whole.requested, whole.deployed, whole.failed, whole.unfinished) == (4, 2, 2, 0)
    assert whole.reasons == {("image", "sha256"): 2}
    assert whole.failures[0] == ("d1", "vm-1", "image", "sha256")
    assert Measurements.of(events).macros.set_index("macro").loc["BroadcastEnv", "failed"] == 2


def test_summary_has_total_median_and_p95() -> None:
    events = deploy(number=5)
    whole = Measurements.of(events).summary()
    table = Measurements.of(events).vms
    assert whole.total == table["end"].max() - table["start"].min()
    for macro, (median, p95) in whole.macros.items():
        assert median == pytest.approx(table[f"{macro}_duration"].median())
        assert p95 == pytest.approx(table[f"{macro}_duration"].quantile(0.95))
    with pytest.raises(KeyError):
        Measurements.of(events).summary("d9")


def test_scalability_has_one_row_per_finished_deployment() -> None:
    events = [
        *deploy("a", 4, 1000.0, repetition=1),
        *deploy("b", 4, 2000.0, repetition=2),
        *deploy("c", 2, 3000.0),
        *deploy("d", 1, 4000.0, bad_images={"vm-1": 99}),
        *deploy("e", 1, 5000.0, upto=5003.0),
    ]
    table = Measurements.of(events).scalability
    assert list(table["deployment"]) == ["c", "a", "b"]
    assert list(table["vms"]) == [2, 4, 4]
    assert (table["total"] >= table["p95_vm"]).all()
    assert (table["p95_vm"] >= table["median_vm"]).all()
    assert list(table["vms_per_second"]) == pytest.approx(list(table["deployed"] / table["total"]))
    all_ = Measurements.of(events).deployments.set_index("deployment")
    assert list(all_["unfinished"]) == [0, 0, 0, 0, 1]
    assert pd.isna(all_.loc["e", "end"])
    assert pd.isna(Measurements.of(events).summary().total)


def test_interrupted_deployment_is_unfinished() -> None:
    table = Measurements.of(deploy(upto=1003.0)).vms
    assert set(table["outcome"]) == {"unfinished"}
    assert table["end"].isna().all()
    assert table["SetDeploymentEnv_duration"].isna().all()
    assert set(table["SetDeploymentEnv_outcome"]) == {"unfinished"}


def test_empty_tables_have_columns_and_types() -> None:
    full, empty = Measurements.of(deploy()), Measurements.of([])
    for name in ("vms", "attempts", "macros", "deployments", "scalability"):
        assert dict(getattr(empty, name).dtypes) == dict(getattr(full, name).dtypes), name
        assert len(getattr(empty, name)) == 0
    assert empty.summary().requested == 0
    for step in (s for steps in MACROS.values() for s in steps):
        assert f"{column(step)}_start" in full.vms


def test_export_includes_the_deployment_tables(tmp_path: Path) -> None:
    frames = Frames(deploy("a", 4))
    names = {file.stem for file in frames.export(str(tmp_path))}
    assert {"measure-vms", "measure-attempts", "measure-macros", "measure-deployments"} <= names
    back = pd.read_csv(tmp_path / "measure-vms.csv")
    assert list(back["vm"]) == list(frames.measurements.vms["vm"])
    assert len(pd.read_csv(tmp_path / "measure-scalability.csv")) == 1


def test_exported_tables_distinguish_series(tmp_path: Path) -> None:
    launch = Event("launch", "guests", "run", "r", "ok", 900.0, 1, {"guest": "kvm"})
    http = deploy("b", 2, 2000.0, environment="mini", broadcast="http", provisioner="kadeploy3")
    chain = deploy("a", 2, environment="mini", broadcast="chain", provisioner="g5kvirt")
    Frames([launch, *chain, *http]).export(str(tmp_path))
    settings = ["environment", "broadcast", "provisioner", "guest"]
    expected = {"a": ["mini", "chain", "g5kvirt", "kvm"], "b": ["mini", "http", "kadeploy3", "kvm"]}
    for name in ("measure-deployments", "measure-vms", "measure-macros", "measure-scalability"):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        found = {key: group[settings].drop_duplicates() for key, group in table.groupby("deployment")}
        assert {key: group.to_numpy().tolist() for key, group in found.items()} == {
            key: [values] for key, values in expected.items()
        }, name


def test_events_of_other_phases_are_ignored() -> None:
    other = [
        Event("launch", "deployment", "vm", "vm-1", "failed", 1.0, 1, {"deployment": "x"}),
        Event("measure", "phase", "run", "r", "start", 1.0),
    ]
    assert list(Measurements.of([*other, *deploy()]).deployments["deployment"]) == ["d1"]


def test_vocabulary_has_the_steps_of_the_default_workflow() -> None:
    plain = default_workflow().plain()
    assert {macro: set(steps) for macro, steps in MACROS.items()} == {m: set(s) for m, s in plain.items()}


@given(
    number=st.integers(1, 6),
    bad=st.dictionaries(st.sampled_from([f"vm-{i}" for i in range(1, 7)]), st.integers(1, 3)),
    upto=st.floats(1000, 1060),
)
def test_summary_adds_up_after_any_prefix(number: int, bad: dict[str, int], upto: float) -> None:
    events = deploy(number=number, bad_images=bad, upto=upto)
    whole = Measurements.of(events).summary()
    assert whole.requested == (number if events else 0)
    assert whole.requested == whole.deployed + whole.failed + whole.unfinished
    assert len(whole.failures) == whole.failed
    assert len(Measurements.of(events).vms) == whole.requested


def test_tables_have_fresh_vms_and_transfer_bound() -> None:
    events = [*deploy("d1", 4, fresh=3, transfer_bound=2.5), *deploy("d2", 4, 5000.0)]
    assert list(Measurements.of(events).deployments["fresh"]) == [3, 0]
    curve = Measurements.of(events).scalability.set_index("deployment")
    assert curve["fresh"].to_dict() == {"d1": 3, "d2": 0}
    assert curve.loc["d1", "transfer_bound"] == 2.5
    assert pd.isna(curve.loc["d2", "transfer_bound"])
