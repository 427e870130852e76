"""The end of the serial consoles of VMs that failed, fetched from their hosts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from g5kvirt.context import Context
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import VM, Host
from g5kvirt.remote.result import last_line
from g5kvirt.run.event_types import console_read
from g5kvirt.run.vocabulary import Status

__all__ = ["SIZE", "fetch", "readable"]

SIZE = 8192  #: bytes of each console

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")  # a terminal's colours and positions
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")


def fetch(
    context: Context, vms: Sequence[VM], hosts: Sequence[Host], *, phase: str, deployment: str = ""
) -> None:
    """Keep the end of each VM's console in the run's ``consoles/`` and record that in the journal.

    It goes to ``consoles/DEPLOYMENT/VM.txt``, outside a deployment to ``consoles/PHASE/VM.txt``. One request
    per host, and none to a host that is gone. A VM that wrote nothing leaves no file. A host that does not
    answer, or a VM without a console, costs a line in the journal and nothing else.
    """
    if not vms:
        return
    by_name = {host.name: host for host in hosts}
    names: dict[Host, list[str]] = {}
    for vm in vms:
        if not context.fanout.is_gone(by_name[vm.host].address):
            names.setdefault(by_name[vm.host], []).append(vm.name)
    documents = {host: protocol.document(protocol.console(own, SIZE)) for host, own in names.items()}
    label = deployment or phase
    events = []
    for reply in calls.call_agents(context.fanout, documents, timeout=context.spec.timeouts.command):
        for name in names[reply.host]:
            status, more = _keep(reply, name, context.run.path, f"consoles/{label}/{name}.txt")
            events.append(console_read(phase, name, status, reply.result.end, more, deployment))
    context.journal.extend(events)


def _keep(reply: calls.AgentReply, name: str, run: Path, file: str) -> tuple[Status, dict[str, str]]:
    """Write one VM's console into a file of the run; the status and the detail of its event."""
    answer = next((a for a in reply.answers if a.subject == name), None)
    if answer is None or not answer.ok:
        reason = answer.reason if answer is not None else reply.reason or "no answer for it"
        return "failed", {"reason": f"the console could not be fetched: {reason}"}
    text = readable(str(answer.detail.get("text", "")))
    if not text.strip():  # its kernel's command line has ``quiet``
        return "ok", {}
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text(text, encoding="utf-8")
    return "ok", {"file": file, "last": last_line(text.encode())}


def readable(text: str) -> str:
    """What a terminal would show of it, line by line."""
    lines = (_CONTROL.sub("", _ESCAPES.sub("", line)).rstrip() for line in re.split(r"\r*\n", text))
    return "\n".join(lines).strip("\n") + "\n"
