"""Asking the host agents of many machines at once, and hearing what each had to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, TestbedError
from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.protocol import Answer
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout, File, Result

__all__ = ["Heard", "ask", "must", "send"]


@dataclass(frozen=True)
class Heard:
    """What came of asking one machine: its answers, or why there are none."""

    host: Host
    result: Result
    answers: tuple[Answer, ...]
    reason: str  #: empty if all was well

    @property
    def ok(self) -> bool:
        """True if the machine was reached and every answer was good."""
        return not self.reason


def ask(
    fanout: Fanout, documents: Mapping[Host, bytes], *, timeout: float, idempotent: bool = True
) -> list[Heard]:
    """Give each machine's agent its own document, side by side; a machine that fails is in the result."""
    by_address = {host.address: host for host in documents}
    results = fanout.run(
        by_address,
        protocol.COMMAND,
        stdin={host.address: text for host, text in documents.items()},
        timeout=timeout,
        idempotent=idempotent,
    )
    heard = []
    for address, result in results.items():
        reason = result.reason
        try:
            answers = tuple(protocol.parse(result.stdout))
        except TestbedError as error:  # one host that says something else hides no other
            answers, reason = (), reason or str(error)
        bad = [f"{a.op} of {a.subject}: {a.reason}" for a in answers if not a.ok]
        heard.append(Heard(by_address[address], result, answers, reason or "; ".join(bad)))
    return heard


def send(
    context: Context, hosts: Sequence[Host], files: Sequence[File], step: str, phase: str = "configure"
) -> None:
    """Put files on machines; one journal span for each. Raises PhaseError if one did not take them."""
    fanout = context.fanout
    results = fanout.put([h.address for h in hosts], files, timeout=context.spec.timeouts.command)
    heard = [Heard(host, results[host.address], (), results[host.address].reason) for host in hosts]
    must(context, phase, step, heard)


def must(context: Context, phase: str, step: str, heard: Sequence[Heard]) -> None:
    """Journal each machine's span of ``step``; raises PhaseError if one failed, after all were heard."""
    for h in heard:
        name = h.host.name
        context.journal.append(phase, step, "host", name, "start", t=h.result.start)
        if h.ok:
            context.journal.append(phase, step, "host", name, "ok", t=h.result.end)
        else:
            context.journal.append(phase, step, "host", name, "failed", t=h.result.end, reason=h.reason)
    failed = [h for h in heard if not h.ok]
    if failed:
        raise PhaseError(
            f"{step} failed on {len(failed)} of {len(heard)} machines, first {failed[0].host.name}:"
            f" {failed[0].reason}; call {phase}() again, or release() and reserve others",
            phase=phase,
            step=step,
        )
