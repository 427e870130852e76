"""TakTuk as a tree: one `taktuk` process here, and every host that is reached helps to reach the others.

Hosts need only perl, a POSIX shell and ssh: TakTuk sends its own code along (-s). The decisions behind this
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

from g5kvirt.remote.access import Access, Identity, check_host
from g5kvirt.remote.envelope import KILL_AFTER, Capture, OnLine, new_token, one_line, script
from g5kvirt.remote.processes import end_session, spawn
from g5kvirt.remote.result import Result
from g5kvirt.remote.window import GRACE, LINGER, judge

__all__ = ["Grown", "Tree", "installed", "parse"]

#: TakTuk's numbers for what happens to a connection (its manual, "state" stream).
CONNECTION_FAILED, CONNECTION_LOST = 3, 5

# All that a host says travels as hexadecimal digits, so no byte of it can be taken for a line of ours. TakTuk
# evaluates a template, which is a Perl expression, on the host for each line: some 3 s of processor for a
# megabyte of short lines. This one takes the whole of the piece that was read ($message, at most 32 KiB) at
# its first line and leaves nothing for a second one.
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

#: Above this many bytes the standard input of all hosts is broadcast down the tree, below it is part of each
#: host's own commands, which then need not wait until the whole tree stands.
BROADCAST_FROM = 16 << 10

#: Characters of TakTuk's own words that are kept for the log.
_SAID = 4000

#: The agent's process is named in a file, because it leaves our session; it would end by itself within 10 s.
_WITH_AGENT = 'echo "$SSH_AGENT_PID" >"$1/agent" && ssh-add -q -- "$2" </dev/null && shift 2 && exec "$@"'


def installed() -> bool:
    """Whether this machine has TakTuk and what it takes to let hosts reach each other."""
    return all(shutil.which(program) for program in ("taktuk", "perl", "ssh-agent", "ssh-add"))


@dataclass(frozen=True)
class Word:
    """One line of TakTuk's: what kind, which host (counted from 1), the bytes or the event."""

    kind: str
    position: int
    data: bytes = b""
    event: int = -1
    given: tuple[int, ...] = ()  #: hosts whose connection was this host's work


def parse(line: bytes) -> Word | None:
    """Read a line that one of our templates made; None for anything else."""
    fields = line.split()
    if len(fields) < 2 or fields[0] not in (b"O", b"E", b"C", b"S", b"X", b"D") or not fields[1].isdigit():
        return None
    kind, position, rest = fields[0].decode(), int(fields[1]), fields[2:]
    try:
        if kind == "S":
            given = tuple(int(peer.rpartition(b":")[2]) for peer in rest[1:])
            return Word(kind, position, event=int(rest[0]), given=given)
        if kind == "X":
            return Word(kind, position, event=int(rest[0]))
        return Word(kind, position, bytes.fromhex(rest[0].decode()) if rest else b"")
    except (ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Grown:
    """What a tree did: results of the hosts that are settled, and of the others what is known.

    ``again``: hosts whose command certainly has not begun; ``unsure``: hosts behind a relay that was lost, of
    which nobody knows. ``said``: TakTuk's own words, for the log.
    """

    results: Mapping[str, Result]
    again: tuple[str, ...]
    unsure: Mapping[str, Result]
    said: str = ""


class Tree:
    """One use of TakTuk: the same command on every host, each with its own or the same standard input."""

    def __init__(
        self,
        access: Access,
        identity: Identity,
        hosts: Sequence[str],
        argv: Sequence[str],
        *,
        stdin: bytes | Mapping[str, bytes] | None,
        timeout: float,
        on_line: OnLine | None = None,
        at_once: int = 10,
        given_up: Callable[[], str] = str,
    ) -> None:
        self.given_up = given_up  # asked every second: a reason ends it all
        self.at_once = at_once  # connections that one node of the tree makes at once
        self.access = access
        self.identity = identity
        self.hosts = [check_host(host) for host in hosts]
        self.argv = tuple(argv)
        self.stdin = stdin
        self.broadcast = isinstance(stdin, bytes) and len(stdin) > BROADCAST_FROM
        # A command whose input is broadcast may have to wait for it until the whole tree stands.
        self.timeout = timeout + (2 * access.login_timeout if self.broadcast else 0)
        self.token = new_token()
        self.captures = [Capture(host, self.token, on_line) for host in self.hosts]
        self.failed: set[int] = set()  # positions whose connection failed: certainly not begun
        self.lost: dict[int, str] = {}  # positions behind a lost connection, with the relay's name
        self.over: set[int] = set()  # positions whose command TakTuk has reaped
        self.said = ""  # TakTuk's own words, the last of them
        self.heard = False

    def grow(self, within: float | None = None) -> Grown:
        """Run it all; ends at the latest when the last host's time is over, or after ``within`` seconds.

        Raises MachineError if taktuk cannot be started; whatever is raised, no process is left.
        """
        begun = time.time()
        with tempfile.TemporaryDirectory(prefix="g5kvirt-", dir=_plain_folder()) as name:
            folder = Path(name)
            process = spawn(self._command(folder), env=self._environment(folder))
            try:
                gave_up = self._listen(process, begun, within)
            finally:
                end_session(process)
                _end_agent(folder)
        return self._account(begun, gave_up)

    def _environment(self, folder: Path) -> dict[str, str]:
        env = {k: v for k, v in self.access.environment().items() if not k.startswith("TAKTUK_")}
        # Only here is the variable of the connector's command set: see _connector.
        return {**env, "SSH_ASKPASS_REQUIRE": "never", "G5KVIRT_CONNECTOR": f"sh {folder}/connect"}

    def _command(self, folder: Path) -> list[str]:
        """Write TakTuk's files into ``folder`` and give its command line."""
        prefix = shlex.join([*self.access.prefix(), "-A"])
        (folder / "connect").write_text(f'exec {prefix} "$@"\n')
        (folder / "hosts").write_text("\n".join(map(self._peer, self.hosts)) + "\n")
        # Self-propagating; no numbering, so that each host begins at once and waits for none of the others;
        # timers looked at five times a second; TakTuk's own words on standard output, too.
        words = (
            f"taktuk -s -n -g 0.2 -w {self.at_once} -t {self.access.login_timeout:g} -R taktuk=>&=1".split()
        )
        words += ["-c", self._connector()]
        for stream, template in _TEMPLATES.items():
            words += ["-o", f"{stream}={template}"]
        words += ["-F", f"{folder}/hosts"]
        if self.broadcast:
            assert isinstance(self.stdin, bytes)
            (folder / "stdin").write_bytes(self.stdin)
            words += f"broadcast input file [ {folder}/stdin ] ; broadcast input close ;".split()
        words.append("quit")
        if not self.identity.keys:  # the person's own agent holds the key
            return words
        return ["ssh-agent", "sh", "-c", _WITH_AGENT, "sh", str(folder), str(self.identity.keys[0]), *words]

    def _connector(self) -> str:
        """How a node of the tree reaches the next: with our own ssh command here, with plain ssh from a host,
        where neither our configuration nor our key is. TakTuk hands it to a shell on each node."""
        return "${G5KVIRT_CONNECTOR:-" + " ".join(self.access.inner(self.identity)) + "}"

    def _peer(self, host: str) -> str:
        """The part of TakTuk's arguments that is one host's: the command, and its input if it is its own."""
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

    def _listen(self, process: subprocess.Popen[bytes], begun: float, within: float | None) -> str:
        """Feed the captures until all is said; the reason if we stopped before."""
        assert process.stdout is not None
        assert process.stderr is not None
        rest = bytearray()
        with selectors.DefaultSelector() as selector:
            for pipe in (process.stdout, process.stderr):
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                now = time.time()
                when, words = self._deadline(begun, within)
                if now >= when:
                    return words
                if why := self.given_up():
                    return f"given up: {why}"
                for key, _ in selector.select(min(when - now, 1.0)):
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
                            self._hear(bytes(line), time.time())
        return ""

    def _deadline(self, begun: float, within: float | None) -> tuple[float, str]:
        """When to stop listening, and why. It moves: every host that is reached begins its own time."""
        live = [n for n in range(1, len(self.captures) + 1) if n not in self.failed and n not in self.lost]
        if all(n in self.over for n in live):
            return 0.0, ""
        running = [self.captures[n - 1] for n in live if self.captures[n - 1].ended is None]
        patience = self.timeout + KILL_AFTER + GRACE
        if not running:  # something that a command left behind keeps its output open
            when, words = max(capture.last for capture in self.captures) + LINGER, ""
        elif all(capture.started for capture in running):
            news = max(capture.started or begun for capture in running)
            when, words = news + patience, f"timed out: no end after {patience:g} s"
        else:  # each level of the tree takes a login; a broadcast begins after the last of them
            news = max(begun, *(capture.started or begun for capture in self.captures))
            when, words = news + 2 * self.access.login_timeout + patience, "timed out: the tree stands still"
        if within is not None and begun + within < when:
            return begun + within, f"given up: the {within:g} s for all hosts were over"
        return when, words

    def _hear(self, line: bytes, now: float) -> None:
        word = parse(line)
        if word is None or not 1 <= word.position <= len(self.captures):
            if word is not None and word.kind == "D":
                self._note(word.data)
            return
        self.heard = True
        capture = self.captures[word.position - 1]
        if word.kind == "O":
            capture.feed_stdout(word.data, now)
        elif word.kind in "EC":
            capture.feed_stderr(word.data, now)
        elif word.kind == "X":
            self.over.add(word.position)
        elif word.kind == "D":
            self._note(word.data)
        elif word.event == CONNECTION_FAILED:
            self.failed.add(word.position)
        elif word.event == CONNECTION_LOST:
            for position in (word.position, *word.given):
                self.lost.setdefault(position, capture.host)

    def _note(self, data: bytes) -> None:
        self.said = (self.said + data.decode(errors="replace"))[-_SAID:]

    def _account(self, begun: float, gave_up: str) -> Grown:
        results: dict[str, Result] = {}
        unsure: dict[str, Result] = {}
        again: list[str] = []
        now = time.time()
        for position, capture in enumerate(self.captures, 1):
            capture.close(now)
            relay = self.lost.get(position)
            words = gave_up
            if capture.ended is None and relay is not None:
                words = "connection lost" + (f" with the relay {relay}" if relay != capture.host else "")
            result, _ = judge(capture, self.timeout, begun, now, 1, words, "taktuk")
            if capture.ended is not None:
                results[capture.host] = result
            elif position in self.failed and not capture.started:
                again.append(capture.host)
            elif not self.heard:
                again.append(capture.host)  # TakTuk itself did not come up: nobody was connected to
            else:
                unsure[capture.host] = result
        return Grown(results, tuple(again), unsure, self.said.strip())


def _plain_folder() -> str | None:
    """A place for files whose path has no blank, which TakTuk's and the shell's words could not carry."""
    return None if shlex.quote(tempfile.gettempdir()) == tempfile.gettempdir() else "/tmp"


def _end_agent(folder: Path) -> None:
    """End the agent that was started for a tree, if one was."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid = int((folder / "agent").read_text())
        if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh-agent":
            os.kill(pid, signal.SIGTERM)
