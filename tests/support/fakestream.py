"""A connection that never was: what `g5kvirt.remote.Stream` is to the code, driven by a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from g5kvirt.remote import Result


class FakeStream:
    """Stands for `Stream`; each connection adds itself to ``made``, a list of the test's subclass."""

    made: list[FakeStream]

    def __init__(
        self, access: object, host: str, argv: Sequence[str], *, on_line: Callable[[str, float], None]
    ) -> None:
        self.host, self.argv = host, list(argv)
        self.alive = True
        self.error: BaseException | None = None
        self.result: Result | None = None
        self._on_line = on_line
        self.made.append(self)

    def request(self) -> dict[str, Any]:
        """The host agent's request that the command carries."""
        (request,) = json.loads(self.argv[-1])["requests"]
        found: dict[str, Any] = request
        return found

    def send(self, text: str, file: str = "/var/lib/g5kvirt/access.log", offset: int = 1) -> None:
        """A line of a followed log arrives."""
        self._on_line(json.dumps({"file": file, "offset": offset, "piece": 7, "line": text}), 0.0)

    def break_off(self, reason: str) -> None:
        """The connection ends."""
        self.alive = False
        self.result = Result(self.host, False, 255, b"", b"", 0.0, 1.0, reason=reason)

    def close(self) -> None:
        """The code lets go of it."""
        self.alive = False


def fake_stream() -> type[FakeStream]:
    """A class of streams with a list of its own."""

    class Fake(FakeStream):
        pass

    Fake.made = []
    return Fake
