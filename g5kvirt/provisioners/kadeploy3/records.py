"""Kadeploy3's answers about a deployment: the states of its nodes, its log, its statistics.

Source: the REST API of Kadeploy 3.3 (``/deployment/WID/state``, ``/deployment/WID/logs``, ``/stats/deploy``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.run.printable import short

__all__ = [
    "STATISTICS",
    "LogLine",
    "NodeState",
    "StatisticsRow",
    "WorkflowStatus",
    "message_of",
    "read_log",
    "read_states",
    "read_statistics",
    "read_status",
]


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node in the answer to ``/state``. A node that is done has neither macro- nor micro-step."""

    macro: str  #: such as ``SetDeploymentEnvUntrusted``
    micro: str  #: an operation of a request's own: ``STEP-NAME``, as its log has it
    state: str  #: ok (also while under way), ko, brk, discarded, reboot_in_progress, rebooted
    error: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the log: seconds since the epoch by the server's clock, the set of nodes, the text."""

    t: float
    nodes: str  #: number of the set of nodes, after the cluster's prefix; "" for all
    text: str


@dataclass(frozen=True, slots=True)
class WorkflowStatus:
    """The answer to ``/deployment/WID``."""

    done: bool
    error: bool
    ok: tuple[str, ...] = ()
    ko: tuple[str, ...] = ()
    processing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StatisticsRow:
    """One node in the statistics. Durations in seconds, of the last attempt only; ``start`` of the whole."""

    wid: str
    node: str
    steps: tuple[str, str, str]  #: such as ``BroadcastEnvKascade``; "" for one that was not reached
    retries: tuple[int, int, int]
    durations: tuple[int, int, int]
    start: int
    success: bool
    error: str  #: ``Macro-micro: message``

    @property
    def failed_at(self) -> tuple[str, str, str]:
        """Macro-step, micro-step and message of ``error``; the first two empty if it does not name them."""
        found = _ERROR.match(self.error)
        return (found[1], _plain(found[2]), found[3].strip()) if found else ("", "", self.error.strip())


_ERROR = re.compile(r"([A-Za-z]+)-([A-Za-z0-9_-]+): ?(.*)", re.DOTALL)


def message_of(error: str) -> str:
    """``SetDeploymentEnvUntrusted-reboot: it refuses`` → ``it refuses``."""
    found = _ERROR.fullmatch(error)
    return short(found[3] if found else error, 300)


def _plain(micro: str) -> str:
    """The name of a micro-step as the log has it: a request's own operations have another one elsewhere."""
    return re.sub("^custom_(?:pre|post|sub)_", "", micro)


def read_states(answer: Any) -> dict[str, NodeState]:
    """Node → its state; none of a deployment that broke. Raises TestbedError for anything else."""
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return {}
    try:
        return {str(node): _state(state) for node, state in answer.items()}
    except AttributeError as error:
        raise TestbedError(
            f"Kadeploy3 answered {short(repr(answer), 80)} where states were expected"
        ) from error


def _state(state: Mapping[str, Any]) -> NodeState:
    macro, micro, *rest = (
        short(str(state.get(key) or ""), 300) for key in ("macro", "micro", "state", "error")
    )
    return NodeState(macro, _plain(micro), *rest)


def read_status(answer: Any) -> WorkflowStatus:
    """Which nodes are done. Raises TestbedError for anything else than a workflow."""
    try:
        nodes = answer.get("nodes") or {}
        named = nodes if isinstance(nodes, Mapping) else {"processing": nodes}
        lists = (tuple(map(str, named.get(key) or ())) for key in ("ok", "ko", "processing"))
        return WorkflowStatus(bool(answer["done"]), bool(answer["error"]), *lists)
    except (AttributeError, KeyError, TypeError) as error:
        raise TestbedError(
            f"Kadeploy3 answered {short(repr(answer), 80)} where a workflow was expected"
        ) from error


_LINE = re.compile(r"([0-9]{1,10}\.[0-9]{1,9})\|(?:\[(?:[^\].]*\.)?(\w+)\] )?(.*)")


def read_log(text: str) -> list[LogLine]:
    """The lines of a piece of the log, each ``TIME|[SET] TEXT``; one without a time continues the last."""
    lines: list[LogLine] = []
    for raw in text.splitlines():
        found = _LINE.fullmatch(raw)
        if found:
            lines.append(LogLine(float(found[1]), found[2] or "", found[3]))
        elif lines and raw.strip():
            lines[-1] = LogLine(lines[-1].t, lines[-1].nodes, f"{lines[-1].text}\n{raw}")
    return lines


#: The columns that are requested, in this order; the error, which may hold commas and newlines, at the end.
STATISTICS = (
    *("wid", "hostname", "step1", "step2", "step3", "retry_step1", "retry_step2", "retry_step3"),
    *("step1_duration", "step2_duration", "step3_duration", "start", "success", "error"),
)
_ROW = re.compile(r"^[A-Z]-[0-9a-f-]{8,},", re.MULTILINE)


def read_statistics(text: str) -> list[StatisticsRow]:
    """The rows of ``/stats/deploy`` with the columns `STATISTICS`. Raises TestbedError for a row that
    cannot be read."""
    starts = [found.start() for found in _ROW.finditer(text)]
    pieces = [text[a:b] for a, b in pairwise([*starts, len(text)])]
    if not pieces and text.strip():
        raise TestbedError(f"Kadeploy3 answered {short(repr(text), 80)} where statistics were expected")
    return [_row(piece.strip("\n")) for piece in pieces]


def _row(line: str) -> StatisticsRow:
    words = line.split(",", len(STATISTICS) - 1)
    try:
        numbers = [_whole(word) for word in words[5:12]]
        wid, node, one, two, three = words[:5]
        r1, r2, r3, d1, d2, d3, start = numbers
        success, error = words[12:]
    except ValueError as problem:
        raise TestbedError(
            f"Kadeploy3's statistics hold a line that cannot be read: {short(repr(line), 120)}"
        ) from problem
    return StatisticsRow(
        wid, node, (one, two, three), (r1, r2, r3), (d1, d2, d3), start, success == "true", error
    )


def _whole(word: str) -> int:
    """A whole number; 0 for none. Raises ValueError."""
    if word and not re.fullmatch("[0-9]{1,10}", word):
        raise ValueError("no number")
    return int(word or 0)
