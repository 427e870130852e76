"""Commands on deployed VMs: each host sees to its own, over the connection that it has anyway.

So a command on thousands of VMs costs this machine one connection to each host. No private key of the run
lies on a host: hosts log in to VMs with our ssh agent, which is forwarded to them, or with a key that VMs let
in for one purpose only. A host that cannot do it (it has no libssh, or its sshd forwards no agent) is passed
through instead, with a connection to each VM.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g5kvirt.context import Context
from g5kvirt.guests.ssh import vm_access
from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.protocol import Answer
from g5kvirt.inventory import VM, Host
from g5kvirt.planning.windows import HOST_CHECKS_PER_CORE
from g5kvirt.remote import Fanout, Result
from g5kvirt.remote.envelope import KILL_AFTER, Capture, new_token, script
from g5kvirt.remote.result import Failure, classify_failure, exit_reason, retry_delay
from g5kvirt.remote.window import make_result

__all__ = ["GuestCommands", "HostFiles"]

#: Logins of one host at once, at most.
AT_ONCE = 8
#: Connections to one VM, at most.
ATTEMPTS = 4
#: Seconds until a VM takes a connection, and for each step of the login to its ssh server.
CONNECT_TIMEOUT = 5
LOGIN_TIMEOUT = 15.0
#: The exit code where the login failed, as ssh has it.
_SSH_FAILED = 255

#: Bytes of output of all VMs together that are kept here; of the VMs of one host, as JSON may make thrice
#: as much of it (`connections.MOST_OUTPUT`); and of one VM at most and at least.
ALL_OUTPUT, HOST_OUTPUT = 1 << 30, 24 << 20
MOST_OUTPUT, LEAST_OUTPUT = 16 << 20, 64 << 10


def most_output(vms: int, of_one_host: int) -> int:
    """Bytes of output that each of ``vms`` may send, with ``of_one_host`` of them on the fullest host."""
    return max(LEAST_OUTPUT, min(MOST_OUTPUT, HOST_OUTPUT // of_one_host, ALL_OUTPUT // vms))


OnResult = Callable[[Result], object]


@dataclass(frozen=True)
class HostFiles:
    """Files in the place of a command's input and output.

    ``input``: path on every host of what each command reads, and ``here`` the same file on this machine, for
    VMs that only this machine can reach. ``output``: a directory of every host, where the standard output of
    each of its VMs becomes a file of the VM's name; from other VMs it comes in the result.
    """

    input: str | None = None
    here: Path | None = None
    output: str | None = None


class GuestCommands:
    """Runs commands on ``vms`` of a run. Thread-safe."""

    def __init__(self, context: Context, vms: Iterable[VM]) -> None:
        self._context = context
        self._vms = {vm.name: vm for vm in vms}
        self._hosts = {host.name: host for host in context.journal.state.deployed_hosts}
        fanout = context.fanout
        self._fanout = fanout if fanout.keeps_connections else Fanout(fanout.access)
        self._given_up = ""
        self._direct: Fanout | None = None

    def give_up(self, reason: str) -> None:
        """Running commands, and all later ones, end as given up because of ``reason``."""
        self._given_up = reason
        for fanout in (self._direct, None if self._fanout is self._context.fanout else self._fanout):
            if fanout is not None:
                fanout.give_up(reason)

    def run(
        self,
        names: Sequence[str],
        argv: Sequence[str],
        *,
        timeout: float,
        idempotent: bool = False,
        key: Path | None = None,
        attempts: int = ATTEMPTS,
        on_result: OnResult | None = None,
        files: HostFiles = HostFiles(),
    ) -> dict[str, Result]:
        """Run a command (arguments) on VMs; one result for each, as those of `Fanout.run`.

        ``timeout``: seconds that it may take on a VM. ``idempotent``: it may run twice. ``key``: for VMs that
        let this key in for that one command. ``attempts``: how often a host logs in, if that fails; besides,
        it waits a few seconds for a VM that refuses connections. ``on_result`` gets each result as it comes,
        in this thread. ``files``: what takes the place of its input and output.
        """
        token = "" if key is not None else new_token()
        round_ = _Round(self._vms, token, timeout, on_result, idempotent, attempts)
        waiting = list(names)
        while waiting:
            self._call_hosts(round_, waiting, argv, key, idempotent, files)
            waiting, delay = round_.take_retries()
            if waiting:
                time.sleep(delay)
        if round_.beyond_hosts:
            self._run_directly(round_, argv, timeout, idempotent, files)
        return {name: round_.results[name] for name in names}

    def _call_hosts(
        self,
        round_: _Round,
        names: Sequence[str],
        argv: Sequence[str],
        key: Path | None,
        idempotent: bool,
        files: HostFiles,
    ) -> None:
        by_host: dict[Host, dict[str, str]] = {}
        for name in names:
            vm = self._vms[name]
            by_host.setdefault(self._hosts[vm.host], {})[name] = str(vm.ip)
        at_once = self._at_once(len(by_host))
        most = most_output(len(names), max(map(len, by_host.values())))
        limit = CONNECT_TIMEOUT + LOGIN_TIMEOUT + round_.timeout + KILL_AFTER
        command = script(round_.token, argv, round_.timeout) if round_.token else "true"
        request: dict[str, Any] = {
            "limit": limit,
            "connect_limit": CONNECT_TIMEOUT,
            "login_limit": LOGIN_TIMEOUT,
            "key": None if key is None else key.read_text(encoding="ascii"),
            "at_once": at_once,
            "input": files.input,
            "output": files.output,
            "most": most,
        }
        documents = {
            host: protocol.document(protocol.ssh(guests, command, **request))
            for host, guests in by_host.items()
        }
        turns = math.ceil(max(map(len, by_host.values())) / at_once)
        replies = calls.call_agents(
            self._fanout,
            documents,
            timeout=turns * limit + LOGIN_TIMEOUT,
            idempotent=idempotent,
            on_answer=round_.read,
            forward_key=key is None,
            given_up=lambda: self._given_up,
        )
        for reply in replies:
            round_.end_of_host(by_host[reply.host], reply)

    def _at_once(self, hosts: int) -> int:
        """Logins of one host at once: fewer where all of them share the cores of one machine."""
        cores = self._context.testbed.real_cores
        return AT_ONCE if cores is None else max(1, min(AT_ONCE, HOST_CHECKS_PER_CORE * cores // hosts))

    def _run_directly(
        self, round_: _Round, argv: Sequence[str], timeout: float, idempotent: bool, files: HostFiles
    ) -> None:
        if self._direct is None:
            access = vm_access(self._context, list(self._vms.values()))
            self._direct = Fanout(access, window=self._context.checks_at_once, tree_from=None)
            if self._given_up:
                self._direct.give_up(self._given_up)
        results = self._direct.run(
            round_.beyond_hosts, argv, stdin=files.here, timeout=timeout, idempotent=idempotent
        )
        for result in results.values():
            round_.add(result)


class _Round:
    """The results of one `GuestCommands.run`."""

    def __init__(
        self,
        vms: Mapping[str, VM],
        token: str,
        timeout: float,
        on_result: OnResult | None,
        idempotent: bool,
        attempts: int,
    ) -> None:
        self.token = token
        self.timeout = timeout
        self.results: dict[str, Result] = {}
        self.beyond_hosts: list[str] = []  #: VMs whose hosts cannot reach them for us
        self._vms = vms
        self._on_result = on_result
        self._idempotent = idempotent
        self._attempts = attempts
        self._attempt = 1
        self._again: dict[str, float] = {}  # VM → seconds until it is to be called once more

    def add(self, result: Result) -> None:
        """The result of a VM."""
        self._again.pop(result.host, None)
        self.results[result.host] = result
        if self._on_result is not None:
            self._on_result(result)

    def read(self, host: Host, answer: Answer) -> None:
        """An answer of a host, which speaks for its own VMs only."""
        vm = self._vms.get(answer.subject)
        if answer.op != "ssh" or not answer.ok or vm is None or vm.host != host.name:
            return
        result, kind = _result(answer.subject, answer.detail, self.token, self.timeout, self._attempt)
        delay = None
        if kind is not None and b"Connection refused" not in result.stderr:  # the host has tried that again
            delay = retry_delay(kind, self._attempt, self._attempts, self._idempotent)
        if delay is None:
            self.add(result)
        else:
            self._again[result.host] = delay

    def end_of_host(self, names: Iterable[str], reply: calls.AgentReply) -> None:
        """A host has given all of its answers: what those of its VMs are that have none."""
        missing = [name for name in names if name not in self.results and name not in self._again]
        if reply.answers and not any(answer.ok for answer in reply.answers):  # it has not begun
            self.beyond_hosts += missing
            return
        for name in missing:
            result = reply.result
            reason = f"its host {reply.host.name}: {reply.reason or 'no answer'}"
            self.add(Result(name, False, None, b"", result.stderr, result.start, result.end, reason=reason))

    def take_retries(self) -> tuple[list[str], float]:
        """VMs to be called once more, and after how many seconds."""
        again, self._again = self._again, {}
        self._attempt += 1
        return list(again), max(again.values(), default=0.0)


def _output(detail: Mapping[str, Any], key: str) -> bytes:
    """What a VM has printed: text, or base64 where that is shorter."""
    if f"{key}64" not in detail:
        return str(detail[key]).encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(detail[f"{key}64"], validate=True)
    except ValueError:  # of a host that is up to something
        return b""


def _result(
    name: str, detail: Mapping[str, Any], token: str, timeout: float, attempt: int
) -> tuple[Result, Failure | None]:
    """What became of a command on a VM, from its host's account of one login; and the kind of failure if it
    did not begin. ``token``: of its envelope, empty if it had none."""
    out, err = (_output(detail, key) for key in ("out", "err"))
    end = time.time()
    start = end - float(detail["seconds"])
    begun = start + float(detail["begun"] or detail["seconds"])
    late = "" if detail["code"] is not None else str(detail.get("stopped") or "its host gives no exit code")
    if token:
        capture = Capture(name, token)
        capture.feed_stdout(out, end)
        head, mark, rest = err.partition(f"{token}\n".encode())
        capture.feed_stderr(head + mark, begun)
        capture.feed_stderr(rest, end)
        return make_result(capture, timeout, start, end, attempt, late, "host")
    code, kind, reason = detail["code"], None, late
    if code == _SSH_FAILED and not out:
        kind, reason = classify_failure(err)
        code = None
    elif code:
        reason = exit_reason(code, err)
    return Result(name, code == 0, code, out, err, begun, end, attempt, reason, kind is None, "host"), kind
