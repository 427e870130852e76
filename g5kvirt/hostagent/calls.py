"""Calls to the host agents of many machines at once: install them, call them, journal the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from g5kvirt.errors import PhaseError, TestbedError
from g5kvirt.hostagent import bundle, protocol
from g5kvirt.hostagent.protocol import Answer
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout, File, Result
from g5kvirt.remote.envelope import OnLine
from g5kvirt.run.journal import Journal
from g5kvirt.run.printable import short

__all__ = [
    "INSTALL_TIMEOUT",
    "AgentReply",
    "OnAnswer",
    "agent_is_missing",
    "call_agents",
    "call_twice",
    "install_agent",
    "python_is_missing",
    "replies_of",
    "require",
    "send_files",
    "watch_agents",
]

#: Called with each answer of a host as it comes.
OnAnswer = Callable[[Host, Answer], None]

#: Characters of the reason why a machine failed: it may have reported one for each of its VMs.
LONGEST_REASON = 4000
#: Seconds to install the agent where a call finds that it is missing.
INSTALL_TIMEOUT = 60.0


@dataclass(frozen=True)
class AgentReply:
    """The result of a call to one machine: its answers, or why there are none."""

    host: Host
    result: Result
    answers: tuple[Answer, ...]
    reason: str  #: why it failed; empty if it did not

    @property
    def ok(self) -> bool:
        """True if the machine was reached and every answer was good."""
        return not self.reason


def install_agent(fanout: Fanout, hosts: Iterable[Host], *, timeout: float) -> list[AgentReply]:
    """Send the agent to machines, in parallel, in one round trip; where this version is, nothing changes."""
    hosts = list(hosts)
    if fanout.keeps_connections:  # where it is missing, a session installs it
        return call_agents(fanout, dict.fromkeys(hosts, protocol.document()), timeout=timeout)
    results = fanout.run(
        [host.address for host in hosts],
        bundle.INSTALL,
        stdin=bundle.archive(),
        timeout=timeout,
        idempotent=True,
    )
    return replies_of(hosts, results)


def call_agents(
    fanout: Fanout,
    documents: Mapping[Host, bytes],
    *,
    timeout: float,
    idempotent: bool = True,
    on_answer: OnAnswer | None = None,
    forward_key: bool = False,
    given_up: Callable[[], str] = str,
) -> list[AgentReply]:
    """Give each machine's agent its own document, in parallel; a machine that fails is in the result.

    A machine that does not have this version of the agent (the run was configured by another version of
    g5kvirt) gets it, and is called again. ``on_answer(host, answer)`` is called for each answer as it comes,
    in this thread. ``forward_key``: the agent logs in elsewhere with our key. ``given_up``: see
    `Sessions.call`.
    """
    names = {host.address: host for host in documents}

    def on_line(address: str, line: str, _: float) -> None:
        if on_answer is not None and (answer := protocol.read_answer(line)) is not None:
            on_answer(names[address], answer)

    passed = None if on_answer is None else on_line
    if fanout.keeps_connections:
        texts = {host.address: document for host, document in documents.items()}
        results = fanout.call(
            bundle.SESSION,
            texts,
            timeout=timeout,
            idempotent=idempotent,
            on_line=passed,
            given_up=given_up,
        )
        return [_reply(host, results[host.address]) for host in documents]

    def run(hosts: Iterable[Host]) -> dict[str, Result]:
        texts = {host.address: documents[host] for host in hosts}
        more: dict[str, Any] = {"forward_key": True} if forward_key else {}
        if passed is not None:
            more["on_line"] = passed
        return fanout.run(
            texts, protocol.COMMAND, stdin=texts, timeout=timeout, idempotent=idempotent, **more
        )

    results = run(documents)
    missing = [host for host in documents if agent_is_missing(results[host.address])]
    if missing:
        install_agent(fanout, missing, timeout=INSTALL_TIMEOUT)
        results |= run(missing)
    return [_reply(host, results[host.address]) for host in documents]


def watch_agents(
    fanout: Fanout, addresses: Iterable[str], arguments: Sequence[str], *, timeout: float, on_line: OnLine
) -> dict[str, Result]:
    """Run the agent with ``arguments`` on machines and pass on each line that it prints, as it comes.

    It ends by itself within ``timeout`` seconds. It may run twice: a lost connection is opened again.
    """
    if fanout.keeps_connections:
        texts = dict.fromkeys(addresses, protocol.arguments(*arguments))
        return fanout.call(
            bundle.SESSION, texts, timeout=timeout + 10, idempotent=True, on_line=on_line, window=len(texts)
        )
    command = (*protocol.COMMAND, *arguments)
    return fanout.run(
        addresses, command, timeout=timeout + 10, within=timeout + 60, idempotent=True, on_line=on_line
    )


def agent_is_missing(result: Result) -> bool:
    """Whether Python did not find the agent: then nothing has happened on that machine."""
    return not result.ok and f"can't open file '{bundle.DIRECTORY}'".encode() in result.stderr


def python_is_missing(result: Result) -> bool:
    """Whether the host has no python3: then nothing has happened there."""
    return not result.ok and bundle.NO_PYTHON.encode() in result.stderr


def _reply(host: Host, result: Result) -> AgentReply:
    reason = result.reason
    try:
        answers = tuple(protocol.parse(result.stdout))
    except TestbedError as error:  # one host whose answer cannot be read hides no other
        answers, reason = (), reason or str(error)
    bad = [f"{a.op} of {a.subject}: {a.reason}" for a in answers if not a.ok]
    return AgentReply(host, result, answers, reason or short("; ".join(bad), LONGEST_REASON))


def replies_of(hosts: Iterable[Host], results: Mapping[str, Result]) -> list[AgentReply]:
    """Replies without answers, from the results of a command that is not the agent; for `require`."""
    return [
        AgentReply(host, results[host.address], (), results[host.address].reason)
        for host in dict.fromkeys(hosts)
    ]


def send_files(
    fanout: Fanout,
    journal: Journal,
    hosts: Sequence[Host],
    files: Sequence[File],
    *,
    step: str,
    timeout: float,
    phase: str = "configure",
) -> None:
    """Put files on machines; one journal span for each. Raises PhaseError if one did not take them."""
    results = fanout.put([host.address for host in hosts], files, timeout=timeout)
    require(journal, phase, step, replies_of(hosts, results))


def call_twice(
    journal: Journal,
    phase: str,
    step: str,
    hosts: Sequence[Host],
    call: Callable[[Sequence[Host]], list[AgentReply]],
) -> list[AgentReply]:
    """Call machines, and once more those that failed: one of hundreds may be slow to let anybody in.

    One journal span of ``step`` for each machine and call. Returns the last reply of each.
    """
    replies = {reply.host: reply for reply in call(hosts)}
    again = [host for host, reply in replies.items() if not reply.ok]
    _record(journal, phase, step, replies.values(), "retry")
    if again:
        second = call(again)
        _record(journal, phase, step, second, "failed")
        replies |= {reply.host: reply for reply in second}
    return list(replies.values())


def _record(
    journal: Journal,
    phase: str,
    step: str,
    replies: Iterable[AgentReply],
    failure: Literal["failed", "retry"],
) -> None:
    """Journal each machine's span of ``step``; ``failure``: the status of one that failed."""
    for reply in replies:
        name = reply.host.name
        journal.append(phase, step, "host", name, "start", t=reply.result.start)
        if reply.ok:
            journal.append(phase, step, "host", name, "ok", t=reply.result.end)
        else:
            journal.append(phase, step, "host", name, failure, t=reply.result.end, reason=reply.reason)


def require(journal: Journal, phase: str, step: str, replies: Sequence[AgentReply]) -> None:
    """Journal each machine's span of ``step``; raises PhaseError if one failed, after all are journalled."""
    _record(journal, phase, step, replies, "failed")
    failed = [reply for reply in replies if not reply.ok]
    if failed:
        raise PhaseError(
            f"{step} failed on {len(failed)} of {len(replies)} machines, first {failed[0].host.name}:"
            f" {failed[0].reason}",
            phase=phase,
            step=step,
            advice=f"call {phase}() again, or release() and reserve others",
        )
