"""How long each step takes: what a model is filled with, from measured runs or from the literature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from g5kvirt import data_tables
from g5kvirt.errors import SpecError
from g5kvirt.spec.fields import show, suggest, wrong
from g5kvirt.spec.yaml_files import load_yaml

__all__ = [
    "BOOT",
    "DEPLOYMENT",
    "GUESTS",
    "MACHINE_PHASES",
    "SHIPPED",
    "Calibration",
    "StepTime",
    "in_order",
    "load",
    "save",
]

#: From the power-on to the minimal system.
BOOT = ("power-on", "dhcp", "script", "kernel", "initrd", "minimal-system")
#: From the task of a VM to the end of its minimal system.
DEPLOYMENT = ("partition", "format", "image", "postinstall", "bootloader", "sync", "boot")
#: Calibrations that come with the project.
SHIPPED = ("local-emulated", "local-light", "grid5000")
#: Kinds of guests that durations are of.
GUESTS = ("kvm", "tcg", "light")
#: Phases of the machines.
MACHINE_PHASES = ("reserve", "deploy", "configure")
#: Largest values, so that no typing mistake leads out of the calendar: a second is that of eleven days.
_MOST = {"seconds": 1e6, "cpu": 1e6, "spread": 10.0, "bytes": 1e15}
#: Steps that are a key of their own.
_SINGLE = ("reboot", "reboot_boot", "environment", "check", "broadcast")


@dataclass(frozen=True)
class StepTime:
    """What one step takes: first a wait, then a core, then a transfer."""

    seconds: float = 0.0  #: that pass whatever else happens
    cpu: float = 0.0  #: seconds of a core
    bytes: float = 0.0  #: to be fetched from the server
    spread: float = 0.0  #: standard deviation of the logarithm of its duration


@dataclass(frozen=True)
class Calibration:
    """The durations of all steps on one kind of testbed.

    ``machines``: phase → what it takes for each machine (all at once), ``fixed``: phase → seconds besides.
    ``boot`` and ``deployment``: step → time; one that is missing does not exist there. ``reboot`` is the
    command, ``reboot_boot`` the boot that follows it; ``environment`` the time from the end of the minimal
    system until ssh answers; ``check`` one login; ``broadcast`` the start of a host's relay, and ``hop`` the
    seconds from one host of the chain to the next. ``images``: bytes of environments. ``assumed``: not
    measured by this project.
    """

    name: str
    guest: str  #: ``tcg``, ``kvm`` or ``light``
    source: str
    assumed: bool = True
    shared: bool = False  #: of runs whose hosts shared one machine: not to be taken for independent ones
    machines: Mapping[str, StepTime] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    boot: Mapping[str, StepTime] = field(default_factory=dict)
    deployment: Mapping[str, StepTime] = field(default_factory=dict)
    reboot: StepTime = StepTime()
    reboot_boot: StepTime = StepTime()
    environment: StepTime = StepTime()
    check: StepTime = StepTime()
    broadcast: StepTime = StepTime()
    hop: float = 0.001
    images: Mapping[str, float] = field(default_factory=dict)
    uplink_gbps: float = 10.0  #: of each site
    fit: Mapping[str, float] = field(
        default_factory=dict
    )  #: predicted / measured of its own runs, before it was scaled to them

    @property
    def kind(self) -> str:
        """``assumed``, ``measured``, ``measured, on one machine that all hosts shared``."""
        where = ", on one machine that all hosts shared" if self.shared else ""
        return self.measured_or_assumed + where

    @property
    def measured_or_assumed(self) -> str:
        """``measured`` or ``assumed``."""
        return "assumed" if self.assumed else "measured"

    @property
    def about(self) -> dict[str, str]:
        """For the record of a prediction: its name, kind and source."""
        return {"name": self.name, "kind": self.kind, "source": self.source}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], where: str = "the calibration") -> Calibration:
        """Undo `to_plain`. Raises SpecError for unknown keys and values that are no numbers."""
        known = [f.name for f in fields(cls)]
        _known(plain, known, where, "key")
        values = dict(plain)
        for key in ("name", "guest", "source"):
            if not isinstance(values.get(key), str):
                wrong(f"{where}: {key}", "a text", values.get(key))
        if values["guest"] not in GUESTS:
            wrong(f"{where}: guest", f"one of {', '.join(GUESTS)}", values["guest"])
        for key in ("assumed", "shared"):
            if not isinstance(values.get(key, False), bool):
                wrong(f"{where}: {key}", "true or false", values[key])
        for key, steps in (("boot", BOOT), ("deployment", DEPLOYMENT), ("machines", MACHINE_PHASES)):
            own = _mapping(values.get(key), f"{where}: {key}")
            _known(own, steps, where, "step")
            values[key] = {name: _step(step, f"{where}: {key}.{name}") for name, step in own.items()}
        for key in _SINGLE:
            values[key] = _step(values.get(key), f"{where}: {key}")
        for key in ("fixed", "images", "fit"):
            own = _mapping(values.get(key), f"{where}: {key}")
            most = _MOST["seconds" if key == "fixed" else "bytes"]
            values[key] = {
                name: _number(value, f"{where}: {key}.{name}", most) for name, value in own.items()
            }
        for key in ("hop", "uplink_gbps"):
            if key in values:
                values[key] = _number(values[key], f"{where}: {key}", _MOST["seconds"])
        found = cls(**values)
        found.check_steps(where)
        if found.uplink_gbps <= 0:
            raise SpecError(f"{where}: uplink_gbps must be above 0")
        return found

    def check_guests(self, guest: str) -> None:
        """Raises SpecError if it is not of guests of the kind ``guest`` of a specification."""
        if (guest == "light") != (self.guest == "light"):
            other = "local-light" if guest == "light" else "local-emulated"
            raise SpecError(
                f"the calibration {self.name!r} was not made of guests of the kind {guest!r}",
                advice=f"choose another one, such as {other}: --calibration {other}, or"
                f" testbed='simulated:2013/{other}'",
            )

    def check_steps(self, where: str) -> None:
        """Raises SpecError if a step is missing that every boot or deployment has."""
        if missing := [s for s in (BOOT[0], BOOT[-1]) if s not in self.boot]:
            raise SpecError(f"{where}: boot has no step {missing[0]!r}, which every boot has")
        if missing := [s for s in ("image", "boot") if s not in self.deployment]:
            raise SpecError(f"{where}: deployment has no step {missing[0]!r}, which every deployment has")

    def to_plain(self) -> dict[str, Any]:
        """Plain data for YAML, without what is zero."""
        plain = asdict(self)
        for key in ("machines", "boot", "deployment"):
            plain[key] = {name: _short(step) for name, step in plain[key].items()}
        for key in _SINGLE:
            plain[key] = _short(plain[key])
        return plain


def in_order(times: Mapping[str, StepTime], names: Sequence[str]) -> list[tuple[str, StepTime]]:
    """The steps of ``names`` that exist, in that order."""
    return [(name, times[name]) for name in names if name in times]


def _known(given: Mapping[str, Any], known: Sequence[str], where: str, what: str) -> None:
    for key in given:
        if key not in known:
            raise SpecError(f"{where} has an unknown {what} {show(key)}", advice=suggest(str(key), known))


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):
        wrong(where, "a mapping of names to values", value)
    return value or {}


def _step(value: object, where: str) -> StepTime:
    own = _mapping(value, where)
    _known(own, [f.name for f in fields(StepTime)], where, "key")
    return StepTime(**{key: _number(number, f"{where}.{key}", _MOST[key]) for key, number in own.items()})


def _number(value: object, where: str, most: float) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not 0 <= value < math.inf:  # type: ignore[operator]  # NaN is neither
        wrong(where, "a number from 0 on", value)
    if value > most:  # type: ignore[operator]
        wrong(where, f"at most {most:,.0f}", value)
    return float(value)  # type: ignore[arg-type]


def _short(step: Mapping[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.4g}") for key, value in step.items() if value}


def load(name: str | Path) -> Calibration:
    """A shipped calibration by its name, or one in a file. Raises SpecError if there is none."""
    path = data_tables.path(f"calibrations/{name}.yaml") if name in SHIPPED else Path(name)
    try:
        plain = load_yaml(path)
    except SpecError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            advice = f"choose from {', '.join(SHIPPED)}, or name a file that g5kvirt calibrate has made"
            raise SpecError(f"there is no calibration {show(str(name))}", advice=advice) from error
        raise
    if not isinstance(plain, dict):
        raise SpecError(f"{path} is not a calibration", advice="make one with g5kvirt calibrate")
    return Calibration.from_plain(plain, str(path))


def save(calibration: Calibration, path: Path) -> None:
    """Write it as YAML. Raises SpecError if that cannot be done."""
    text = yaml.safe_dump(calibration.to_plain(), sort_keys=False, allow_unicode=True, width=110)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path} cannot be written ({error.strerror})") from error
