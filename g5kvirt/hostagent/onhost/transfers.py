"""The operation on a broadcast that is under way: how far the host's relay and its VMs are."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results


def transfers(request: Record, _home: str) -> Results:
    """What the relay last wrote to its ``state`` file: bytes of the image here, and of each VM's transfer.

    Raises OSError where no relay has reported yet, ValueError for a file that is none of its.
    """
    with open(request["state"], encoding="utf-8") as file:
        record = json.load(file)
    yield (
        request["state"],
        {"have": record["have"], "size": record["size"], "taken": record.get("taken", {}), "t": record["t"]},
    )
