"""Permissions of users on nodes and vlans, for the commands of the frontends and the REST API.

Two small protocols represent the rest of the testbed: `JobReader`, the jobs of a site, and `NodeControl`, its
machines. `g5kvirt.testbeds.local.oardb.Database` and `g5kvirt.testbeds.local.machines.Machines` implement
them; tests use fakes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from g5kvirt.errors import G5kvirtError, TestbedError
from g5kvirt.testbeds.described.model import Description, NodeDescription
from g5kvirt.testbeds.local.oardb import Job

__all__ = [
    "JobReader",
    "NodeControl",
    "RequestRefusedError",
    "deployable",
    "expand",
    "find_node",
    "move",
    "run_parallel",
    "target_vlan",
]

_INTERFACE = re.compile(r"([a-z]+[0-9]*-[1-9][0-9]*)-eth0(\..+)?")
_PARALLEL = 32  #: nodes that one command processes in parallel
_RANGE = re.compile(r"([^\[\]]*)\[([0-9,-]+)\]([^\[\]]*)")
_RUNNING = ("Running",)

T = TypeVar("T")


class NodeControl(Protocol):
    """Control of the nodes. Each method raises `G5kvirtError` or `OSError` on failure."""

    def deploy(self, node: NodeDescription, environment: str, vlan: int | None, authorized_keys: str) -> None:
        """Redeploy the node in the vlan (None: production) with these keys; returns when sshd is up."""

    def set_vlan(self, node: NodeDescription, vlan: int | None) -> None:
        """Move the node to the vlan (None: production) without any other change."""

    def vlan_of(self, node: NodeDescription) -> int | None:
        """The vlan in which the node is; None: production."""

    def set_dhcp(self, site: str, vlan: int, on: bool) -> None:
        """Start or stop the DHCP server of a vlan of the site, or a global one."""


class JobReader(Protocol):
    """Queries on the jobs of a site."""

    def jobs(self, states: Iterable[str], user: str | None = ...) -> list[Job]:
        """Jobs in these states, only those of ``user`` if given."""

    def job(self, job: int) -> Job | None:
        """The job with this id; None if there is none."""


class RequestRefusedError(TestbedError):
    """The testbed rejects a request; the message is for the user who made it."""


def deployable(database: JobReader, user: str) -> set[str]:
    """Names of the nodes that ``user`` may currently deploy or move."""
    return {node for job in database.jobs(_RUNNING, user) if job.deploy for node in job.assigned.nodes}


def target_vlan(
    description: Description, site: str, name: str, user: str, database: Callable[[str], JobReader]
) -> int | None:
    """The vlan with this name, None for ``DEFAULT``.

    :raises RequestRefusedError: the site has no such vlan, or no running job of the user has it.
    """
    if name.upper() == "DEFAULT":
        return None
    try:
        vlan = description.vlan(site, int(name))
    except (ValueError, KeyError):
        valid = ", ".join(str(v.id) for v in description.vlans_of(site))
        raise RequestRefusedError(f"Invalid VLAN: {site} has no vlan {name}; use DEFAULT, {valid}") from None
    owner = database(vlan.site)  # a vlan is allocated by the OAR of the site that owns it
    if vlan.id not in {assigned for job in owner.jobs(_RUNNING, user) for assigned in job.assigned.vlans}:
        raise RequestRefusedError(f"Invalid VLAN: vlan {name} is in no running job of {user} on {vlan.site}")
    return vlan.id


def run_parallel(items: Sequence[T], action: Callable[[T], None]) -> list[str | None]:
    """Run ``action`` on all items in parallel; for each, in order, None or the reason of its failure."""

    def attempt(item: T) -> str | None:
        try:
            action(item)
        except (G5kvirtError, OSError) as error:
            return str(error) or type(error).__name__
        return None

    if not items:
        return []
    with ThreadPoolExecutor(min(_PARALLEL, len(items))) as pool:
        return list(pool.map(attempt, items))


def move(
    description: Description,
    site: str,
    names: Sequence[str],
    vlan: int | None,
    allowed: set[str],
    machines: NodeControl,
) -> dict[str, str | None]:
    """Move the first interface of these nodes of ``site`` to a vlan; name → None or why it failed."""
    results: dict[str, str | None] = {}
    nodes: dict[str, NodeDescription] = {}
    for name in dict.fromkeys(names):
        try:
            nodes[name] = find_node(description, site, name)
        except KeyError:
            results[name] = f"{name} is not an interface of a node of {site} that can change its vlan"
            continue
        if nodes[name].fqdn not in allowed:
            results[name] = f"{nodes.pop(name).fqdn} is not in a running deploy job of yours"
    moved = list(nodes)
    results |= dict(
        zip(moved, run_parallel(moved, lambda name: machines.set_vlan(nodes[name], vlan)), strict=True)
    )
    return {name: results[name] for name in dict.fromkeys(names)}


def expand(patterns: Sequence[str]) -> list[str]:
    """The distinct node names of patterns such as ``graphene-[1-3,7].nancy.grid5000.fr``.

    :raises RequestRefusedError: invalid brackets.
    """
    names: dict[str, None] = {}
    for pattern in patterns:
        if "[" not in pattern and "]" not in pattern:
            names[pattern] = None
            continue
        match = _RANGE.fullmatch(pattern)
        if match is None:
            raise RequestRefusedError(f"Invalid node list: {pattern}")
        for part in match[2].split(","):
            first, dash, last = part.partition("-")
            if (
                not first.isdecimal()
                or (dash and not last.isdecimal())
                or int(last or first) - int(first) > 10**4
            ):
                raise RequestRefusedError(f"Invalid node list: {pattern}")
            for number in range(int(first), int(last or first) + 1):
                names[f"{match[1]}{number}{match[3]}"] = None
    return list(names)


def find_node(description: Description, site: str, name: str) -> NodeDescription:
    """The node of a site by its full name, short name, or interface name (``graphene-1-eth0…``).

    :raises KeyError: the site has no such node.
    """
    if match := _INTERFACE.fullmatch(name):
        name = match[1] + (match[2] or "")
    if "." not in name:
        name = f"{name}.{description.site(site).fqdn}"
    node = description.node(name)
    if node.site != site or node.fqdn != name:
        raise KeyError(name)
    return node
