"""Whether VMs are large enough for an environment is known before anything is reserved."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml

from g5kvirt import cli
from g5kvirt.images.kexec import least_memory
from g5kvirt.phases.check_environment import check_environment
from g5kvirt.planning.preflight import Finding
from g5kvirt.provisioners.builtin.workflow import KEXEC_MEMORY, boot_order
from g5kvirt.spec.groups import Group
from g5kvirt.spec.spec import Spec

LOADED, UNPACKED = 66 << 20, 200 << 20
NEEDED = least_memory(LOADED)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with tarfile.open(tmp_path / "own.tar", "w") as tar:
        tar.add(__file__, "file")
    description = {
        "name": "own",
        "image": {"file": "own.tar", "unpacked": UNPACKED},
        "boot": {"kernel": "/vmlinuz", "loaded": LOADED},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(description))
    return tmp_path


def found(folder: Path, name: str = "own", **spec: object) -> list[Finding]:
    document = {"sites": {"nancy": 1}, "vms": 2, "vm": {"memory": NEEDED, "disk": 300}, **spec}
    return list(check_environment(Spec.from_dict(document), name, [folder]))


def test_what_fits_is_said_with_its_numbers(folder: Path) -> None:
    (one,) = found(folder)
    assert (one.status, one.code) == ("ok", "ok")
    assert one.message == f"own needs a disk of 224 MiB and {NEEDED} MiB of memory for kexec"


def test_memory_that_is_too_small_for_kexec_is_a_warning(folder: Path) -> None:
    (one,) = found(folder, vm={"memory": NEEDED - 1, "disk": 300})
    assert (one.status, one.code) == ("warning", "too-small")
    assert (
        f"takes {NEEDED} MiB of memory, and VMs have {NEEDED - 1} MiB: they are reset instead" in one.message
    )
    assert one.advice == f"set vm.memory to at least {NEEDED}"


def test_a_disk_that_is_too_small_is_a_problem_and_the_group_is_named(folder: Path) -> None:
    groups = [Group("server", 1), Group("client", 1, memory=100, disk=223)]
    disk, memory = found(folder, vms=groups)
    assert (disk.status, memory.status) == ("problem", "warning")
    assert disk.message == "own needs a disk of 224 MiB, and VMs of client have 223 MiB"
    assert memory.advice == f"set the group client's memory to at least {NEEDED}"


def test_environments_that_are_unknown_not_built_or_for_light_guests(folder: Path) -> None:
    (unknown,) = found(folder, "owm")
    assert (unknown.status, unknown.code, unknown.advice) == (
        "problem",
        "unknown-environment",
        "did you mean 'own'?",
    )
    (built,) = found(folder, "mini")
    assert built.status == "ok"
    (light,) = found(folder, guest="light", vm={"memory": 100, "disk": 16})
    assert light.status == "ok"


def test_the_command_says_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "environments").mkdir()
    for name in ("own.yaml", "own.tar"):
        (folder / name).rename(folder / "environments" / name)
    monkeypatch.chdir(folder)
    Path("spec.yaml").write_text("{sites: {nancy: 1}, vms: 2, vm: {memory: 160, disk: 512}}")
    assert cli.main(["check", "spec.yaml", "--inventory", "2026", "--environment", "own"]) == 0
    assert "to start own by kexec takes" in " ".join(capsys.readouterr().out.split())
    Path("small.yaml").write_text("{sites: {nancy: 1}, vms: 2, vm: {disk: 100}}")
    words = ["run", "small.yaml", "--measure", "all", "--environment", "own", "--testbed", "local:none"]
    assert cli.main(words) == 2
    assert "own needs a disk of 224 MiB, and VMs have 100 MiB" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_kexec_is_not_tried_where_it_cannot_succeed() -> None:
    assert boot_order(NEEDED, LOADED) == ("kexec", "reset")
    assert boot_order(NEEDED - 1, LOADED) == ("reboot", "reset")
    assert boot_order(KEXEC_MEMORY) == ("kexec", "reset"), "where it is not known what is loaded"
    assert boot_order(KEXEC_MEMORY - 1) == ("reboot", "reset")
