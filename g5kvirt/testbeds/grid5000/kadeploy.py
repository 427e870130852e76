"""Deploys hosts with the Kadeploy3 of each site, through execo_g5k's `Kadeployer`.

Not through its `deploy`: that reads the output of all sites with one parser, which takes a node's line for
success or failure by the heading that any site printed last; its time-out does not reach the processes; and
its handlers of output do not get whole lines. So here each site has a `Kadeployer` of its own, with its
time-out, and why a node failed is read from what its site's Kadeploy3 printed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from g5kvirt.testbeds.grid5000.frontends import output_lines

__all__ = ["deploy", "deployed_nodes", "failure_reasons", "name_in_vlan"]

#: A node that failed, as Kadeploy3's client lists them; the reason may be missing.
_FAILED = re.compile(r"^([a-z]+\d*-\d+\.\w+\.grid5000\.fr)(?: \((.*)\))?\s*$")
_HEADING = re.compile(r"(successful|failed) on nodes")
#: What it prints of nodes as soon as they are done: one, or several as ``gros-[1-3,7].nancy.grid5000.fr``.
_DONE = re.compile(r"End of deployment for (\S+(?:, \S+)*) after \d")

#: Seconds: less is not worth a second try.
_SHORTEST_TRY = 5.0
#: Seconds that a client may take to end after its time-out.
_KILLED_WITHIN = 3.0


def deploy(
    nodes: Mapping[str, Sequence[str]], make: Callable[[Sequence[str]], Any], *, tries: int, timeout: float
) -> dict[str, str]:
    """Deploy ``nodes`` (site → names) on all sites at once; those that fail once more, up to ``tries`` times.

    ``make`` makes execo_g5k's Deployment for some nodes of a site. Returns the nodes that were not deployed,
    each with the reason. All tries together take at most ``timeout`` seconds; of a site whose client is
    killed then, those that it had reported as done count as deployed: one machine that hangs does not affect
    the others. Whatever happens, no client is left running.
    """
    from execo_g5k import Kadeployer

    left = {site: list(names) for site, names in nodes.items()}
    failed: dict[str, str] = {}
    deadline = time.monotonic() + timeout
    for number in range(tries):
        seconds = deadline - time.monotonic()
        left = {site: names for site, names in left.items() if names}
        if not left or (number and seconds < _SHORTEST_TRY):
            break
        kadeployers = {site: Kadeployer(make(names)) for site, names in left.items()}
        try:
            for kadeployer in kadeployers.values():
                for process in kadeployer.processes:
                    process.timeout = seconds
                kadeployer.start()
            for kadeployer in kadeployers.values():
                kadeployer.wait(max(0.1, deadline + _KILLED_WITHIN - time.monotonic()))
        finally:
            _end(kadeployers.values())
        for site, kadeployer in kadeployers.items():
            done = set(kadeployer.deployed_hosts) - set(kadeployer.undeployed_hosts)
            for process in kadeployer.processes:
                if process.timeouted:  # it had no time for its list
                    done |= deployed_nodes(process.stdout)
            left[site] = [name for name in left[site] if name not in done]
            failed = {name: reason for name, reason in failed.items() if name not in done}
            failed |= _reasons(kadeployer.processes, left[site], timeout)
    return failed


def name_in_vlan(name: str, vlan: int | None) -> str:
    """The name of a machine inside a KaVLAN; its own for None."""
    if vlan is None:
        return name
    from execo_g5k import get_kavlan_host_name

    return str(get_kavlan_host_name(name, vlan))


def _end(kadeployers: Any) -> None:
    """Kill the clients that still run after an interrupt; the frontends then end their deployments."""
    running = [process for k in kadeployers for process in k.processes if process.running]
    for process in running:
        process.kill()
    deadline = time.monotonic() + 5
    for process in running:
        process.wait(timeout=max(0.1, deadline - time.monotonic()))


def _reasons(processes: Sequence[Any], names: Sequence[str], timeout: float) -> dict[str, str]:
    """The reason of each node that was not deployed, from what its site's Kadeploy3 printed."""
    known: dict[str, str] = {}
    last = ""
    for process in processes:
        known |= failure_reasons(process.stdout)
        lines = output_lines(process)
        last = last or (lines[-1][:200] if lines else "")
        if process.timeouted:
            last = f"its site's Kadeploy3 did not finish within {timeout:.0f} s"
    return {name: known.get(name) or last or "its site's Kadeploy3 gave no reason" for name in names}


def deployed_nodes(text: str) -> set[str]:
    """The nodes that Kadeploy3's client has reported as done so far."""
    found: set[str] = set()
    for words in _DONE.findall(text):
        for word in re.findall(r"(?:[^,\s\[]|\[[^\]]*\])+", words):
            head, _, rest = word.partition("[")
            numbers, _, tail = rest.partition("]")
            for part in numbers.split(","):
                first, _, last = part.partition("-")
                if first.isdecimal() and (last or first).isdecimal():
                    found |= {f"{head}{number}{tail}" for number in range(int(first), int(last or first) + 1)}
                else:
                    found.add(word)
    return found


def failure_reasons(text: str) -> dict[str, str]:
    """The nodes that Kadeploy3's client lists as failed, each with the reason it gives, or ``""``."""
    found: dict[str, str] = {}
    failing = False
    for line in text.splitlines():
        if heading := _HEADING.search(line):
            failing = heading[1] == "failed"
        elif failing and (node := _FAILED.match(line.strip())):
            found[node[1]] = node[2] or ""
    return found
