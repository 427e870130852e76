"""The last words of VMs that failed: readable, kept where they can be fetched, never a hindrance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.context import Context
from g5kvirt.guests import consoles
from g5kvirt.inventory import GIB, VM, Host
from g5kvirt.remote import Result
from g5kvirt.run import directory
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
        "last": "[    1.5] Kernel panic",
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
