"""What is known of a VM that is not ready: by its ssh, and by its console where that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt.images.environments import Environment, Image
from g5kvirt.provisioners.builtin.readiness import not_ready_reason, shows_console, with_console
from g5kvirt.remote import Result

IMAGE = Image(Environment("mine", "/image"), Path("/image"), "a" * 64, 1000)
READY = f"name=mine\nsha256={'a' * 64}\ndeployment=d1.2\nserver=http://10.0.0.1\n/dev/vda1 / ext4 rw 0 0\n"


def login(stderr: str = "", out: str = "", reason: str = "", via: str = "host") -> Result:
    return Result("vm-1", not reason, None, out.encode(), stderr.encode(), 1.0, 2.0, reason=reason, via=via)


def reason(result: Result) -> str:
    return not_ready_reason(result, "d1", IMAGE, "/dev/vd")


def test_a_deployed_vm_is_ready() -> None:
    assert reason(login(out=READY)) == ""


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ("nothing", "it answers ssh, but not as a deployed environment"),
        (READY.replace("d1.2", "d0.1"), "it runs another deployment, d0.1 of mine"),
        (READY.replace("/dev/vda1 /", "rootfs /"), "its root is rootfs, not the disk"),
    ],
)
def test_another_system_is_not_ready(changed: str, why: str) -> None:
    assert reason(login(out=changed)) == why


@pytest.mark.parametrize(
    ("stderr", "why"),
    [
        ("ssh: connect to host 10.0.0.9 port 22: Connection refused", "its network is up, but no ssh server"),
        ("ssh: connect to host 10.0.0.9 port 22: No route to host", "it does not answer on the network yet"),
        ("root@10.0.0.9: Permission denied (publickey).", "its ssh server does not let root in"),
        ("Unable to negotiate: no matching host key type", "unreachable (Unable"),
    ],
)
def test_a_login_that_fails_says_how_far_the_vm_is(stderr: str, why: str) -> None:
    assert reason(login(stderr, reason=f"unreachable ({stderr})")).startswith(why)


def test_a_host_that_cannot_be_reached_is_not_taken_for_its_vm() -> None:
    why = "its host h-1: unreachable: the host refuses connections"
    assert reason(login("ssh: connect to host h-1: Connection refused", reason=why, via="ssh")) == why


def test_the_console_is_looked_at_now_and_then_and_only_of_a_vm_that_does_not_answer() -> None:
    silent = login("No route to host", reason="unreachable: no response")
    assert [turn for turn in range(1, 12) if shows_console(silent, turn)] == [3, 7, 11]
    assert not any(shows_console(login(out=READY), turn) for turn in range(12))
    assert not any(shows_console(login(reason="its host is gone", via="ssh"), turn) for turn in range(12))


def test_the_console_joins_the_reason_without_the_kernels_time() -> None:
    line = "[   12.345678] Run /init as init process"
    assert with_console("no answer", line) == "no answer; its console ends with: Run /init as init process"
    assert with_console("no answer", "") == "no answer"
