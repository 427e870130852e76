"""The request of the host agent that sets the links of a host's VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from g5kvirt.hostagent.protocol import Request

__all__ = ["links"]


def links(
    ranges: Sequence[tuple[str, str, int]],
    classes: Mapping[int, Sequence[Mapping[str, Any]]],
    vms: Mapping[str, int],
) -> Request:
    """Set the links of a host's VMs, in the place of those that it had; with no ``vms``: none.

    ``ranges``: first and last address of VMs in a row, and their cell; ``classes``: cell → what arrives there
    (``rate`` in bits per second, ``latency`` in seconds, ``loss``, ``from`` which cells); ``vms``: MAC
    address → cell.
    """
    named = {str(cell): list(own) for cell, own in classes.items()}
    return {"op": "links", "ranges": list(map(list, ranges)), "classes": named, "vms": dict(vms)}
