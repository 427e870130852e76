"""One command or some files for many hosts: a TakTuk tree where there are many, ssh in windows where few."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from g5kvirt.errors import SpecError
from g5kvirt.remote import taktuk
from g5kvirt.remote.access import Access, Identity, check_host
from g5kvirt.remote.envelope import OnLine, new_token
from g5kvirt.remote.files import File, pack, unpack_argv
from g5kvirt.remote.processes import memory_file
from g5kvirt.remote.result import Result
from g5kvirt.remote.window import Task, run_window

__all__ = ["TREE_FROM", "Fanout"]

log = logging.getLogger(__name__)

#: From this many hosts on, TakTuk: see the measurements in docs/decisions/remote.md.
TREE_FROM = 200


@dataclass(frozen=True)
class _Order:
    """What is asked of every host; the words are those of `Fanout.run`."""

    argv: tuple[str, ...]
    stdin: bytes | Mapping[str, bytes] | None
    timeout: float
    idempotent: bool
    on_line: OnLine | None


class Fanout:
    """Runs commands and puts files on many hosts; one result for each host, whatever becomes of the others.

    ``window``: ssh connections at once. ``tree_from``: number of hosts from which TakTuk is used; None never.
    ``attempts``: connections to one host at most. The object remembers that a tree is of no use here (TakTuk
    is missing, hosts do not reach each other) and says so once in the log.
    """

    def __init__(
        self, access: Access, window: int = 64, tree_from: int | None = TREE_FROM, attempts: int = 4
    ) -> None:
        self.access = access
        self.window = window
        self.tree_from = tree_from
        self.attempts = attempts
        self.tree_at_once = 10  #: connections that one node of a tree makes at once
        self.given_up = ""  #: why nobody is asked any more
        self._no_tree = False

    def run(
        self,
        hosts: Iterable[str],
        command: Sequence[str],
        *,
        stdin: bytes | Mapping[str, bytes] | None = None,
        timeout: float,
        within: float | None = None,
        idempotent: bool = False,
        on_line: OnLine | None = None,
    ) -> dict[str, Result]:
        """Run ``command`` (words, quoted by us) on every host; the results are in the order of ``hosts``.

        ``stdin``: nothing, the same bytes for all, or each host's own (a host that is not in it reads
        nothing). ``timeout``: seconds a command may run, from its start on the host; there it is then ended.
        ``within``: seconds for all hosts together. ``idempotent``: the command may run twice, so it is tried
        again even where a connection broke and nobody knows how far it came. ``on_line(host, line, t)`` is
        called for each line of standard output as it arrives, in this thread; what it raises ends everything
        and is raised.

        Connections that are turned away before the login are tried again. Raises SpecError for a host's name
        that is none, MachineError if ssh is missing; never for what a host does. A command that is given up
        from here (Ctrl-C, ``within``) may go on on its host until its ``timeout`` is over.
        """
        names = [check_host(host) for host in dict.fromkeys(hosts)]
        if not command or timeout <= 0:
            raise SpecError("a command needs at least one word and a timeout above 0 seconds")
        order = _Order(tuple(command), stdin, timeout, idempotent, on_line)
        deadline = None if within is None else time.monotonic() + within
        done: dict[str, Result] = {}
        left = names
        identity = self._tree_identity(names)
        if identity is not None:
            done, left = self._tree(identity, names, order, within)
        if left:
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            done |= self._windows(left, order, rest)
        if identity is not None:
            self._learn(names, left, done)
        return {name: done[name] for name in names}

    def put(
        self,
        hosts: Iterable[str],
        files: Sequence[File],
        *,
        timeout: float,
        within: float | None = None,
    ) -> dict[str, Result]:
        """Put the same files on every host: each is there whole and checked (SHA-256), or untouched.

        All files of a call go in one stream, held in memory here; they are renamed into place only when all
        sums are right. Missing folders are made. ``timeout`` and ``within`` as for `run`. Raises SpecError
        for files that cannot be put.
        """
        if not files:
            raise SpecError("no file to put: name at least one")
        mark = new_token()
        stream, argv = pack(files, mark), unpack_argv(files, mark)
        return self.run(hosts, argv, stdin=stream, timeout=timeout, within=within, idempotent=True)

    def give_up(self, why: str) -> None:
        """The hosts are gone: commands that are under way, and all others from now on, end as given up."""
        self.given_up = why

    def _windows(self, hosts: Sequence[str], order: _Order, within: float | None) -> dict[str, Result]:
        with _Inputs(hosts, order.stdin) as inputs:
            tasks = [
                Task(host, order.argv, order.timeout, inputs(host), order.idempotent, self.attempts)
                for host in hosts
            ]
            return run_window(
                self.access,
                tasks,
                window=self.window,
                on_line=order.on_line,
                within=within,
                given_up=lambda: self.given_up,
            )

    def _tree(
        self, identity: Identity, hosts: Sequence[str], order: _Order, within: float | None
    ) -> tuple[dict[str, Result], list[str]]:
        """Results of a tree, and the hosts that are left to ssh."""
        tree = taktuk.Tree(
            self.access,
            identity,
            hosts,
            order.argv,
            stdin=order.stdin,
            timeout=order.timeout,
            on_line=order.on_line,
            at_once=self.tree_at_once,
            given_up=lambda: self.given_up,
        )
        grown = tree.grow(within)
        if grown.said:
            log.debug("TakTuk says: %s", grown.said)
        if order.idempotent:
            return dict(grown.results), [*grown.again, *grown.unsure]
        return {**grown.results, **grown.unsure}, list(grown.again)

    def _tree_identity(self, hosts: Sequence[str]) -> Identity | None:
        """What a tree needs to forward the key; None where ssh in windows is to be used."""
        if self.tree_from is None or len(hosts) < self.tree_from or self._no_tree:
            return None
        if not taktuk.installed():
            self._give_trees_up("taktuk (or perl, ssh-agent) is not installed on this machine")
            return None
        identity = self.access.identity(hosts[0])
        if self.access.key is None and self.access.ssh_config is None and os.environ.get("SSH_AUTH_SOCK"):
            return replace(identity, keys=())  # the person's own agent, which may hold more than files
        if not identity.keys:
            self._give_trees_up("there is no private key and no agent to lend to the hosts")
            return None
        return identity

    def _learn(self, names: Sequence[str], left: Sequence[str], done: Mapping[str, Result]) -> None:
        """Stop using trees where ssh had to mend much of one."""
        mended = sum(1 for name in left if done[name].started)
        if mended > len(names) / 4:
            self._give_trees_up(
                f"{mended} of {len(names)} hosts were reached from here but not from each other"
            )

    def _give_trees_up(self, why: str) -> None:
        self._no_tree = True
        log.warning("ssh in windows instead of a TakTuk tree from now on: %s", why)


class _Inputs:
    """Standard input of hosts as files in memory: no byte of it has to be pumped by us."""

    def __init__(self, hosts: Sequence[str], stdin: bytes | Mapping[str, bytes] | None) -> None:
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
            elif self._stdin is not None:
                self._common = memory_file(self._stdin)
        except BaseException:
            self.__exit__()
            raise
        return lambda host: self._fds.get(host, self._common)

    def __exit__(self, *_: object) -> None:
        for fd in (*self._fds.values(), *(() if self._common is None else (self._common,))):
            os.close(fd)
