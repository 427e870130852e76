"""What is asked: one `Spec`, checked when it is made, so that errors come before anything is touched.

Every check raises `SpecError` with one sentence. What needs the testbed's inventory (unknown sites,
more hosts than exist, more VMs than fit) is checked by `g5kvirt.planning.checks`.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, TypeVar

from g5kvirt.errors import SpecError
from g5kvirt.inventory import MIB
from g5kvirt.plainyaml import load_yaml

__all__ = [
    "MAX_VMS",
    "MIN_WALLTIME",
    "CapacityRule",
    "Spec",
    "Timeouts",
    "VMSpec",
    "Windows",
    "format_walltime",
    "near",
    "parse_walltime",
]

MIN_WALLTIME = 300  #: seconds; a shorter job ends before its hosts are deployed
MAX_WALLTIME = 366 * 86400
MAX_VMS = 1 << 24  #: a /8 holds no more addresses
MAX_HOSTS = 1_000_000

_SITE = re.compile(r"[a-z][a-z0-9-]*")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_CLOCK = re.compile(r"([0-9]{1,5}):([0-5][0-9])(?::([0-5][0-9]))?")


def near(word: str, known: Iterable[str]) -> str:
    """A clause that helps after a mistyped ``word``: the nearest known name, or all of them."""
    names = sorted(known)
    close = get_close_matches(word.lower()[:64], names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is known"


def parse_walltime(value: object) -> int:
    """Seconds from ``"H:MM:SS"``, ``"HH:MM"`` or a whole number of seconds.

    Raises SpecError if it cannot be read, is shorter than `MIN_WALLTIME` or longer than a year.
    """
    if isinstance(value, str) and (found := _CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = hours * 3600 + minutes * 60 + seconds
    elif not isinstance(value, bool) and isinstance(value, Integral):
        total = int(value)
    else:
        raise SpecError(
            f"walltime {_show(value)} cannot be read: write hours:minutes:seconds such as '1:30:00', "
            "hours:minutes, or a whole number of seconds"
        )
    if total < MIN_WALLTIME:
        raise SpecError(
            f"walltime {_show(value)} is too short ({_show(total)} s): ask for at least {MIN_WALLTIME} s, "
            "hosts must be deployed within it"
        )
    if total > MAX_WALLTIME:
        raise SpecError(f"walltime {_show(value)} is too long: ask for at most a year (8784:00:00)")
    return total


def format_walltime(seconds: int) -> str:
    """``3600`` → ``"1:00:00"``, as OAR reads it."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


@dataclass(frozen=True, kw_only=True)
class VMSpec:
    """The size of every VM."""

    memory: int = 160  #: MiB; with less, a deployed kernel cannot be started by kexec (144 is enough)
    cores: int = 1
    disk: int = 512  #: MiB, on a RAM disk of the host

    def __post_init__(self) -> None:
        _count(self, "vm.memory", minimum=1, maximum=1 << 30, unit="MiB")
        _count(self, "vm.cores", minimum=1, maximum=4096)
        _count(self, "vm.disk", minimum=0, maximum=1 << 30, unit="MiB")

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
        _word(self, "capacity.rule")
        _count(self, "capacity.max_per_host", minimum=1, maximum=MAX_VMS)
        _count(self, "capacity.per_core", minimum=1, maximum=MAX_VMS)
        _count(self, "capacity.host_reserve", minimum=0, maximum=1 << 30, unit="MiB")


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
    check: int = 8  #: deployed VMs that are asked for their identity at once, each by an ssh from here
    check_sleep: float | None = None  #: seconds

    def __post_init__(self) -> None:
        for name in ("boot", "reboot", "check"):
            if getattr(self, name) is not None or name == "check":
                _count(self, f"windows.{name}", minimum=1, maximum=MAX_VMS)
        for name in ("sleep", "reboot_sleep", "check_sleep"):
            if getattr(self, name) is not None:
                _seconds(self, f"windows.{name}", minimum=0)


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
            _seconds(self, f"timeouts.{name}", minimum=1)
        for name in ("boot", *_MACROS):
            if getattr(self, name) is not None:
                _seconds(self, f"timeouts.{name}", minimum=1)
        _count(self, "timeouts.boot_attempts", minimum=1, maximum=100)
        _count(self, "timeouts.deployment_retries", minimum=0, maximum=100)

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


@dataclass(frozen=True, kw_only=True, init=False)
class Spec:
    """What an experiment asks for. Parts may be given as plain dictionaries.

    Raises SpecError with one sentence if something cannot be read or makes no sense.
    """

    sites: Mapping[str, int]  #: hosts that carry VMs, for each site
    vms: int
    services: int  #: service machines, reserved in addition to the hosts and spread over the sites
    clusters: Mapping[str, str] | None  #: site → the only cluster to take machines from
    walltime: int  #: seconds
    start: Literal["now"]
    host_environment: str
    vm: VMSpec
    capacity: CapacityRule
    placement: str
    netboot: Literal["http", "tftp"]
    boot: Literal["rom", "iso"]
    windows: Windows
    timeouts: Timeouts
    job_name: str

    def __init__(
        self,
        *,
        sites: Mapping[str, int],
        vms: int,
        services: int = 1,
        clusters: Mapping[str, str] | None = None,
        walltime: int | str = "1:00:00",
        start: str = "now",
        host_environment: str = "debian12-min",
        vm: VMSpec | Mapping[str, Any] | None = None,
        capacity: CapacityRule | Mapping[str, Any] | None = None,
        placement: str = "balanced",
        netboot: str = "http",
        boot: str = "rom",
        windows: Windows | Mapping[str, Any] | None = None,
        timeouts: Timeouts | Mapping[str, Any] | None = None,
        job_name: str = "g5kvirt",
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        for name, value in given.items():
            object.__setattr__(self, name, value)
        _set(self, "sites", _sites(sites))
        _count(self, "vms", minimum=1, maximum=MAX_VMS)
        _count(self, "services", minimum=1, maximum=MAX_HOSTS)
        _set(self, "clusters", _clusters(clusters, self.sites))
        _set(self, "walltime", parse_walltime(walltime))
        _choice(self, "start", ("now",))
        _word(self, "host_environment")
        for name, part in _PARTS.items():
            _set(self, name, _part(part, name, given[name]))
        _word(self, "placement")
        _choice(self, "netboot", ("http", "tftp"))
        _choice(self, "boot", ("rom", "iso"))
        _word(self, "job_name")

    @property
    def hosts(self) -> int:
        """Hosts that carry VMs, over all sites."""
        return sum(self.sites.values())

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The spec that ``document`` describes; raises SpecError, also for an unknown key at any depth."""
        known = [f.name for f in fields(cls)]
        _keys(document, known, "the specification")
        for needed in ("sites", "vms"):
            if needed not in document:
                raise SpecError(
                    f"the specification does not say {needed!r}: it needs at least sites and vms, "
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
        plain["walltime"] = format_walltime(self.walltime)
        return plain


_PARTS: dict[str, type[VMSpec | CapacityRule | Windows | Timeouts]] = {
    "vm": VMSpec,
    "capacity": CapacityRule,
    "windows": Windows,
    "timeouts": Timeouts,
}
_T = TypeVar("_T")


def _set(owner: object, name: str, value: object) -> None:
    object.__setattr__(owner, name, value)


def _show(value: object) -> str:
    """A short text of any value, however large or strange."""
    try:
        text = reprlib.repr(value)
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything; the sentence must come out
        text = "a very long number" if isinstance(value, int) else f"<{type(value).__name__}>"
    return text.replace("\n", " ")


def _wrong(name: str, needed: str, value: object) -> NoReturn:
    raise SpecError(f"{name} must be {needed}, not {_show(value)}")


def _count(owner: object, name: str, *, minimum: int, maximum: int, unit: str = "") -> None:
    """Check the whole number at ``owner``'s field and store it as a plain int."""
    key = name.rpartition(".")[2]
    _set(owner, key, _whole(name, getattr(owner, key), minimum, maximum, unit))


def _whole(name: str, value: object, minimum: int, maximum: int, unit: str = "") -> int:
    of = f" of {unit}" if unit else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        _wrong(
            name, f"a whole number{of} of at least {minimum}" if not unit else f"a whole number{of}", value
        )
    number = int(value)
    if number < minimum:
        _wrong(name, f"a whole number{of}, at least {minimum}", value)
    if number > maximum:
        _wrong(name, f"a whole number{of}, at most {maximum}", value)
    return number


def _seconds(owner: object, name: str, *, minimum: float) -> None:
    key = name.rpartition(".")[2]
    value = getattr(owner, key)
    if isinstance(value, bool) or not isinstance(value, Real):
        _wrong(name, "a number of seconds", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not minimum <= number <= MAX_WALLTIME:  # false for NaN too
        _wrong(name, f"a number of seconds from {minimum:g} to {MAX_WALLTIME}", value)
    _set(owner, key, int(number) if number.is_integer() else number)


def _word(owner: object, name: str) -> None:
    value = getattr(owner, name.rpartition(".")[2])
    if not isinstance(value, str) or len(value) > 200 or not _WORD.fullmatch(value):
        _wrong(name, "a name of letters, digits and . _ + - that starts with a letter or digit", value)


def _choice(owner: object, name: str, known: tuple[str, ...]) -> None:
    value = getattr(owner, name)
    if not isinstance(value, str) or value not in known:
        _wrong(name, " or ".join(repr(k) for k in known), value)


def _keys(document: object, known: Iterable[str], where: str) -> None:
    if not isinstance(document, Mapping):
        _wrong(where, "a mapping of keys to values", document)
    names = list(known)
    for key in document:
        if not isinstance(key, str) or key not in names:
            raise SpecError(f"unknown key {_show(key)} in {where}: {near(str(key)[:64], names)}")


def _part(part: type[_T], name: str, value: object) -> _T:
    if isinstance(value, part):
        return value
    if value is None:
        return part()
    _keys(value, [f.name for f in fields(part)], name)  # type: ignore[arg-type]
    assert isinstance(value, Mapping)
    return part(**value)


def _sites(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping):
        _wrong("sites", "a mapping of site names to numbers of hosts such as {'nancy': 2}", value)
    if not value:
        raise SpecError(
            "sites is empty: name at least one site and its number of hosts, such as {'nancy': 2}"
        )
    for site in value:
        if not isinstance(site, str) or len(site) > 63 or not _SITE.fullmatch(site):
            _wrong("a site's name", "a word of lower-case letters, digits and hyphens such as 'nancy'", site)
    return {site: _whole(f"sites.{site}", number, 1, MAX_HOSTS) for site, number in value.items()}


def _clusters(value: object, sites: Mapping[str, int]) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        _wrong("clusters", "a mapping of site names to cluster names such as {'nancy': 'graphene'}", value)
    for site, cluster in value.items():
        if not isinstance(site, str) or site not in sites:
            raise SpecError(
                f"clusters names a site that is not in sites, {_show(site)}: {near(str(site), sites)}"
            )
        if not isinstance(cluster, str) or len(cluster) > 63 or not _SITE.fullmatch(cluster):
            _wrong(f"clusters.{site}", "the name of a cluster such as 'graphene'", cluster)
    return dict(value) or None
