"""What the host agent answers as a whole, run as on a host."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import agent_copy
import pytest
from agent_calls import call

from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost import main


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"requests": 3}', '{"requests": ["x"]}', '{"home": "x", "requests": []}']
)
def test_unreadable_request_is_refused_with_code_2(text: str) -> None:
    done = subprocess.run(
        agent_copy.argv(), input=text.encode(), capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert b"cannot be read" in done.stderr
    assert b"Traceback" not in done.stderr


def test_bad_request_does_not_stop_the_others(home: Path) -> None:
    answers = call(
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


def test_every_operation_has_its_function() -> None:
    assert "start" in main.OPERATIONS
    for name in main.OPERATIONS:
        assert callable(main.operation(name))


def test_facts_are_those_of_this_machine(home: Path) -> None:
    sent = time.time()
    (answer,) = call(home, protocol.facts(programs=["sh", "no-such-program"]))
    facts = protocol.read_facts(answer, sent, time.time())
    assert facts.cores == Path("/proc/cpuinfo").read_text().count("processor\t:")
    assert facts.memory > 1 << 28
    assert abs(facts.clock_offset) < 2
    assert answer.detail["missing"] == ["no-such-program"]
    assert oct((home).stat().st_mode)[-3:] == "700"


def test_sysctls_that_do_not_exist_are_absent_not_failed(home: Path) -> None:
    here = Path("/proc/sys/kernel/pid_max").read_text().strip()
    wanted = {"net.no.such.key": 1, "kernel.pid_max": here, "../../etc/passwd": "x"}
    (answer,) = [a for a in call(home, {"op": "prepare", "sysctls": wanted}) if a.subject == "sysctls"]
    assert answer.ok
    keys = answer.detail["keys"]
    assert keys["net.no.such.key"] == "absent"
    assert keys["kernel.pid_max"] == "unchanged"
    assert keys["../../etc/passwd"].startswith("refused")


def test_console_reads_the_end_and_a_missing_one_hides_no_other(home: Path) -> None:
    (home / "consoles").mkdir(parents=True)
    (home / "consoles" / "vm-1.serial").write_bytes(b"x" * 100_000 + "é".encode() + b"the end\r\n")
    (home / "consoles" / "vm-2.serial").write_bytes(b"")
    first, second, third = call(home, protocol.console(["vm-1", "vm-2", "vm-3"], 10))
    assert first.detail["text"] == "\ufffdthe end\r\n"
    assert second.detail["text"] == ""
    assert not third.ok
    assert "vm-3.serial" in third.reason
    (refused,) = call(home, protocol.console(["../x"]))
    assert "not a valid name" in refused.reason
