"""A deployment's engine: the way of one VM, each fault, and what holds whatever happens."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g5kvirt.inventory import VM
from g5kvirt.planning.windows import RateWindow, SlotWindow, Window
from g5kvirt.provisioners.builtin.engine import Deployment
from g5kvirt.provisioners.builtin.loop import drive
from g5kvirt.provisioners.builtin.orders import (
    BroadcastOrder,
    CheckOrder,
    Order,
    RebootOrder,
    Report,
    TaskOrder,
)
from g5kvirt.provisioners.builtin.workflow import Workflow, default_workflow
from g5kvirt.run.events import Event

GUEST = ("partition", "format", "image", "postinstall", "bootloader", "sync", "boot")
LEASE = 60.0


def vms(number: int, hosts: int = 3) -> list[VM]:
    return [
        VM(i, f"vm-{i}", f"h-{i % hosts}", "nancy", IPv4Address(i), f"52:54:00:00:00:{i:02x}")
        for i in range(1, number + 1)
    ]


def deployment(number: int = 1, hosts: int = 3, workflow: Workflow | None = None, **more: Any) -> Deployment:
    given_ = {"reboots": SlotWindow(100), "checks": SlotWindow(100)} | more
    return Deployment("d1", vms(number, hosts), workflow or default_workflow(), **given_)


def reboots(orders: Iterable[Order]) -> list[tuple[str, str, str, int]]:
    return [
        (t.vm.name, o.kind, o.into, t.attempt) for o in orders if isinstance(o, RebootOrder) for t in o.vms
    ]


def tasks(orders: Iterable[Order]) -> list[tuple[str, int]]:
    return [(t.vm.name, t.attempt) for o in orders if isinstance(o, TaskOrder) for t in o.vms]


def checks(orders: Iterable[Order]) -> list[tuple[str, int]]:
    return [(t.vm.name, t.turn) for o in orders if isinstance(o, CheckOrder) for t in o.vms]


def say(d: Deployment, *steps: str, t: float, vm: str = "vm-1", attempt: int | None = None) -> None:
    for step in steps:
        assert d.receive(Report(vm, step, "ok", t, "", attempt), t), step


def fail(
    d: Deployment,
    step: str,
    reason: str,
    t: float,
    vm: str = "vm-1",
    attempt: int | None = None,
    permanent: bool = False,
) -> bool:
    return d.receive(Report(vm, step, "failed", t, reason, attempt, permanent=permanent), t)


def to_task(d: Deployment, vm: str = "vm-1", attempt: int = 1, t: float = 1.0) -> None:
    """RebootOrder and minimal system done, task given."""
    d.orders(t)
    say(d, "reboot", t=t, vm=vm, attempt=attempt)
    say(d, "minimal-system", t=t, vm=vm)
    assert (vm, attempt) in tasks(d.orders(t))


def to_ready(d: Deployment, vm: str = "vm-1", t: float = 1.0) -> None:
    """Everything up to the boot."""
    to_task(d, vm, t=t)
    for host in ("h-0", "h-1", "h-2"):
        d.receive(Report(host, "broadcast", "ok", t), t)
    say(d, *GUEST, t=t, vm=vm, attempt=1)


def last(d: Deployment) -> Any:
    (outcome,) = d.outcomes
    return outcome


# ---- the way of one VM -------------------------------------------------------------------------------


def test_steps_that_a_guest_does_not_have_are_skipped_and_not_timed() -> None:
    workflow = default_workflow().without(["partition", "format", "bootloader", "sync"])
    d = deployment(workflow=workflow, fresh=["vm-1"])
    d.orders(1.0)
    say(d, "format", t=2.0, attempt=1)
    d.receive(Report("h-1", "broadcast", "ok", 2.0), 2.0)
    say(d, "image", "postinstall", "boot", t=3.0, attempt=1)
    statuses = {e.step: e.status for e in d.events() if e.kind == "vm" and e.step in GUEST}
    assert statuses == {
        "partition": "skipped",
        "format": "skipped",
        "image": "ok",
        "postinstall": "ok",
        "bootloader": "skipped",
        "sync": "skipped",
        "boot": "ok",
    }


def test_reports_in_the_wrong_order_do_not_give_a_guest_steps_that_it_does_not_have() -> None:
    """Several workers of a web server write a log in an order of their own."""
    absent = ("partition", "format", "bootloader", "sync")
    for order in (("image", "format", "postinstall", "boot"), ("boot", "postinstall", "image", "format")):
        d = deployment(workflow=default_workflow().without(absent), fresh=["vm-1"])
        d.orders(1.0)
        d.receive(Report("h-1", "broadcast", "ok", 2.0), 2.0)
        for step in order:
            d.receive(Report("vm-1", step, "ok", 3.0, "", 1), 3.0)
        statuses = {e.step: e.status for e in d.events() if e.kind == "vm" and e.step in GUEST}
        assert statuses == {step: "skipped" if step in absent else "ok" for step in statuses}
        assert set(statuses) == {"partition", "format", "image", "postinstall", "bootloader", "sync", "boot"}


def test_absent_steps_have_to_be_of_the_workflow() -> None:
    with pytest.raises(ValueError, match="no step defrag"):
        default_workflow().without(["defrag"])


def test_vm_passes_every_step_and_each_is_journalled_once() -> None:
    d = deployment()
    orders = d.orders(10.0)
    assert [o for o in orders if isinstance(o, BroadcastOrder)] == [
        BroadcastOrder(("h-1",), "broadcast", "chain", 1)
    ]
    assert reboots(orders) == [("vm-1", "soft", "minimal", 1)]
    say(d, "reboot", t=11.0, attempt=1)
    say(d, "minimal-system", t=20.0)
    (task,) = d.orders(20.0)
    assert isinstance(task, TaskOrder)
    assert task.variants == {"SetDeploymentEnv": "untrusted", "BroadcastEnv": "chain", "BootNewEnv": "kexec"}
    say(d, "partition", "format", t=22.0, attempt=1)
    assert d.receive(Report("h-1", "broadcast", "ok", 25.0, "", 1), 25.0)
    say(d, "image", "postinstall", "bootloader", "sync", "boot", t=30.0, attempt=1)
    assert checks(d.orders(31.5)) == [("vm-1", 1)]
    assert not d.finished
    say(d, "ready", t=33.0, attempt=1)
    assert d.finished
    assert last(d).state == "deployed"
    events = d.events()
    own = [(e.step, e.status) for e in events if e.kind == "vm"]
    assert own == [
        ("SetDeploymentEnv", "start"),
        *((s, "ok") for s in ("reboot", "minimal-system", "partition", "format", "SetDeploymentEnv")),
        ("BroadcastEnv", "start"),
        *((s, "ok") for s in ("broadcast", "image", "postinstall", "bootloader", "sync", "BroadcastEnv")),
        ("BootNewEnv", "start"),
        *((s, "ok") for s in ("boot", "ready", "BootNewEnv", "deployment")),
    ]
    assert {e.phase for e in events} == {"measure"}
    assert {e.detail["deployment"] for e in events} == {"d1"}
    seconds = {e.step: e.detail["seconds"] for e in events if "seconds" in e.detail}
    assert (seconds["reboot"], seconds["minimal-system"], seconds["broadcast"]) == (1.0, 9.0, 3.0)
    whole = [e for e in events if e.kind == "run"]
    assert [(e.subject, e.status) for e in whole] == [("d1", "start"), ("d1", "ok")]
    assert whole[0].detail["asked"] == 1
    assert (whole[1].detail["deployed"], whole[1].detail["failed"]) == (1, 0)


def test_vm_in_its_minimal_system_is_not_rebooted() -> None:
    d = deployment(fresh=["vm-1"])
    orders = d.orders(0.0)
    assert reboots(orders) == []
    assert tasks(orders) == [("vm-1", 1)]
    assert [(e.step, e.status) for e in d.events() if e.kind == "vm"][1:] == [
        ("reboot", "skipped"),
        ("minimal-system", "skipped"),
    ]


def test_vm_without_an_ssh_server_is_not_rebooted_through_one() -> None:
    d = deployment(2, without_ssh=["vm-1"])
    kinds = {t.vm.name: o.kind for o in d.orders(0.0) if isinstance(o, RebootOrder) for t in o.vms}
    assert kinds == {"vm-1": "hard", "vm-2": "soft"}


def test_report_of_a_later_step_completes_the_steps_before() -> None:
    d = deployment()
    d.orders(0.0)
    say(d, "minimal-system", t=5.0)  # before the answer to the reboot command
    d.orders(5.0)
    say(d, "image", t=9.0, attempt=1)  # partition and format were lost, the host's answer is late
    steps = [
        (e.step, e.detail.get("implied")) for e in d.events() if e.kind == "vm" and "seconds" in e.detail
    ]
    assert steps == [
        ("reboot", True),
        ("minimal-system", None),
        *((s, True) for s in ("partition", "format", "broadcast")),
        ("image", None),
    ]
    assert not d.receive(Report("vm-1", "format", "ok", 9.1, "", 1), 9.1)
    assert not d.receive(Report("vm-1", "reboot", "failed", 9.2, "connection closed", 1), 9.2)


def test_report_about_a_step_without_its_order_is_ignored() -> None:
    d = deployment(2, reboots=SlotWindow(1))
    d.orders(0.0)
    assert not d.receive(Report("vm-2", "minimal-system", "ok", 1.0), 1.0)  # waits for the window
    assert not d.receive(Report("vm-1", "image", "ok", 1.0), 1.0)  # has no task
    assert not d.receive(Report("vm-9", "image", "ok", 1.0), 1.0)
    assert not d.receive(Report("h-9", "broadcast", "ok", 1.0), 1.0)


def test_reports_of_an_earlier_deployment_or_attempt_are_ignored() -> None:
    d = deployment()
    d.orders(100.0)
    assert not d.receive(Report("vm-1", "minimal-system", "ok", 90.0), 101.0)
    assert not d.receive(Report("vm-1", "reboot", "ok", 101.0, "", 7), 101.0)
    say(d, "minimal-system", t=102.0)


def test_report_of_the_environment_triggers_a_check_at_once() -> None:
    d = deployment()
    to_ready(d)
    assert checks(d.orders(1.1)) == []
    say(d, "environment", t=1.2, attempt=1)
    assert checks(d.orders(1.2)) == [("vm-1", 1)]


def test_check_is_repeated_until_it_is_positive() -> None:
    d = deployment()
    to_ready(d)
    assert checks(d.orders(2.5)) == [("vm-1", 1)]
    assert fail(d, "ready", "connection refused", 3.0, attempt=1)
    assert checks(d.orders(3.5)) == []
    assert checks(d.orders(8.5)) == [("vm-1", 2)]
    assert not d.receive(Report("vm-1", "ready", "failed", 8.6, "late", 1, 1), 8.6)  # about the first one
    assert checks(d.orders(8.5 + LEASE)) == []  # never answered: its slot is free again
    assert checks(d.orders(8.5 + LEASE + 5)) == [("vm-1", 3)]
    assert d.receive(Report("vm-1", "ready", "ok", 80.0, "", 1, 3), 80.0)
    assert last(d).state == "deployed"


# ---- faults -------------------------------------------------------------------------------------------


def test_reboots_climb_from_soft_to_hard_to_relaunch_and_then_the_vm_fails() -> None:
    d = deployment(workflow=default_workflow(retries=0))
    kinds = []
    for attempt, t in ((1, 0.0), (2, 10.0), (3, 20.0)):
        kinds += reboots(d.orders(t))
        assert fail(d, "reboot", "no ssh", t + 1, attempt=attempt)
    assert kinds == [(("vm-1", k, "minimal", n)) for n, k in enumerate(("soft", "hard", "relaunch"), 1)]
    assert d.finished
    assert (last(d).state, last(d).macro, last(d).step) == ("failed", "SetDeploymentEnv", "reboot")
    assert last(d).reason == "no ssh"


def test_vm_that_never_comes_up_escalates_and_its_reason_names_the_last_report() -> None:
    d = deployment(workflow=default_workflow(retries=0, boot_seconds=100))
    assert reboots(d.orders(0.0))[0][1] == "soft"
    say(d, "reboot", t=1.0, attempt=1)
    assert reboots(d.orders(100.0)) == []
    assert reboots(d.orders(101.0)) == [("vm-1", "hard", "minimal", 2)]
    say(d, "reboot", t=102.0, attempt=2)
    assert reboots(d.orders(202.0)) == [("vm-1", "relaunch", "minimal", 3)]
    say(d, "reboot", t=203.0, attempt=3)
    d.orders(303.0)
    assert last(d).state == "failed"
    assert last(d).step == "minimal-system"
    assert last(d).reason == (
        "nothing after reboot ok within 100 s (timeouts.set_deployment_env allows more)"
    )


def test_a_wrong_image_is_tried_again_from_the_start_and_then_fails_with_the_guests_reason() -> None:
    d = deployment()
    to_task(d)
    assert fail(d, "image", "sha256 is wrong", 2.0, attempt=1)
    assert reboots(d.orders(2.0)) == [("vm-1", "soft", "minimal", 2)]  # it answers: soft is enough
    assert not d.receive(Report("vm-1", "image", "failed", 2.1, "sha256 is wrong", 1), 2.1)  # said twice
    to_task(d, attempt=2, t=3.0)
    assert fail(d, "image", "sha256 is wrong", 4.0, attempt=2)
    assert last(d).state == "failed"
    assert (last(d).macro, last(d).step, last(d).reason) == ("BroadcastEnv", "image", "sha256 is wrong")
    assert last(d).last_report == "image failed: sha256 is wrong"


def test_permanent_failure_ends_the_vm_at_once() -> None:
    d = deployment(2, workflow=default_workflow(broadcast=("chain", "http"), retries=5))
    to_task(d)
    assert fail(d, "partition", "the disk is too small", 2.0, attempt=1, permanent=True)
    assert reboots(d.orders(2.0)) == []
    first = d.outcomes[0]
    assert (first.state, first.macro, first.step, first.attempt) == (
        "failed",
        "SetDeploymentEnv",
        "partition",
        1,
    )
    assert first.reason == "the disk is too small"
    assert d.count("open") == 1
    own = [(e.step, e.status) for e in d.events() if e.subject == "vm-1"]
    assert own[-3:] == [("partition", "failed"), ("SetDeploymentEnv", "failed"), ("deployment", "failed")]


def test_a_wrong_image_is_permanent_only_if_the_hosts_copy_is_right() -> None:
    for verified in (True, False):
        d = deployment(workflow=default_workflow(broadcast=("chain", "http")))
        to_task(d)
        say(d, "partition", "format", t=2.0, attempt=1)
        if verified:
            assert d.receive(Report("h-1", "broadcast", "ok", 3.0, "", 1), 3.0)
        assert fail(d, "image", "its SHA-256 is wrong", 4.0, attempt=1, permanent=True)
        assert (last(d).state == "failed") == verified
        assert bool(reboots(d.orders(4.0))) == (not verified)


def test_late_permanent_failure_ends_the_vm() -> None:
    d = deployment()
    to_task(d)
    say(d, "partition", "format", t=2.0, attempt=1)
    assert fail(d, "partition", "the disk is gone", 2.5, attempt=1, permanent=True)
    assert (last(d).state, last(d).reason) == ("failed", "partition: the disk is gone")


def test_guest_that_reports_a_failed_boot_is_not_waited_for() -> None:
    d = deployment()
    to_ready(d)
    assert fail(d, "boot", "kexec did not happen", 12.0, attempt=1)
    assert reboots(d.orders(12.0)) == [("vm-1", "hard", "disk", 2)]


@pytest.mark.parametrize(("boot", "patience"), [(100.0, 120.0), (400.0, 400.0)])
def test_a_silent_vm_in_its_task_is_reset_hard(boot: float, patience: float) -> None:
    d = deployment(workflow=default_workflow(boot_seconds=boot))
    to_task(d)
    say(d, "partition", t=2.0, attempt=1)
    assert reboots(d.orders(2.0 + patience - 1.0)) == []
    assert reboots(d.orders(2.0 + patience)) == [("vm-1", "hard", "minimal", 2)]


def test_vms_of_a_host_that_is_gone_fail_wherever_they_are_and_others_go_on() -> None:
    d = deployment(6, hosts=3)
    d.orders(1.0)
    say(d, "reboot", "minimal-system", t=2.0, vm="vm-1", attempt=1)
    assert d.receive(Report("h-1", "host", "failed", 3.0, "its host h-1 is gone (no answer)"), 3.0)
    assert not d.receive(Report("h-1", "host", "failed", 4.0, "its host h-1 is gone (no answer)"), 4.0)
    found = {o.vm.name: (o.state, o.reason) for o in d.outcomes if o.vm.host == "h-1"}
    assert found == dict.fromkeys(("vm-1", "vm-4"), ("failed", "its host h-1 is gone (no answer)"))
    assert {o.state for o in d.outcomes if o.vm.host != "h-1"} == {"open"}
    assert not d.receive(Report("vm-1", "partition", "ok", 5.0, "", 1), 5.0)
    ends = [(e.subject, e.status) for e in d.events() if e.step == "deployment" and e.kind == "vm"]
    assert sorted(ends) == [("vm-1", "failed"), ("vm-4", "failed")]


def test_vm_whose_process_has_ended_is_reset_hard_at_once() -> None:
    d = deployment()
    to_task(d)
    d.orders(3.0)
    reason = "its process on h-1 has ended: killed"
    assert not d.receive(Report("vm-1", "vm", "failed", 0.5, reason), 3.0), "the step has begun since"
    assert d.receive(Report("vm-1", "vm", "failed", 2.0, reason), 3.0)
    assert [(kind, attempt) for _, kind, _, attempt in reboots(d.orders(3.0))] == [("hard", 2)]
    assert not d.receive(Report("vm-1", "vm", "failed", 4.0, reason), 4.0), "its process is being started"
    assert reason in {e.reason for e in d.events()}


def test_kexec_that_leads_nowhere_is_followed_by_a_reset_to_the_disk() -> None:
    d = deployment(workflow=default_workflow(boot_seconds=100))
    to_ready(d)
    assert checks(d.orders(5.0)) == [("vm-1", 1)]
    assert fail(d, "ready", "no route to host", 6.0, attempt=1)
    orders = d.orders(150.0)
    assert reboots(orders) == [("vm-1", "hard", "disk", 2)]
    say(d, "reset", t=151.0, attempt=2)
    assert checks(d.orders(153.0)) == [("vm-1", 1)]
    say(d, "ready", t=154.0, attempt=2)
    assert last(d).state == "deployed"
    ends = [(e.status, e.detail["variant"]) for e in d.events() if e.step == "BootNewEnv"]
    assert ends == [("start", "kexec"), ("retry", "kexec"), ("start", "reset"), ("ok", "reset")]


def test_a_vm_that_falls_back_into_its_minimal_system_has_failed_at_once() -> None:
    d = deployment()
    to_ready(d)
    assert not d.receive(Report("vm-1", "minimal-system", "ok", 1.2), 1.2)  # said twice
    assert d.receive(Report("vm-1", "minimal-system", "ok", 4.0), 4.0)
    assert reboots(d.orders(4.0)) == [("vm-1", "hard", "disk", 2)]
    (failed,) = [e for e in d.events() if e.status == "failed"]
    assert (failed.step, failed.detail["reason"]) == (
        "ready",
        "came back to its minimal system after boot ok",
    )


def test_a_host_without_the_image_fails_its_vms_only_and_is_tried_again_first() -> None:
    d = deployment(2, hosts=2, fresh=["vm-1", "vm-2"])
    d.orders(0.0)
    assert fail(d, "broadcast", "link down", 1.0, vm="h-1", attempt=1)
    assert [o for o in d.orders(1.0) if isinstance(o, BroadcastOrder)] == [
        BroadcastOrder(("h-1",), "broadcast", "chain", 2)
    ]
    say(d, "partition", "format", t=2.0, vm="vm-1", attempt=1)
    say(d, *GUEST, t=2.0, vm="vm-2", attempt=1)
    assert not fail(d, "broadcast", "link down", 3.0, vm="h-1", attempt=1)
    assert fail(d, "broadcast", "link still down", 3.0, vm="h-1", attempt=2)
    states = {o.vm.name: (o.state, o.step, o.reason) for o in d.outcomes}
    assert states["vm-1"] == ("failed", "broadcast", "h-1: link still down")
    assert states["vm-2"][:2] == ("open", "ready")


def test_the_next_broadcast_variant_is_a_new_task() -> None:
    d = deployment(workflow=default_workflow(broadcast=("chain", "http"), retries=0), fresh=["vm-1"])
    d.orders(0.0)
    assert fail(d, "image", "connection reset", 1.0, attempt=1)
    to_task(d, attempt=2, t=2.0)
    say(d, "partition", "format", t=3.0, attempt=2)
    (order,) = [o for o in d.orders(3.0) if isinstance(o, BroadcastOrder)]
    assert order == BroadcastOrder(("h-1",), "broadcast", "http", 2)
    assert d.receive(Report("h-1", "broadcast", "ok", 4.0, "", 2), 4.0)


def test_silent_host_is_given_up_after_its_time_out() -> None:
    d = deployment(fresh=["vm-1"])
    d.orders(0.0)
    say(d, "partition", "format", t=1.0, attempt=1)
    assert [o.attempt for o in d.orders(900.0) if isinstance(o, BroadcastOrder)] == [2]
    d.orders(1800.0)
    assert last(d).reason == "h-1: not there within 900 s (timeouts.broadcast_env allows more)"


def test_macro_step_bound_excludes_waiting_for_the_window() -> None:
    d = deployment(
        2, reboots=SlotWindow(1), workflow=default_workflow(timeouts={"SetDeploymentEnv": 50}, retries=0)
    )
    d.orders(0.0)
    say(d, "reboot", t=1.0, attempt=1)
    d.orders(49.0)
    assert d.count("failed") == 0
    assert reboots(d.orders(50.0)) == [("vm-2", "soft", "minimal", 1)]
    assert {o.vm.name: o.state for o in d.outcomes} == {"vm-1": "failed", "vm-2": "open"}
    late = "SetDeploymentEnv took longer than 50 s (timeouts.set_deployment_env), last: reboot ok"
    assert d.outcomes[0].reason == late
    d.orders(99.0)
    assert d.count("failed") == 1


def test_each_macro_step_has_its_own_bound() -> None:
    bounds = {"SetDeploymentEnv": 50.0, "BroadcastEnv": 20.0}
    d = deployment(workflow=default_workflow(timeouts=bounds, retries=0), fresh=["vm-1"])
    d.orders(0.0)
    say(d, "partition", "format", t=45.0, attempt=1)
    d.orders(64.0)
    assert d.count("failed") == 0
    d.orders(65.0)
    late = "BroadcastEnv took longer than 20 s (timeouts.broadcast_env), last: format ok"
    assert last(d).reason == late


def test_a_macro_steps_bound_is_that_of_each_of_its_steps() -> None:
    """A guest that takes ten minutes to boot is not reset after one and a half."""
    workflow = default_workflow(boot=("reboot",), timeouts={"BootNewEnv": 900}, retries=0, boot_seconds=97)
    d = deployment(workflow=workflow, fresh=["vm-1"])
    d.orders(0.0)
    say(d, *GUEST, t=10.0, attempt=1)
    for now in range(20, 900, 20):
        for order in d.orders(float(now)):
            assert isinstance(order, CheckOrder)
            fail(d, "ready", "nobody there", now + 0.5, attempt=1)
    assert d.count("failed") == 0
    d.orders(911.0)
    late = "BootNewEnv took longer than 900 s (timeouts.boot_new_env), last: ready failed: nobody there"
    assert last(d).reason == late


def test_a_step_that_runs_out_of_time_names_the_field_that_allows_more() -> None:
    workflow = default_workflow(boot=("reboot",), retries=0, boot_seconds=20, environment_seconds=97)
    d = deployment(workflow=workflow, fresh=["vm-1"])
    d.orders(0.0)
    say(d, *GUEST, t=10.0, attempt=1)
    d.orders(106.0)
    assert d.count("failed") == 0
    fail(d, "ready", "nobody there", 106.5, attempt=1)
    d.orders(107.5)
    assert last(d).reason == (
        "not ready within 97 s (timeouts.boot_new_env allows more), last: ready failed: nobody there"
    )


def test_a_macro_step_that_is_done_lets_reboots_begin_gently_again() -> None:
    d = deployment(workflow=default_workflow(boot_seconds=100))
    for attempt in (1, 2):
        d.orders(1.0)
        fail(d, "reboot", "no", 1.0, attempt=attempt)
    assert reboots(d.orders(1.0)) == [("vm-1", "relaunch", "minimal", 3)]
    say(d, "minimal-system", t=2.0)
    d.orders(2.0)
    d.receive(Report("h-1", "broadcast", "ok", 2.0), 2.0)
    say(d, *GUEST, t=2.0, attempt=3)
    assert d.receive(Report("vm-1", "minimal-system", "ok", 9.0), 9.0)
    assert reboots(d.orders(9.0)) == [("vm-1", "hard", "disk", 4)]


def test_durations_of_other_vms_shorten_the_wait_for_a_dead_one() -> None:
    d = deployment(5, workflow=default_workflow(retries=0, boot_seconds=300))
    d.orders(0.0)
    for i in range(1, 6):
        say(d, "reboot", t=1.0, vm=f"vm-{i}", attempt=1)
    for i in range(1, 5):
        say(d, "minimal-system", t=11.0, vm=f"vm-{i}")
    assert reboots(d.orders(30.0)) == []
    assert reboots(d.orders(60.0)) == [("vm-5", "hard", "minimal", 2)]


def test_an_overdue_vm_that_waits_for_its_check_still_gets_it() -> None:
    d = deployment(2, checks=SlotWindow(1), workflow=default_workflow(boot=("kexec",), boot_seconds=30))
    d.orders(0.0)
    for name in ("vm-1", "vm-2"):
        say(d, "reboot", t=1.0, vm=name, attempt=1)
        say(d, "minimal-system", t=1.0, vm=name)
    d.orders(1.0)
    for name in ("vm-1", "vm-2"):
        say(d, *GUEST, t=1.0, vm=name, attempt=1)
    (first,) = checks(d.orders(3.0))
    assert checks(d.orders(40.0)) == []  # both are overdue
    assert d.count("failed") == 0
    assert fail(d, "ready", "refused", 41.0, vm=first[0], attempt=1)
    assert d.count("failed") == 1
    ((second, _),) = checks(d.orders(41.0))
    say(d, "ready", t=42.0, vm=second, attempt=1)
    assert d.count("deployed") == 1


def test_outcomes_are_complete_after_an_early_stop() -> None:
    d = deployment(4, reboots=SlotWindow(2))
    d.orders(0.0)
    d.stop(5.0, "the job ends")
    assert d.finished
    assert d.count("failed") == 4
    assert {o.reason for o in d.outcomes} == {"the job ends"}
    assert d.orders(6.0) == []
    assert d.wake() is None


def test_deployment_of_no_vm_is_finished() -> None:
    d = deployment(0)
    assert d.orders(0.0) == []
    assert d.finished


# ---- windows ------------------------------------------------------------------------------------------


def test_hosts_are_interleaved() -> None:
    d = Deployment("d", vms(6, 3), default_workflow(), reboots=SlotWindow(3), checks=SlotWindow(1))
    first = [t.vm.host for o in d.orders(0.0) if isinstance(o, RebootOrder) for t in o.vms]
    assert sorted(first) == ["h-0", "h-1", "h-2"]


def test_a_rate_window_frees_by_time_and_a_slot_only_when_the_vm_is_up() -> None:
    rate = deployment(3, reboots=RateWindow(2, 10.0))
    assert len(reboots(rate.orders(0.0))) == 2
    assert rate.wake() == 10.0
    assert reboots(rate.orders(9.9)) == []
    assert len(reboots(rate.orders(10.0))) == 1
    slot = deployment(3, reboots=SlotWindow(2))
    assert len(reboots(slot.orders(0.0))) == 2
    say(slot, "reboot", t=1.0, vm="vm-1", attempt=1)
    assert reboots(slot.orders(1.0)) == []
    say(slot, "minimal-system", t=2.0, vm="vm-1")
    assert [r[0] for r in reboots(slot.orders(2.0))] == ["vm-3"]


# ---- whatever happens -----------------------------------------------------------------------------------


class World:
    """Does orders in its own time, and says what it likes: nothing, too late, twice, wrong, out of order."""

    def __init__(self, seed: int, mood: dict[str, int], window: Window, check_window: Window) -> None:
        self.random = random.Random(seed)
        self.mood = mood
        self.now = 1000.0
        self.heard: list[tuple[float, int, Report]] = []
        self.number = 0
        self.seen: set[tuple[Any, ...]] = set()
        self.window, self.check_window = window, check_window
        self.rebooting: set[str] = set()
        self.checking: dict[str, float] = {}
        self.times: dict[str, list[float]] = defaultdict(list)

    def fate(self) -> str:
        return self.random.choices(list(self.mood), list(self.mood.values()))[0]

    def will_say(
        self, subject: str, step: str, after: float, attempt: int | None, turn: int | None = None
    ) -> bool:
        """True if the subject goes on after this."""
        fate = self.fate()
        t = self.now + after
        status: Any = "failed" if fate == "fail" else "ok"
        if fate == "late":
            self.push(t + self.random.uniform(0, 2000), Report(subject, step, status, t, "r", attempt, turn))
        elif fate != "silent":
            report = Report(subject, step, status, t, "r" if fate == "fail" else "", attempt, turn)
            for _ in range(2 if fate == "twice" else 1):
                self.push(t + self.random.uniform(0, 3), report)
            if fate == "relapse":
                self.push(t + 5, Report(subject, "minimal-system", "ok", t + 5))
        return fate not in ("fail", "silent")

    def push(self, at: float, report: Report) -> None:
        self.number += 1
        heapq.heappush(self.heard, (at, self.number, report))

    def new(self, *key: Any) -> None:
        assert key not in self.seen, f"ordered twice: {key}"
        self.seen.add(key)

    def execute(self, order: Order) -> None:
        if isinstance(order, BroadcastOrder):
            for host in order.hosts:
                self.new("broadcast", host, order.attempt)
                self.will_say(host, order.step, self.random.uniform(0, 50), order.attempt)
            return
        for target in order.vms:
            name, after = target.vm.name, self.random.uniform(0, 5)
            self.new(type(order).__name__, name, target.attempt, target.turn)
            if isinstance(order, RebootOrder):
                self.rebooting.add(name)
                self.times["reboot"].append(self.now)
                if self.will_say(name, order.step, after, target.attempt) and order.into == "minimal":
                    self.will_say(name, "minimal-system", after + self.random.uniform(0, 60), None)
            elif isinstance(order, TaskOrder):
                for step in GUEST:
                    after += self.random.uniform(0, 10)
                    if not self.will_say(name, step, after, target.attempt):
                        break
            else:
                self.checking[name] = self.now
                self.times["check"].append(self.now)
                self.will_say(name, order.step, after, target.attempt, target.turn)
        self.hold()

    def hold(self) -> None:
        """Neither window is ever exceeded."""
        for kind, window, inside in (
            ("reboot", self.window, len(self.rebooting)),
            ("check", self.check_window, sum(self.now < t + LEASE for t in self.checking.values())),
        ):
            if isinstance(window, SlotWindow):
                assert inside <= window.size
            elif isinstance(window, RateWindow):
                counts = sorted(Counter(self.times[kind]).items())
                assert all(n <= window.size for _, n in counts)
                assert all(b - a >= window.sleep - 1e-6 for (a, _), (b, _) in pairwise(counts))

    def write(self, events: Iterable[Event]) -> None:
        for e in events:
            if e.kind == "vm" and (e.status == "failed" or (e.step in ("minimal-system", "ready"))):
                self.rebooting.discard(e.subject)
            if e.kind == "vm" and (e.status == "failed" or e.step == "ready"):
                self.checking.pop(e.subject, None)

    def receive(self, d: Deployment, until: float | None) -> None:
        """Move the clock to the next report, or to when the engine wants to be asked."""
        nearest = min([t for t in (until, self.heard[0][0] if self.heard else None) if t is not None])
        self.now = max(self.now, nearest)
        while self.heard and self.heard[0][0] <= self.now:
            report = heapq.heappop(self.heard)[2]
            if d.receive(report, self.now) and report.turn is not None:
                self.checking.pop(report.subject, None)


windows = st.one_of(
    st.builds(SlotWindow, st.integers(1, 6)), st.builds(RateWindow, st.integers(1, 6), st.floats(0.1, 30))
)


@settings(max_examples=200)
@given(
    number=st.integers(1, 12),
    hosts=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    mood=st.fixed_dictionaries(
        {"ok": st.integers(1, 40)}
        | dict.fromkeys(("fail", "silent", "late", "twice", "relapse"), st.integers(0, 6))
    ),
    window=windows,
    check_window=windows,
    fresh=st.integers(0, 12),
    ways=st.sampled_from([("chain",), ("chain", "http")]),
    bound=st.sampled_from([None, 40.0, 900.0]),
)
def test_every_deployment_ends_with_complete_outcomes_within_its_windows(
    number: int,
    hosts: int,
    seed: int,
    mood: dict[str, int],
    window: Window,
    check_window: Window,
    fresh: int,
    ways: tuple[str, ...],
    bound: float | None,
) -> None:
    timeouts = {m: bound for m in ("SetDeploymentEnv", "BroadcastEnv", "BootNewEnv") if bound}
    d = Deployment(
        "d1",
        vms(number, hosts),
        default_workflow(broadcast=ways, timeouts=timeouts),
        reboots=window,
        checks=check_window,
        fresh=[f"vm-{i}" for i in range(fresh)],
    )
    world = World(seed, mood, window, check_window)
    events: list[Event] = []
    for _ in range(1000 * number):
        orders = d.orders(world.now)
        news = d.events()
        events += news
        world.write(news)
        for order in orders:
            world.execute(order)
        assert sum(d.count(s) for s in ("open", "deployed", "failed")) == number
        if d.finished:
            break
        world.receive(d, d.wake())
    assert d.finished
    assert world.now < 1000.0 + 60_000.0 * number
    ends = [e for e in events if e.step == "deployment" and e.kind == "vm"]
    assert sorted(e.subject for e in ends) == sorted(vm.name for vm in vms(number))
    assert sum(e.status == "ok" for e in ends) == d.count("deployed")
    for e in ends:
        assert e.status == "ok" or (e.detail["at"] and e.detail["reason"])
    for outcome in d.outcomes:
        assert (outcome.state == "failed") == bool(outcome.reason)
    for macro in d.workflow.plain():  # every macro-step that began has ended, before the next one begins
        for vm in vms(number):
            own = [e.status for e in events if e.step == macro and e.subject == vm.name]
            assert all((status == "start") == (i % 2 == 0) for i, status in enumerate(own))
            assert len(own) % 2 == 0
    queues = (d._state.reboots, d._state.checks)
    assert [(queue.waiting, queue.held) for queue in queues] == [(0, 0), (0, 0)]
    # an attempt is at most 11 steps and 3 macro-steps with two ends each, a broadcast two events
    tries = sum(outcome.attempt for outcome in d.outcomes)
    assert len(events) <= 17 * tries + number + 2 * 2 * len(ways) * hosts + 2


def test_the_loop_drives_a_deployment_to_its_end() -> None:
    class Good:
        def __init__(self) -> None:
            self.reports: list[Report] = []
            self.now = 0.0

        def execute(self, order: Order) -> None:
            if isinstance(order, BroadcastOrder):
                self.reports += [Report(h, order.step, "ok", self.now) for h in order.hosts]
            elif isinstance(order, TaskOrder):
                names = [target.vm.name for target in order.vms]
                self.reports += [Report(name, s, "ok", self.now, "", 1) for name in names for s in GUEST]
            else:
                self.reports += [Report(t.vm.name, order.step, "ok", self.now, "", 1) for t in order.vms]

        def receive(self, timeout: float) -> list[Report]:
            self.now += max(timeout, 0.1)
            reports, self.reports = self.reports, []
            return reports

    good = Good()
    written: list[Event] = []
    d = deployment(3, fresh=["vm-1", "vm-2", "vm-3"])
    outcomes = drive(d, good, clock=lambda: good.now, write=written.extend)
    assert [o.state for o in outcomes] == ["deployed"] * 3
    assert written[-1].step == "deployment"


def test_duplicate_vm_names_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        Deployment("d", vms(1) * 2, default_workflow(), reboots=SlotWindow(1), checks=SlotWindow(1))
