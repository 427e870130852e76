"""Answers of a host that somebody else has taken over: of the right form, or none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.broadcast.reports import read_report
from g5kvirt.errors import TestbedError
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import GIB, Host
from g5kvirt.remote import Result

HOST = Host("h-1.nancy.grid5000.fr", "nancy", "h", 4, GIB, address="a-1")
GOOD: dict[str, dict[str, Any]] = {
    "facts": {
        "cores": 4,
        "memory": GIB,
        "available": GIB,
        "kvm": False,
        "kvm_reason": "",
        "kvm_known": {},
        "qemu": None,
        "missing": [],
        "kernel": "6.1",
        "began": 1.0,
        "clock": 2.0,
    },
    "start": {"power_on": 1.0},
    "transfers": {"have": 1, "taken": {"10.0.0.1": 1}, "t": 1.0},
    "ssh": {"code": 0, "out": "", "err": "", "begun": None, "seconds": 0.1},
    "load": {
        "t": 1.0,
        "machine": "m",
        "cores": 1,
        "services": {"nginx": 0.1},
        **dict.fromkeys(("busy", "memory", "received", "sent", "vms"), 1.0),
    },
    "prepare": {"addresses": ["10.0.0.1/8", "fd00::1/64"], "keys": {"net.core.somaxconn": "set"}},
    "status": {"state": "dead", "log": "Killed"},
    "console": {"text": "Linux"},
}
WRONG = (None, True, -1, 1e300, "many", [1], {"a": []}, {})


def line(op: str, detail: object, status: str = "ok") -> str:
    return json.dumps({"op": op, "subject": "vm-1", "status": status, "t": 1.0, "detail": detail})


@pytest.mark.parametrize("op", GOOD)
def test_a_part_of_another_form_is_no_answer(op: str) -> None:
    assert protocol.read_answer(line(op, GOOD[op])) is not None
    for key, right in GOOD[op].items():
        others = [value for value in WRONG if type(value) is not type(right)]
        refused = [protocol.read_answer(line(op, {**GOOD[op], key: value})) is None for value in others]
        assert sum(refused) >= len(refused) - 2, (key, others)  # 0.1 for 1, None where nothing is fine
    if op in ("facts", "start", "ssh", "load", "transfers"):
        for key in GOOD[op]:
            rest = {name: value for name, value in GOOD[op].items() if name != key}
            with pytest.raises(TestbedError):
                protocol.parse(line(op, rest))
    assert protocol.read_answer(line(op, {"reason": "no room"}, "failed")) is not None


def test_a_host_whose_answer_has_another_form_has_failed_with_a_sentence() -> None:
    (reply,) = calls.replies_of([HOST], {"a-1": Result("a-1", True, 0, b"", b"", 1.0, 2.0)})
    assert reply.ok
    texts = {HOST: protocol.document(protocol.status(["vm-1"]))}

    class Agents:
        keeps_connections = True

        def call(self, *_: Any, **__: Any) -> dict[str, Result]:
            return {"a-1": Result("a-1", True, 0, self.out.encode(), b"", 1.0, 2.0)}

    agents = Agents()
    for out in (line("start", {"power_on": "soon"}), "[1]", "{", "\x1b[31m", '{"op": 1}'):
        agents.out = out  # type: ignore[attr-defined]
        (reply,) = calls.call_agents(agents, texts, timeout=1.0)  # type: ignore[arg-type]
        assert not reply.ok
        assert reply.answers == ()
        assert "is not an answer" in reply.reason
        assert reply.reason.isprintable()
    agents.out = "\n".join([line("start", {"reason": "x" * 1000}, "failed")] * 50)  # type: ignore[attr-defined]
    (reply,) = calls.call_agents(agents, texts, timeout=1.0)  # type: ignore[arg-type]
    assert len(reply.reason) <= calls.LONGEST_REASON


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_nothing_that_comes_instead_raises_anything_else(op: str, data: st.DataObject) -> None:
    changed = {key: data.draw(JSON | st.just(value)) for key, value in GOOD[op].items()}
    text = line(op, changed)
    found = protocol.read_answer(text)
    assert found is None or found.op == op
    report = {"op": "broadcast", "host": "h", "state": "ok", "checked": None, "skipped": [], "reason": ""}
    keys = ("have", "size", "seconds", "t", "cpu", "from")
    read_report(json.dumps({**report, **{key: data.draw(JSON) for key in keys}}))


def test_a_relays_number_beyond_all_numbers_is_no_report() -> None:
    assert read_report('{"op": "broadcast", "host": "h", "state": "ok", "have": 1e999, "size": 1}') is None
