"""The host agent's own decisions, and the requests and answers of the notebook's side; no root needed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import TestbedError
from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.protocol import AGENT, Answer

MAC = "02:00:00:00:00:01"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agent_under_test", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


agent = load()


def ask(home: Path, *requests: dict[str, Any]) -> list[Answer]:
    argv = [sys.executable, "-I", "-S", str(AGENT)]
    document = protocol.document(*requests, home=str(home))
    done = subprocess.run(argv, input=document, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return protocol.parse(done.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home for the agent; whatever services a test starts there are ended."""
    yield tmp_path / "home"
    if (tmp_path / "home").exists():
        ask(tmp_path / "home", protocol.stop_service())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"requests": 3}', '{"requests": ["x"]}', '{"home": "x", "requests": []}']
)
def test_an_unreadable_request_is_refused_with_code_2(text: str) -> None:
    done = subprocess.run(
        [sys.executable, str(AGENT)], input=text.encode(), capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert b"cannot be read" in done.stderr
    assert b"Traceback" not in done.stderr


def test_one_bad_request_does_not_stop_the_others(home: Path) -> None:
    answers = ask(
        home,
        {"op": "dance"},
        {"op": "start"},
        {"op": "power", "action": "on", "names": ["no"]},
        protocol.facts(),
    )
    assert [a.ok for a in answers] == [False, False, False, True]
    assert "dance" in answers[0].reason
    assert answers[1].reason == "'vms' is missing"
    assert "no VM no" in answers[2].reason


def test_facts_are_those_of_this_machine(home: Path) -> None:
    asked = time.time()
    (answer,) = ask(home, protocol.facts(programs=["sh", "no-such-program"]))
    facts = protocol.read_facts(answer, asked, time.time())
    assert facts.cores == Path("/proc/cpuinfo").read_text().count("processor\t:")
    assert facts.memory > 1 << 28
    assert abs(facts.clock_offset) < 2
    assert answer.detail["missing"] == ["no-such-program"]
    assert oct((home).stat().st_mode)[-3:] == "700"


@given(st.text(max_size=80))
def test_names_that_are_let_through_are_safe(name: str) -> None:
    try:
        assert agent.name_of(name) == name
    except ValueError:
        return
    assert not set(name) & set("/ ,;$`'\"\\\n\0*?=")
    assert name[0] not in "-."


def test_qemu_boots_from_the_network_first_and_keeps_its_monitor_private() -> None:
    vm = {"name": "vm-1", "mac": MAC, "tap": "v1", "memory": 112 << 20, "disk": 1 << 30}
    argv = agent.qemu_argv("/run/x", vm)
    text = " ".join(argv)
    assert f"virtio-net-pci,netdev=net0,mac={MAC},bootindex=1" in text
    assert "virtio-blk-pci,drive=disk0,bootindex=2" in text
    assert "-qmp unix:/run/x/vms/vm-1.qmp,server=on,wait=off" in text
    assert "tcp" not in text
    assert "-m 112M" in text
    assert "-accel tcg,thread=single,tb-size=32 -cpu qemu64,+rdrand" in text
    kvm = " ".join(
        agent.qemu_argv("/run/x", {**vm, "accel": "kvm", "disk": 0, "boot": "iso", "iso": "/a,b.iso"})
    )
    assert "-accel kvm -cpu host" in kvm
    assert "rdrand" not in kvm
    assert "file=/a,,b.iso" in kvm
    assert "ide-cd,drive=cd0,bootindex=1" in kvm
    assert "virtio-blk" not in kvm


def test_routes_move_in_an_order_that_works() -> None:
    routes = [
        {"dst": "default", "gateway": "192.0.2.1", "metric": 100, "flags": []},
        {"dst": "192.0.2.1", "scope": "link", "flags": []},
    ]
    assert agent.moving("br0", ["10.0.0.5/24", "fd00::5/64"], routes) == [
        "addr replace 10.0.0.5/24 brd + dev br0",
        "addr replace fd00::5/64 nodad dev br0",
        "route replace 192.0.2.1 scope link dev br0",
        "route replace default via 192.0.2.1 metric 100 dev br0",
    ]


def test_routes_of_the_bridge_come_before_those_that_a_dhcp_client_sets_anew() -> None:
    only = {"dst": "default", "gateway": "192.0.2.1", "metric": 1002, "flags": []}
    assert agent.preferred([only]) == [{"dst": "default", "gateway": "192.0.2.1", "flags": []}]
    two = [only, {**only, "gateway": "192.0.2.2", "metric": 1003}]
    assert agent.preferred(two) == two


def test_settings_that_do_not_exist_are_absent_not_failed(home: Path) -> None:
    here = Path("/proc/sys/kernel/pid_max").read_text().strip()
    wanted = {"net.no.such.key": 1, "kernel.pid_max": here, "../../etc/passwd": "x"}
    (answer,) = [a for a in ask(home, {"op": "prepare", "sysctls": wanted}) if a.subject == "sysctls"]
    assert answer.ok
    keys = answer.detail["keys"]
    assert keys["net.no.such.key"] == "absent"
    assert keys["kernel.pid_max"] == "unchanged"
    assert keys["../../etc/passwd"].startswith("refused")


# ---------------------------------------------------------------------------------------------- services
def service(path: Path, content: str, command: list[str], **more: Any) -> dict[str, Any]:
    return protocol.serve("s", command=command, files=[protocol.file(str(path), content)], **more)


def test_a_service_runs_is_unchanged_restarts_and_ends(home: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    order = service(conf, "one\n", ["sh", "-c", f"cat {conf}; exec sleep 100"], ready_log="one")
    (first,) = ask(home, order)
    assert first.ok, first.reason
    (second,) = ask(home, order)
    assert second.unchanged
    assert second.detail["pid"] == first.detail["pid"]
    (third,) = ask(home, service(conf, "two\n", ["sh", "-c", f"cat {conf}; exec sleep 100"], ready_log="two"))
    assert third.ok, third.reason
    assert third.detail["child"] != first.detail["child"]
    log = Path(protocol.service_log("s", str(home))).read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in log] == ["one", "two"]
    assert abs(float(log[0].split()[0]) - time.time()) < 60
    (ended,) = ask(home, protocol.stop_service())
    assert ended.ok
    assert agent.born(third.detail["child"]) is None
    assert agent.born(third.detail["pid"]) is None
    assert ask(home, protocol.stop_service())[0].unchanged


def test_a_killed_service_comes_back(home: Path, tmp_path: Path) -> None:
    order = service(tmp_path / "c", "", ["sh", "-c", "echo up; exec sleep 100"], ready_log="up")
    (started,) = ask(home, order)
    os.kill(started.detail["child"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        (now,) = ask(home, protocol.services())
        if now.detail["state"] == "running" and now.detail["child"] != started.detail["child"]:
            break
        time.sleep(0.05)
    else:
        pytest.fail(f"the service did not come back: {now}")
    assert now.detail["starts"] == 2
    assert now.detail["last_exit"] == -signal.SIGKILL
    os.kill(started.detail["pid"], signal.SIGKILL)  # the supervisor too: its child must not outlive it
    deadline = time.monotonic() + 20
    while agent.born(now.detail["child"]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert agent.born(now.detail["child"]) is None
    (again,) = ask(home, order)
    assert again.ok, again.reason


def test_a_service_ends_when_its_time_is_over_and_is_not_begun_again(home: Path, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo up; exec sleep 100"]
    (tmp_path / "spec.json").write_text(json.dumps({"command": command, "until": time.time()}))
    supervised = [sys.executable, "-I", str(AGENT), "supervise", str(tmp_path)]
    assert subprocess.run(supervised, timeout=60, check=False).returncode == 0
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["starts"] == 1
    assert agent.born(state["child"]) is None
    assert "supervisor: its time is over" in (tmp_path / "log").read_text()

    order = service(tmp_path / "c", "", command, ready_log="up", until=time.time() - 5)
    (late,) = ask(home, order)
    assert not late.ok
    assert "its time is over since" in late.reason
    order["until"] = time.time() + 600
    (started,) = ask(home, order)
    assert started.ok, started.reason
    assert ask(home, order)[0].unchanged


def test_a_configuration_that_its_program_refuses_changes_nothing(home: Path, tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    check = [["sh", "-c", f"grep -q good {conf} || {{ echo no good; exit 1; }}"]]
    command = ["sh", "-c", "echo up; exec sleep 100"]
    (first,) = ask(home, service(conf, "good", command, check=check, ready_log="up"))
    (refused,) = ask(home, service(conf, "bad", command, check=check, ready_log="up"))
    assert not refused.ok
    assert "no good" in refused.reason
    assert conf.read_text() == "good"
    assert ask(home, protocol.services())[0].detail["child"] == first.detail["child"]


def test_a_service_that_is_not_ready_says_why(home: Path, tmp_path: Path) -> None:
    order = service(tmp_path / "c", "", ["sh", "-c", "echo cannot bind; exit 1"], ready_log="up", limit=1.0)
    (answer,) = ask(home, order)
    assert not answer.ok
    assert "cannot bind" in answer.reason


# ------------------------------------------------------------------------------------------------- follow
def test_follow_streams_lines_from_an_offset_and_ends_with_its_input(tmp_path: Path) -> None:
    log, later = tmp_path / "log", tmp_path / "later"
    log.write_text("old\nnew\n")
    request = json.dumps({"requests": [protocol.follow({str(log): 4, str(later): 0}, poll=0.01)]})
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(AGENT), request],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None

    def line() -> protocol.Line:
        assert process.stdout is not None
        while True:
            if found := protocol.parse_line(process.stdout.readline()):
                return found

    assert line() == protocol.Line(str(log), 8, "new")
    with log.open("a") as file:
        file.write("to")
        file.flush()
        time.sleep(0.05)
        file.write("rn\n")
    assert line() == protocol.Line(str(log), 13, "torn")
    later.write_text("é\n")
    assert line() == protocol.Line(str(later), 3, "é")
    log.rename(tmp_path / "log.1")
    log.write_text("anew\n")
    assert line() == protocol.Line(str(log), 5, "anew")
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()


# -------------------------------------------------------------------------------------- the other side
def test_the_end_of_a_console_is_read_and_a_missing_one_hides_no_other(home: Path) -> None:
    (home / "ram").mkdir(parents=True)
    (home / "ram" / "vm-1.serial").write_bytes(b"x" * 100_000 + "é".encode() + b"the end\r\n")
    (home / "ram" / "vm-2.serial").write_bytes(b"")
    first, second, third = ask(home, protocol.console(["vm-1", "vm-2", "vm-3"], 10))
    assert first.detail["text"] == "\ufffdthe end\r\n"
    assert second.detail["text"] == ""
    assert not third.ok
    assert "vm-3.serial" in third.reason
    (refused,) = ask(home, protocol.console(["../x"]))
    assert "no usable name" in refused.reason


def test_answers_are_read() -> None:
    text = '{"op": "start", "subject": "vm-1", "status": "failed", "t": 1.5, "detail": {"reason": "no"}}\n\n'
    assert protocol.parse(text) == [Answer("start", "vm-1", False, 1.5, {"reason": "no"})]
    assert protocol.parse(text)[0].reason == "no"
    for bad in ("Traceback", "[]", "{}", '{"op": 1}'):
        with pytest.raises(TestbedError):
            protocol.parse(bad)


def test_documents_survive_the_way(home: Path) -> None:
    order = protocol.start([protocol.vm("a", MAC)], memory=1 << 27, boot="iso", iso="/x.iso", kvm=True)
    assert json.loads(protocol.document(order, home=str(home)))["requests"] == [order]
    assert order["defaults"] == {
        "memory": 1 << 27,
        "disk": 0,
        "cores": 1,
        "boot": "iso",
        "iso": "/x.iso",
        "accel": "kvm",
    }
    assert protocol.parse_line('{"op": "follow", "t": 1}') is None
