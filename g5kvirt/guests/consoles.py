"""The serial consoles of VMs, fetched from their hosts: at any time, and kept of those that failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.context import Context
from g5kvirt.errors import PhaseOrderError, SpecError, TestbedError
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import VM, Host
from g5kvirt.remote.result import last_line
from g5kvirt.run.event_types import console_read
from g5kvirt.run.vocabulary import Status
from g5kvirt.spec.fields import show, suggest

__all__ = ["MAX_SIZE", "SIZE", "Console", "ConsoleText", "fetch", "read", "readable", "show_console"]

SIZE = 8192  #: bytes of each console
MAX_SIZE = 4 << 20  #: bytes that are fetched of one at most

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")  # a terminal's colours and positions
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")


@dataclass(frozen=True)
class Console:
    """The end of one VM's serial console, or the reason why it could not be read."""

    text: str  #: as a terminal would show it; empty or blank if the VM wrote nothing
    reason: str  #: empty if it could be read
    t: float  #: when the host answered, seconds since the epoch


class ConsoleText(str):
    """A text that a notebook and the interactive interpreter show as it is, line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def show_console(context: Context, name: object, size: object) -> ConsoleText:
    """The last ``size`` bytes of one VM's serial console as text; what `Experiment.console` returns.

    Raises SpecError for a VM that this run does not have and for a size that cannot be; PhaseOrderError after
    `release`; TestbedError if the console cannot be read.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_SIZE:
        raise SpecError(f"size must be a number of bytes from 1 to {MAX_SIZE:,}, not {show(size)}")
    state = context.journal.state
    vms = {vm.name: vm for vm in state.placed_vms}
    if not vms:
        raise PhaseOrderError("there are no consoles before VMs are placed", advice="call place() first")
    if not isinstance(name, str) or name not in vms:
        raise SpecError(f"there is no VM {show(name)} in this run", advice=suggest(str(name), vms))
    if state.released:
        raise PhaseOrderError(f"run {context.run.name!r} has released its machines and VMs")
    found = read(context, [vms[name]], state.deployed_hosts, size=size)
    console = found.get(name)
    if console is None or console.reason:
        reason = "its host is gone" if console is None else console.reason
        raise TestbedError(
            f"the console of {name} cannot be read: {reason}",
            advice="VMs have a console from their first power-on in launch(); light guests have none",
        )
    return ConsoleText(console.text)


def read(
    context: Context,
    vms: Iterable[VM],
    hosts: Iterable[Host],
    *,
    size: int = SIZE,
    timeout: float | None = None,
) -> dict[str, Console]:
    """The last ``size`` bytes of the consoles of ``vms``, by name; a VM whose host is gone is left out.

    One request per host, which have ``timeout`` seconds (default: ``Timeouts.command``). Reading changes
    nothing, on the host or in the journal, so it can be done at any time, while a VM boots, too.
    """
    by_name = {host.name: host for host in hosts}
    names: dict[Host, list[str]] = {}
    for vm in vms:
        if not context.fanout.is_gone(by_name[vm.host].address):
            names.setdefault(by_name[vm.host], []).append(vm.name)
    if not names:
        return {}
    documents = {host: protocol.document(protocol.console(own, size)) for host, own in names.items()}
    limit = context.spec.timeouts.command if timeout is None else timeout
    replies = calls.call_agents(context.fanout, documents, timeout=limit)
    return {name: _console(reply, name) for reply in replies for name in names[reply.host]}


def _console(reply: calls.AgentReply, name: str) -> Console:
    answer = next((a for a in reply.answers if a.subject == name), None)
    if answer is None or not answer.ok:
        reason = answer.reason if answer is not None else reply.reason or "no answer for it"
        return Console("", reason, reply.result.end)
    return Console(readable(str(answer.detail.get("text", ""))), "", reply.result.end)


def fetch(
    context: Context, vms: Sequence[VM], hosts: Sequence[Host], *, phase: str, deployment: str = ""
) -> None:
    """Keep the end of each VM's console in the run's ``consoles/`` and record that in the journal.

    It goes to ``consoles/DEPLOYMENT/VM.txt``, outside a deployment to ``consoles/PHASE/VM.txt``. One request
    per host, and none to a host that is gone. A VM that wrote nothing leaves no file. A host that does not
    answer, or a VM without a console, costs a line in the journal and nothing else.
    """
    label = deployment or phase
    events = []
    for name, console in read(context, vms, hosts).items():
        status, more = _keep(console, context.run.path, f"consoles/{label}/{name}.txt")
        events.append(console_read(phase, name, status, console.t, more, deployment))
    if events:
        context.journal.extend(events)


def _keep(console: Console, run: Path, file: str) -> tuple[Status, dict[str, str]]:
    """Write one VM's console into a file of the run; the status and the detail of its event."""
    if console.reason:
        return "failed", {"reason": f"the console could not be fetched: {console.reason}"}
    if not console.text.strip():  # its kernel's command line has ``quiet``
        return "ok", {}
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text(console.text, encoding="utf-8")
    return "ok", {"file": file, "last": last_line(console.text.encode())}


def readable(text: str) -> str:
    """What a terminal would show of it, line by line."""
    lines = (_CONTROL.sub("", _ESCAPES.sub("", line)).rstrip() for line in re.split(r"\r*\n", text))
    return "\n".join(lines).strip("\n") + "\n"
