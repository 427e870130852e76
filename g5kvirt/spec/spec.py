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
from g5kvirt.spec.clock import (
    MIN_WALLTIME,
    format_walltime,
    parse_start,
    parse_walltime,
    start_seconds,
)
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
from g5kvirt.spec.job_options import check_type_walltime, job_properties, job_types_of
from g5kvirt.spec.links import Link, check_ends, read_links
from g5kvirt.spec.shown import short_repr
from g5kvirt.spec.sites import MAX_HOSTS, read_clusters, read_sites
from g5kvirt.spec.yaml_files import load_yaml

__all__ = [
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
_CHOICES = {
    "guest": ("vm", "light"),
    "netboot": ("http", "tftp"),
    "boot": ("rom", "iso"),
    "provisioner": ("g5kvirt", "kadeploy3"),
}


@dataclass(frozen=True, kw_only=True)
class CapacityRule:
    """How many VMs a host may carry; the defaults are from the 2013 experiment.

    The rule ``"2013"`` is min(max_per_host, per_core × cores, (MemTotal − host_reserve) / (memory + disk of a
    VM)). In 2013 a VM took 350 MB of memory and 564 MB of disk; here the sizes in `VMSpec` are used.
    """

    #: name of the rule: ``"2013"``, or a function registered in `g5kvirt.planning.capacity`
    rule: str = field(default="2013", metadata=checked_by(word))
    #: maximum number of VMs per host; the 2013 slides show 2 to 16
    max_per_host: int = field(default=18, metadata=checked_by(whole, 1, MAX_VMS))
    #: maximum number of VMs per core of the host
    per_core: int = field(default=2, metadata=checked_by(whole, 1, MAX_VMS))
    #: MiB of memory reserved for the host itself
    host_reserve: int = field(default=1024, metadata=checked_by(whole, 0, MAX_MIB, "MiB"))

    def __post_init__(self) -> None:
        check_fields(self, "capacity")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How many VMs are launched, rebooted and checked at once.

    If ``sleep`` is None, a slot is occupied until its VM is up (for a check: until it is answered). If it is
    a number, the window is a rate limit like Kadeploy3's reboot window (50 VMs and 10 s by default there): a
    batch of the window's size is started, and the next batch ``sleep`` seconds later. Reboots of a deployment
    use the values of the launch unless ``reboot`` or ``reboot_sleep`` is given.
    """

    #: number of VMs that boot at once; None: 4 per core if guests are emulated, 16 with KVM
    boot: int | None = field(default=None, metadata=checked_by(whole, 1, MAX_VMS))
    #: seconds between batches of boots; None: no batches, each slot is reused when its VM is up
    sleep: float | None = field(default=None, metadata=checked_by(seconds, 0))
    #: number of VMs that reboot at once during a deployment; None: as for boots
    reboot: int | None = field(default=None, metadata=checked_by(whole, 1, MAX_VMS))
    #: seconds between batches of reboots; None: as for boots
    reboot_sleep: float | None = field(default=None, metadata=checked_by(seconds, 0))
    #: number of deployed VMs that are checked by ssh at once; None: depends on the number of cores
    check: int | None = field(default=None, metadata=checked_by(whole, 1, MAX_VMS))
    #: seconds between batches of checks; None: no batches
    check_sleep: float | None = field(default=None, metadata=checked_by(seconds, 0))

    def __post_init__(self) -> None:
        check_fields(self, "windows")


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Timeouts and attempts. Defaults are generous, because emulated guests on a busy machine are slow."""

    #: seconds until all jobs run, after their start time
    reserve: float = field(default=900, metadata=checked_by(seconds, 1))
    #: seconds until the host environment is up
    deploy: float = field(default=1800, metadata=checked_by(seconds, 1))
    #: seconds for one command on all hosts
    command: float = field(default=120, metadata=checked_by(seconds, 1))
    #: seconds until a service answers
    services: float = field(default=60, metadata=checked_by(seconds, 1))
    #: seconds from power-on to the minimal system; None: depends on the load
    boot: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: number of power-ons of a VM before it counts as failed
    boot_attempts: int = field(default=3, metadata=checked_by(whole, 1, 100))
    #: number of attempts to fetch kernel and initrd before a netboot starts over (1 in iPXE's own scripts)
    netboot_attempts: int = field(default=8, metadata=checked_by(whole, 1, 100))
    #: seconds for one attempt of SetDeploymentEnv, and at least that for each of its steps; None: automatic
    set_deployment_env: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: seconds for one attempt of BroadcastEnv, as for SetDeploymentEnv
    broadcast_env: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: seconds for one attempt of BootNewEnv, as for SetDeploymentEnv
    boot_new_env: float | None = field(default=None, metadata=checked_by(seconds, 1))
    #: number of further attempts of a macro-step before a VM counts as failed
    deployment_retries: int = field(default=1, metadata=checked_by(whole, 0, 100))

    def __post_init__(self) -> None:
        check_fields(self, "timeouts")

    @property
    def macro_steps(self) -> dict[str, float]:
        """Macro-step → seconds for one attempt; only those that are set."""
        bounds = {
            "SetDeploymentEnv": self.set_deployment_env,
            "BroadcastEnv": self.broadcast_env,
            "BootNewEnv": self.boot_new_env,
        }
        return {macro: bound for macro, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, kw_only=True)
class Kadeploy3:
    """Additional settings of ``provisioner="kadeploy3"``."""

    #: a line of sources.list for a repository with the packages kadeploy and kadeploy-client, which Debian
    #: does not have, such as ``"deb [trusted=yes] http://packages.example/kadeploy ./"``; "" if the host
    #: environment has the packages or can install them
    repository: str = field(default="", metadata=checked_by(text, _SOURCE, _SOURCE_EXAMPLE, 4000))

    def __post_init__(self) -> None:
        check_fields(self, "kadeploy3")


@dataclass(frozen=True, kw_only=True, init=False)
class Spec:
    """The specification of an experiment. Its parts may be given as plain dictionaries.

    Raises SpecError with one sentence if a value is invalid or values contradict each other.
    """

    sites: Mapping[str, int]  #: site → number of hosts; as an argument also a number of sites to choose
    vms: int  #: number of VMs, over all sites and groups; as an argument also a list of `Group`
    groups: tuple[Group, ...]  #: the groups of VMs, if any; their counts add up to ``vms``
    hosts: int = field(init=False)  #: number of hosts for VMs, over all sites
    site_count: int | None = field(init=False)  #: number of sites to choose; None: as few as possible
    min_hosts: int | None  #: continue if at least this many hosts deployed; None: if the VMs fit
    services: int  #: number of service machines, in addition to the hosts, spread over the sites
    clusters: Mapping[str, str] | None  #: site → the only cluster to use there
    properties: str | None  #: condition on the machines, as for ``oarsub -p``: ``"memnode >= 16384"``
    queue: str | None  #: OAR queue; None: the site's default
    project: str | None  #: OAR project for the accounting of the jobs
    #: types of the OAR jobs, as for ``oarsub -t``, in addition to ``deploy``: any of ``"exotic"`` (machines
    #: that OAR assigns only to jobs of this type), ``"day"`` or ``"night"`` (the usage policy's times),
    #: ``"destructive"``
    job_types: tuple[str, ...]
    walltime: int  #: seconds; as an argument also ``"1:30:00"`` or ``"1:30"`` (hours and minutes)
    start: str  #: ``"now"``, ``"first"`` (first common slot), or Paris time such as ``"2026-12-01 19:00"``
    host_environment: str  #: Kadeploy3 environment of the machines: a name or ``name@user:version%arch``
    vm: VMSpec  #: size of the VMs: `VMSpec`
    capacity: CapacityRule  #: how many VMs a host may carry: `CapacityRule`
    #: placement strategy: ``"balanced"`` (each host gets the same share of its capacity), ``"packed"`` (as
    #: few hosts as possible), ``"round-robin-sites"`` (sites in turn), ``"grouped"`` (each group together on
    #: hosts without other groups), or ``"grouped-sites"`` (each group at a site without other groups)
    placement: str
    links: tuple[Link, ...]  #: latency, rate and loss between groups or sites: `Link`
    netboot: Literal["http", "tftp"]  #: protocol by which VMs fetch kernel and initrd
    guest: Literal["vm", "light"]  #: QEMU virtual machines, or network namespaces without their own kernel
    boot: Literal["rom", "iso"]  #: where iPXE is: in the network card's ROM, or on a CD-ROM
    provisioner: Literal["g5kvirt", "kadeploy3"]  #: the built-in deployment workflow, or a real Kadeploy3
    kadeploy3: Kadeploy3  #: settings of the Kadeploy3 server: `Kadeploy3`
    windows: Windows  #: how many VMs are handled at once: `Windows`
    timeouts: Timeouts  #: timeouts and numbers of attempts: `Timeouts`
    job_name: str  #: prefix of the names of the OAR jobs; the run's name follows

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
            properties=optional(job_properties, "properties", properties),
            queue=optional(word, "queue", queue),
            project=optional(word, "project", project),
            job_types=job_types_of("job_types", job_types),
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
        """Raises SpecError for tiny VMs, unknown ends of links, and what OAR or Kadeploy3 cannot do."""
        check_type_walltime(self.job_types, self.walltime)
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
        """The groups with their sizes; without groups, one unnamed kind with all VMs."""
        own = tuple(Kind(group.name, group.count, group.size(self.vm)) for group in self.groups)
        return own or (Kind("", self.vms, self.vm),)

    @property
    def average_vm(self) -> VMSpec:
        """The average size of the VMs, rounded up."""
        return average([(kind.vm, kind.count) for kind in self.kinds])

    def size_of(self, group: str) -> VMSpec:
        """The size of the VMs of a group; ``vm`` for VMs without a group."""
        return {kind.name: kind.vm for kind in self.kinds}.get(group, self.vm)

    def with_vms(self, vms: int) -> Self:
        """The same specification with about ``vms`` VMs; groups keep their proportions (at least one VM)."""
        groups = scaled(self.groups, vms)
        return replace(self, vms=sum(group.count for group in groups) if groups else vms, groups=groups)

    @property
    def start_seconds(self) -> float | None:
        """The start in seconds since the epoch; None for "now" and "first"."""
        return start_seconds(self.start)

    def at(self, sites: Mapping[str, int]) -> Self:
        """The same specification with other ``sites`` (site → number of hosts) and only their clusters."""
        clusters = {site: cluster for site, cluster in (self.clusters or {}).items() if site in sites}
        return replace(self, sites=sites, clusters=clusters or None)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Create a spec from plain data. Raises SpecError, also for an unknown key at any level."""
        keys(document, _known_keys(cls), "the specification")
        if "vms" not in document:
            raise SpecError(
                "the specification has no 'vms'",
                advice="give at least sites and vms, such as sites: {nancy: 2}, vms: 8",
            )
        return cls(**document)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file. Raises SpecError if it is missing, unreadable or not a valid specification."""
        document = load_yaml(Path(path))
        try:
            return cls.from_dict(document)
        except SpecError as error:
            raise SpecError(f"{path}: {error.message}", advice=error.advice) from error

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain data for JSON or YAML, the reverse of `from_dict`."""
        plain = asdict(self)
        count, groups = plain.pop("site_count"), plain.pop("groups")
        plain["links"] = [link.to_plain() for link in self.links]
        if groups:
            plain["vms"] = [{k: v for k, v in group.items() if v is not None} for group in groups]
        plain["sites"] = dict(plain["sites"]) or count
        plain["walltime"] = format_walltime(self.walltime)
        plain["job_types"] = list(self.job_types)
        # a specification without them is written as before
        return {key: value for key, value in plain.items() if value or key not in ("job_types", "links")}


def _choices(**given: object) -> dict[str, str]:
    """The fields that are one of two words."""
    return {name: choice(name, value, _CHOICES[name]) for name, value in given.items()}


def _known_keys(kind: type[Spec]) -> list[str]:
    """What a specification may say."""
    return [f.name for f in fields(kind) if f.name not in ("site_count", "groups")]
