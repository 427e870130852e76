"""What is asked: one `Spec`, checked when it is made, so that errors come before anything is touched.

Every check raises `SpecError` with one sentence. What needs the testbed's inventory (unknown sites,
more hosts than exist, more VMs than fit) is checked by `g5kvirt.planning.checks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from g5kvirt.errors import SpecError
from g5kvirt.inventory import MIB
from g5kvirt.spec import fields as check
from g5kvirt.spec.clock import MIN_WALLTIME, format_walltime, parse_start, parse_walltime, start_seconds
from g5kvirt.spec.fields import near
from g5kvirt.spec.yaml_files import load_yaml

__all__ = [
    "MAX_VMS",
    "MIN_WALLTIME",
    "CapacityRule",
    "Kadeploy3",
    "Spec",
    "Timeouts",
    "VMSpec",
    "Windows",
    "format_walltime",
    "near",
    "parse_walltime",
]

MAX_VMS = 1 << 24  #: a /8 holds no more addresses
MAX_HOSTS = 1_000_000

_SITE = re.compile(r"[a-z][a-z0-9-]*")
_SOURCE = re.compile(r"deb( \[[^\]\r\n]{1,200}\])? \S{1,500}( \S{1,100}){1,20}")
#: What a filter on OAR's properties may hold: it is written into a command between double quotes.
_FILTER = re.compile(r"[A-Za-z0-9_ .,'=<>!()%+*/:-]+")


@dataclass(frozen=True, kw_only=True)
class VMSpec:
    """The size of every VM."""

    #: MiB; with less than 144 a deployed kernel cannot be started by kexec, with less than 80 nothing boots
    memory: int = 160
    cores: int = 1
    disk: int = 512  #: MiB, on a RAM disk of the host

    def __post_init__(self) -> None:
        check.count(self, "vm.memory", minimum=1, maximum=1 << 30, unit="MiB")
        check.count(self, "vm.cores", minimum=1, maximum=4096)
        check.count(self, "vm.disk", minimum=0, maximum=1 << 30, unit="MiB")

    @property
    def footprint(self) -> int:
        """Bytes of the host's memory that a VM may come to take: its memory and its disk on tmpfs."""
        return (self.memory + self.disk) * MIB


@dataclass(frozen=True, kw_only=True)
class CapacityRule:
    """How many VMs a host may carry; the defaults are those of the 2013 experiment.

    ``rule`` names the function in `g5kvirt.planning.capacity`. ``"2013"`` is
    min(max_per_host, per_core × cores, (MemTotal − host_reserve) / (disk + memory of a VM)); in 2013
    a VM took 350 MB of memory and 564 MB of disk, here its own `VMSpec` counts.
    """

    rule: str = "2013"
    max_per_host: int = 18  #: the slides show 2 to 16 VMs a node
    per_core: int = 2  #: VMs for each core of the host
    host_reserve: int = 1024  #: MiB that the host keeps for itself

    def __post_init__(self) -> None:
        check.word(self, "capacity.rule")
        check.count(self, "capacity.max_per_host", minimum=1, maximum=MAX_VMS)
        check.count(self, "capacity.per_core", minimum=1, maximum=MAX_VMS)
        check.count(self, "capacity.host_reserve", minimum=0, maximum=1 << 30, unit="MiB")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How many VMs are on their way at once: when they are launched, rebooted and checked.

    With a ``sleep`` of None a slot is held until its VM is up (a check: answered). With a number, as many
    VMs as the window's size are started, then ``sleep`` seconds pass, then the next ones: a rate limit, as
    Kadeploy3's reboot window (50 and 10 s by default there). The reboots of a deployment go as the boots of
    the launch do, unless ``reboot`` or ``reboot_sleep`` is given.
    """

    boot: int | None = None  #: None: chosen from what the hosts say about themselves
    sleep: float | None = None  #: seconds
    reboot: int | None = None  #: None: as many as for boots
    reboot_sleep: float | None = None  #: seconds
    #: deployed VMs that are reached at once, each by an ssh from here; None: chosen from this machine's cores
    check: int | None = None
    check_sleep: float | None = None  #: seconds

    def __post_init__(self) -> None:
        for name in ("boot", "reboot", "check"):
            if getattr(self, name) is not None:
                check.count(self, f"windows.{name}", minimum=1, maximum=MAX_VMS)
        for name in ("sleep", "reboot_sleep", "check_sleep"):
            if getattr(self, name) is not None:
                check.seconds(self, f"windows.{name}", minimum=0)


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Longest waits, in seconds; generous, because emulated guests on a busy machine are slow."""

    reserve: float = 900  #: until all jobs run, after their start time
    deploy: float = 1800  #: until the host environment is up
    command: float = 120  #: one command on all hosts
    services: float = 60  #: until a service answers
    boot: float | None = None  #: from power-on to the minimal system; None: scales with the load
    boot_attempts: int = 3  #: power-ons of a VM before it is given up
    set_deployment_env: float | None = None  #: one try of this macro-step; None: by measurement, step by step
    broadcast_env: float | None = None  #: likewise
    boot_new_env: float | None = None  #: likewise
    deployment_retries: int = 1  #: further tries of a macro-step before a VM is given up

    def __post_init__(self) -> None:
        for name in ("reserve", "deploy", "command", "services"):
            check.seconds(self, f"timeouts.{name}", minimum=1)
        for name in ("boot", *_MACROS):
            if getattr(self, name) is not None:
                check.seconds(self, f"timeouts.{name}", minimum=1)
        check.count(self, "timeouts.boot_attempts", minimum=1, maximum=100)
        check.count(self, "timeouts.deployment_retries", minimum=0, maximum=100)

    @property
    def macro_steps(self) -> dict[str, float]:
        """Macro-step → seconds for one try, where that is bounded."""
        bounds = {macro: getattr(self, name) for name, macro in _MACROS.items()}
        return {macro: seconds for macro, seconds in bounds.items() if seconds is not None}


_MACROS = {
    "set_deployment_env": "SetDeploymentEnv",
    "broadcast_env": "BroadcastEnv",
    "boot_new_env": "BootNewEnv",
}


@dataclass(frozen=True, kw_only=True)
class Kadeploy3:
    """What a Kadeploy3 of one's own needs besides, for ``provisioner="kadeploy3"``."""

    #: a line of sources.list for a place that has the packages kadeploy and kadeploy-client, which Debian
    #: does not have: ``"deb [trusted=yes] http://packages.example/kadeploy ./"``; "" if machines know one
    repository: str = ""

    def __post_init__(self) -> None:
        given: object = self.repository
        if not isinstance(given, str) or (given and not _SOURCE.fullmatch(given)):
            check.wrong(
                "kadeploy3.repository",
                "a line of sources.list such as 'deb [trusted=yes] http://packages.example/kadeploy ./'",
                given,
            )


class _Unchosen(dict[str, int]):
    """No sites yet; it knows what is asked instead, for ``dataclasses.replace``, which hands on only this."""

    hosts: int
    count: int | None


@dataclass(frozen=True, kw_only=True, init=False)
class Spec:
    """What an experiment asks for. Parts may be given as plain dictionaries.

    Raises SpecError with one sentence if something cannot be read or makes no sense.
    """

    sites: Mapping[str, int]  #: hosts that carry VMs, for each site; empty until they are chosen
    vms: int  #: over all sites
    hosts: int = field(init=False)  #: hosts that carry VMs, over all sites
    site_count: int | None = field(init=False)  #: how many are to be chosen; None: as few as will do
    min_hosts: int | None  #: so few are enough where a deployment failed; None: while the VMs fit
    services: int  #: service machines, reserved in addition to the hosts and spread over the sites
    clusters: Mapping[str, str] | None  #: site → the only cluster to take machines from
    properties: str | None  #: what machines must have, as ``oarsub -p`` takes it: ``"memnode >= 16384"``
    queue: str | None  #: OAR's queue; None: the site's own choice
    project: str | None  #: OAR's project to which the jobs are accounted
    walltime: int  #: seconds
    start: str  #: ``"now"``, ``"first"`` (slot common to all), or a date in Paris: ``"2026-12-01 19:00"``
    host_environment: str  #: what Kadeploy3 puts on the machines; one that it knows on each site
    vm: VMSpec  #: the size of every VM, see `VMSpec`
    capacity: CapacityRule  #: how many VMs a host may carry, see `CapacityRule`
    #: which hosts carry them: ``"balanced"`` (each the same share of what it can), ``"packed"`` (as few hosts
    #: as possible) or ``"round-robin-sites"`` (dealt to the sites in turn)
    placement: str
    netboot: Literal["http", "tftp"]  #: how VMs fetch what they boot
    boot: Literal["rom", "iso"]  #: where their iPXE is: in the network card, or on a CD-ROM
    provisioner: Literal["g5kvirt", "kadeploy3"]  #: who deploys the VMs: our own workflow, or a Kadeploy3
    kadeploy3: Kadeploy3  #: what that needs besides, see `Kadeploy3`
    windows: Windows  #: how many are on their way at once, see `Windows`
    timeouts: Timeouts  #: the longest waits, see `Timeouts`
    job_name: str  #: what OAR's jobs are called, followed by the run's name

    def __init__(
        self,
        *,
        vms: int,
        sites: Mapping[str, int] | int | None = None,
        hosts: int | None = None,
        min_hosts: int | None = None,
        services: int = 1,
        clusters: Mapping[str, str] | None = None,
        properties: str | None = None,
        queue: str | None = None,
        project: str | None = None,
        walltime: int | str = "1:00:00",
        start: str = "now",
        host_environment: str = "debian12-min",
        vm: VMSpec | Mapping[str, Any] | None = None,
        capacity: CapacityRule | Mapping[str, Any] | None = None,
        placement: str = "balanced",
        netboot: str = "http",
        boot: str = "rom",
        provisioner: str = "g5kvirt",
        kadeploy3: Kadeploy3 | Mapping[str, Any] | None = None,
        windows: Windows | Mapping[str, Any] | None = None,
        timeouts: Timeouts | Mapping[str, Any] | None = None,
        job_name: str = "g5kvirt",
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        for name, value in given.items():
            check.assign(self, name, value)
        self._check_sites()
        check.count(self, "vms", minimum=1, maximum=MAX_VMS)
        if min_hosts is not None:
            check.count(self, "min_hosts", minimum=1, maximum=self.hosts)
        check.count(self, "services", minimum=1, maximum=MAX_HOSTS)
        check.assign(self, "clusters", _clusters(clusters, self.sites))
        check.assign(self, "properties", _filter(properties))
        for name in ("queue", "project"):
            if given[name] is not None:
                check.word(self, name)
        check.assign(self, "walltime", parse_walltime(walltime))
        check.assign(self, "start", parse_start(start))
        check.word(self, "host_environment")
        for name, part in _PARTS.items():
            check.assign(self, name, check.part(part, name, given[name]))
        check.word(self, "placement")
        check.choice(self, "netboot", ("http", "tftp"))
        check.choice(self, "boot", ("rom", "iso"))
        check.choice(self, "provisioner", ("g5kvirt", "kadeploy3"))
        if (self.provisioner, self.netboot) == ("kadeploy3", "tftp"):
            raise SpecError(
                "Kadeploy3 says by HTTP what VMs boot: leave netboot at 'http', or provisioner at 'g5kvirt'"
            )
        check.word(self, "job_name")

    def _check_sites(self) -> None:
        """``sites`` are named, or a number of them is to be chosen, for as many ``hosts``."""
        asked: Any = self.sites
        hosts: Any = self.hosts
        if isinstance(asked, _Unchosen) and hosts is None:
            asked, hosts = asked.count, asked.hosts
        if asked is not None and not check.is_whole(asked):
            sites = _sites(asked)
            total = sum(sites.values())
            if hosts is not None and hosts != total:
                raise SpecError(
                    f"hosts says {check.show(hosts)} and sites add up to {total}: leave hosts out, or give"
                    " a number of sites instead of their names"
                )
            check.assign(self, "site_count", None)
        else:
            if hosts is None:
                raise SpecError(
                    "the specification says neither which sites nor how many hosts: it needs sites such as"
                    " {'nancy': 2}, or hosts such as 12 and perhaps a number of sites"
                )
            total = check.whole("hosts", hosts, 1, MAX_HOSTS)
            count = None if asked is None else check.whole("sites", asked, 1, total)
            check.assign(self, "site_count", count)
            sites = _Unchosen()
            sites.hosts, sites.count = total, count
        check.assign(self, "sites", sites)
        check.assign(self, "hosts", total)

    @property
    def start_seconds(self) -> float | None:
        """When a date is asked for: seconds since the epoch."""
        return start_seconds(self.start)

    def at(self, sites: Mapping[str, int]) -> Self:
        """The same, on ``sites`` (site → hosts); what it says of other sites is left out."""
        clusters = {site: cluster for site, cluster in (self.clusters or {}).items() if site in sites}
        return replace(self, sites=sites, clusters=clusters or None)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The spec that ``document`` describes; raises SpecError, also for an unknown key at any depth."""
        known = [f.name for f in fields(cls) if f.name != "site_count"]
        check.keys(document, known, "the specification")
        if "vms" not in document:
            raise SpecError(
                "the specification does not say 'vms': it needs at least sites and vms, "
                "such as sites: {nancy: 2}, vms: 8"
            )
        return cls(**document)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file; raises SpecError if it is missing, unreadable or does not make a spec."""
        document = load_yaml(Path(path))
        try:
            return cls.from_dict(document)
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON or YAML; ``Spec.from_dict`` makes the same spec of it."""
        plain = asdict(self)
        count = plain.pop("site_count")
        plain["sites"] = dict(plain["sites"]) or count
        plain["walltime"] = format_walltime(self.walltime)
        return plain


_PARTS: dict[str, type[VMSpec | CapacityRule | Kadeploy3 | Windows | Timeouts]] = {
    "vm": VMSpec,
    "capacity": CapacityRule,
    "kadeploy3": Kadeploy3,
    "windows": Windows,
    "timeouts": Timeouts,
}


def _sites(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        check.wrong("sites", "a mapping of site names to numbers of hosts such as {'nancy': 2}", value)
    if not value:
        raise SpecError(
            "sites is empty: name at least one site and its number of hosts, such as {'nancy': 2}"
        )
    for site in value:
        _site(site)
    return {site: check.whole(f"sites.{site}", number, 1, MAX_HOSTS) for site, number in value.items()}


def _site(name: object) -> None:
    if not isinstance(name, str) or len(name) > 63 or not _SITE.fullmatch(name):
        check.wrong("a site's name", "a word of lower-case letters, digits and hyphens such as 'nancy'", name)


def _clusters(value: object, sites: Mapping[str, int]) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        check.wrong(
            "clusters", "a mapping of site names to cluster names such as {'nancy': 'graphene'}", value
        )
    for site, cluster in value.items():
        if not isinstance(site, str) or (sites and site not in sites):
            raise SpecError(
                f"clusters names a site that is not in sites, {check.show(site)}: {near(str(site), sites)}"
            )
        _site(site)
        if not isinstance(cluster, str) or len(cluster) > 63 or not _SITE.fullmatch(cluster):
            check.wrong(f"clusters.{site}", "the name of a cluster such as 'graphene'", cluster)
    return dict(value) or None


def _filter(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > 1000 or not _FILTER.fullmatch(value) or not value.strip():
        check.wrong("properties", 'a condition on OAR\'s properties such as "memnode >= 16384"', value)
    if not _closed(value):
        check.wrong("properties", "a condition whose parentheses and quotes are closed", value)
    return value.strip()


def _closed(condition: str) -> bool:
    """It stands between parentheses of ours: it must not close these."""
    bare = re.sub("'[^']*'", "", condition)
    while (inner := re.sub(r"\([^()]*\)", "", bare)) != bare:
        bare = inner
    return not set(bare) & set("()'")
