"""Run one command or copy files on many hosts: by a TakTuk tree for many, by windowed ssh for few."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.remote import taktuk
from g5kvirt.remote.access import Access, SshIdentity, check_host
from g5kvirt.remote.connections import Program
from g5kvirt.remote.envelope import OnLine, new_token
from g5kvirt.remote.files import File, pack, unpack_argv
from g5kvirt.remote.key_agent import KeyAgent
from g5kvirt.remote.processes import memory_file
from g5kvirt.remote.result import Result
from g5kvirt.remote.sessions import Sessions
from g5kvirt.remote.window import HostCommand, run_window

__all__ = ["TREE_FROM", "Fanout"]

log = logging.getLogger(__name__)

#: Number of hosts from which TakTuk is used: see the measurements in docs/decisions/remote.md.
TREE_FROM = 200


#: What commands read: nothing, the same bytes or file for all hosts, or bytes for each.
Input = bytes | Path | Mapping[str, bytes] | None


@dataclass(frozen=True)
class _Request:
    """What every host has to run; the fields are the parameters of `Fanout.run`."""

    argv: tuple[str, ...]
    stdin: Input
    timeout: float
    idempotent: bool
    on_line: OnLine | None


class Fanout:
    """Runs commands and copies files on many hosts; one result per host, independent of the others.

    ``window``: parallel ssh connections. ``tree_from``: number of hosts from which TakTuk is used; None:
    never. ``attempts``: maximal number of connections to one host. If trees do not work here (TakTuk is
    missing, hosts cannot reach each other), the object remembers it and logs it once.
    """

    def __init__(
        self, access: Access, window: int = 64, tree_from: int | None = TREE_FROM, attempts: int = 4
    ) -> None:
        self.access = access
        self.window = window
        self.tree_from = tree_from
        self.attempts = attempts
        self.tree_connections = 10  #: parallel connections of one node of a tree
        self.given_up = ""  #: why no command is run any more; empty while they are
        self._no_tree = False
        self._lock = threading.Lock()
        self._sessions: dict[Program, Sessions] = {}
        self._lost_listeners: list[Callable[[str], object]] = []
        self._gone: set[str] = set()
        self._agent: KeyAgent | None = None
        self._no_agent = False

    def run(
        self,
        hosts: Iterable[str],
        command: Sequence[str],
        *,
        stdin: Input = None,
        timeout: float,
        within: float | None = None,
        idempotent: bool = False,
        on_line: OnLine | None = None,
        forward_key: bool = False,
    ) -> dict[str, Result]:
        """Run ``command`` (arguments; we quote them) on every host; results keep the order of ``hosts``.

        ``stdin``: none, the same bytes for all hosts, a file of any size (by ssh alone), or a mapping of
        hosts to bytes (other hosts get empty input). ``timeout``: seconds that the command may run on a host
        before it is killed there. ``within``: seconds for all hosts together. ``idempotent``: the command may
        run twice, so it is retried even if a connection broke and its progress is unknown. ``on_line(host,
        line, t)`` is called for each line of standard output as it arrives, in this thread; an exception of
        it ends everything and is propagated. ``forward_key``: the command may log in elsewhere with our key
        (by ssh alone).

        Connections refused before the login are retried. Raises SpecError for an invalid host name,
        MachineError if ssh is missing; failures of a host never raise. A command abandoned from here (Ctrl-C,
        ``within``) may keep running on its host until its ``timeout``.
        """
        names = [check_host(host) for host in dict.fromkeys(hosts)]
        if not command or timeout <= 0:
            raise SpecError("a command needs at least one argument and a timeout greater than 0 seconds")
        request = _Request(tuple(command), stdin, timeout, idempotent, on_line)
        deadline = None if within is None else time.monotonic() + within
        done: dict[str, Result] = {}
        remaining = names
        if forward_key:
            return self._windows(names, request, within, self._forwarding())
        identity = None if isinstance(stdin, Path) else self._tree_identity(names)
        if identity is not None:
            done, remaining = self._tree(identity, names, request, within)
        if remaining:
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            done |= self._windows(remaining, request, rest)
        if identity is not None:
            self._check_tree(names, remaining, done)
        return {name: done[name] for name in names}

    def put(
        self,
        hosts: Iterable[str],
        files: Sequence[File],
        *,
        timeout: float,
        within: float | None = None,
    ) -> dict[str, Result]:
        """Copy the same files to every host: complete and verified (SHA-256), or the host is unchanged.

        All files of a call form one stream, which is held in memory here; they are renamed into place only
        if all checksums match. Missing directories are created. ``timeout`` and ``within`` as for `run`.
        Raises SpecError for invalid files.
        """
        if not files:
            raise SpecError("no files to copy", advice="give at least one")
        mark = new_token()
        stream, argv = pack(files, mark), unpack_argv(files, mark)
        return self.run(hosts, argv, stdin=stream, timeout=timeout, within=within, idempotent=True)

    def call(
        self,
        program: Program,
        texts: Mapping[str, bytes],
        *,
        timeout: float,
        idempotent: bool,
        on_line: OnLine | None = None,
        window: int | None = None,
        given_up: Callable[[], str] = str,
    ) -> dict[str, Result]:
        """Give each host's ``program`` a text, over a connection that is kept for the next call.

        As `run` otherwise. The program is started where it does not run, and may log in elsewhere with our
        key. ``window``: for calls that only wait, more hosts at once; ``given_up``: see `Sessions.call`.
        Through jump hosts, which bear only so many connections, none may be kept: `keeps_connections` is
        False there.
        """
        for host in texts:
            check_host(host)
        sessions = self._sessions.get(program)
        if sessions is None:
            made = Sessions(
                self._forwarding().watching(),
                program,
                window=self.window,
                attempts=self.attempts,
                lost=self._lost_listeners,
            )
            with self._lock:  # another thread's may be there by now
                sessions = self._sessions.setdefault(program, made)
        results = sessions.call(
            texts,
            timeout=timeout,
            idempotent=idempotent,
            on_line=on_line,
            given_up=lambda: self.given_up or given_up(),
            window=window,
        )
        self._gone -= {host for host, result in results.items() if result.ok}
        return results

    def _forwarding(self) -> Access:
        """Our access, with our key at the service of the hosts; without, where there is no ssh-agent."""
        if self.access.key is None:
            return self.access.forwarding(None)
        with self._lock:
            if self._no_agent:
                return self.access
            if self._agent is None or self._agent.owner != os.getpid():
                try:
                    self._agent = KeyAgent(self.access.key, self.access.environment())
                except MachineError as error:
                    log.warning("hosts cannot log in elsewhere with our key: %s", error)
                    self._no_agent = True
                    return self.access
                self._finalizer = weakref.finalize(self, self._agent.close)
            return self.access.forwarding(self._agent.socket)

    @property
    def keeps_connections(self) -> bool:
        """Whether `call` may be used."""
        return not self.access.jump

    def on_lost(self, listener: Callable[[str], object]) -> Callable[[], None]:
        """Call ``listener``, which must neither wait nor raise, with each host whose kept connection ends
        though nobody closed it; returns a function that unsubscribes it."""
        self._lost_listeners.append(listener)
        return lambda: self._lost_listeners.remove(listener)

    def abandon(self, host: str, reason: str) -> None:
        """A host is gone: what `call` waits for there ends with ``reason``. Later calls try it again."""
        with self._lock:
            self._gone.add(host)
            for sessions in self._sessions.values():
                sessions.abandon(host, reason)

    def is_gone(self, host: str) -> bool:
        """Whether it was abandoned, and no `call` has reached it since: what can be left out is."""
        return host in self._gone

    def close(self) -> None:
        """Close the connections that `call` has kept."""
        with self._lock:
            for sessions in self._sessions.values():
                sessions.close()
            self._sessions.clear()
            if self._agent is not None:
                self._finalizer()
                self._agent = None

    def give_up(self, reason: str) -> None:
        """The hosts are gone: running commands, and all later ones, end as given up because of ``reason``."""
        self.given_up = reason

    def _windows(
        self,
        hosts: Sequence[str],
        request: _Request,
        within: float | None,
        access: Access | None = None,
    ) -> dict[str, Result]:
        with _Inputs(hosts, request.stdin) as inputs:
            commands = [
                HostCommand(
                    host, request.argv, request.timeout, inputs(host), request.idempotent, self.attempts
                )
                for host in hosts
            ]
            return run_window(
                access or self.access,
                commands,
                window=self.window,
                on_line=request.on_line,
                within=within,
                given_up=lambda: self.given_up,
            )

    def _tree(
        self, identity: SshIdentity, hosts: Sequence[str], request: _Request, within: float | None
    ) -> tuple[dict[str, Result], list[str]]:
        """Results of a tree, and the hosts that remain for ssh."""
        assert not isinstance(request.stdin, Path)  # `run` sends files by ssh
        tree = taktuk.Tree(
            self.access,
            identity,
            hosts,
            request.argv,
            stdin=request.stdin,
            timeout=request.timeout,
            on_line=request.on_line,
            connections=self.tree_connections,
            given_up=lambda: self.given_up,
        )
        outcome = tree.run(within)
        if outcome.messages:
            log.debug("TakTuk: %s", outcome.messages)
        if request.idempotent:
            return dict(outcome.results), [*outcome.not_started, *outcome.unknown]
        return {**outcome.results, **outcome.unknown}, list(outcome.not_started)

    def _tree_identity(self, hosts: Sequence[str]) -> SshIdentity | None:
        """What a tree needs to forward the key; None if windowed ssh has to be used."""
        if self.tree_from is None or len(hosts) < self.tree_from or self._no_tree:
            return None
        if not taktuk.installed():
            self._disable_trees("taktuk, perl or ssh-agent is not installed on this machine")
            return None
        identity = self.access.identity(hosts[0])
        if self.access.key is None and self.access.ssh_config is None and os.environ.get("SSH_AUTH_SOCK"):
            return replace(identity, keys=())  # the user's own agent, which may hold more keys than files
        if not identity.keys:
            self._disable_trees("there is no private key and no ssh agent to forward")
            return None
        return identity

    def _check_tree(self, names: Sequence[str], remaining: Sequence[str], done: Mapping[str, Result]) -> None:
        """Stop using trees if ssh had to reach many hosts that the tree could not."""
        direct = sum(1 for name in remaining if done[name].started)
        if direct > len(names) / 4:
            self._disable_trees(
                f"{direct} of {len(names)} hosts can be reached from here but not from each other"
            )

    def _disable_trees(self, reason: str) -> None:
        self._no_tree = True
        log.warning("using windowed ssh instead of a TakTuk tree from now on: %s", reason)


class _Inputs:
    """Standard input of hosts as open files, in memory or not, so that we need not copy any data."""

    def __init__(self, hosts: Sequence[str], stdin: Input) -> None:
        self._hosts = hosts
        self._stdin = stdin
        self._fds: dict[str, int] = {}
        self._common: int | None = None

    def __enter__(self) -> Callable[[str], int | None]:
        try:
            if isinstance(self._stdin, Mapping):
                for host in self._hosts:
                    if host in self._stdin:
                        self._fds[host] = memory_file(self._stdin[host])
            elif isinstance(self._stdin, Path):
                self._common = os.open(self._stdin, os.O_RDONLY | os.O_CLOEXEC)
            elif self._stdin is not None:
                self._common = memory_file(self._stdin)
        except BaseException:
            self.__exit__()
            raise
        return lambda host: self._fds.get(host, self._common)

    def __exit__(self, *_: object) -> None:
        for fd in (*self._fds.values(), *(() if self._common is None else (self._common,))):
            os.close(fd)
