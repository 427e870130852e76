"""Following the logs of a service machine while VMs boot, across broken connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from g5kvirt.context import Context
from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.protocol import Line
from g5kvirt.netboot import services
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.remote import Stream

__all__ = ["Follower"]

#: Connections that end one after the other without a single line between them, before we give up.
TRIES = 8

#: Seconds to wait before connecting again; doubles.
PAUSE = 0.5


class Follower:
    """One long connection to a service machine; ``hear(text)`` is called for each line of its logs.

    It is called in a thread of the stream's own. The logs are read from their beginning: what was heard
    before is for the hearer to know. Lines carry their time, so a broken connection loses nothing.
    """

    def __init__(self, context: Context, machine: ServiceMachine, hear: Callable[[str], None]) -> None:
        self._access = context.access
        self._fanout = context.fanout
        self._machine = machine
        self._hear = hear
        logs = {"dhcp": protocol.service_log("dnsmasq"), "http": services.ACCESS_LOG}
        self._offsets = {logs[role]: 0 for role in machine.roles}
        self._tries = 0
        self._again = 0.0  #: when to connect again
        self._stream: Stream | None = None

    def __enter__(self) -> Follower:
        self._connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def keep_alive(self) -> None:
        """Connect again if the connection broke. Raises PhaseError if that is of no use any more."""
        if self._stream is None or self._stream.alive:
            return
        if self._stream.error is not None:
            raise self._stream.error
        if self._again == 0.0:
            if self._tries >= TRIES:
                result = self._stream.result
                raise PhaseError(
                    f"the logs of {self._machine.host.name} cannot be followed any more"
                    f" ({result.reason if result else 'no answer'}): the VMs may boot, but nobody would know;"
                    " call launch() again when it is reachable",
                    phase="launch",
                    step="follow",
                )
            if (result := self._stream.result) is not None and calls.agent_is_missing(result):
                # the run was configured by another version of g5kvirt
                calls.install_agent(self._fanout, [self._machine.host], timeout=calls.INSTALL_TIMEOUT)
            self._again = time.monotonic() + min(8.0, PAUSE * 2**self._tries)
            self._tries += 1
        elif time.monotonic() >= self._again:
            self._connect()

    def _connect(self) -> None:
        self._again = 0.0
        request = protocol.document(protocol.follow(self._offsets)).decode().strip()
        self._stream = Stream(
            self._access, self._machine.host.address, [*protocol.COMMAND, request], on_line=self._line
        )

    def _line(self, text: str, _: float) -> None:
        line: Line | None = protocol.parse_line(text)
        self._tries = 0
        if line is not None:
            self._offsets[line.file] = line.offset
            self._hear(line.text)
