"""check: the plan of an experiment and its problems, before anything is reserved. Changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from g5kvirt import paths
from g5kvirt.errors import CapacityError, SpecError, TestbedError
from g5kvirt.images import minimal
from g5kvirt.phases.check_environment import check_environment
from g5kvirt.phases.reservation_request import request_for, with_sites
from g5kvirt.planning.forecast import with_selected_sites
from g5kvirt.planning.inventories import Inventory, table
from g5kvirt.planning.links import check_links
from g5kvirt.planning.preflight import (
    Expect,
    Finding,
    Preflight,
    filter_by_properties,
    names,
    preflight,
    refused,
)
from g5kvirt.planning.services import machines_per_site
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import Testbed
from g5kvirt.testbeds.parallel import call_within

__all__ = ["check", "on_table"]

_SELECTION_LIMIT = 120.0  #: seconds to select the sites, which reads their calendars


def check(
    spec: Spec,
    testbed: Testbed,
    runs: Path,
    name: str | None = None,
    *,
    environment: str | None = None,
    folders: Sequence[Path] = (),
    expect: Expect | None = None,
    held: str = "",
) -> Preflight:
    """Check a specification on a testbed. Never raises because of what it finds.

    ``runs`` and ``name``: where the run is kept or would be, and its name (None: by the date).
    ``environment``: what is to be deployed on the VMs, searched for in ``folders``.
    ``expect``: see `preflight`. ``held``: until when the run holds its machines, so that nothing is left to
    request; empty if it holds none.
    """
    here = [*_run_directory(spec, runs, name, keyed=not testbed.simulated), *_minimal_system(testbed)]
    if environment is not None and not testbed.simulated:
        here += check_environment(spec, environment, folders)
    try:
        inventory, answers = testbed.inventory(spec.sites)
    except TestbedError as error:
        advice = error.advice or "start a new process, or restart the kernel"
        unusable = Finding("testbed", "", "problem", "unusable", error.message, advice)
        return preflight(spec, None, before=[unusable], after=here)
    spec, selection, inventory = _with_sites(spec, testbed, inventory)
    sites = [site for site in spec.sites if inventory is None or site in inventory.machines]
    findings = [
        *answers,
        *_environment(spec, testbed, sites),
        *_links(spec, testbed),
        *selection,
        *([_held(held)] if held else _request(spec, testbed, inventory)),
    ]
    return preflight(
        spec, inventory, real_cores=testbed.real_cores, expect=expect, before=findings, after=here
    )


def on_table(
    spec: Spec,
    year: str,
    *,
    environment: str | None = None,
    folders: Sequence[Path] = (),
    expect: Expect | None = None,
) -> Preflight:
    """The same on the tables of Grid'5000 of a year, without any testbed. Raises SpecError."""
    inventory = table(year)
    count = sum(map(len, inventory.machines.values()))
    message = f"{inventory.name}: {count:,} machines of {len(inventory.machines)} sites; no testbed was used"
    findings, inventory = filter_by_properties(spec, inventory)
    before = [Finding("inventory", "", "ok", "ok", message), *findings]
    here = [] if environment is None else check_environment(spec, environment, folders)
    return preflight(spec, inventory, expect=expect, before=before, after=here)


def _with_sites(
    spec: Spec, testbed: Testbed, inventory: Inventory | None
) -> tuple[Spec, list[Finding], Inventory | None]:
    """The spec with its sites selected as the experiment would; if that fails, by the inventory alone."""
    if inventory is None:
        return spec, [], None
    findings, inventory = filter_by_properties(spec, inventory)
    if spec.sites:
        return spec, findings, inventory
    answer = call_within(_SELECTION_LIMIT, lambda: with_sites(spec, testbed))
    if isinstance(answer, Spec):
        return answer, findings, inventory
    try:
        selected = with_selected_sites(spec, inventory, emulated=testbed.real_cores is not None)
    except SpecError:  # `preflight` reports it
        return spec, findings, inventory
    if isinstance(answer, SpecError):
        findings.append(refused("sites", "no-selection", answer))
    else:
        message = f"which machines are free is not known ({answer})"
        findings.append(Finding("sites", "", "unknown", "calendar-unknown", message))
    return selected, findings, inventory


def _environment(spec: Spec, testbed: Testbed, sites: Sequence[str]) -> Sequence[Finding]:
    """Can the sites be reached, and can they deploy the host environment?"""
    if sites:
        return testbed.find_environment(spec.host_environment, sites)
    message = "not checked, since the sites are not known yet"
    return [Finding("frontend", "", "unknown", "not-checked", message)]


def _links(spec: Spec, testbed: Testbed) -> Iterator[Finding]:
    """Can the hosts set the links between VMs?"""
    if not spec.links:
        return
    try:
        check_links(spec.links, testbed.netem)
    except SpecError as error:
        yield Finding("links", "", "problem", "no-netem", error.message, error.advice)
        return
    message = f"{len(spec.links)} between {', '.join(map(str, spec.links))}"
    if testbed.netem is None and any(link.needs_netem for link in spec.links):
        message += "; latency and loss need netem in the kernel of the host environment, as Debian's has it"
        yield Finding("links", "", "unknown", "netem-unknown", message)
    else:
        yield Finding("links", "", "ok", "ok", message)


def _held(until: str) -> Finding:
    return Finding("start", "", "ok", "ok", f"the machines of this run are {until}")


def _request(spec: Spec, testbed: Testbed, inventory: Inventory | None) -> Sequence[Finding]:
    """Would the testbed accept the request, and when could it start?"""
    start = spec.start_seconds
    if start is not None and start < time.time():
        message, advice = f"{spec.start} in Paris is in the past", 'give a later one, or "now" or "first"'
        return [Finding("start", "", "problem", "in-the-past", message, advice)]
    known = inventory is not None and spec.sites and not inventory.unanswered
    if not known or any(site not in inventory.machines for site in spec.sites if inventory):
        message = "not checked, since the sites' machines are not known"
        return [
            Finding(what, "", "unknown", "machines-unknown", message) for what in ("usage charter", "start")
        ]
    try:
        request = request_for(spec, "check")
    except CapacityError:  # has a finding of its own; without sub-networks the rest can still be checked
        request = replace(
            request_for(spec.with_vms(1), "check"), machines=machines_per_site(spec), subnetworks={}
        )
    return testbed.preflight(request)


# ---- this side -----------------------------------------------------------------------------------------


def _run_directory(spec: Spec, runs: Path, name: str | None, *, keyed: bool = True) -> list[Finding]:
    """The run's name, its directory, its key; a prediction has none (``keyed``)."""
    run = name or datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d-%H%M%S")
    findings = [names(spec, run)]
    own = runs / run / ("ssh/id_ed25519" if keyed else "run.json")
    if name is not None and own.is_file():
        of = ", with its key" if keyed else ", of this prediction"
        findings.append(Finding("run directory", "", "ok", "ok", f"{runs / run}{of}"))
    elif name is not None and (runs / run).exists():
        message = f"there is already a run {run} in {runs}"
        findings.append(Finding("run directory", "", "problem", "exists", message, "choose another name"))
    else:
        findings += _new_directory(runs)
    target = runs / run if (runs / run).is_dir() else runs
    return findings if _writable(target) else [*findings, _not_writable(target)]


def _minimal_system(testbed: Testbed) -> Iterator[Finding]:
    """Can the system that VMs netboot into be built? This is done with the machines already reserved."""
    if testbed.simulated:
        return
    what = "minimal system"
    if (error := minimal.build_obstacle()) is None:
        yield Finding(what, "", "ok", "ok", "is built already, or apt knows its packages")
        return
    ways = [
        error.advice,
        "start the run from a Debian machine",
        f"copy {paths.cache()} from one where it ran",
    ]
    advice = ", or ".join(way for way in ways if way)
    yield Finding(what, "", "problem", "not-buildable", f"cannot be built here ({error.message})", advice)


def _new_directory(runs: Path) -> Iterator[Finding]:
    yield Finding("run directory", "", "ok", "ok", f"a new one in {runs}")
    if shutil.which("ssh-keygen") is None:
        message = "there is no ssh-keygen here to make the run's key"
        yield Finding("run's key", "", "problem", "no-ssh-keygen", message, "install openssh-client")
    else:
        yield Finding("run's key", "", "ok", "ok", "ssh-keygen is installed to make it")


def _writable(directory: Path) -> bool:
    """Whether something can be created there. If it does not exist, its nearest ancestor decides."""
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _not_writable(directory: Path) -> Finding:
    message = f"{directory} cannot be written"
    return Finding(
        "run directory", "", "problem", "not-writable", message, "choose another directory for runs"
    )
