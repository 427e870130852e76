"""What `doctor` concludes from what it saw, and that its probes really look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from g5kvirt.cli import doctor
from g5kvirt.cli.doctor import ProbeResult
from g5kvirt.testbeds.local.shared_limits import LIMITS

GIB = 1 << 30
EVERYTHING = dict.fromkeys(
    ("namespaces", "tmpfs", "overlay", "squashfs", "bridge", "veth", "tap", "vxlan", "htb", "tbf", "netem"),
    "ok",
)


def states(findings: list[ProbeResult]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_kernel_with_all_features_is_ok() -> None:
    assert set(states(doctor.judge(EVERYTHING)).values()) == {"ok"}


@pytest.mark.parametrize(
    ("lacks", "name", "state"),
    [
        ("overlay", "file systems", "fail"),
        ("squashfs", "file systems", "fail"),
        ("bridge", "network", "fail"),
        ("tap", "network", "fail"),
        ("netem", "link latency", "warn"),
        ("htb", "network", "fail"),
        ("vxlan", "network", "fail"),
    ],
)
def test_missing_kernel_features_are_shown_with_the_error_message(lacks: str, name: str, state: str) -> None:
    findings = doctor.judge(EVERYTHING | {lacks: "Error: Specified qdisc kind is unknown."})
    assert states(findings)[name] == state
    assert [f.state for f in findings if f.name != name] == ["ok"] * (len(findings) - 1)
    found = next(f for f in findings if f.name == name)
    assert found.advice
    if state == "fail":
        assert f"{lacks}: Error: Specified" in found.found
        assert not doctor.able(findings)
    else:
        assert doctor.able(findings), "the local testbed does without"


def test_probe_that_did_not_run_is_a_failure() -> None:
    assert states(doctor.judge({"namespaces": "ok"}))["file systems"] == "fail"


def test_missing_programs_are_listed_with_their_packages() -> None:
    assert doctor.programs(lambda name: "/bin/" + name).state == "ok"
    finding = doctor.programs(lambda name: None if name in ("ip", "tc", "mksquashfs") else "/bin/x")
    assert finding.state == "fail"
    assert finding.advice.endswith("install --no-install-recommends iproute2 squashfs-tools")
    slower = doctor.programs(lambda name: None if name == "taktuk" else "/bin/x")
    assert slower.state == "warn"


def answer(**detail: object) -> str:
    return json.dumps({"op": "facts", "subject": "x", "status": "ok", "t": 1.0, "detail": detail}) + "\n"


@pytest.mark.parametrize(
    ("out", "err", "state", "words"),
    [
        (answer(kvm=True, kvm_reason=""), "", "ok", "a guest ran"),
        (
            answer(kvm=False, kvm_reason="a test guest did not end within 3 s"),
            "",
            "warn",
            "does not work, so guests are emulated: a test guest did not end within 3 s",
        ),
        (
            "",
            "mount: /mnt: permission denied\n",
            "unknown",
            "could not be tested: mount: /mnt: permission denied",
        ),
        ("not JSON\n", "", "unknown", "did not answer"),
        ('{"op": "facts"}\n', "", "unknown", "did not answer"),
    ],
)
def test_kvm_counts_only_when_a_guest_ran(out: str, err: str, state: str, words: str) -> None:
    finding = doctor.judge_kvm(out, err)
    assert finding.state == state
    assert words in finding.found


def test_doctor_estimates_how_many_vms_fit() -> None:
    assert doctor.vms_by_memory(0) == 0
    assert doctor.vms_by_memory(doctor.TESTBED_MEMORY + 10 * doctor.VM_MEMORY) == 10
    assert doctor.vms_by_memory(24 * GIB) > 100


def test_memory_is_measured_once_and_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([23 * GIB, 22 * GIB])  # it changes while the other probes run
    monkeypatch.setattr(doctor, "available_memory", lambda: next(measured))
    monkeypatch.setattr(doctor, "_cores", lambda: 1)
    findings = doctor.memory_and_cores()
    number = doctor.vms_by_memory(23 * GIB)
    assert [f.found for f in findings] == [f"23.0 GiB free: about {number} VMs", "1"]
    verdict = doctor.verdict(findings)
    assert f"up to about {number} VMs in 23.0 GiB" in verdict
    assert "emulated on 1 core, 16 boot in about 109 s" in verdict
    report = doctor.report(findings)
    assert report["verdict"] == verdict
    assert [f["value"] for f in report["findings"]] == [23 * GIB, 1]


def test_kernel_tables_that_were_full_are_named() -> None:
    small = SimpleNamespace(current=lambda: dict.fromkeys(LIMITS, 1), overflows=lambda: {})
    found = doctor.kernel_tables(small)  # type: ignore[arg-type]
    assert (found.state, found.found) == ("ok", f"{len(LIMITS)} are increased while a testbed is up")
    full = SimpleNamespace(current=lambda: dict(LIMITS), overflows=lambda: {"ARP table full": 57_044})
    found = doctor.kernel_tables(full)  # type: ignore[arg-type]
    assert (found.state, found.found) == ("warn", "large enough; ARP table full: 57,044")


def test_settings_of_grid5000_are_read_but_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert doctor.grid5000_settings() == []
    (tmp_path / "g5kvirt").mkdir()
    file = tmp_path / "g5kvirt" / "grid5000.yaml"
    file.write_text("user: jdoe\njump: ''\n")
    assert [(f.state, f.found) for f in doctor.grid5000_settings()] == [("ok", f"{file} sets user, jump")]
    file.write_text("password_file: /none\n")
    (found,) = doctor.grid5000_settings()
    assert found.state == "warn"
    assert "there is no file /none" in found.found


def test_verdict_names_the_failed_probes() -> None:
    findings = [
        ProbeResult("root", "fail", "no"),
        ProbeResult("memory", "ok", "much"),
        ProbeResult("network", "fail", "no veth"),
    ]
    assert not doctor.able(findings)
    assert "cannot run here: root, network." in doctor.verdict(findings)
    assert doctor.report(findings)["local"] is False


def test_without_namespaces_root_fails_and_others_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_run", lambda words, stdin=b"": (1, "", "unshare: Operation not permitted\n")
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert states(doctor.kernel_features()) == {"namespaces": "fail"}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert states(doctor.kernel_features()) == {"namespaces": "unknown"}


def test_hanging_probe_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LIMIT", 0.2)
    code, _, error = doctor._run(["sleep", "30"])
    assert code == 124
    assert "no answer" in error


def test_other_systems_than_linux_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(doctor.platform, "system", lambda: "Darwin")
    findings = doctor.examine()
    assert states(findings) == {"system": "fail"}
    assert "Debian" in findings[0].advice


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, which needs root")
def test_examine_leaves_this_machine_unchanged() -> None:
    def state() -> tuple[str, str]:
        links = subprocess.run(
            ["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=20
        ).stdout
        mounts = subprocess.run(
            ["cat", "/proc/mounts"], capture_output=True, text=True, check=True, timeout=20
        ).stdout
        return links, mounts

    before = state()
    findings = doctor.examine()
    assert state() == before
    found = states(findings)
    assert found["root"] == "ok"
    assert {"system", "programs", "memory", "cores", "namespaces", "KVM"} <= set(found)
