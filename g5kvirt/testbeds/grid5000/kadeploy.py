"""Deploys hosts with the Kadeploy3 of each site, over execo's connections.

Not with execo_g5k's `Kadeployer` and `deploy`: those read the output of all sites with one parser, which
takes a node's line for success or failure by the heading that any site printed last; the time-out does not
reach the processes; and what a login shell prints counts as Kadeploy3's. So here each site has a client of
its own, with its time-out, and which nodes failed and why is read from what that printed (`answers.py`).
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from g5kvirt.run.printable import printable
from g5kvirt.testbeds.grid5000.frontends import answer_of, start_on_frontend

__all__ = [
    "command_line",
    "deploy",
    "deployed_nodes",
    "listed_nodes",
    "name_in_vlan",
]

_NODE = r"[a-z][a-z0-9-]*-\d+\.[a-z0-9-]+\.grid5000\.fr"
#: A node that failed, as Kadeploy3's client lists them: ``NODE (Macro-micro: reason)``. The reason may be
#: missing, and may hold newlines and parentheses of its own.
_FAILED = re.compile(rf"({_NODE})(?:\s+\((.*))?")
_HEADING = re.compile(r"The \w+ (is successful|failed) on nodes$")
#: What it prints of nodes as soon as they are done: one, or several as ``gros-[1-3,7].nancy.grid5000.fr``.
_DONE = re.compile(r"End of deployment for (\S+(?:, \S+)*) after \d")

#: Numbers of nodes inside the brackets. Of a range that no cluster has, no more are listed.
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)
_LARGEST_CLUSTER = 1000
_LONGEST_REASON = 300

#: Seconds: less is not worth a second try.
_SHORTEST_TRY = 5.0
#: Seconds from the end of a try to the next: a frontend whose sshd is being restarted takes connections again
#: by then.
_BETWEEN_TRIES = 2.0
#: Seconds that a client may take to end after its time-out.
_KILLED_WITHIN = 3.0


def command_line(names: Sequence[str], environment: str, vlan: int | None, key_file: str) -> str:
    """How Kadeploy3's client is called; ``key_file``: the public key, a file in the home on the frontend."""
    words = ["kadeploy3", "-d", "-e", environment]
    words += [] if vlan is None else ["--vlan", str(vlan)]
    words += ["-k", key_file, *(word for name in names for word in ("-m", name))]
    return shlex.join(words)


def deploy(
    nodes: Mapping[str, Sequence[str]],
    command: Callable[[Sequence[str]], str],
    *,
    tries: int,
    timeout: float,
) -> dict[str, str]:
    """Deploy ``nodes`` (site → names) on all sites at once; those that fail once more, up to ``tries`` times.

    ``command``: the command line for some nodes of a site. Returns the nodes that were not deployed, each
    with the reason. All tries together take at most ``timeout`` seconds; of a site whose client is killed
    then, those that it had reported as done count as deployed: one machine that hangs does not affect the
    others. Whatever happens, no client is left running.
    """
    left = {site: list(names) for site, names in nodes.items()}
    failed: dict[str, str] = {}
    deadline = time.monotonic() + timeout
    for number in range(tries):
        left = {site: names for site, names in left.items() if names}
        pause = _BETWEEN_TRIES if number else 0.0
        seconds = deadline - time.monotonic() - pause
        if not left or (number and seconds < _SHORTEST_TRY):
            break
        time.sleep(pause)
        clients: dict[str, Any] = {}
        try:
            for site, names in left.items():
                clients[site] = start_on_frontend(site, command(names), seconds, live=True)
            for client in clients.values():
                client.wait(max(0.1, deadline + _KILLED_WITHIN - time.monotonic()))
        finally:
            _end(clients.values())
        for site, client in clients.items():
            done, reasons = _results(client, left[site], timeout)
            left[site] = [name for name in left[site] if name not in done]
            failed = {name: reason for name, reason in failed.items() if name not in done}
            failed |= {name: reasons[name] for name in left[site]}
    return failed


def name_in_vlan(name: str, vlan: int | None) -> str:
    """The name of a machine inside a KaVLAN; its own for None."""
    if vlan is None:
        return name
    from execo_g5k import get_kavlan_host_name

    return str(get_kavlan_host_name(name, vlan))


def _end(clients: Any) -> None:
    """Kill the clients that still run after an interrupt; the frontends then end their deployments."""
    running = [client for client in clients if client.running]
    for client in running:
        client.kill()
    deadline = time.monotonic() + 5
    for client in running:
        client.wait(timeout=max(0.1, deadline - time.monotonic()))


def _results(client: Any, names: Sequence[str], timeout: float) -> tuple[set[str], dict[str, str]]:
    """Which nodes a site's client has deployed, and for each the reason why not, should it not be."""
    answer = answer_of(client)
    done, known = listed_nodes(answer.lines)
    if client.timeouted:  # it had no time for its list
        done |= deployed_nodes(answer.text) - set(known)
        why = f"its site's Kadeploy3 did not finish within {timeout:.0f} s"
    elif answer.code is None:
        why = answer.failure
    else:
        why = answer.last[:200] or "its site's Kadeploy3 gave no reason"
    return done, {name: known.get(name) or why for name in names}


def listed_nodes(lines: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    """The nodes that Kadeploy3's client lists in the end: deployed; failed, each with its reason on one line,
    or ``""``."""
    done: set[str] = set()
    failed: list[tuple[str, list[str]]] = []
    heading = ""
    for line in map(str.strip, lines):
        if found := _HEADING.search(line):
            heading = found[1]
        elif heading == "is successful" and re.fullmatch(_NODE, line):
            done.add(line)
        elif (
            heading == "failed"
            and (node := _FAILED.fullmatch(line))
            # the name alone may be a part of the reason before, and that of a node that was deployed
            and not (node[2] is None and failed and _is_open(failed[-1][1]))
        ):
            failed.append((node[1], [] if node[2] is None else [node[2]]))
        elif heading == "failed" and failed and failed[-1][1]:
            failed[-1][1].append(line)
    reasons = {name: _reason(own) for name, own in failed}
    return done - set(reasons), reasons


def _is_open(reason: Sequence[str]) -> bool:
    """Whether the closing parenthesis of a reason has not come yet."""
    text = "".join(reason)
    return bool(reason) and text.count("(") + 1 > text.count(")")


def deployed_nodes(text: str) -> set[str]:
    """The nodes that Kadeploy3's client has reported as done so far."""
    found: set[str] = set()
    for words in _DONE.findall(text):
        for word in re.findall(r"(?:[^,\s\[]|\[[^\]]*\])+", words):
            head, _, rest = word.partition("[")
            numbers, _, tail = rest.partition("]")
            for part in numbers.split(","):
                if bounds := _RANGE.fullmatch(part):
                    first, last = int(bounds[1]), int(bounds[2] or bounds[1])
                    last = min(last, first + _LARGEST_CLUSTER)
                    found |= {f"{head}{number}{tail}" for number in range(first, last + 1)}
                else:
                    found.add(word)
    return found


def _reason(lines: Sequence[str]) -> str:
    """What stands before the closing parenthesis of a reason; ``lines`` may continue behind it."""
    depth, ends = 1, []
    for number, line in enumerate(lines):
        depth += line.count("(") - line.count(")")
        if line.endswith(")"):
            ends.append(number)
            if depth <= 0:
                break
    # if they never balance, the last that may be it; without any, the list was cut short
    end = ends[-1] if ends else 0
    words = " ".join(lines[: end + 1]).removesuffix(")" if ends else "").split()
    return printable(" ".join(words))[:_LONGEST_REASON]
