"""The check of a specification before anything is reserved, as a list of findings. Pure.

`preflight` never raises because of the specification: each problem is a `Finding` with its advice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Literal

from g5kvirt.errors import G5kvirtError, SpecError
from g5kvirt.inventory import MIB
from g5kvirt.planning.addressing import usable_addresses
from g5kvirt.planning.checks import check_names, counted
from g5kvirt.planning.forecast import (
    SMALLEST,
    AddressDemand,
    Forecast,
    PhaseEstimate,
    Plan,
    with_selected_sites,
)
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.planning.properties import matching_machines
from g5kvirt.run.directory import JOB_NAME, job_name
from g5kvirt.spec.clock import format_walltime
from g5kvirt.spec.fields import suggest
from g5kvirt.spec.groups import names_in_words, sizes_in_words
from g5kvirt.spec.spec import Spec

__all__ = [
    "MARGIN",
    "Code",
    "Expect",
    "Finding",
    "Preflight",
    "Status",
    "filter_by_properties",
    "names",
    "preflight",
    "refused",
]

Status = Literal["ok", "warning", "problem", "unknown"]

#: The prediction was calibrated elsewhere: the walltime should be this many times as long.
MARGIN = 2.0

#: Predicts the phases; given to `preflight` by what knows how.
Expect = Callable[[Forecast], Sequence[PhaseEstimate]]


#: What was found, for programs. The code is the kind of problem, ``Finding.what`` the part that was checked.
Code = Literal[
    "ok",  # nothing is wrong; exactly where the status is "ok"
    # the specification
    "invalid",  # it contradicts itself
    "no-selection",  # no set of sites can be selected that meets it
    "in-the-past",  # the start is before now
    "not-evaluated",  # the properties can be evaluated by OAR only
    "no-repository",  # Kadeploy3 is to be installed, but from nowhere
    # what exists
    "unknown-site",
    "unknown-cluster",
    "unknown-environment",  # Kadeploy3 does not have the host environment
    "ambiguous-environment",  # it has several for these machines
    "too-few",  # fewer machines than needed
    "too-small",  # the hosts have no room for the VMs
    "depends-on-machines",  # there is room on some of the machines that OAR may give, not on others
    "unsuitable-machines",  # OAR may assign machines that cannot carry VMs
    "too-large",  # no sub-network of the site is large enough
    "no-vlan",  # the site has no global KaVLAN
    "too-short",  # the walltime, for the expected time
    "too-long",  # the names of the jobs, for OAR
    "breach",  # of the usage charter
    "no-slot",  # the calendars have no slot for the request
    "later",  # everything is free only after the requested start
    # access
    "unusable",  # the testbed from this process, or the host environment by Kadeploy3
    "unreachable",  # the frontend
    "noise",  # the frontend's login shell prints words of its own around every answer
    "key-refused",  # the frontend does not accept the ssh key
    "no-netem",  # links between VMs have a latency or a loss, which the hosts' kernels cannot make
    # this machine
    "exists",  # there is already a run of that name
    "not-writable",  # the directory for runs
    "no-ssh-keygen",  # the run's key cannot be made
    "not-buildable",  # the minimal system
    "small-tables",  # of the kernel, shared by all hosts of a local testbed
    "overflows",  # such a table was full
    # not known
    "no-answer",  # the API did not answer
    "unreadable",  # what it says of a machine makes no sense
    "machines-unknown",
    "properties-unknown",
    "subnetworks-unknown",
    "vlans-unknown",
    "calendar-unknown",  # which machines are free
    "netem-unknown",  # whether the hosts' kernels have it
    "no-estimate",  # how long the run takes
    "not-checked",  # something else has to be known first
    "not-tried",  # the ssh key, since no frontend could be reached
]


@dataclass(frozen=True)
class Finding:
    """The result of one check: ``what`` was checked, of which ``subject`` (a site; "" for the whole)."""

    what: str
    subject: str
    status: Status
    code: Code
    message: str
    advice: str = ""  #: what to do; empty where nothing is to be done


@dataclass(frozen=True)
class Preflight:
    """All findings and the plan; no plan where it is not known what exists."""

    findings: tuple[Finding, ...]
    plan: Plan | None

    @property
    def ok(self) -> bool:
        """True unless a finding is a problem; warnings and unknowns do not count."""
        return all(finding.status != "problem" for finding in self.findings)


def refused(what: str, code: Code, error: G5kvirtError) -> Finding:
    """The finding for an error."""
    return Finding(what, "", "problem", code, error.message, error.advice or "correct the specification")


def preflight(
    spec: Spec,
    inventory: Inventory | None,
    *,
    real_cores: int | None = None,
    expect: Expect | None = None,
    before: Iterable[Finding] = (),
    after: Iterable[Finding] = (),
) -> Preflight:
    """Check ``spec`` as if it were to run on ``inventory`` (None: it is not known what exists).

    ``real_cores``: cores behind all hosts together where these share a machine; guests are emulated there.
    ``expect``: predicts the expected times; may raise `G5kvirtError`.
    ``before`` and ``after``: findings of others, to be listed around these.
    """

    def result(*findings: Finding, plan: Plan | None = None) -> Preflight:
        return Preflight((*before, *findings, *after), plan)

    before, after = tuple(before), tuple(after)
    try:
        check_names(spec)
    except SpecError as error:
        return result(refused("specification", "invalid", error))
    if inventory is None:
        return result(*_not_checked("the testbed's machines are not known", "make sure that the API answers"))
    emulated = real_cores is not None
    try:
        spec = with_selected_sites(spec, inventory, emulated=emulated)
    except SpecError as error:
        return result(refused("sites", "no-selection", error))
    forecast = Forecast(spec, inventory, real_cores)
    findings: list[Finding] = []
    for site in spec.sites:
        findings += [_machines(forecast, site), *_unsuitable(forecast, site), *_states(forecast, site)]
    if missing := [site for site in spec.sites if site in inventory.unanswered]:
        return result(*findings, *_not_checked(f"the machines of {', '.join(missing)} are not known"))
    plan = forecast.plan()
    findings += [_room(forecast), *_min_hosts(forecast)]
    demands = [demand for demand in plan.addresses if demand.site in inventory.machines]
    findings += [_subnetwork(demand, inventory.largest.get(demand.site)) for demand in demands]
    findings += [*_vlan(spec, inventory), *_provisioner(spec)]
    reason = "the VMs do not fit" if plan.vms_per_host is None else "no prediction is available"
    if plan.vms_per_host is not None and expect is not None:
        try:
            plan = replace(plan, expected=tuple(expect(forecast)))
        except G5kvirtError as error:
            reason = error.message
    findings.append(_walltime(spec, plan, reason))
    return result(*findings, plan=plan)


def _not_checked(message: str, advice: str = "") -> Iterator[Finding]:
    """For what can be checked only where the machines of all sites are known."""
    for what in ("room for VMs", "sub-network", "walltime"):
        yield Finding(what, "", "unknown", "machines-unknown", message, advice)


def filter_by_properties(spec: Spec, inventory: Inventory) -> tuple[list[Finding], Inventory]:
    """The inventory with the machines that meet the spec's properties, and a finding if it has any."""
    machines = [m for own in inventory.machines.values() for m in own]
    if spec.properties is None:
        return [], inventory
    if not all(m.properties for m in machines):
        message = f"{spec.properties}: the machines' properties are not known; OAR will evaluate it"
        return [Finding("properties", "", "unknown", "properties-unknown", message)], inventory
    try:
        matching = frozenset(matching_machines([m.resource for m in machines], spec.properties))
    except SpecError as error:
        return [Finding("properties", "", "warning", "not-evaluated", error.message, error.advice)], inventory
    message = f"{spec.properties}: met by {len(matching):,} of {len(machines):,} machines"
    return [Finding("properties", "", "ok", "ok", message)], replace(inventory, matching=matching)


# ---- findings about a site -----------------------------------------------------------------------------


def _machines(forecast: Forecast, site: str) -> Finding:
    """Are there enough that can carry VMs?"""

    def problem(code: Code, message: str, advice: str) -> Finding:
        return Finding("machines", site, "problem", code, message, advice)

    wanted, known = (forecast.spec.clusters or {}).get(site), forecast.inventory.machines
    if site in forecast.inventory.unanswered:
        return Finding("machines", site, "unknown", "machines-unknown", "its machines are not known")
    if site not in known:
        return problem("unknown-site", "there is no such site", suggest(site, known))
    clusters = {m.host.cluster for m in known[site]}
    if wanted is not None and wanted not in clusters:
        return problem("unknown-cluster", f"has no cluster {wanted}", suggest(wanted, clusters))
    fit, needed = forecast.fit[site], forecast.needed[site]
    message = f"{needed:,} needed, {len(fit):,} can carry VMs ({_counts(h.cluster for h in fit)})"
    if len(fit) >= needed:
        return Finding("machines", site, "ok", "ok", message)
    hosts = len(fit) - forecast.services[site]
    advice = f"request at most {hosts} there" if hosts > 0 else "choose another site or cluster"
    return problem("too-few", message + _reasons(forecast, forecast.candidates[site]), advice)


def _unsuitable(forecast: Forecast, site: str) -> Iterator[Finding]:
    """Might OAR give machines that cannot carry VMs?"""
    queue = forecast.spec.queue or "default"
    # Those that OAR itself withholds from such a job do not matter.
    exotic = "exotic" in forecast.spec.job_types
    eligible = [
        m
        for m in forecast.candidates[site]
        if (exotic or not m.exotic) and (m.queues is None or queue in m.queues)
    ]
    bad = sorted({m.host.cluster for m in eligible if forecast.exclusion_reason(m) is not None})
    if bad and forecast.fit[site]:
        message = f"OAR may assign machines that cannot carry VMs{_reasons(forecast, eligible)}"
        excluded = ", ".join(f"'{name}'" for name in bad)
        advice = f'exclude them: properties="cluster not in ({excluded})"'
        yield Finding("clusters", site, "warning", "unsuitable-machines", message, advice)


def _reasons(forecast: Forecast, machines: Iterable[Machine]) -> str:
    """``: sagittaire 6 cannot virtualize``, for the machines that cannot carry VMs."""
    found: dict[str, Counter[str]] = {}
    for machine in machines:
        if (reason := forecast.exclusion_reason(machine)) is not None:
            found.setdefault(reason, Counter())[machine.host.cluster] += 1
    parts = [f"{_counts(own.elements(), 4)} {reason}" for reason, own in found.items()]
    return f": {'; '.join(parts)}" if parts else ""


def _states(forecast: Forecast, site: str) -> Iterator[Finding]:
    """Are enough of them up now? Nothing where OAR's states are not known."""
    fit = set(forecast.fit[site])
    states = Counter(m.state for m in forecast.candidates[site] if m.host in fit and m.state is not None)
    if not states or len(fit) < forecast.needed[site]:
        return
    alive, needed = states.pop("Alive", 0), forecast.needed[site]
    others = ", ".join(f"{number:,} {str(state).lower()}" for state, number in states.most_common())
    message = f"{alive:,} alive{f', {others}' if others else ''}, busy ones included"
    if alive >= needed:
        yield Finding("machines now", site, "ok", "ok", message)
    else:
        advice = "wait for them, or request fewer machines there"
        yield Finding("machines now", site, "warning", "too-few", f"{message}; {needed:,} needed", advice)


def _subnetwork(demand: AddressDemand, largest: int | None) -> Finding:
    """Can the site give a sub-network that is large enough?"""
    what, site = "sub-network", demand.site
    message = f"{demand.addresses:,} addresses, {counted(demand.vms, 'VM')} expected there"
    if demand.prefix is None:
        advice = "request fewer VMs: OAR gives no sub-network larger than a /16"
        return Finding(what, site, "problem", "too-large", f"{message}: no sub-network is that large", advice)
    message = f"{message}: slash_{demand.prefix}, with {usable_addresses(IPv4Network((0, demand.prefix))):,}"
    if largest is None:
        message += "; the site's sub-networks are not known"
        return Finding(what, site, "unknown", "subnetworks-unknown", message)
    if largest > demand.prefix:
        advice = "request fewer VMs, or other sites"
        message += f"; the largest there is a /{largest}"
        return Finding(what, site, "problem", "too-large", message, advice)
    return Finding(what, site, "ok", "ok", message)


def _vlan(spec: Spec, inventory: Inventory) -> Iterator[Finding]:
    """Does the first site have a global KaVLAN? It has to give the one of the run."""
    site = next(iter(spec.sites))
    number = inventory.vlans.get(site)
    if number is None:
        message = "whether it has a global KaVLAN is not known"
        yield Finding("KaVLAN", site, "unknown", "vlans-unknown", message)
    elif number:
        yield Finding("KaVLAN", site, "ok", "ok", "has a global KaVLAN, which may be in use")
    else:
        others = sorted(name for name, n in inventory.vlans.items() if n)
        advice = f"put a site first that has one: {', '.join(others)}" if others else "ask the site"
        yield Finding("KaVLAN", site, "problem", "no-vlan", "has no global KaVLAN", advice)


# ---- findings about the whole --------------------------------------------------------------------------


def _room(forecast: Forecast) -> Finding:
    """Do the VMs fit, with their memory and disks, on the hosts that OAR may give?"""
    spec, (least, most) = forecast.spec, forecast.room
    message = f"{counted(spec.vms, 'VM')} {sizes_in_words(spec.kinds)} on {counted(spec.hosts, 'host')}"
    message += ", with room for"
    if spec.vms > most:
        advice = f"request at most {most:,} VMs, smaller ones, or more hosts"
        return Finding("room for VMs", "", "problem", "too-small", f"{message} at most {most:,}", advice)
    if forecast.misfit:
        advice = "request fewer or smaller VMs, or more hosts"
        return Finding("room for VMs", "", "problem", "too-small", forecast.misfit, advice)
    if spec.vms > least:
        message += f" {most:,} if OAR assigns the machines with the most room, {least:,} with the least"
        advice = "name clusters with enough room, or request more hosts"
        return Finding("room for VMs", "", "warning", "depends-on-machines", message, advice)
    disks = -(-spec.vms // spec.hosts) * spec.average_vm.disk * MIB / 2**30
    message += f" at least {least:,}; their disks take about {disks:.1f} GiB of a host's memory"
    return Finding("room for VMs", "", "ok", "ok", message)


def _min_hosts(forecast: Forecast) -> Iterator[Finding]:
    """Could the fewest hosts with which the run may continue carry the VMs?"""
    spec = forecast.spec
    if spec.min_hosts is None or spec.min_hosts == spec.hosts:
        return
    most = forecast.most_on(spec.min_hosts)
    if most < spec.vms:
        message = (
            f"{counted(spec.min_hosts, 'host')} would have room for at most {most:,} of {spec.vms:,} VMs"
        )
        advice = "increase min_hosts: with so few hosts the run would fail anyway"
        yield Finding("min_hosts", "", "warning", "too-small", message, advice)


def _provisioner(spec: Spec) -> Iterator[Finding]:
    """Can Kadeploy3's packages be installed?"""
    if spec.provisioner == "kadeploy3" and not spec.kadeploy3.repository:
        message = "Debian has no packages of Kadeploy3, and no other repository is given"
        advice = "set kadeploy3.repository to a line of sources.list, unless the host environment has one"
        yield Finding("provisioner", "", "warning", "no-repository", message, advice)


def _walltime(spec: Spec, plan: Plan, reason: str) -> Finding:
    """Is the walltime long enough? ``reason``: why no time is expected, if there is none."""
    if not plan.expected:
        message = f"the expected time is not known: {reason}"
        return Finding("walltime", "", "unknown", "no-estimate", message)
    message = (
        f"expected: about {_clock(plan.seconds)} of {format_walltime(spec.walltime)}, "
        f"up to the end of one deployment of {SMALLEST[spec.guest]} on all VMs; "
        f"{plan.expected[0].why}"
    )
    advice = f'request more, such as walltime="{_clock(MARGIN * plan.seconds)}"'
    if plan.seconds > spec.walltime:
        return Finding("walltime", "", "problem", "too-short", message, advice)
    if plan.seconds * MARGIN > spec.walltime:
        message += ", and may be off by a factor of two"
        return Finding("walltime", "", "warning", "too-short", message, advice)
    return Finding("walltime", "", "ok", "ok", message)


def names(spec: Spec, run: str) -> Finding:
    """Are the names of the jobs short enough for OAR, so that it can find them again?"""
    length = len(job_name(spec.job_name, run))
    if length <= JOB_NAME:
        message = f"run {run}, jobs {spec.job_name}-{run}-…, VMs {names_in_words(spec.kinds)}"
        return Finding("names", "", "ok", "ok", message)
    message = f"the jobs' names would have {length} characters, but OAR keeps only {JOB_NAME}"
    return Finding("names", "", "problem", "too-long", message, "choose a shorter run name or job_name")


def _clock(seconds: float) -> str:
    """Whole minutes from ten minutes on, rounded up."""
    step = 60 if seconds >= 600 else 1
    return format_walltime(-(-int(seconds + 0.999) // step) * step)


def _counts(words: Iterable[str], limit: int = 6) -> str:
    """``graphene 144, griffon 92``."""
    found = Counter(words).most_common()
    more = f" and {len(found) - limit} more clusters" if len(found) > limit else ""
    return ", ".join(f"{word} {number}" for word, number in found[:limit]) + more or "none"
