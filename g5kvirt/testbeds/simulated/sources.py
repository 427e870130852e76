"""Where the machines of a simulated testbed come from: a table, a description, a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from g5kvirt.errors import RunError, SpecError
from g5kvirt.inventory import Host
from g5kvirt.planning.inventories import TABLES, Inventory, table
from g5kvirt.run.directory import Run, locate
from g5kvirt.run.journal import read_events
from g5kvirt.run.state import RunState
from g5kvirt.testbeds.described.description import load
from g5kvirt.testbeds.simulated.recorded import inventory_of, shared_cores

__all__ = ["Source", "calibration_name", "is_source", "source"]


@dataclass(frozen=True)
class Source:
    """Machines, and what a prediction on them starts from."""

    name: str  #: the year of a table, or an absolute path
    inventory: Inventory
    calibration: str = "grid5000"
    real_cores: int | None = None  #: that all of them share; None: each has its own


def source(name: str) -> Source:
    """The machines of a table (``2013``, ``2026``), of a run (a directory), or of a testbed's description.

    That is a YAML file, as for the local testbed; its machines are taken for real ones.

    Raises SpecError.
    """
    if name in TABLES:
        return Source(name, table(name))
    path = _path(name)
    try:
        if (path / "run.json").is_file():
            return _run(path.resolve())
        if path.is_file():
            return _description(path.resolve())
    except OSError as error:
        raise SpecError(f"{name!r} cannot be read: {error.strerror or error}") from error
    raise SpecError(
        f"there is no simulated testbed {name!r}",
        advice=f"use {' or '.join(TABLES)}, a testbed's description (a YAML file), or the directory of a run",
    )


def is_source(name: str) -> bool:
    """Whether there is a file or a run of this name."""
    try:
        return _path(name).is_file() or (_path(name) / "run.json").is_file()
    except OSError:  # it cannot be read, which `source` says
        return False


def _path(name: str) -> Path:
    return Path(os.path.expanduser(name))  # noqa: PTH111  which leaves the ~ of an unknown user as it is


def calibration_name(guest: str, *, shared: bool) -> str:
    """The shipped one for guests of this kind on hosts that share one machine, or on real ones."""
    return {"light": "local-light", "vm": "local-emulated"}[guest] if shared else "grid5000"


def _description(path: Path) -> Source:
    described = load(path)
    hosts = [
        Host(node.fqdn, node.site, node.cluster, node.cores, node.memory, nic_rate=node.nic_rate)
        for node in described.nodes
    ]
    inventory = inventory_of(hosts, f"machines of {path.name}")
    uplinks = {site.name: site.uplink_rate for site in described.sites}
    return Source(str(path), replace(inventory, uplinks=uplinks))


def _run(path: Path) -> Source:
    try:
        run = locate(path.parent, str(path))
        cores = shared_cores(run.document)
        granted = RunState.of(read_events(run.journal)).reservation
    except RunError as error:
        raise SpecError(f"the machines of {path} are unknown: {error.message}") from error
    if granted is None:
        raise SpecError(f"run {path.name!r} has reserved no machines")
    inventory = inventory_of(granted.hosts, f"machines of run {path.name}")
    return Source(str(path), inventory, calibration_name(_guest(run), shared=cores is not None), cores)


def _guest(run: Run) -> str:
    return "light" if run.spec.get("guest") == "light" else "vm"
