"""Groups of VMs in a specification: read, checked, written, and scaled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt import Group, Spec
from g5kvirt.errors import SpecError
from g5kvirt.spec.groups import average, scaled
from g5kvirt.spec.spec import VMSpec

SERVER, CLIENT = Group("server", 2, memory=1024, cores=2), Group("client", 4)
SPEC = Spec(sites={"nancy": 2}, vms=[SERVER, CLIENT], vm={"memory": 200, "disk": 64})


def test_groups_have_the_size_of_the_specification_unless_they_have_their_own() -> None:
    assert SPEC.vms == 6
    assert [(kind.name, kind.count) for kind in SPEC.kinds] == [("server", 2), ("client", 4)]
    assert SPEC.size_of("server") == VMSpec(memory=1024, cores=2, disk=64)
    assert SPEC.size_of("client") == SPEC.vm
    assert [kind.vm for kind in Spec(sites={"nancy": 2}, vms=3).kinds] == [VMSpec()]


def test_yaml_and_python_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "sites: {nancy: 2}\nvm: {memory: 200, disk: 64}\n"
        "vms:\n  - {name: server, count: 2, memory: 1024, cores: 2}\n  - {name: client, count: 4}\n"
    )
    assert Spec.load(tmp_path / "spec.yaml") == SPEC


def test_groups_survive_the_record_of_the_run_and_changes_of_other_fields() -> None:
    plain = SPEC.to_dict()
    assert plain["vms"] == [
        {"name": "server", "count": 2, "memory": 1024, "cores": 2},
        {"name": "client", "count": 4},
    ]
    assert "groups" not in plain
    assert Spec.from_dict(plain) == SPEC
    assert SPEC.at({"rennes": 3}).groups == replace(SPEC, start="first").groups == SPEC.groups
    assert Spec(sites={"nancy": 2}, vms=3).to_dict()["vms"] == 3


@pytest.mark.parametrize(
    ("vms", "message"),
    [
        ([], "vms must be a number of VMs, or a list of 1 to 64 groups"),
        ([Group("a", 1)] * 2, "vms has two groups 'a'"),
        ([4], "each of vms must be a group such as Group('client', 4)"),
        ([{"name": "a"}], "a group of vms has no 'count'"),
        ([{"name": "a", "count": 1, "ram": 3}], "unknown key 'ram' in a group of vms"),
        ([{"name": "A B", "count": 1}], "vms.A B.name must be a word of at most 40 lower-case letters"),
        ([{"name": "a-", "count": 1}], "must be a word"),
        ([{"name": "all", "count": 1}], "a group cannot be called 'all'"),
        ([{"name": "a", "count": 0}], "vms.a.count must be a whole number, at least 1, not 0"),
        ([{"name": "a", "count": 1, "memory": "1G"}], "vms.a.memory must be a whole number of MiB, not '1G'"),
        ("six", "vms must be a whole number of at least 1, not 'six'"),
    ],
)
def test_what_is_wrong_with_groups_is_said_in_one_sentence(vms: object, message: str) -> None:
    with pytest.raises(SpecError) as error:
        Spec.from_dict({"sites": {"nancy": 1}, "vms": vms})
    assert message in error.value.message


def test_number_of_vms_cannot_contradict_the_groups() -> None:
    with pytest.raises(SpecError, match="vms is 5, but the groups server, client have 6 VMs"):
        replace(SPEC, vms=5)


GROUPS = st.lists(st.integers(1, 500), min_size=1, max_size=6)


@given(counts=GROUPS, vms=st.integers(1, 2000))
def test_scaled_groups_keep_their_shares(counts: list[int], vms: int) -> None:
    groups = [Group(f"g{i}", count) for i, count in enumerate(counts)]
    found = [group.count for group in scaled(groups, vms)]
    assert sum(found) == max(vms, sum(found)), "no VM is lost"
    assert sum(found) <= vms + len(counts)
    for own, count in zip(found, counts, strict=True):
        share = count * vms / sum(counts)
        assert own == 1 or abs(own - share) < 1


SIZES = st.lists(
    st.tuples(
        st.builds(VMSpec, memory=st.integers(1, 9000), disk=st.integers(0, 9000), cores=st.integers(1, 64)),
        st.integers(1, 100),
    ),
    min_size=1,
    max_size=5,
)


@given(sizes=SIZES)
def test_as_many_of_the_average_size_take_at_least_as_much_and_hardly_more(
    sizes: list[tuple[VMSpec, int]],
) -> None:
    number = sum(count for _, count in sizes)
    whole = sum((vm.memory + vm.disk) * count for vm, count in sizes)
    found = average(sizes)
    assert whole <= (found.memory + found.disk) * number < whole + 2 * number
    assert found.cores * number >= sum(vm.cores * count for vm, count in sizes)
