"""What a running job was given: machines, sub-network, KaVLAN, as the commands on its frontend print it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import SubNetwork
from g5kvirt.testbeds.grid5000.answers import unreadable
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend
from g5kvirt.testbeds.parallel import for_each

__all__ = ["Allocation", "allocation", "machine_names", "subnetwork", "vlan_ids"]

T = TypeVar("T")

_MACHINE = re.compile(r"[a-z][a-z0-9-]*\.[a-z][a-z0-9-]*(\.[a-z0-9-]+)+")
_NO_VLAN = re.compile(r"no (ka)?vlan", re.IGNORECASE)


@dataclass(frozen=True)
class Allocation:
    """What a job was given."""

    names: tuple[str, ...]  #: of the machines
    subnetwork: SubNetwork | None
    vlan: int | None


def allocation(site: str, job: int, with_vlan: bool) -> Allocation:
    """What a running job was given. Raises TestbedError if that cannot be read, or has no KaVLAN."""
    number = int(job)
    machines = f"oarstat -pj {number} | oarprint network_address -f - | sort"
    reads: list[Callable[[], object]] = [
        lambda: _read(site, job, machines, "its machines", machine_names),
        lambda: _read(
            site, job, f"g5k-subnets -a -j {number}", "its sub-network", lambda s: subnetwork(site, s)
        ),
    ]
    if with_vlan:
        reads.append(lambda: _read(site, job, f"kavlan -j {number} -V", "its KaVLAN", vlan_ids, failing=True))
    names, network, *more = for_each(lambda read: read(), reads)
    assert isinstance(names, tuple)
    vlans = more[0] if more else ()
    assert isinstance(vlans, tuple)
    if with_vlan and not vlans:
        raise TestbedError(
            f"job {job} at {site} runs, but has no KaVLAN", advice="ask the site, or put another one first"
        )
    return Allocation(
        names, network if isinstance(network, SubNetwork) else None, vlans[0] if vlans else None
    )


def _read(
    site: str,
    job: int,
    command: str,
    what: str,
    parse: Callable[[Sequence[str]], T],
    failing: bool = False,
) -> T:
    """What ``parse`` reads of the lines of a command, whose exit code counts unless it is ``failing``.

    Raises TestbedError with what was printed if ``parse`` raises ValueError.
    """
    answer = run_on_frontend(site, command)
    why = answer.failure
    if answer.ok or (failing and answer.code is not None and answer.lines):
        try:
            return parse([line.strip() for line in answer.lines if line.strip()])
        except ValueError:
            why = unreadable(answer, f"the answer about {what}")
    raise TestbedError(
        f"the resources of job {job} at {site} cannot be read ({why})", advice="call reserve() again"
    )


def machine_names(lines: Sequence[str]) -> tuple[str, ...]:
    """The names that oarprint printed, one on each line. Raises ValueError for anything else, or none."""
    if not lines or not all(_MACHINE.fullmatch(line) for line in lines):
        raise ValueError("it has no machine names")
    return tuple(sorted(set(lines)))


def vlan_ids(lines: Sequence[str]) -> tuple[int, ...]:
    """The ids that ``kavlan -V`` printed; none if it says that the job has no KaVLAN. Raises ValueError."""
    if any(_NO_VLAN.search(line) for line in lines):
        return ()
    if not lines or not all(re.fullmatch("[0-9]{1,4}", line) for line in lines):
        raise ValueError("it has no VLAN ids")
    return tuple(map(int, lines))


def subnetwork(site: str, lines: Sequence[str]) -> SubNetwork | None:
    """The sub-network that ``g5k-subnets -a`` printed; None for no line. Raises ValueError.

    Several parts of one job count as the smallest network that holds them all, without a gateway.
    """
    rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    if any(len(row) < 2 or "/" not in row[0] for row in rows):
        raise ValueError("it has no sub-networks")
    networks = [IPv4Network(row[0]) for row in rows]
    if not networks:
        return None
    low = min(int(network.network_address) for network in networks)
    high = max(int(network.broadcast_address) for network in networks)
    whole = IPv4Network((low, 32)).supernet(new_prefix=32 - (low ^ high).bit_length())
    gateway = IPv4Address(rows[0][3]) if len(rows) == 1 and len(rows[0]) == 7 else None
    return SubNetwork(site, whole, gateway)
