"""A TakTuk tree: one `taktuk` process here, and every connected host helps to connect to the others.

Hosts need only perl, a POSIX shell and ssh: TakTuk propagates its own code (-s). The decisions behind this
module are in docs/decisions/remote.md.
"""

from __future__ import annotations

import base64
import contextlib
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.remote.access import Access, SshIdentity, check_host
from g5kvirt.remote.envelope import KILL_AFTER, Capture, OnLine, new_token, one_line, script
from g5kvirt.remote.processes import kill_session, spawn
from g5kvirt.remote.result import Result
from g5kvirt.remote.window import DRAIN_SECONDS, REPLY_SECONDS, make_result

__all__ = ["Message", "Tree", "TreeResult", "installed", "parse"]

#: TakTuk's event numbers of a connection (its manual, "state" stream).
CONNECTION_FAILED, CONNECTION_LOST = 3, 5

# Output of a host is sent as hexadecimal digits, so no byte of it can be mistaken for a line of ours. TakTuk
# evaluates a template, which is a Perl expression, on the host for each line: some 3 s of CPU time for a
# megabyte of short lines. This one consumes the whole chunk that was read ($message, at most 32 KiB) at its
# first line, so there is no second one.
_WHOLE = (
    r'do{my $w=unpack("H*",substr($message,pos($message)-length($line.$eol)));'
    r"pos($message)=length($message);$w}"
)
_TEMPLATES = {
    "output": rf'"O $position ".{_WHOLE}."\n"',
    "error": rf'"E $position ".{_WHOLE}."\n"',
    "connector": rf'"C $peer_position ".{_WHOLE}."\n"',
    "state": r'"S ".($peer_position || $position)." $line $peers_given\n"',
    "status": r'"X $position $line\n"',
    "default": rf'"D $position ".{_WHOLE}."\n"',
    "info": rf'"D $position ".{_WHOLE}."\n"',
    "taktuk": rf'"D $position ".{_WHOLE}."\n"',
    "message": rf'"D $position ".{_WHOLE}."\n"',
}

#: Above this many bytes the standard input of all hosts is broadcast down the tree; below, it is part of the
#: commands of each host, which then need not wait until the whole tree is connected.
BROADCAST_FROM = 16 << 10

#: Characters of TakTuk's own messages that are kept for the log.
_LOG_CHARACTERS = 4000

#: The pid of the agent is written to a file, because it leaves our session; it would exit within 10 s.
_WITH_AGENT = 'echo "$SSH_AGENT_PID" >"$1/agent" && ssh-add -q -- "$2" </dev/null && shift 2 && exec "$@"'


def installed() -> bool:
    """Whether this machine has TakTuk and the programs that let hosts connect to each other."""
    return all(shutil.which(program) for program in ("taktuk", "perl", "ssh-agent", "ssh-add"))


@dataclass(frozen=True)
class Message:
    """One line of TakTuk's output: its kind, the host (counted from 1), the bytes or the event."""

    kind: str
    position: int
    data: bytes = b""
    event: int = -1
    given: tuple[int, ...] = ()  #: hosts that were delegated to this host


def parse(line: bytes) -> Message | None:
    """Parse a line that one of our templates produced; None for any other line."""
    fields = line.split()
    if len(fields) < 2 or fields[0] not in (b"O", b"E", b"C", b"S", b"X", b"D") or not fields[1].isdigit():
        return None
    kind, rest = fields[0].decode(), fields[2:]
    try:
        position = int(fields[1])
        if kind == "S":
            given = tuple(int(peer.rpartition(b":")[2]) for peer in rest[1:])
            return Message(kind, position, event=int(rest[0]), given=given)
        if kind == "X":
            return Message(kind, position, event=int(rest[0]))
        return Message(kind, position, bytes.fromhex(rest[0].decode()) if rest else b"")
    except (ValueError, IndexError):
        return None


@dataclass(frozen=True)
class TreeResult:
    """The outcome of a tree: results of the hosts that finished, and what is known of the others.

    ``not_started``: hosts whose command certainly has not started; ``unknown``: hosts behind a lost relay,
    whose command may have run. ``messages``: messages of TakTuk itself, for the log.
    """

    results: Mapping[str, Result]
    not_started: tuple[str, ...]
    unknown: Mapping[str, Result]
    messages: str = ""


class Tree:
    """One run of TakTuk: the same command on every host, with the same or individual standard input."""

    def __init__(
        self,
        access: Access,
        identity: SshIdentity,
        hosts: Sequence[str],
        argv: Sequence[str],
        *,
        stdin: bytes | Mapping[str, bytes] | None,
        timeout: float,
        on_line: OnLine | None = None,
        connections: int = 10,
        given_up: Callable[[], str] = str,
    ) -> None:
        self.given_up = given_up  # called every second: a reason ends the run
        self.connections = connections  # parallel connections of one node of the tree
        self.access = access
        self.identity = identity
        self.hosts = [check_host(host) for host in hosts]
        self.argv = tuple(argv)
        self.stdin = stdin
        self.broadcast = isinstance(stdin, bytes) and len(stdin) > BROADCAST_FROM
        # A command whose input is broadcast may have to wait until the whole tree is connected.
        self.timeout = timeout + (2 * access.login_timeout if self.broadcast else 0)
        self.token = new_token()
        self.captures = [Capture(host, self.token, on_line) for host in self.hosts]
        self.failed: set[int] = set()  # positions whose connection failed: certainly not started
        self.lost: dict[int, str] = {}  # positions behind a lost connection → name of the relay
        self.exited: set[int] = set()  # positions whose command TakTuk has reaped
        self.messages = ""  # messages of TakTuk itself, the last of them
        self.connected = False  # any host has sent anything

    def run(self, within: float | None = None) -> TreeResult:
        """Run the command; returns at the latest after the last host's time-out, or after ``within`` seconds.

        Raises MachineError if taktuk cannot be started; no process is left behind after any exception.
        """
        start_time = time.time()
        with tempfile.TemporaryDirectory(prefix="g5kvirt-", dir=_plain_folder()) as name:
            folder = Path(name)
            process = spawn(self._command(folder), env=self._environment(folder))
            try:
                stop_reason = self._read_output(process, start_time, within)
            finally:
                kill_session(process)
                _end_agent(folder)
        return self._collect(start_time, stop_reason)

    def _environment(self, folder: Path) -> dict[str, str]:
        env = {k: v for k, v in self.access.environment().items() if not k.startswith("TAKTUK_")}
        # The variable with our connector is set only on this machine: see _connector.
        return {**env, "SSH_ASKPASS_REQUIRE": "never", "G5KVIRT_CONNECTOR": f"sh {folder}/connect"}

    def _command(self, folder: Path) -> list[str]:
        """Write TakTuk's files into ``folder``; returns its command line."""
        prefix = shlex.join([*self.access.prefix(), "-A"])
        (folder / "connect").write_text(f'exec {prefix} "$@"\n')
        (folder / "hosts").write_text("\n".join(map(self._peer, self.hosts)) + "\n")
        # Self-propagating; no numbering, so that each host starts at once without waiting for the others;
        # timers checked five times a second; TakTuk's own messages on standard output as well.
        login = f"{self.access.login_timeout:g}"
        argv = f"taktuk -s -n -g 0.2 -w {self.connections} -t {login} -R taktuk=>&=1".split()
        argv += ["-c", self._connector()]
        for stream, template in _TEMPLATES.items():
            argv += ["-o", f"{stream}={template}"]
        argv += ["-F", f"{folder}/hosts"]
        if self.broadcast:
            assert isinstance(self.stdin, bytes)
            (folder / "stdin").write_bytes(self.stdin)
            argv += f"broadcast input file [ {folder}/stdin ] ; broadcast input close ;".split()
        argv.append("quit")
        if not self.identity.keys:  # the user's own agent holds the key
            return argv
        return ["ssh-agent", "sh", "-c", _WITH_AGENT, "sh", str(folder), str(self.identity.keys[0]), *argv]

    def _connector(self) -> str:
        """How a node of the tree connects to the next; TakTuk passes it to a shell on each node.

        Here it is our own ssh command, on a host plain ssh: it has neither our configuration nor our key.
        """
        return "${G5KVIRT_CONNECTOR:-" + " ".join(self.access.relay_prefix(self.identity)) + "}"

    def _peer(self, host: str) -> str:
        """TakTuk's arguments for one host: the command, and its input if it is individual."""
        if self.stdin is None:
            text = script(self.token, self.argv, self.timeout, "</dev/null ")
            data = ""
        elif self.broadcast:
            text = script(self.token, self.argv, self.timeout)
            data = ""
        else:
            own = self.stdin if isinstance(self.stdin, bytes) else self.stdin.get(host, b"")
            text = script(self.token, self.argv, self.timeout, "base64 -d | ")
            packed = base64.b64encode(own).decode()
            data = (f"; input data [ {packed} ] " if packed else "") + "; input close "
        return f"-m {host} -[ exec [ {one_line(text)} ] {data}-]"

    def _read_output(self, process: subprocess.Popen[bytes], start_time: float, within: float | None) -> str:
        """Feed the captures until the output ends; returns the reason if we stopped earlier."""
        assert process.stdout is not None
        assert process.stderr is not None
        rest = bytearray()
        with selectors.DefaultSelector() as selector:
            for pipe in (process.stdout, process.stderr):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                now = time.time()
                deadline, reason = self._deadline(start_time, within)
                if now >= deadline:
                    return reason
                if cause := self.given_up():
                    return f"given up: {cause}"
                for key, _ in selector.select(min(deadline - now, 1.0)):
                    data = os.read(key.fd, 1 << 18)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        self._note(data)
                    else:
                        rest += data
                        *lines, tail = rest.split(b"\n")
                        rest = bytearray(tail)
                        for line in lines:
                            self._process_line(bytes(line), time.time())
        return ""

    def _deadline(self, start_time: float, within: float | None) -> tuple[float, str]:
        """When to stop reading, and why. It moves: the time-out of each host starts with its connection."""
        live = [n for n in range(1, len(self.captures) + 1) if n not in self.failed and n not in self.lost]
        if all(n in self.exited for n in live):
            return 0.0, ""
        running = [self.captures[n - 1] for n in live if self.captures[n - 1].ended is None]
        limit = self.timeout + KILL_AFTER + REPLY_SECONDS
        if not running:  # a process that a command left behind keeps its output open
            deadline, reason = max(capture.last for capture in self.captures) + DRAIN_SECONDS, ""
        elif all(capture.started for capture in running):
            latest = max(capture.started or start_time for capture in running)
            deadline, reason = latest + limit, f"timed out: still running after {limit:g} s"
        else:  # each level of the tree takes one login; a broadcast starts after the last of them
            latest = max(start_time, *(capture.started or start_time for capture in self.captures))
            deadline = latest + 2 * self.access.login_timeout + limit
            reason = "timed out: the tree makes no progress"
        if within is not None and start_time + within < deadline:
            expired = f"given up: the time limit of {within:g} s for all hosts has expired"
            return start_time + within, expired
        return deadline, reason

    def _process_line(self, line: bytes, now: float) -> None:
        message = parse(line)
        if message is None or not 1 <= message.position <= len(self.captures):
            if message is not None and message.kind == "D":
                self._note(message.data)
            return
        self.connected = True
        capture = self.captures[message.position - 1]
        if message.kind == "O":
            capture.feed_stdout(message.data, now)
        elif message.kind in "EC":
            capture.feed_stderr(message.data, now)
        elif message.kind == "X":
            self.exited.add(message.position)
        elif message.kind == "D":
            self._note(message.data)
        elif message.event == CONNECTION_FAILED:
            self.failed.add(message.position)
        elif message.event == CONNECTION_LOST:
            for position in (message.position, *message.given):
                self.lost.setdefault(position, capture.host)

    def _note(self, data: bytes) -> None:
        self.messages = (self.messages + data.decode(errors="replace"))[-_LOG_CHARACTERS:]

    def _collect(self, start_time: float, stop_reason: str) -> TreeResult:
        results: dict[str, Result] = {}
        unknown: dict[str, Result] = {}
        not_started: list[str] = []
        now = time.time()
        for position, capture in enumerate(self.captures, 1):
            capture.close(now)
            relay = self.lost.get(position)
            reason = stop_reason
            if capture.ended is None and relay is not None:
                reason = "connection lost" + (f" with the relay {relay}" if relay != capture.host else "")
            result, _ = make_result(capture, self.timeout, start_time, now, 1, reason, "taktuk")
            if capture.ended is not None:
                results[capture.host] = result
            elif position in self.failed and not capture.started:
                not_started.append(capture.host)
            elif not self.connected:
                not_started.append(capture.host)  # TakTuk itself did not start: no host was contacted
            else:
                unknown[capture.host] = result
        return TreeResult(results, tuple(not_started), unknown, self.messages.strip())


def _plain_folder() -> str | None:
    """A directory for files whose path has no spaces, which neither TakTuk nor the shell would preserve."""
    return None if shlex.quote(tempfile.gettempdir()) == tempfile.gettempdir() else "/tmp"


def _end_agent(folder: Path) -> None:
    """Terminate the ssh agent of a tree, if one was started."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid = int((folder / "agent").read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh-agent":
            os.kill(pid, signal.SIGTERM)
