"""What clients and requests know of the relay that they belong to; for type checkers only."""

from __future__ import annotations

import selectors
from typing import Any, Protocol

from .image import StoredFile


class RelayInterface(Protocol):
    """The relay, as its connections see it; `server.Relay` is it."""

    now: float
    began: float
    selector: selectors.DefaultSelector
    token: bytes
    image: StoredFile
    limits: dict[str, float]
    state: str
    reason: str
    clients: set[Any]
    taken: dict[str, int]

    def hand_on(self) -> None:
        """More data is available: clients that have taken everything so far get it at once."""

    def complete(self) -> None:
        """The last byte is here."""

    def fail(self, reason: str, cut: bool = True) -> None:
        """End without the file, or with a wrong one."""

    def set_priority(self) -> None:
        """Be a real-time process only while hosts wait for the file."""
