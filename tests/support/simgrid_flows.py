"""Transfers in SimGrid: a JSON document from standard input, the end of each one to standard output.

``{"capacities": [bytes/s of each link], "flows": [[links, bytes, start], …]}``. SimGrid's plain max-min
model: without latency, TCP's slow start or cross traffic, which ours leaves out as well. Run by Debian's
python3, for which Debian's package python3-simgrid is made.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from simgrid import Actor, Comm, Engine, LinkInRoute, NetZone, this_actor

OPTIONS = (
    "network/model:CM02",
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "network/weight-S:0",
    "network/latency-factor:0",
    "network/bandwidth-factor:1",
)


def main() -> None:
    """Simulate and print."""
    document: Any = json.load(sys.stdin)
    engine = Engine(["flows", *(f"--cfg={option}" for option in OPTIONS), "--log=root.thres:error"])
    zone = NetZone.create_full_zone("zone")
    links = [
        zone.create_link(f"link-{number}", float(capacity)).set_latency(0).seal()
        for number, capacity in enumerate(document["capacities"])
    ]
    ends = [0.0] * len(document["flows"])

    def send(number: int, source: Any, target: Any, size: float, start: float) -> None:
        this_actor.sleep_until(start)
        Comm.sendto(source, target, int(size))
        ends[number] = Engine.clock

    pairs = []
    for number, (path, _, _) in enumerate(document["flows"]):
        source, target = (zone.create_host(f"{end}-{number}", 1e9) for end in ("from", "to"))
        route = [LinkInRoute(links[link]) for link in path]
        zone.add_route(source.netpoint, target.netpoint, None, None, route, False)
        pairs.append((source, target))
    zone.seal()
    for number, (_, size, start) in enumerate(document["flows"]):
        Actor.create(f"flow-{number}", pairs[number][0], send, number, *pairs[number], size, start)
    engine.run()
    json.dump(ends, sys.stdout)


if __name__ == "__main__":
    main()
