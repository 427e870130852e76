"""The last words of VMs that failed: the end of their serial consoles, fetched from their hosts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from g5kvirt.context import Context
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import VM, Host
from g5kvirt.remote.result import last_line
from g5kvirt.run.journal import Event

__all__ = ["SIZE", "fetch", "readable"]

SIZE = 8192  #: bytes of each console

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])")  # how terminals are told colours, positions
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")


def fetch(
    context: Context, vms: Sequence[VM], hosts: Sequence[Host], *, phase: str, deployment: str = ""
) -> None:
    """Keep the end of each VM's console in the run's ``consoles/`` and record that in the journal.

    It goes to ``consoles/DEPLOYMENT/VM.txt``, outside a deployment to ``consoles/PHASE/VM.txt``. One request
    a host. A VM that wrote nothing leaves no file. A host that does not answer, or a VM without a console,
    costs a line in the journal and nothing else.
    """
    by_name = {host.name: host for host in hosts}
    names: dict[Host, list[str]] = {}
    for vm in vms:
        names.setdefault(by_name[vm.host], []).append(vm.name)
    documents = {host: protocol.document(protocol.console(own, SIZE)) for host, own in names.items()}
    heard = calls.ask(context.fanout, documents, timeout=context.spec.timeouts.command) if documents else []
    about = {"deployment": deployment} if deployment else {}
    label = deployment or phase
    folder = context.run.path / "consoles" / label
    events = []
    for one in heard:
        answers = {a.subject: a for a in one.answers}
        for name in names[one.host]:
            answer = answers.get(name)
            if answer is None or not answer.ok:
                reason = answer.reason if answer is not None else one.reason or "no answer for it"
                detail = {**about, "reason": f"the console could not be fetched: {reason}"}
                events.append(Event(phase, "console", "vm", name, "failed", one.result.end, 1, detail))
                continue
            text = readable(str(answer.detail.get("text", "")))
            if not text.strip():  # its kernel is told to be quiet
                events.append(Event(phase, "console", "vm", name, "ok", one.result.end, 1, about))
                continue
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
            detail = {**about, "file": f"consoles/{label}/{name}.txt", "last": last_line(text.encode())}
            events.append(Event(phase, "console", "vm", name, "ok", one.result.end, 1, detail))
    context.journal.extend(events)


def readable(text: str) -> str:
    """What a terminal would show of it, line by line."""
    lines = (_CONTROL.sub("", _ESCAPES.sub("", line)).rstrip() for line in re.split(r"\r*\n", text))
    return "\n".join(lines).strip("\n") + "\n"
