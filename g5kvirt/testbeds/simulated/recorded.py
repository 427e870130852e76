"""The machines of a run, for a prediction on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from g5kvirt.errors import RunError
from g5kvirt.inventory import Host
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.spec.fields import show
from g5kvirt.spec.spec import Spec

__all__ = ["inventory_of", "on_given_machines", "shared_cores"]


def shared_cores(document: Mapping[str, Any]) -> int | None:
    """The cores that all machines of a run shared, by its ``run.json``; None: each had its own.

    Raises RunError for what is no number of cores.
    """
    recorded = document.get("recorded")
    cores = document.get("real_cores", recorded.get("cores") if isinstance(recorded, Mapping) else None)
    if cores is not None and (type(cores) is not int or cores < 1):
        raise RunError(
            f"its run.json is damaged: real_cores must be a whole number from 1 on, not {show(cores)}"
        )
    return cores


def inventory_of(hosts: Sequence[Host], name: str) -> Inventory:
    """The machines of a reservation as an inventory."""
    machines: dict[str, list[Machine]] = defaultdict(list)
    for host in hosts:
        machines[host.site].append(Machine(host, virtual=True, deploy=True, kavlan=True, x86=True))
    return Inventory(name, {site: tuple(own) for site, own in machines.items()})


def on_given_machines(spec: Spec) -> Spec:
    """For machines that were reserved: they were chosen by their properties already."""
    return replace(spec, properties=None)
