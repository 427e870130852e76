"""The plan of a sweep: all combinations of the levels of its factors, and which of them share a cluster.

::

    testbed: local
    spec: {sites: {nancy: 2, rennes: 2}, vms: 8}     # common to all
    measure: {environment: mini, repeat: 3}
    vary:                                            # factor: its levels
      netboot: [http, tftp]
      windows.boot: [2, 8]
      measure.broadcast: [chain, http]
      measure.sizes: [4, 8, [4, 8]]

A factor is a key of the specification (a dot selects a subkey), or ``measure.`` and an argument of
`Experiment.measure`. Combinations with the same specification are measured on the same virtual cluster.
Without ``measure`` and its factors, virtual clusters are launched and nothing is deployed on them.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from g5kvirt.errors import CapacityError, SpecError
from g5kvirt.experiment import MeasureArguments
from g5kvirt.phase_runner import ENVIRONMENTS, environment_folders
from g5kvirt.phases.check_environment import Sizes, check_disk
from g5kvirt.phases.measure import check_broadcast
from g5kvirt.planning.forecast import SMALLEST
from g5kvirt.spec.groups import check_group
from g5kvirt.spec.spec import Spec, suggest
from g5kvirt.spec.yaml_files import load_yaml

__all__ = ["Combination", "Sweep", "check_measure", "load", "parse"]

_KEYS = ("name", "testbed", "spec", "measure", "vary")
_MEASURE = "measure."
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
MAX_COMBINATIONS = 10_000


@dataclass(frozen=True)
class Combination:
    """One level of each factor, and the experiment that they define."""

    levels: Mapping[str, Any]  #: factor → level, in the file's order
    spec: Spec
    measure: Mapping[str, Any] | None  #: arguments of `Experiment.measure`; None: launch only

    @cached_property
    def cluster(self) -> str:
        """Equal for combinations that can share a virtual cluster."""
        return _canonical(self.spec.to_dict())

    @cached_property
    def key(self) -> str:
        """Identifies the experiment, whatever the factors are called; survives a rewritten file."""
        return _canonical([self.spec.to_dict(), None if self.measure is None else dict(self.measure)])

    @property
    def id(self) -> str:
        """A short name for `key`."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:12]

    @property
    def deployments(self) -> int:
        """Its number of deployments."""
        if self.measure is None:
            return 0
        return len(self.measure.get("sizes") or (self.spec.vms,)) * int(self.measure.get("repeat", 1))

    def __str__(self) -> str:
        return _describe(self.levels) or "as specified"


@dataclass(frozen=True)
class Sweep:
    """All combinations, those of one cluster next to each other."""

    name: str
    testbed: str
    factors: tuple[str, ...]
    combinations: tuple[Combination, ...]

    @property
    def clusters(self) -> list[list[Combination]]:
        """The combinations, grouped by the virtual cluster that they share."""
        return [list(group) for _, group in itertools.groupby(self.combinations, lambda c: c.cluster)]


def load(path: Path, testbed: str | None = None) -> Sweep:
    """The sweep described by a YAML file, named after the file by default. Raises SpecError."""
    try:
        return parse(load_yaml(path), path.stem, testbed)
    except CapacityError as error:
        raise CapacityError(
            f"{path}: {error}", requested=error.requested, available=error.available
        ) from error
    except SpecError as error:
        raise SpecError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def parse(document: Any, name: str, testbed: str | None = None) -> Sweep:
    """The sweep that ``document`` describes; ``testbed`` overrides the one in it.

    Raises SpecError for the first mistake in any combination, so that none is found after hours.
    """
    if not isinstance(document, Mapping):
        raise SpecError("a sweep is a mapping with the keys spec, measure and vary")
    for key in document:
        if key not in _KEYS:
            raise SpecError(f"unknown key {key!r} in the sweep: {suggest(str(key), _KEYS)}")
    title = document.get("name", name)
    if not isinstance(title, str) or not _NAME.fullmatch(title):
        raise SpecError(
            f"{str(title)[:60]!r} is not a valid name: use letters, digits, - _ . and no - or . at the start"
        )
    where = testbed or document.get("testbed", "local")
    if not isinstance(where, str):
        raise SpecError(f"testbed must be a name such as local or grid5000, not {where!r}")
    base = {"spec": _mapping(document, "spec"), "measure": _mapping(document, "measure")}
    factors = _factors(_mapping(document, "vary"), base)
    measured = document.get("measure") is not None or any(f.startswith(_MEASURE) for f in factors)
    number = 1
    for levels in factors.values():
        number *= len(levels)
    if number > MAX_COMBINATIONS:
        raise SpecError(
            f"the sweep has {number:,} combinations: vary less, at most {MAX_COMBINATIONS:,} are allowed"
        )
    made: dict[str, Combination] = {}
    unpacked: Sizes = {}
    for levels in itertools.product(*factors.values()):
        one = _combination(base, dict(zip(factors, levels, strict=True)), unpacked, measured=measured)
        if one.key in made:
            raise SpecError(f"two combinations are equal, {one} and {made[one.key]}: remove one")
        made[one.key] = one
    order = {cluster: place for place, cluster in enumerate(dict.fromkeys(c.cluster for c in made.values()))}
    together = sorted(made.values(), key=lambda c: order[c.cluster])  # a stable sort
    return Sweep(title, where, tuple(factors), tuple(together))


def check_measure(spec: Spec, arguments: Mapping[str, Any], unpacked: Sizes | None = None) -> None:
    """Raises SpecError for what `Experiment.measure` would refuse only when the virtual cluster is up.

    ``unpacked``: shared by the combinations of a sweep, see `check_disk`.
    """
    known = MeasureArguments.__annotations__
    for name in arguments:
        if name not in known:
            raise SpecError(f"measure has no argument {name!r}: {suggest(name, known)}")
    group = arguments.get("group")
    if group is not None:
        check_group(group, [one.name for one in spec.groups])
    launched = sum(kind.count for kind in spec.kinds if group in (None, kind.name))
    for size in arguments.get("sizes") or ():
        _whole("measure.sizes", size)
        if size > launched:
            raise CapacityError(
                f"measure.sizes has {size} VMs, but only {launched} are launched: increase vms",
                requested=size,
                available=launched,
            )
    _whole("measure.repeat", arguments.get("repeat", 1))
    check_broadcast(arguments.get("broadcast", "chain"), spec.provisioner)
    folders = environment_folders(arguments.get("folder", ENVIRONMENTS))
    name = str(arguments.get("environment", SMALLEST[spec.guest]))
    check_disk(spec, name, folders, {} if unpacked is None else unpacked)


def _combination(
    base: Mapping[str, Any], levels: Mapping[str, Any], unpacked: Sizes, *, measured: bool
) -> Combination:
    made = copy.deepcopy(dict(base))
    for factor, level in levels.items():
        _set(made, _path(factor), copy.deepcopy(level))
    arguments = made["measure"]
    if isinstance(sizes := arguments.get("sizes"), int):
        arguments["sizes"] = [sizes]
    elif sizes is not None and not isinstance(sizes, list):
        raise SpecError(f"measure.sizes must be a number of VMs or a list of them, not {sizes!r}")
    try:
        spec = Spec.from_dict(made["spec"])
        if measured:
            check_measure(spec, arguments, unpacked)
    except CapacityError as error:
        raise CapacityError(
            _with_levels(levels, str(error)), requested=error.requested, available=error.available
        ) from error
    except SpecError as error:
        raise SpecError(_with_levels(levels, str(error))) from error
    return Combination(levels, spec, arguments if measured else None)


def _factors(vary: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    for factor, levels in vary.items():
        if not isinstance(levels, list) or not levels:
            raise SpecError(f"vary.{factor} must be a list of levels such as [2, 4], not {levels!r}")
        inside: Any = base
        for key in _path(factor):
            inside = inside.get(key) if isinstance(inside, Mapping) else None
        if inside is not None:
            raise SpecError(f"{factor} is both fixed, to {_short(inside)}, and varied: remove one")
    return dict(vary)


def _path(factor: str) -> list[str]:
    """The keys that lead to a factor: ``windows.boot`` → spec, windows, boot."""
    return factor.split(".", 1) if factor.startswith(_MEASURE) else ["spec", *factor.split(".")]


def _set(document: dict[str, Any], path: Iterable[str], value: Any) -> None:
    *before, last = path
    for key in before:
        inner = document.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SpecError(f"{key} is {_short(inner)}, which has no part {last!r}: vary {key} as a whole")
        document = inner
    document[last] = value


def _mapping(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        value = {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise SpecError(f"{key} must be a mapping of names to values, not {value!r}")
    return dict(value)


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"{name} must be a whole number of at least 1, not {value!r}")


def _with_levels(levels: Mapping[str, Any], message: str) -> str:
    which = _describe(levels)
    return f"with {which}: {message}" if which else message


def _describe(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{factor}={_short(level)}" for factor, level in levels.items())


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ":"))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
