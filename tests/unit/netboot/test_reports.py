"""What VMs report is read by a grammar; nothing else becomes an event, and nothing raises."""

from __future__ import annotations

import json
import math
import random
import string
from ipaddress import IPv4Address
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.inventory import VM
from g5kvirt.netboot.bootlog import BootLog
from g5kvirt.netboot.reports import REPORTED, parse_report
from g5kvirt.provisioners.builtin.tasks import STEPS
from g5kvirt.run.printable import printable


def vm(number: int) -> VM:
    return VM(
        index=number,
        name=f"vm-{number}",
        host="h",
        site="nancy",
        ip=IPv4Address(f"10.144.0.{number}"),
        mac=f"02:00:90:00:00:{number:02x}",
    )


def line(query: str, number: int = 1) -> str:
    entry = {"t": 12.5, "took": 0.25, "from": f"10.144.0.{number}", "status": 200, "bytes": 3}
    return json.dumps(entry | {"uri": f"/report?{query}"})


def test_what_the_guests_send_is_read() -> None:
    assert set(STEPS) | {"minimal-system", "environment"} == REPORTED
    boot = "step=minimal-system&name=vm-1&mac=02:00:90:00:00:01"
    boot += "&up=9.51&up_kernel=2.30&up_address=4&dns=10.144.0.9"
    assert parse_report(boot) == (
        "minimal-system",
        {
            "name": "vm-1",
            "mac": "02:00:90:00:00:01",
            "up": "9.51",
            "up_kernel": "2.30",
            "up_address": "4",
            "dns": "10.144.0.9",
        },
    )
    failed = "step=image&name=vm-1&up=1&deployment=d2.3&status=failed&permanent=1&reason=No%20space%0a"
    found = parse_report(failed)
    assert found is not None
    assert found[1]["reason"] == r"No space\n"
    assert parse_report("step=minimal-system&dns=") is not None


@pytest.mark.parametrize(
    "query",
    [
        f"step=image&status=ok&deployment=d2.{'9' * 5000}",
        "step=image&status=ok&deployment=d2.9999999",
        "step=guests",
        "step=phase",
        "step=power-on",
        "step=deployment",
        "step=console&file=../../../etc/shadow",
        "step=image&file=../../../etc/shadow",
        "step=image&step=boot",
        "step=image&status=maybe",
        "step=image&up=1e999",
        "step=image&up=nan",
        "step=image&name=" + "x" * 64,
        "step=image&name=vm-1%0a",
        "step=image&console=/etc/shadow",
        "step=" + "x" * 3000,
        "step=image&reason=" + "x" * 3000,
        "",
        "&&&=&",
    ],
)
def test_what_does_not_fit_is_nothing(query: str) -> None:
    log = BootLog([vm(1)])
    assert log.read(line(query)) is None
    assert log.refused == 1


def test_a_vm_reports_for_itself_alone() -> None:
    log = BootLog([vm(1), vm(2)])
    assert log.read(line("step=boot&name=vm-2&deployment=d1.1&status=ok", number=1)) is None
    assert log.read(line("step=boot&name=vm-9&deployment=d1.1&status=ok", number=1)) is None
    assert log.read(line("step=boot&name=vm-1&deployment=d1.1&status=ok", number=9)) is None
    assert log.refused == 3
    assert log.read(line("step=boot&name=vm-9&deployment=d1.1&status=ok", number=9)) is None
    assert log.refused == 3, "that VM is not in this deployment: its report is in the same log"
    seen = log.read(line("step=boot&name=vm-1&deployment=d1.1&status=ok", number=1))
    assert seen is not None
    assert (seen.vm, seen.step) == ("vm-1", "boot")


def test_a_reason_cannot_act_upon_a_terminal() -> None:
    reason = "\x1b[2J\x1b]0;owned\x07 \u202eab\r\n\x00é" + "x" * 400
    found = parse_report("step=image&status=failed&reason=" + quote(reason))
    assert found is not None
    assert found[1]["reason"].startswith(r"\x1b[2J\x1b]0;owned\x07 \u202eab\r\n\x00é")
    assert found[1]["reason"].isprintable()
    assert len(found[1]["reason"]) < 700


@given(st.text())
def test_printable_text_is_printable_and_otherwise_unchanged(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text
    assert printable("a\n\tb\x1b", "\n\t") == "a\n\tb\\x1b"


@pytest.mark.parametrize("number", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mangled_reports_give_only_events_that_fit(number: int) -> None:
    """Nothing raises, each event is of a step that VMs report, and its values are short."""
    draw = random.Random(13)
    good = "step=image&name=vm-1&up=9.1&deployment=d1.2&status=failed&reason=No%20space&permanent=1"
    pieces = [
        *REPORTED,
        "guests",
        "phase",
        "console",
        "../..",
        "%",
        "%00",
        "%1b",
        "&",
        "=",
        "step",
        "9" * 400,
    ]
    log = BootLog([vm(1)])
    events = 0
    for _ in range(number):
        text = list(good)
        for _ in range(draw.randint(0, 4)):
            at = draw.randrange(len(text))
            text[at : at + draw.choice([0, 1, 1, 5])] = draw.choice([draw.choice(string.printable), *pieces])
        seen = log.read(line("".join(text)))
        if seen is not None:
            events += 1
            assert seen.step in REPORTED
            assert seen.status in ("ok", "failed")
            assert seen.reason.isprintable()
            assert all(len(str(value)) <= 1300 for value in seen.detail.values())
            assert seen.task is None or 0 <= seen.task.attempt < 10**6
    assert log.refused == number - events
    assert number / 20 < events < number * 0.95


@pytest.mark.parametrize(
    "value", ["Infinity", "NaN", "null", "true", "5", "9" * 400, "[" * 100_000, "-1e999", "[]"]
)
@pytest.mark.parametrize("key", ["t", "took", "from", "uri", "status", "bytes"])
def test_a_line_of_another_form_is_nothing(key: str, value: str) -> None:
    entry = {
        "t": "1.0",
        "took": "0.1",
        "from": '"10.144.0.5"',
        "uri": '"/report?step=image"',
        "status": "200",
    }
    entry |= {"bytes": "3", key: value}
    text = "{" + ",".join(f'"{name}":{one}' for name, one in entry.items()) + "}"
    seen = BootLog([vm(1)]).read(text)
    assert seen is None or math.isfinite(seen.t)


def test_a_time_of_400_digits_is_nothing() -> None:
    assert BootLog([vm(1)]).read("9" * 400 + ".5 DHCPACK(br0) 10.144.0.5 52:54:0a:90:00:05") is None
