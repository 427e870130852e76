"""Commands on VMs through their hosts: one call for each host, one result for each VM."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from measuremaker import vms

from g5kvirt.guests import commands
from g5kvirt.guests.commands import GuestCommands
from g5kvirt.hostagent import bundle
from g5kvirt.inventory import GIB, Host
from g5kvirt.remote import Result

KNOWN = vms(6, hosts=2)
HOSTS = tuple(
    Host(name, "rennes", "p", 4, GIB, address=name) for name in dict.fromkeys(vm.host for vm in KNOWN)
)
REFUSED = {"code": 255, "out": "", "err": "kex_exchange_identification: Connection reset by peer\n"}

Detail = dict[str, Any]
Answer = Callable[[str, Mapping[str, Any], int], Detail | None]  #: VM, request, number of its login → detail


class Machines:
    """Hosts with a session each, which log in to VMs as ``answer`` has it; None: the host has died."""

    keeps_connections = True
    access = None

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.logins: dict[str, int] = {}
        self.calls: list[tuple[str, ...]] = []
        self.refusal = ""

    def call(
        self, program: object, texts: Mapping[str, bytes], *, on_line: Any, **_: Any
    ) -> dict[str, Result]:
        assert program is bundle.SESSION
        self.calls.append(tuple(texts))
        return {host: self._call(host, text, on_line) for host, text in texts.items()}

    def _call(self, host: str, text: bytes, on_line: Any) -> Result:
        (request,) = json.loads(text)["requests"]
        if self.refusal:
            line = {
                "op": "ssh",
                "subject": host,
                "status": "failed",
                "t": 1,
                "detail": {"reason": self.refusal},
            }
            return Result(host, True, 0, json.dumps(line).encode(), b"", 1.0, 2.0)
        output = ""
        for name in request["guests"]:
            self.logins[name] = self.logins.get(name, 0) + 1
            detail = self.answer(name, request, self.logins[name])
            if detail is None:
                return Result(host, False, None, b"", b"", 1.0, 2.0, reason="unreachable: no answer")
            times = {"begun": 0.1, "seconds": 0.3}
            line = {"op": "ssh", "subject": name, "status": "ok", "t": 1, "detail": {**times, **detail}}
            output += json.dumps(line) + "\n"
            on_line(host, json.dumps(line), 1.0)
        return Result(host, True, 0, output.encode(), b"", 1.0, 2.0)


def token(request: Mapping[str, Any]) -> str:
    """Of the envelope that a request's command has."""
    return str(request["command"]).splitlines()[0].split()[2]


def ran(request: Mapping[str, Any], out: str = "", code: int = 0, err: str = "") -> Detail:
    """What ssh gives for a command that was run."""
    mark = token(request)
    return {"code": code, "out": out, "err": f"{mark}\n{err}\n{mark} {code}\n"}


@pytest.fixture
def made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Answer], tuple[GuestCommands, Machines]]:
    monkeypatch.setattr(commands.time, "sleep", lambda _: None)

    def make(answer: Answer) -> tuple[GuestCommands, Machines]:
        machines = Machines(answer)
        state = SimpleNamespace(deployed_hosts=HOSTS)
        context: Any = SimpleNamespace(
            fanout=machines,
            journal=SimpleNamespace(state=state),
            checks_at_once=8,
            testbed=SimpleNamespace(real_cores=None, world=None),
        )
        return GuestCommands(context, KNOWN), machines

    return make


Make = Callable[[Answer], tuple[GuestCommands, Machines]]
NAMES = [vm.name for vm in KNOWN]


def test_one_call_for_each_host_and_one_result_for_each_vm(made: Make) -> None:
    guests, machines = made(lambda name, request, _: ran(request, f"I am {name}\n", 3 * (name == "vm-2")))
    came: list[str] = []
    results = guests.run(NAMES, ["hostname"], timeout=9.0, on_result=lambda result: came.append(result.host))
    assert list(results) == NAMES
    assert sorted(came) == sorted(NAMES)
    assert machines.calls == [tuple(host.name for host in HOSTS)]
    assert {name: results[name].text for name in NAMES} == {name: f"I am {name}\n" for name in NAMES}
    assert (results["vm-1"].ok, results["vm-2"].returncode, results["vm-2"].reason) == (
        True,
        3,
        "exit code 3",
    )
    assert results["vm-1"].duration == pytest.approx(0.2), "since the command began, without the login"


def test_refused_login_is_tried_again_and_at_last_given_up(made: Make) -> None:
    def answer(name: str, request: Mapping[str, Any], number: int) -> Detail:
        return REFUSED if name == "vm-1" or (name == "vm-2" and number < 3) else ran(request)

    guests, machines = made(answer)
    results = guests.run(NAMES, ["true"], timeout=9.0)
    assert machines.logins == {name: 4 if name == "vm-1" else 3 if name == "vm-2" else 1 for name in NAMES}
    assert results["vm-1"].reason.startswith("unreachable: the host refuses connections")
    assert not results["vm-1"].started
    assert all(results[name].ok for name in NAMES[1:])
    assert results["vm-2"].attempt == 3


def test_connection_that_a_host_tried_again_is_not_tried_again_here(made: Make) -> None:
    down = {"code": 255, "out": "", "err": "ssh: connect to host: Connection refused\n"}
    guests, machines = made(lambda name, request, _: down if name == "vm-1" else ran(request))
    results = guests.run(NAMES, ["true"], timeout=9.0)
    assert machines.logins == dict.fromkeys(NAMES, 1)
    assert results["vm-1"].reason.startswith("unreachable: the host refuses connections")


def test_one_attempt_is_reported_while_others_still_run(made: Make) -> None:
    guests, machines = made(lambda name, request, _: REFUSED if name == "vm-1" else ran(request))
    came: list[tuple[str, bool]] = []
    guests.run(NAMES, ["true"], timeout=9.0, attempts=1, on_result=lambda r: came.append((r.host, r.ok)))
    assert machines.logins == dict.fromkeys(NAMES, 1)
    assert len(machines.calls) == 1
    assert sorted(came) == [(name, name != "vm-1") for name in NAMES]
    assert came[-1][0] != "vm-1", "it did not wait for the end of the call"


def test_repeated_call_of_a_host_replaces_what_failed_before(made: Make) -> None:
    guests, machines = made(lambda _, request, __: ran(request))
    call = machines._call

    def twice(host: str, text: bytes, on_line: Any) -> Result:
        for name in json.loads(text)["requests"][0]["guests"]:
            detail = {**REFUSED, "begun": None, "seconds": 0.1}
            line = {"op": "ssh", "subject": name, "status": "ok", "t": 1, "detail": detail}
            on_line(host, json.dumps(line), 1.0)
        return call(host, text, on_line)

    machines._call = twice  # type: ignore[method-assign]
    results = guests.run(NAMES, ["true"], timeout=9.0, idempotent=True)
    assert all(result.ok for result in results.values())
    assert machines.logins == dict.fromkeys(NAMES, 1)


def test_command_that_did_not_end_is_not_run_twice(made: Make) -> None:
    def answer(name: str, request: Mapping[str, Any], _: int) -> Detail:
        broken = {"code": 255, "out": "half", "err": f"{token(request)}\nclient_loop: send disconnect\n"}
        return (
            broken if name == "vm-1" else {**ran(request), "code": None} if name == "vm-2" else ran(request)
        )

    guests, machines = made(answer)
    results = guests.run(NAMES, ["true"], timeout=9.0)
    assert machines.logins["vm-1"] == 1
    assert results["vm-1"].reason == "connection lost while the command ran (client_loop: send disconnect)"
    assert (results["vm-1"].started, results["vm-1"].returncode) == (True, None)


def test_key_for_one_command_needs_no_envelope(made: Make, tmp_path: Path) -> None:
    (tmp_path / "check").write_text("private\n")
    seen: list[tuple[str, str]] = []

    def answer(name: str, request: Mapping[str, Any], _: int) -> Detail:
        seen.append((request["key"], request["command"]))
        return (
            {"code": 1, "out": "", "err": "no such file\n"}
            if name == "vm-1"
            else {"code": 0, "out": "x", "err": ""}
        )

    guests, _ = made(answer)
    results = guests.run(NAMES, ["cat"], timeout=9.0, key=tmp_path / "check")
    assert set(seen) == {("private\n", "true")}
    assert results["vm-1"].reason == "exit code 1 (no such file)"
    assert results["vm-2"].text == "x"


def test_host_that_is_gone_is_the_reason_of_its_vms_alone(made: Make) -> None:
    dead = KNOWN[0].host
    of = {vm.name: vm.host for vm in KNOWN}
    guests, _ = made(lambda name, request, _: None if of[name] == dead else ran(request))
    results = guests.run(NAMES, ["true"], timeout=9.0)
    for name in NAMES:
        expected = f"its host {dead}: unreachable: no answer" if of[name] == dead else ""
        assert results[name].reason == expected


def test_host_that_cannot_log_in_is_passed_through(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Direct:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.given_up = ""

        def run(self, names: list[str], argv: list[str], **_: Any) -> dict[str, Result]:
            asked.append(list(names))
            return {name: Result(name, True, 0, b"direct", b"", 1.0, 2.0) for name in names}

    monkeypatch.setattr(commands, "Fanout", Direct)
    monkeypatch.setattr(commands, "vm_access", lambda *_: None)
    guests, machines = made(lambda *_: None)
    machines.refusal = "no ssh agent is forwarded to this host"
    results = guests.run(NAMES, ["true"], timeout=9.0)
    assert [sorted(names) for names in asked] == [sorted(NAMES)]
    assert {result.text for result in results.values()} == {"direct"}


def test_a_host_speaks_for_its_own_vms_only(made: Make, tmp_path: Path) -> None:
    guests, machines = made(lambda name, *_: {"code": 0, "out": f"I am {name}\n", "err": ""})
    (tmp_path / "check").write_text("k")
    first = KNOWN[0].host

    def call(host: str, text: bytes, on_line: Any) -> Result:
        if host == first:  # it answers in the place of all, before they do
            for vm in KNOWN:
                detail = {"begun": 0.1, "seconds": 0.3, "code": 0, "out": "lies\n", "err": ""}
                line = {"op": "ssh", "subject": vm.name, "status": "ok", "t": 1, "detail": detail}
                on_line(host, json.dumps(line), 1.0)
        return machines_call(host, text, on_line)

    machines_call = machines._call
    machines._call = call  # type: ignore[method-assign]
    names = [vm.name for vm in KNOWN]
    results = guests.run(names, ["true"], timeout=9.0, key=tmp_path / "check")
    others = {vm.name for vm in KNOWN if vm.host != first}
    assert others
    assert {results[name].text for name in others} == {f"I am {name}\n" for name in others}


def test_output_that_is_cut_off_is_no_success(made: Make, tmp_path: Path) -> None:
    (tmp_path / "check").write_text("k")
    cut = {"code": None, "stopped": "cut off: more than 16 MiB of output", "out": "y" * 99, "err": ""}
    guests, _ = made(lambda *_: cut)
    results = guests.run(["vm-1"], ["true"], timeout=9.0, key=tmp_path / "check")
    assert (results["vm-1"].ok, results["vm-1"].reason) == (False, "cut off: more than 16 MiB of output")
    assert results["vm-1"].text == "y" * 99


@pytest.mark.parametrize(("vms", "of_one_host", "mebibytes"), [(1, 1, 16), (8, 4, 6), (4552, 16, 0.2)])
def test_less_output_of_each_is_kept_where_there_are_many(
    vms: int, of_one_host: int, mebibytes: float
) -> None:
    most = commands.most_output(vms, of_one_host)
    assert most == pytest.approx(mebibytes * (1 << 20), rel=0.15)
    assert commands.most_output(10**6, 10**4) == commands.LEAST_OUTPUT
