"""Following the logs of a service machine, across broken connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import protocol
from g5kvirt.inventory import Host
from g5kvirt.netboot import services
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.remote import Access, Stream

__all__ = ["LogTail"]

#: Connections that end one after the other without a single line between them, before we give up.
TRIES = 8

#: Seconds to wait before connecting again; doubles.
PAUSE = 0.5


class LogTail:
    """One long connection to a service machine; ``on_line(text)`` is called for each line of its logs.

    It is called in a thread of the stream's own. The logs are read from their beginning: lines of earlier
    phases come too. Lines carry their time, so a broken connection loses nothing. ``phase``: the one that
    follows, for the error if the machine is lost.
    """

    def __init__(
        self, access: Access, machine: ServiceMachine, on_line: Callable[[str], None], *, phase: str
    ) -> None:
        self._access = access
        self._machine = machine
        self._on_line = on_line
        self._phase = phase
        logs = {"dhcp": protocol.service_log("dnsmasq"), "http": services.ACCESS_LOG}
        self._offsets = {logs[role]: 0 for role in machine.roles}
        self._pieces: dict[str, int] = {}
        self._tries = 0
        self._reconnect_at = 0.0
        self._stream: Stream | None = None
        self._gone = ""

    def __enter__(self) -> LogTail:
        self._connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def host_gone(self, host: Host, reason: str) -> None:
        """If that is the service machine, the next `keep_alive` raises."""
        if host == self._machine.host:
            self._gone = reason

    def keep_alive(self) -> None:
        """Connect again if the connection broke.

        Raises PhaseError after too many connections that brought no line, or if the machine is gone.
        """
        if self._gone:
            raise self._lost(self._gone)
        if self._stream is None or self._stream.alive:
            return
        if self._stream.error is not None:
            raise self._stream.error
        if self._reconnect_at == 0.0:
            if self._tries >= TRIES:
                raise self._lost(self._stream.result.reason if self._stream.result else "no answer")
            self._reconnect_at = time.monotonic() + min(8.0, PAUSE * 2**self._tries)
            self._tries += 1
        elif time.monotonic() >= self._reconnect_at:
            self._connect()

    def _lost(self, reason: str) -> PhaseError:
        name = self._machine.host.name
        return PhaseError(
            f"the logs of {name} can no longer be read ({reason}), so the progress of the VMs is unknown",
            advice=f"call {self._phase}() again once {name} is reachable",
            phase=self._phase,
            step="follow",
        )

    def _connect(self) -> None:
        self._reconnect_at = 0.0
        request = protocol.document(protocol.follow(self._offsets, pieces=self._pieces)).decode().strip()
        self._stream = Stream(
            self._access, self._machine.host.address, [*protocol.COMMAND, request], on_line=self._receive
        )

    def _receive(self, text: str, _: float) -> None:
        line = protocol.parse_line(text)
        self._tries = 0
        if line is not None and line.file in self._offsets:  # it has no other
            self._offsets[line.file], self._pieces[line.file] = line.offset, line.piece
            self._on_line(line.text)
