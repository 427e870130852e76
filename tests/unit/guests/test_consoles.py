"""The last words of VMs that failed: readable, kept where they can be fetched, never a hindrance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.context import Context
from g5kvirt.errors import PhaseOrderError, SpecError, TestbedError
from g5kvirt.guests import consoles
from g5kvirt.inventory import GIB, VM, Host, to_plain
from g5kvirt.remote import Result
from g5kvirt.run import directory, event_types
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.run.tables import Frames
from g5kvirt.spec.spec import Spec
from g5kvirt.views.html import failures

HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB, address=f"h-{i}") for i in (1, 2)]
VMS = [VM(i, f"vm-{i}", HOSTS[i == 3].name, "nancy", IPv4Address(i), f"02::{i}") for i in (1, 2, 3, 4)]


class Fanout:
    """Hosts of which the first knows the console of vm-1 only, and the second does not answer."""

    keeps_connections = False

    def is_gone(self, host: str) -> bool:
        return False

    def run(self, hosts: Iterable[str], command: object, *, stdin: Mapping[str, bytes], **_: Any) -> Any:
        assert sorted(hosts) == sorted(stdin) == ["h-1", "h-2"]
        (request,) = json.loads(stdin["h-1"])["requests"]
        assert (request["op"], request["names"]) == ("console", ["vm-1", "vm-2", "vm-4"])
        text = "\x1b[2J\x1b[01;01HiPXE\r\n[    1.5] Kernel panic\r\n\r\n"
        said = [
            {"op": "console", "subject": "vm-1", "status": "ok", "t": 1.0, "detail": {"text": text}},
            {
                "op": "console",
                "subject": "vm-2",
                "status": "failed",
                "t": 1.0,
                "detail": {"reason": "no file"},
            },
        ]
        said += [{"op": "console", "subject": "vm-4", "status": "ok", "t": 1.0, "detail": {"text": "\r\n"}}]
        out = "\n".join(map(json.dumps, said)).encode()
        return {
            "h-1": Result("h-1", True, 0, out, b"", 1.0, 2.0),
            "h-2": Result("h-2", False, None, b"", b"", 1.0, 2.0, reason="unreachable: no answer"),
        }


def fetched(tmp_path: Path, phase: str, label: str) -> tuple[Path, list[Event]]:
    spec = Spec(sites={"nancy": 2}, vms=3)
    run = directory.create(tmp_path, "r", {"spec": spec.to_dict(), "testbed": "local"})
    journal = Journal.open(run.journal)
    context = Context(spec, None, run, journal)  # type: ignore[arg-type]
    context.__dict__["fanout"] = Fanout()
    deployment = label if phase == "measure" else ""
    consoles.fetch(context, VMS, HOSTS, phase=phase, deployment=deployment)
    journal.close()
    return run.path, list(journal)


def test_available_consoles_are_kept_and_missing_ones_have_a_reason(tmp_path: Path) -> None:
    path, events = fetched(tmp_path, "measure", "d7")
    found = {event.subject: event for event in events}
    assert (path / "consoles/d7/vm-1.txt").read_text() == "iPXE\n[    1.5] Kernel panic\n"
    assert [p.name for p in (path / "consoles/d7").iterdir()] == ["vm-1.txt"]
    assert dict(found["vm-1"].detail) == {
        "deployment": "d7",
        "file": "consoles/d7/vm-1.txt",
        "last": "[ 1.5] Kernel panic",
    }
    assert [found[name].status for name in ("vm-1", "vm-2", "vm-3")] == ["ok", "failed", "failed"]
    assert (found["vm-4"].status, dict(found["vm-4"].detail)) == ("ok", {"deployment": "d7"})
    assert "no file" in found["vm-2"].detail["reason"]
    assert "no answer" in found["vm-3"].detail["reason"]


def test_account_names_the_console_directory(tmp_path: Path) -> None:
    _, events = fetched(tmp_path, "launch", "launch")
    plan = [
        {
            "index": vm.index,
            "name": vm.name,
            "host": vm.host,
            "site": "nancy",
            "ip": str(vm.ip),
            "mac": vm.mac,
        }
        for vm in VMS
    ]
    gave_up = [
        Event("launch", "launch", "vm", vm.name, "failed", 5.0, 3, {"at": "kernel", "reason": "silent"})
        for vm in VMS
    ]
    events = [Event("place", "plan", "run", "r", "ok", 0.0, 1, {"vms": plan}), *gave_up, *events]
    found = Frames(events).account
    assert found.reasons == {("kernel", "silent"): 4}
    assert found.consoles == {("kernel", "silent"): "consoles/launch/vm-1.txt"}
    assert "consoles/launch/vm-1.txt" in failures(found)
    assert "last words" not in failures(Frames(events[:-4]).account)


def test_deployment_names_the_console_directory(tmp_path: Path) -> None:
    _, events = fetched(tmp_path, "measure", "d7")
    about = {"deployment": "d7"}
    ends = [
        Event("measure", "deployment", "run", "d7", "start", 0.0, 1, about | {"asked": 4}),
        *(
            Event(
                "measure",
                "deployment",
                "vm",
                vm.name,
                "failed",
                5.0,
                1,
                about | {"at": "image", "reason": "full"},
            )
            for vm in VMS
        ),
        Event("measure", "deployment", "run", "d7", "failed", 5.0, 1, about),
    ]
    tables = Measurements.of([*ends, *events])
    assert tables.vms.set_index("vm")["console"].to_dict() == {
        "vm-1": "consoles/d7/vm-1.txt",
        "vm-2": "",
        "vm-3": "",
        "vm-4": "",
    }
    assert tables.summary().consoles == {("image", "full"): "consoles/d7/vm-1.txt"}
    assert list(tables.deployments["failed"]) == [4]


@given(st.text())
def test_console_output_is_made_readable(text: str) -> None:
    shown = consoles.readable(text)
    assert shown.endswith("\n")
    assert all(c in "\n\t" or ord(c) >= 32 for c in shown)
    assert consoles.readable(shown) == shown


def looked_at(tmp_path: Path, *events: Event) -> Context:
    spec = Spec(sites={"nancy": 2}, vms=3)
    run = directory.create(tmp_path, "r", {"spec": spec.to_dict(), "testbed": "local"})
    journal = Journal.open(run.journal)
    journal.extend(events)
    context = Context(spec, None, run, journal)  # type: ignore[arg-type]
    context.__dict__["fanout"] = One()
    return context


class One(Fanout):
    """The first host, which has the console of vm-1."""

    def run(self, hosts: Iterable[str], command: object, *, stdin: Mapping[str, bytes], **_: Any) -> Any:
        (request,) = json.loads(stdin["h-1"])["requests"]
        answer = {"op": "console", "subject": request["names"][0], "status": "ok", "t": 1.0}
        if request["names"] == ["vm-1"]:
            answer["detail"] = {"text": f"[    0.1] Linux\r\n[    0.2] {request['size']}\r\n"}
        else:
            answer |= {"status": "failed", "detail": {"reason": "no such file"}}
        return {"h-1": Result("h-1", True, 0, json.dumps(answer).encode(), b"", 1.0, 2.0)}


def placed() -> list[Event]:
    rows = [
        {
            "index": vm.index,
            "name": vm.name,
            "host": vm.host,
            "site": vm.site,
            "ip": str(vm.ip),
            "mac": vm.mac,
        }
        for vm in VMS
    ]
    deployed = Event("deploy", "phase", "run", "r", "ok", 0.0, 1, {"hosts": [to_plain(h) for h in HOSTS]})
    return [deployed, event_types.placement("r", rows, 1.0)]


def test_a_console_can_be_looked_at_while_the_vm_boots(tmp_path: Path) -> None:
    context = looked_at(tmp_path, *placed())
    text = consoles.show_console(context, "vm-1", 4096)
    assert text == repr(text) == "[    0.1] Linux\n[    0.2] 4096\n"
    assert len(list(context.journal)) == 2, "looking leaves no trace"


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vm-9", 10, "there is no VM 'vm-9' in this run"),
        (7, 10, "there is no VM 7 in this run"),
        ("vm-1", 0, "size must be a number of bytes"),
        ("vm-1", True, "size must be a number of bytes"),
        ("vm-2", 10, "the console of vm-2 cannot be read: no such file"),
    ],
)
def test_what_is_no_console_is_refused_in_a_sentence(
    name: object, size: object, message: str, tmp_path: Path
) -> None:
    context = looked_at(tmp_path, *placed())
    with pytest.raises((SpecError, TestbedError), match=message):
        consoles.show_console(context, name, size)


def test_before_place_and_after_release_there_are_no_consoles(tmp_path: Path) -> None:
    with pytest.raises(PhaseOrderError, match="no consoles before VMs are placed"):
        consoles.show_console(looked_at(tmp_path / "a"), "vm-1", 10)
    released = Event("reserve", "release", "run", "r", "ok", 2.0)
    with pytest.raises(PhaseOrderError, match="has released its machines"):
        consoles.show_console(looked_at(tmp_path / "b", *placed(), released), "vm-1", 10)
