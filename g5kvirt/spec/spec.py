"""The specification of an experiment: one `Spec`, checked when it is made, before anything is touched.

Every check raises `SpecError` with one sentence. What needs the testbed's inventory (unknown sites,
more hosts than exist, more VMs than fit) is checked by `g5kvirt.planning.checks`.

The constructor of `Spec` is written out because ``sites`` and ``hosts`` are derived from each other, and
because it takes more types than the fields have: a walltime as text, parts as dictionaries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Never, Self

from g5kvirt.errors import SpecError
from g5kvirt.spec.clock import MIN_WALLTIME, format_walltime, parse_start, parse_walltime, start_seconds
from g5kvirt.spec.environment_name import environment_name
from g5kvirt.spec.fields import (
    check_fields,
    checked_by,
    choice,
    keys,
    optional,
    part,
    seconds,
    store,
    suggest,
    text,
    whole,
    word,
    wrong,
)
from g5kvirt.spec.groups import (
    MAX_MIB,
    MAX_VMS,
    Group,
    Kind,
    VMSpec,
    average,
    check_memory,
    read_vms,
    scaled,
)
from g5kvirt.spec.links import Link, check_ends, read_links
from g5kvirt.spec.shown import short_repr
from g5kvirt.spec.sites import MAX_HOSTS, read_clusters, read_sites
from g5kvirt.spec.yaml_files import load_yaml

__all__ = [
    "JOB_TYPES",
    "MAX_VMS",
    "MIN_WALLTIME",
    "CapacityRule",
    "Group",
    "Kadeploy3",
    "Link",
    "Spec",
    "Timeouts",
    "VMSpec",
    "Windows",
    "format_walltime",
    "parse_walltime",
    "suggest",
]

_SOURCE = re.compile(r"(deb( \[[^\]\r\n]{1,200}\])? \S{1,500}( \S{1,100}){1,20})?")
_SOURCE_EXAMPLE = "a line of sources.list such as 'deb [trusted=yes] http://packages.example/kadeploy ./'"
#: OAR's types of jobs that may be requested; ``deploy`` is always one of a run's job.
JOB_TYPES = ("exotic", "day", "night", "destructive")
_CHOICES = {
    "guest": ("vm", "light"),
    "netboot": ("http", "tftp"),
    "boot": ("rom", "iso"),
    "provisioner": ("g5kvirt", "kadeploy3"),
}
#: What a filter on OAR's properties may hold: it is written into a command between double quotes.
_FILTER = re.compile(r"(?=.*[^ ])[A-Za-z0-9_ .,'=<>!()%+*/:-]+")


@dataclass(frozen=True, kw_only=True)
class CapacityRule:
    """How many VMs a host may carry; the defaults are from the 2013 experiment.

    ``rule`` names the function in `g5kvirt.planning.capacity`. ``"2013"`` is
    min(max_per_host, per_core × cores, (MemTotal − host_reserve) / (disk + memory of a VM)); in 2013
    a VM took 350 MB of memory and 564 MB of disk, here its own `VMSpec` counts.
    """

    rule: str = field(default="2013", metadata=checked_by(word))
    #: VMs per host at most; the 2013 slides show 2 to 16
    max_per_host: int = field(default=18, metadata=checked_by(whole, 1, MAX_VMS))
    #: VMs per core of the host
    per_core: int = field(default=2, metadata=checked_by(whole, 1, MAX_VMS))
    #: MiB of memory reserved for the host itself
    host_reserve: int = field(default=1024, metadata=checked_by(whole, 0, MAX_MIB, "MiB"))

    def __post_init__(self) -> None:
        check_fields(self, "capacity")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How many VMs are launched, rebooted and checked at once.

    With a ``sleep`` of None, a slot is held until its VM is up (for a check: until it is answered). With a
    number it is a rate limit, like Kadeploy3's reboot window (50 VMs and 10 s by default there): as many VMs
    as the window's size are started, then ``sleep`` seconds pass, then the next ones are started. Reboots of
    a deployment use the values of the launch unless ``reboot`` or ``reboot_sleep`` is given.
    """

    #: None: chosen from what the hosts report about themselves
    boot: int | None = field(default=None, metadata=checked_by(whole, 1, MAX_VMS))
    #: seconds
    sleep: float | None = field(default=None, metadata=checked_by(seconds, 0))
    #: None: as many as for boots
    reboot: int | None = field(default=None, metadata=checked_by(whole, 1, MAX_VMS))
    #: seconds
    reboot_sleep: float | None = field(default=None, metadata=checked_by(seconds, 0))
    #: deployed VMs that are reached at once, each by an ssh from here; None: chosen from this machine's cores
    check: int | None = field(default=None, metadata=checked_by(whole, 1, MAX_VMS))
    #: seconds
    check_sleep: float | None = field(default=None, metadata=checked_by(seconds, 0))

    def __post_init__(self) -> None:
        check_fields(self, "windows")


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Timeouts in seconds; generous, because emulated guests on a busy machine are slow."""

    #: until all jobs run, after their start time
    reserve: float = field(default=900, metadata=checked_by(seconds, 1))
    #: until the host environment is up
    deploy: float = field(default=1800, metadata=checked_by(seconds, 1))
    #: one command on all hosts
    command: float = field(default=120, metadata=checked_by(seconds, 1))
    #: until a service answers
    services: float = field(default=60, metadata=checked_by(seconds, 1))
    #: from power-on to the minimal system; None: scales with the load
    boot: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: power-ons of a VM before it is given up
    boot_attempts: int = field(default=3, metadata=checked_by(whole, 1, 100))
    #: tries of a netboot to fetch kernel and initrd, after which it starts over; iPXE's own scripts try once
    netboot_attempts: int = field(default=8, metadata=checked_by(whole, 1, 100))
    #: one attempt of this macro-step, and at least so long each of its steps; None: from measurements
    set_deployment_env: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: likewise
    broadcast_env: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: likewise
    boot_new_env: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: further attempts of a macro-step before a VM is given up
    deployment_retries: int = field(default=1, metadata=checked_by(whole, 0, 100))

    def __post_init__(self) -> None:
        check_fields(self, "timeouts")

    @property
    def macro_steps(self) -> dict[str, float]:
        """Macro-step → seconds for one try, where that is bounded."""
        bounds = {
            "SetDeploymentEnv": self.set_deployment_env,
            "BroadcastEnv": self.broadcast_env,
            "BootNewEnv": self.boot_new_env,
        }
        return {macro: bound for macro, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, kw_only=True)
class Kadeploy3:
    """What ``provisioner="kadeploy3"`` needs in addition."""

    #: a line of sources.list for a repository with the packages kadeploy and kadeploy-client, which Debian
    #: lacks: ``"deb [trusted=yes] http://packages.example/kadeploy ./"``; "" if the machines know one
    repository: str = field(default="", metadata=checked_by(text, _SOURCE, _SOURCE_EXAMPLE, 4000))

    def __post_init__(self) -> None:
        check_fields(self, "kadeploy3")


@dataclass(frozen=True, kw_only=True, init=False)
class Spec:
    """The specification of an experiment. Its parts may be given as plain dictionaries.

    Raises SpecError with one sentence if a value cannot be read or makes no sense.
    """

    sites: Mapping[str, int]  #: hosts that carry VMs, per site; empty until the sites are chosen
    vms: int  #: over all sites and groups
    #: the kinds of VMs, where the constructor's ``vms`` is a list of `Group`; their numbers add up to ``vms``
    groups: tuple[Group, ...]
    hosts: int = field(init=False)  #: hosts that carry VMs, over all sites
    site_count: int | None = field(init=False)  #: how many sites to choose; None: as few as possible
    min_hosts: int | None  #: go on if at least so many hosts deployed; None: if the VMs fit
    services: int  #: service machines, in addition to the hosts, spread over the sites
    clusters: Mapping[str, str] | None  #: site → the only cluster to use there
    properties: str | None  #: condition on machines, as for ``oarsub -p``: ``"memnode >= 16384"``
    queue: str | None  #: OAR's queue; None: the site's default
    project: str | None  #: OAR's project for the accounting of the jobs
    #: OAR's types for the jobs, as for ``oarsub -t``, besides ``deploy``: any of ``"exotic"`` (machines that
    #: OAR gives to nobody else), ``"day"`` or ``"night"``, ``"destructive"``
    job_types: tuple[str, ...]
    walltime: int  #: seconds
    start: str  #: ``"now"``, ``"first"`` (first common slot), or a date in Paris: ``"2026-12-01 19:00"``
    host_environment: str  #: Kadeploy3 environment of the machines on each site: name@user:version%arch
    vm: VMSpec  #: the size of every VM, see `VMSpec`
    capacity: CapacityRule  #: how many VMs a host may carry, see `CapacityRule`
    #: how VMs are placed: ``"balanced"`` (each host the same share of its capacity), ``"packed"`` (as few
    #: hosts as possible), ``"round-robin-sites"`` (dealt to the sites in turn), or groups together on hosts
    #: (``"grouped"``) or at sites (``"grouped-sites"``) of their own
    placement: str
    links: tuple[Link, ...]  #: latency, rate and loss between groups or sites, see `Link`
    netboot: Literal["http", "tftp"]  #: how VMs fetch what they boot
    guest: Literal["vm", "light"]  #: a QEMU each, or network namespaces without a kernel of their own
    boot: Literal["rom", "iso"]  #: where VMs have iPXE: in the network card, or on a CD-ROM
    provisioner: Literal["g5kvirt", "kadeploy3"]  #: what deploys the VMs: our own workflow, or a Kadeploy3
    kadeploy3: Kadeploy3  #: more about that Kadeploy3, see `Kadeploy3`
    windows: Windows  #: how many VMs are handled at once, see `Windows`
    timeouts: Timeouts  #: see `Timeouts`
    job_name: str  #: name of the OAR jobs, followed by the run's name

    def __init__(
        self,
        *,
        vms: int | Sequence[Group | Mapping[str, Any]],
        groups: Sequence[Group] = (),
        sites: Mapping[str, int] | int | None = None,
        hosts: int | None = None,
        min_hosts: int | None = None,
        services: int = 1,
        clusters: Mapping[str, str] | None = None,
        properties: str | None = None,
        queue: str | None = None,
        project: str | None = None,
        job_types: Sequence[str] = (),
        walltime: int | str = "1:00:00",
        start: str = "now",
        host_environment: str = "debian12-min",
        vm: VMSpec | Mapping[str, Any] | None = None,
        capacity: CapacityRule | Mapping[str, Any] | None = None,
        placement: str = "balanced",
        links: Sequence[Link | Mapping[str, Any]] = (),
        guest: str = "vm",
        netboot: str = "http",
        boot: str = "rom",
        provisioner: str = "g5kvirt",
        kadeploy3: Kadeploy3 | Mapping[str, Any] | None = None,
        windows: Windows | Mapping[str, Any] | None = None,
        timeouts: Timeouts | Mapping[str, Any] | None = None,
        job_name: str = "g5kvirt",
        **unknown: Never,
    ) -> None:
        keys(unknown, _known_keys(type(self)), "the specification")
        where = read_sites(sites, hosts)
        store(
            self,
            **where._asdict(),
            **read_vms(vms, groups),
            min_hosts=optional(whole, "min_hosts", min_hosts, 1, where.hosts),
            services=whole("services", services, 1, MAX_HOSTS),
            clusters=read_clusters(clusters, where.sites),
            properties=optional(_properties, "properties", properties),
            queue=optional(word, "queue", queue),
            project=optional(word, "project", project),
            job_types=_job_types("job_types", job_types),
            walltime=parse_walltime(walltime),
            start=parse_start(start),
            host_environment=environment_name("host_environment", host_environment),
            vm=part(VMSpec, "vm", vm),
            capacity=part(CapacityRule, "capacity", capacity),
            placement=word("placement", placement),
            links=read_links(links),
            **_choices(guest=guest, netboot=netboot, boot=boot, provisioner=provisioner),
            kadeploy3=part(Kadeploy3, "kadeploy3", kadeploy3),
            windows=part(Windows, "windows", windows),
            timeouts=part(Timeouts, "timeouts", timeouts),
            job_name=word("job_name", job_name),
        )
        self._check_combinations()

    def __repr__(self) -> str:
        return short_repr(self, type(self)(hosts=1, vms=1))

    def _check_combinations(self) -> None:
        """Raises SpecError for VMs that cannot boot, unknown ends of links, what a Kadeploy3 cannot do."""
        if self.guest == "vm":  # light guests take what they need
            check_memory(self.kinds)
        if self.sites:  # else when they are selected
            check_ends(self.links, [group.name for group in self.groups], self.sites)
        if (self.provisioner, self.guest) == ("kadeploy3", "light"):
            raise SpecError(
                "Kadeploy3 deploys onto disks, which light guests do not have",
                advice="set guest to 'vm', or provisioner to 'g5kvirt'",
            )
        if (self.provisioner, self.netboot) == ("kadeploy3", "tftp"):
            raise SpecError(
                "Kadeploy3 boots VMs over HTTP only",
                advice="set netboot to 'http', or provisioner to 'g5kvirt'",
            )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The groups with their sizes; without groups, all VMs as one kind without a name."""
        own = tuple(Kind(group.name, group.count, group.size(self.vm)) for group in self.groups)
        return own or (Kind("", self.vms, self.vm),)

    @property
    def average_vm(self) -> VMSpec:
        """The average size of the VMs, rounded up."""
        return average([(kind.vm, kind.count) for kind in self.kinds])

    def size_of(self, group: str) -> VMSpec:
        """The size of the VMs of a group; of VMs without one, ``vm``."""
        return {kind.name: kind.vm for kind in self.kinds}.get(group, self.vm)

    def with_vms(self, vms: int) -> Self:
        """The same with about so many VMs: of each group its share, and at least one."""
        groups = scaled(self.groups, vms)
        return replace(self, vms=sum(group.count for group in groups) if groups else vms, groups=groups)

    @property
    def start_seconds(self) -> float | None:
        """The start in seconds since the epoch; None for "now" and "first"."""
        return start_seconds(self.start)

    def at(self, sites: Mapping[str, int]) -> Self:
        """The same specification on ``sites`` (site → hosts), without clusters of other sites."""
        clusters = {site: cluster for site, cluster in (self.clusters or {}).items() if site in sites}
        return replace(self, sites=sites, clusters=clusters or None)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The spec that ``document`` describes; raises SpecError, also for an unknown key at any depth."""
        keys(document, _known_keys(cls), "the specification")
        if "vms" not in document:
            raise SpecError(
                "the specification has no 'vms'",
                advice="give at least sites and vms, such as sites: {nancy: 2}, vms: 8",
            )
        return cls(**document)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file; raises SpecError if it is missing, unreadable or does not make a spec."""
        document = load_yaml(Path(path))
        try:
            return cls.from_dict(document)
        except SpecError as error:
            raise SpecError(f"{path}: {error.message}", advice=error.advice) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON or YAML; ``Spec.from_dict`` makes the same spec of it."""
        plain = asdict(self)
        count, groups = plain.pop("site_count"), plain.pop("groups")
        plain["links"] = [link.to_plain() for link in self.links]
        if groups:
            plain["vms"] = [{k: v for k, v in group.items() if v is not None} for group in groups]
        plain["sites"] = dict(plain["sites"]) or count
        plain["walltime"] = format_walltime(self.walltime)
        plain["job_types"] = list(self.job_types)
        # a specification without them is written as ever
        return {key: value for key, value in plain.items() if value or key not in ("job_types", "links")}


def _choices(**given: object) -> dict[str, str]:
    """The fields that are one of two words."""
    return {name: choice(name, value, _CHOICES[name]) for name, value in given.items()}


def _known_keys(kind: type[Spec]) -> list[str]:
    """What a specification may say."""
    return [f.name for f in fields(kind) if f.name not in ("site_count", "groups")]


def _job_types(name: str, value: object) -> tuple[str, ...]:
    """Each type once, in the order of `JOB_TYPES`."""
    if value is not None and not isinstance(value, list | tuple):
        wrong(name, f"a list of types such as ['exotic'], out of {', '.join(JOB_TYPES)}", value)
    given = [choice(name, item, JOB_TYPES) for item in value or ()]
    if {"day", "night"} <= set(given):
        raise SpecError(
            "no job can be of both types 'day' and 'night'", advice="leave one of them out of job_types"
        )
    return tuple(kind for kind in JOB_TYPES if kind in given)


def _properties(name: str, value: object) -> str:
    """A condition that can be put between parentheses and double quotes."""
    condition = text(
        name, value, _FILTER, 'a condition on OAR\'s properties such as "memnode >= 16384"'
    ).strip()
    bare = re.sub("'[^']*'", "", condition)
    while (inner := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = inner
    if set(bare) & set("()'"):
        wrong(name, "a condition whose parentheses and quotes are closed", value)
    return condition
