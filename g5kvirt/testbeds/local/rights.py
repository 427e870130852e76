"""Who may do what to which node, as the frontends' commands and the REST API decide it.

Two small protocols stand for the rest of the testbed: `Jobs`, what OAR knows of a site, and `Machines`,
the physical side. `g5kvirt.testbeds.local.oardb.Database` and `g5kvirt.testbeds.local.machines.Machines`
are the real ones; tests use others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from g5kvirt.errors import G5kvirtError, TestbedError
from g5kvirt.testbeds.local.model import Description, Node
from g5kvirt.testbeds.local.oardb import Job

__all__ = [
    "Jobs",
    "Machines",
    "RefusedError",
    "deployable",
    "each",
    "move",
    "node_called",
    "target_vlan",
]

_INTERFACE = re.compile(r"([a-z]+[0-9]*-[1-9][0-9]*)-eth0(\..+)?")
_AT_ONCE = 32  #: nodes that one command works on side by side
_RUNNING = ("Running",)

T = TypeVar("T")


class Machines(Protocol):
    """The physical side of the testbed. Each method raises `G5kvirtError` or `OSError` on failure."""

    def deploy(self, node: Node, environment: str, vlan: int | None, authorized_keys: str) -> None:
        """Give the node back clean, in the vlan (None: production), with these keys; returns with sshd up."""

    def set_vlan(self, node: Node, vlan: int | None) -> None:
        """Plug the node into the vlan (None: production) and touch nothing else of it."""


class Jobs(Protocol):
    """What is asked of a site's database here."""

    def jobs(self, states: Iterable[str] | None = ..., user: str | None = ...) -> list[Job]:
        """Jobs in these states, of that user if one is given."""

    def job(self, job: int) -> Job | None:
        """The job with that id."""


class RefusedError(TestbedError):
    """The testbed's answer to a request is no; the sentence is meant for the one who asked."""


def deployable(database: Jobs, user: str) -> set[str]:
    """Names of the nodes that ``user`` may deploy or move now."""
    return {node for job in database.jobs(_RUNNING, user) if job.deploy for node in job.held.nodes}


def target_vlan(
    description: Description, site: str, word: str, user: str, database: Callable[[str], Jobs]
) -> int | None:
    """The vlan that ``word`` names, None for ``DEFAULT``.

    :raises RefusedError: there is no such vlan here, or no running job of the user holds it.
    """
    if word.upper() == "DEFAULT":
        return None
    try:
        vlan = description.vlan(site, int(word))
    except (ValueError, KeyError):
        known = ", ".join(str(v.id) for v in description.vlans_of(site))
        raise RefusedError(f"Invalid VLAN: {site} has no vlan {word}; known are DEFAULT, {known}") from None
    where = database(vlan.site)  # who holds a vlan is known where OAR gives it out
    if vlan.id not in {held for job in where.jobs(_RUNNING, user) for held in job.held.vlans}:
        raise RefusedError(f"Invalid VLAN: vlan {word} is in no running job of {user} on {vlan.site}")
    return vlan.id


def each(items: Sequence[T], action: Callable[[T], None]) -> list[str | None]:
    """Do ``action`` to all items side by side; None or the reason of its failure for each, in order."""

    def attempt(item: T) -> str | None:
        try:
            action(item)
        except (G5kvirtError, OSError) as error:
            return str(error) or type(error).__name__
        return None

    if not items:
        return []
    with ThreadPoolExecutor(min(_AT_ONCE, len(items))) as pool:
        return list(pool.map(attempt, items))


def move(
    description: Description,
    site: str,
    names: Sequence[str],
    vlan: int | None,
    allowed: set[str],
    machines: Machines,
) -> dict[str, str | None]:
    """Plug the first interface of these nodes of ``site`` into a vlan; None or what went wrong, by name."""
    found: dict[str, str | None] = {}
    nodes: dict[str, Node] = {}
    for name in dict.fromkeys(names):
        try:
            nodes[name] = node_called(description, site, name)
        except KeyError:
            found[name] = f"{name} is no interface of a node of {site} that can change its vlan"
            continue
        if nodes[name].fqdn not in allowed:
            found[name] = f"{nodes.pop(name).fqdn} is in no running deploy job of yours"
    moved = list(nodes)
    found |= dict(zip(moved, each(moved, lambda name: machines.set_vlan(nodes[name], vlan)), strict=True))
    return {name: found[name] for name in dict.fromkeys(names)}


def node_called(description: Description, site: str, name: str) -> Node:
    """The site's node of that name: fully qualified, short, or its interface's (``graphene-1-eth0…``).

    :raises KeyError: there is none on this site.
    """
    if match := _INTERFACE.fullmatch(name):
        name = match[1] + (match[2] or "")
    if "." not in name:
        name = f"{name}.{description.site(site).fqdn}"
    node = description.node(name)
    if node.site != site or node.fqdn != name:
        raise KeyError(name)
    return node
