"""How large a deployment Kadeploy3 is given at once: what its own bookkeeping costs, and into how many parts.

Measured on Kadeploy 3.3 with two cores, steps that do nothing and 4,552 nodes configured: the request for 500
nodes takes 46 s, for 2,000 nodes 187 s (each requested node is looked up among all that are configured); the
workflow around 500, 2,000 and 4,552 nodes then takes 11, 68 and 382 s. `post_seconds` and `own_seconds` are
the curves through these points; the second lies on or above each of them, by 18 % at the most.

Parts run in parallel in one Ruby process, one thread at a time. So requests cost the same altogether
however many there are, and workflows cost the sum of their squares: n² / parts. On the other side each part
broadcasts the image by itself, and all these copies leave through the same link.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from g5kvirt.inventory import VM

__all__ = [
    "BEARABLE",
    "LONGEST_POST",
    "Cost",
    "cost",
    "in_order",
    "own_seconds",
    "parts_for",
    "post_seconds",
    "split",
]

_LOOK_UP = 2.06e-5  # seconds for each node requested × each node configured
_START, _SQUARE = 6.6, 1.85e-5  # seconds for a workflow at all, and for each node²

#: Seconds of its own cost that are taken without a further part.
BEARABLE = 60.0
#: Seconds after which no answer to a request is worth waiting for: Kadeploy3's own client gives up after 260.
LONGEST_POST = 120.0


@dataclass(frozen=True)
class Cost:
    """Seconds that a deployment in parts costs beside what the VMs do."""

    requests: float  #: all requests, one after the other
    longest: float  #: the longest of them
    bookkeeping: float  #: the workflows' own
    copies: float  #: further copies of the image through the head's link

    @property
    def total(self) -> float:
        """Everything, as if nothing overlapped."""
        return self.requests + self.bookkeeping + self.copies


def post_seconds(nodes: int, configured: int) -> float:
    """Seconds until Kadeploy3 answers a request for ``nodes`` of the ``configured`` ones."""
    return _LOOK_UP * nodes * configured


def own_seconds(nodes: int) -> float:
    """Seconds of a whole workflow of ``nodes`` nodes whose steps do nothing."""
    return _START + _SQUARE * nodes * nodes


def cost(nodes: int, configured: int, parts: int, transfer: float) -> Cost:
    """What ``nodes`` VMs in equal ``parts`` cost; ``transfer``: seconds of one copy of the image (bytes × 8 /
    bits per second of the head's link)."""
    each = math.ceil(nodes / parts)
    return Cost(
        requests=post_seconds(nodes, configured),
        longest=post_seconds(each, configured),
        bookkeeping=_START + _SQUARE * nodes * nodes / parts,
        copies=(parts - 1) * transfer,
    )


def parts_for(
    nodes: int,
    configured: int,
    transfer: float = 0.0,
    *,
    bearable: float = BEARABLE,
    longest_post: float = LONGEST_POST,
) -> int:
    """Into how many parts: as few as keep each request below ``longest_post`` and the bookkeeping below
    ``bearable`` seconds; but for the latter never more than pay, since each costs one more ``transfer``.

    Raises ValueError unless there are nodes, all of them configured, and ``bearable`` is more than one empty
    workflow takes.
    """
    if not 0 < nodes <= configured:
        raise ValueError(f"{nodes} of {configured} configured nodes cannot be deployed")
    if bearable <= _START or longest_post <= 0 or transfer < 0:
        raise ValueError(f"bearable must be above {_START} s, longest_post above 0, transfer not below 0")
    for_requests = next(
        (
            k
            for k in range(max(1, math.floor(post_seconds(nodes, configured) / longest_post)), nodes)
            if post_seconds(math.ceil(nodes / k), configured) <= longest_post
        ),
        nodes,
    )
    square = _SQUARE * nodes * nodes
    for_workflows = math.ceil(square / (bearable - _START))
    if transfer:
        # square / k + k × transfer is least where one part more saves less than it costs
        worth = (math.sqrt(1 + 4 * square / transfer) - 1) / 2
        for_workflows = math.ceil(min(worth, for_workflows))
    return min(nodes, max(1, for_requests, for_workflows))


def in_order(vms: Sequence[VM]) -> list[VM]:
    """Site by site, host by host: a chain through them stays inside a host, then inside a site."""
    return sorted(vms, key=lambda vm: (vm.site, vm.host, vm.index))


def split(vms: Sequence[VM], parts: int) -> list[tuple[VM, ...]]:
    """``vms`` in order (`in_order`), in so many parts of about the same size, none of them empty.

    A host's VMs stay together where that moves a cut by no more than a quarter of a part. Raises ValueError
    for fewer VMs than parts.
    """
    if not 0 < parts <= len(vms):
        raise ValueError(f"{len(vms)} VMs cannot be split into {parts} parts")
    ordered = in_order(vms)
    size = len(ordered) / parts
    changes = [i for i in range(1, len(ordered)) if ordered[i].host != ordered[i - 1].host]
    cuts = [0]
    for number in range(1, parts):
        ideal = round(number * size)
        near = [i for i in changes if abs(i - ideal) <= size / 4]
        cut = min(near, key=lambda i: abs(i - ideal), default=ideal)
        cuts.append(min(max(cut, cuts[-1] + 1), len(ordered) - (parts - number)))
    return [tuple(ordered[a:b]) for a, b in pairwise([*cuts, len(ordered)])]
