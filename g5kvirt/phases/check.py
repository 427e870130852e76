"""check: what would happen, and what is wrong, before anything is reserved. Changes nothing anywhere."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.images import minimal
from g5kvirt.phases.reservation_request import request_for, with_sites
from g5kvirt.planning.forecast import chosen
from g5kvirt.planning.inventories import Inventory, table
from g5kvirt.planning.preflight import Preflight, Row, advice, names, preflight
from g5kvirt.planning.services import machines_per_site
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import Testbed
from g5kvirt.testbeds.grid5000.preflight import (
    API_LIMIT,
    ask_api,
    ask_charter,
    ask_frontends,
    ask_start,
    bounded,
    connect,
    judge_properties,
)

__all__ = ["check", "on_table"]


def check(spec: Spec, testbed: Testbed, runs: Path, name: str | None = None) -> Preflight:
    """Ask the testbed all that can be asked, and judge it. Never raises for what it finds.

    ``runs`` and ``name``: where the run is kept or would be, and what it is called (None: by the date).
    """
    here = [*_here(spec, runs, name), *_guests(testbed)]
    if (reason := connect(testbed)) is not None:
        rows = [Row("testbed", "", "problem", reason, "start a new process, or restart the kernel")]
        return preflight(spec, None, before=rows, after=here)
    rows, inventory = ask_api(testbed, spec.sites)
    spec, more, inventory = _settled(spec, testbed, inventory)
    sites = [site for site in spec.sites if inventory is None or site in inventory.machines]
    if sites:
        rows += ask_frontends(testbed, sites, spec.host_environment)
    else:
        rows.append(Row("frontend", "", "unknown", "nobody knows yet which sites to ask"))
    rows += [*more, *_time(spec, testbed, inventory)]
    return preflight(spec, inventory, real_cores=testbed.real_cores, before=rows, after=here)


def on_table(spec: Spec, year: str) -> Preflight:
    """The same on the tables of Grid'5000 of a year, of which nobody can be asked. Raises SpecError."""
    inventory = table(year)
    count = sum(map(len, inventory.machines.values()))
    says = f"{inventory.name}: {count:,} machines of {len(inventory.machines)} sites; nobody was asked"
    rows, inventory = judge_properties(spec, inventory)
    return preflight(spec, inventory, before=[Row("inventory", "", "ok", says), *rows])


def _settled(
    spec: Spec, testbed: Testbed, inventory: Inventory | None
) -> tuple[Spec, list[Row], Inventory | None]:
    """The spec with its sites chosen as the experiment would; where it would refuse, as far as they exist."""
    if inventory is None:
        return spec, [], None
    rows, inventory = judge_properties(spec, inventory)
    if spec.sites:
        return spec, rows, inventory
    answer = bounded(lambda: with_sites(spec, testbed), API_LIMIT)
    if isinstance(answer, Spec):
        return answer, rows, inventory
    try:
        settled = chosen(spec, inventory, emulated=testbed.real_cores is not None)
    except SpecError:  # `preflight` says why
        return spec, rows, inventory
    if isinstance(answer, SpecError):
        rows.append(Row("sites", "", "problem", *advice(answer)))
    else:
        rows.append(Row("sites", "", "unknown", f"what is free cannot be asked ({answer})"))
    return settled, rows, inventory


def _time(spec: Spec, testbed: Testbed, inventory: Inventory | None) -> Iterator[Row]:
    """Is it allowed then, and is it free then?"""
    now = time.time()
    start = spec.start_seconds
    if start is not None and start < now:
        says = f"{spec.start} in Paris is in the past"
        yield Row("start", "", "problem", says, 'give a later one, or "now" or "first"')
        return
    known = inventory is not None and spec.sites and not inventory.silent
    if not known or any(site not in inventory.machines for site in spec.sites if inventory):
        for what in ("usage charter", "start"):
            yield Row(what, "", "unknown", "nobody says what the sites have")
        return
    try:
        request = request_for(spec, "check")
    except CapacityError:  # a row of its own says so: without sub-networks the rest can be asked all the same
        request = replace(request_for(_single(spec), ""), machines=machines_per_site(spec), subnetworks={})
    if spec.start == "first":
        yield Row("usage charter", "", "ok", "the first slot is looked for within it")
    else:
        yield ask_charter(testbed, request, start or now)
    yield ask_start(testbed, request, now)


def _single(spec: Spec) -> Spec:
    """The same with one VM."""
    return Spec.from_dict({**spec.to_dict(), "vms": 1})


def _here(spec: Spec, runs: Path, name: str | None) -> list[Row]:
    """This side: the run's name, its directory, its key."""
    word = name or datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d-%H%M%S")
    rows = [names(spec, word)]
    key = runs / word / "ssh" / "id_ed25519"
    if name is not None and key.is_file():
        rows.append(Row("run directory", "", "ok", f"{runs / word}, with its key"))
    elif name is not None and (runs / word).exists():
        todo = "choose another name"
        rows.append(Row("run directory", "", "problem", f"there is already a run {word} in {runs}", todo))
    else:
        rows += _to_be_made(runs)
    target = runs / word if (runs / word).is_dir() else runs
    return rows if _writable(target) else [*rows, _unwritable(target)]


def _guests(testbed: Testbed) -> Iterator[Row]:
    """What VMs boot is made on this machine, of Debian packages, when the machines are held already."""
    if testbed.simulated:
        return
    if not (why := minimal.unavailable_reason()):
        yield Row("minimal system", "", "ok", "is there, or its packages are known to apt")
        return
    says, _, advised = why.rpartition(": ")
    todo = f"{advised}, or take the run from a Debian machine, or copy ~/.cache/g5kvirt from one where it ran"
    yield Row("minimal system", "", "problem", f"cannot be made here ({says or why})", todo)


def _to_be_made(runs: Path) -> Iterator[Row]:
    yield Row("run directory", "", "ok", f"a new one in {runs}")
    if shutil.which("ssh-keygen") is None:
        says = "there is no ssh-keygen here to make the run's key"
        yield Row("run's key", "", "problem", says, "install openssh-client")
    else:
        yield Row("run's key", "", "ok", "ssh-keygen is there to make it")


def _writable(directory: Path) -> bool:
    """May something be made there? Where it does not exist, its nearest ancestor decides."""
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _unwritable(directory: Path) -> Row:
    says = f"{directory} cannot be written"
    return Row("run directory", "", "problem", says, "choose another directory for runs")
