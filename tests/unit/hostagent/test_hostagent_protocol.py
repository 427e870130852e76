"""Requests to the host agent, and its answers read."""

from __future__ import annotations

import json

import pytest

from g5kvirt.errors import TestbedError
from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.protocol import Answer

MAC = "02:00:00:00:00:01"


def test_parse_reads_answers_and_refuses_anything_else() -> None:
    text = '{"op": "start", "subject": "vm-1", "status": "failed", "t": 1.5, "detail": {"reason": "no"}}\n\n'
    assert protocol.parse(text) == [Answer("start", "vm-1", False, 1.5, {"reason": "no"})]
    assert protocol.parse(text)[0].reason == "no"
    for bad in ("Traceback", "[]", "{}", '{"op": 1}'):
        with pytest.raises(TestbedError):
            protocol.parse(bad)


def test_document_holds_the_requests_as_they_are() -> None:
    order = protocol.start([protocol.vm("a", MAC)], memory=1 << 27, boot="iso", iso="/x.iso", kvm=True)
    assert json.loads(protocol.document(order, home="/x"))["requests"] == [order]
    assert order["defaults"] == {
        "memory": 1 << 27,
        "disk": 0,
        "cores": 1,
        "boot": "iso",
        "iso": "/x.iso",
        "accel": "kvm",
    }
    assert protocol.parse_line('{"op": "follow", "t": 1}') is None


@pytest.mark.parametrize(
    ("ahead", "there", "back", "offset"),
    [
        (0.0, 0.01, 0.01, 0.0),
        (5.0, 0.01, 0.03, 4.99),  # half of the difference of both ways is unknown
        (0.3, 20.0, 0.5, 0.0),  # a login among hundreds: it tells nothing about clocks
        (60.0, 20.0, 0.5, 69.75),
    ],
)
def test_clock_offset_is_known_only_beyond_the_time_on_the_way(
    ahead: float, there: float, back: float, offset: float
) -> None:
    began = 1000.0 + there + ahead
    detail = {"cores": 4, "memory": 1 << 30, "kvm": False, "began": began, "clock": began + 0.2}
    answer = protocol.Answer("facts", "h-1", True, began, detail)
    facts = protocol.read_facts(answer, 1000.0, 1000.0 + there + 0.2 + back)
    assert facts.clock_offset == pytest.approx(offset)
