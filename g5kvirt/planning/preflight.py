"""What is wrong with an experiment before anything is reserved: one row a question. Pure.

`preflight` never raises for what is asked: whatever is wrong becomes a `Row` with what to do about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Literal

from g5kvirt.errors import SpecError
from g5kvirt.inventory import MIB
from g5kvirt.planning.addressing import usable_addresses
from g5kvirt.planning.checks import check_names, check_vm
from g5kvirt.planning.forecast import Bill, Forecast, Plan, chosen
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.run.directory import JOB_NAME, job_name
from g5kvirt.spec.clock import format_walltime
from g5kvirt.spec.fields import suggest
from g5kvirt.spec.spec import Spec

__all__ = ["MARGIN", "Preflight", "Row", "State", "advice", "names", "preflight"]

State = Literal["ok", "warning", "problem", "unknown"]

#: A model that was never calibrated on the testbed asks for so many times the walltime that it expects.
MARGIN = 2.0


@dataclass(frozen=True)
class Row:
    """One thing that was looked at: ``what`` of ``subject``, and what to do unless it is ok."""

    what: str
    subject: str
    status: State
    says: str
    todo: str = ""


@dataclass(frozen=True)
class Preflight:
    """All rows and the plan; no plan where nobody says what exists."""

    rows: tuple[Row, ...]
    plan: Plan | None

    @property
    def ok(self) -> bool:
        """True if there is no problem. Warnings, and what nobody could say, are none."""
        return all(row.status != "problem" for row in self.rows)


def preflight(
    spec: Spec,
    inventory: Inventory | None,
    *,
    real_cores: int | None = None,
    before: Iterable[Row] = (),
    after: Iterable[Row] = (),
) -> Preflight:
    """Look at ``spec`` as if it were to run on ``inventory`` (None: nobody says what exists).

    ``real_cores``: cores behind all hosts together where these share a machine; guests are emulated there.
    ``before`` and ``after``: rows that others asked for.
    """

    def ended(*rows: Row, plan: Plan | None = None) -> Preflight:
        return Preflight((*before, *rows, *after), plan)

    before, after = tuple(before), tuple(after)
    try:
        check_names(spec)
        check_vm(spec)
    except SpecError as error:
        return ended(Row("specification", "", "problem", *advice(error)))
    if inventory is None:
        says = "nobody says what the testbed has"
        return ended(*(Row(what, "", "unknown", says, "see to the API first") for what in _LATER))
    rows: list[Row] = []
    emulated = real_cores is not None
    try:
        spec = chosen(spec, inventory, emulated=emulated)
    except SpecError as error:
        return ended(*rows, Row("sites", "", "problem", *advice(error)))
    look = Forecast(spec, inventory, real_cores)
    for site in spec.sites:
        rows += [_machines(look, site), *_strangers(look, site), *_states(look, site)]
    if silent := [site for site in spec.sites if site in inventory.silent]:
        says = f"nobody says what {', '.join(silent)} has"
        return ended(*rows, *(Row(what, "", "unknown", says) for what in _LATER))
    plan = look.plan()
    rows += [_room(look), *_min_hosts(look)]
    bills = [bill for bill in plan.addresses if bill.site in inventory.machines]
    rows += [_subnetwork(bill, inventory.largest.get(bill.site)) for bill in bills]
    rows += [*_vlan(spec, inventory), *_provisioner(spec)]
    rows.append(_walltime(spec, plan))
    return ended(*rows, plan=plan)


#: What can be said only where all sites' machines are known.
_LATER = ("room for VMs", "sub-network", "walltime")


def advice(error: SpecError) -> tuple[str, str]:
    """What an error's sentence says, and what it advises: the part behind the last colon."""
    says, colon, todo = str(error).rpartition(": ")
    return (says, todo) if colon else (todo, "correct the specification")


# ---- rows of a site ------------------------------------------------------------------------------------


def _machines(look: Forecast, site: str) -> Row:
    """Are there enough that can carry VMs?"""
    wanted, known = (look.spec.clusters or {}).get(site), look.inventory.machines
    if site in look.inventory.silent:
        return Row("machines", site, "unknown", "nobody says what it has")
    if site not in known:
        return Row("machines", site, "problem", "there is no such site", suggest(site, known))
    clusters = {m.host.cluster for m in known[site]}
    if wanted is not None and wanted not in clusters:
        return Row("machines", site, "problem", f"has no cluster {wanted}", suggest(wanted, clusters))
    fit, needed = look.fit[site], look.needed[site]
    says = f"{needed:,} needed, {len(fit):,} can carry VMs ({_counts(h.cluster for h in fit)})"
    if len(fit) >= needed:
        return Row("machines", site, "ok", says)
    hosts = len(fit) - look.services[site]
    todo = f"ask for at most {hosts} there" if hosts > 0 else "choose another site or cluster"
    return Row("machines", site, "problem", says + _because(look, look.asked[site]), todo)


def _strangers(look: Forecast, site: str) -> Iterator[Row]:
    """Might OAR give machines that cannot carry VMs?"""
    queue = look.spec.queue or "default"
    # What OAR itself keeps from such a job is no danger.
    open_ = [m for m in look.asked[site] if not m.exotic and (m.queues is None or queue in m.queues)]
    bad = sorted({m.host.cluster for m in open_ if look.why(m) is not None})
    if bad and look.fit[site]:
        says = f"OAR may give machines that cannot carry VMs{_because(look, open_)}"
        excluded = ", ".join(f"'{name}'" for name in bad)
        todo = f'exclude them: properties="cluster not in ({excluded})"'
        yield Row("clusters", site, "warning", says, todo)


def _because(look: Forecast, machines: Iterable[Machine]) -> str:
    found: dict[str, Counter[str]] = {}
    for machine in machines:
        if (why := look.why(machine)) is not None:
            found.setdefault(why, Counter())[machine.host.cluster] += 1
    parts = [f"{_counts(own.elements(), 4)} {why}" for why, own in found.items()]
    return f": {'; '.join(parts)}" if parts else ""


def _states(look: Forecast, site: str) -> Iterator[Row]:
    """Are enough of them there now? Nothing where nobody says."""
    fit = set(look.fit[site])
    words = Counter(m.state for m in look.asked[site] if m.host in fit and m.state is not None)
    if not words or len(fit) < look.needed[site]:
        return
    there, needed = words.pop("Alive", 0), look.needed[site]
    others = ", ".join(f"{number:,} {str(word).lower()}" for word, number in words.most_common())
    says = f"{there:,} alive{f', {others}' if others else ''}, used or not"
    if there >= needed:
        yield Row("machines now", site, "ok", says)
    else:
        todo = "wait for them, or ask for fewer machines there"
        yield Row("machines now", site, "warning", f"{says}; {needed:,} needed", todo)


def _subnetwork(bill: Bill, largest: int | None) -> Row:
    says = f"{bill.addresses:,} addresses, {bill.vms:,} {'VM' if bill.vms == 1 else 'VMs'} expected there"
    if bill.prefix is None:
        todo = "ask for fewer VMs: OAR gives no larger sub-network than a /16"
        return Row("sub-network", bill.site, "problem", f"{says}: no sub-network is that large", todo)
    says = f"{says}: slash_{bill.prefix}, with {usable_addresses(IPv4Network((0, bill.prefix))):,}"
    if largest is None:
        return Row("sub-network", bill.site, "unknown", f"{says}; nobody says what the site has")
    if largest > bill.prefix:
        todo = "ask for fewer VMs, or for other sites"
        return Row("sub-network", bill.site, "problem", f"{says}; the largest there is a /{largest}", todo)
    return Row("sub-network", bill.site, "ok", says)


def _vlan(spec: Spec, inventory: Inventory) -> Iterator[Row]:
    """Which sites have a global KaVLAN of their own? The first that is named has to give it."""
    site = next(iter(spec.sites))
    number = inventory.vlans.get(site)
    if number is None:
        yield Row("KaVLAN", site, "unknown", "nobody says whether it has a global KaVLAN")
    elif number:
        yield Row("KaVLAN", site, "ok", "has a global KaVLAN, used or not")
    else:
        others = [name for name, n in inventory.vlans.items() if n]
        todo = f"name a site first that has one: {', '.join(sorted(others))}" if others else "ask the site"
        yield Row("KaVLAN", site, "problem", "has no global KaVLAN", todo)


# ---- rows of the whole ---------------------------------------------------------------------------------


def _room(look: Forecast) -> Row:
    """Do the VMs fit, with their memory and disks, on the hosts that OAR may give?"""
    spec, (least, most) = look.spec, look.room
    size = f"{spec.vm.memory} MiB memory and {spec.vm.disk} MiB disk"
    says = f"{spec.vms:,} VMs of {size} on {spec.hosts:,} hosts, which carry"
    if spec.vms > most:
        todo = f"ask for at most {most:,} VMs, for smaller ones, or for more hosts"
        return Row("room for VMs", "", "problem", f"{says} {most:,} at most", todo)
    if spec.vms > least:
        says = f"{says} {most:,} if OAR gives the machines with the most room, {least:,} with the least"
        todo = "name clusters with enough room, or ask for more hosts"
        return Row("room for VMs", "", "warning", says, todo)
    disks = -(-spec.vms // spec.hosts) * spec.vm.disk * MIB / 2**30
    says = f"{says} {least:,} at least; their disks take about {disks:.1f} GiB of a host's memory"
    return Row("room for VMs", "", "ok", says)


def _min_hosts(look: Forecast) -> Iterator[Row]:
    """Would the fewest hosts that are good enough carry them?"""
    spec = look.spec
    if spec.min_hosts is None or spec.min_hosts == spec.hosts:
        return
    most = look.most_on(spec.min_hosts)
    if most < spec.vms:
        says = f"{spec.min_hosts:,} hosts carry {most:,} of {spec.vms:,} VMs at most"
        todo = "raise min_hosts: with so few the run would fail all the same"
        yield Row("min_hosts", "", "warning", says, todo)


def _provisioner(spec: Spec) -> Iterator[Row]:
    """Can a Kadeploy3 of one's own be had?"""
    if spec.provisioner == "kadeploy3" and not spec.kadeploy3.repository:
        says = "Debian does not have Kadeploy3's packages, and no other place is named that does"
        todo = "give kadeploy3.repository a line of sources.list, unless the host environment knows one"
        yield Row("provisioner", "", "warning", says, todo)


def _walltime(spec: Spec, plan: Plan) -> Row:
    if plan.a_host is None:
        return Row("walltime", "", "unknown", "no expected time, as the VMs do not fit")
    says = (
        f"expected about {_clock(plan.seconds)} of {format_walltime(spec.walltime)}, "
        "to the end of one deployment of mini on all VMs"
    )
    todo = f'ask for more, such as walltime="{_clock(MARGIN * plan.seconds)}"'
    if plan.seconds > spec.walltime:
        return Row("walltime", "", "problem", says, todo)
    if plan.seconds * MARGIN > spec.walltime:
        return Row("walltime", "", "warning", f"{says}; the estimate may be wrong by half", todo)
    return Row("walltime", "", "ok", says)


def names(spec: Spec, run: str) -> Row:
    """Can the jobs be found again by their name?"""
    length = len(job_name(spec.job_name, run))
    if length <= JOB_NAME:
        says = f"run {run}, jobs {spec.job_name}-{run}-…, VMs vm-1 to vm-{spec.vms}"
        return Row("names", "", "ok", says)
    says = f"a job's name of {length} characters is longer than OAR keeps ({JOB_NAME})"
    return Row("names", "", "problem", says, "choose a shorter name for the run, or a shorter job_name")


def _clock(seconds: float) -> str:
    """Whole minutes from ten minutes on, rounded up."""
    step = 60 if seconds >= 600 else 1
    return format_walltime(-(-int(seconds + 0.999) // step) * step)


def _counts(words: Iterable[str], limit: int = 6) -> str:
    """``graphene 144, griffon 92``."""
    found = Counter(words).most_common()
    more = f" and {len(found) - limit} clusters more" if len(found) > limit else ""
    return ", ".join(f"{word} {number}" for word, number in found[:limit]) + more if found else "none"
