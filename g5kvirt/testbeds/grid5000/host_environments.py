"""Which of the environments that kaenv3 prints under one name is meant: it prints one for each architecture.

Pure functions on its output, which comes over a pty and may hold other programs' lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from g5kvirt.errors import SpecError
from g5kvirt.spec.environment_name import EnvironmentName, read_name

__all__ = ["ARCHITECTURE", "AmbiguousError", "choose", "listed"]

#: Of all machines that can be hosts: the VMs are of this architecture, and planning leaves others out.
ARCHITECTURE = "x86_64"

_FIELD = re.compile(r"(name|version|arch|user): *(\S.*)")


class AmbiguousError(SpecError):
    """More than one environment may be meant: Kadeploy3 would choose."""


def listed(lines: Iterable[str]) -> list[EnvironmentName]:
    """The environments in kaenv3's output: YAML documents, of which only these fields matter."""
    lines = [line.rstrip() for line in lines]
    found: list[dict[str, str]] = [{}]
    # what comes before the first document is another program's
    for line in lines[lines.index("---") if "---" in lines else 0 :]:
        if line == "---":
            found.append({})
        elif field := _FIELD.fullmatch(line):
            if field[1] in found[-1]:  # older ones print no line between two documents
                found.append({})
            found[-1][field[1]] = field[2].strip("'\" ")
    return [EnvironmentName(**document) for document in found if "name" in document]


def choose(
    requested: str, found: Sequence[EnvironmentName], architecture: str = ARCHITECTURE
) -> EnvironmentName:
    """The environment that ``requested``, as `read_name` reads it, means on hosts of an architecture.

    Raises SpecError if there is none for them, AmbiguousError if there is more than one.
    """
    wanted = read_name(requested) or EnvironmentName(requested)
    if wanted.arch not in ("", architecture):
        raise SpecError(
            f"{requested} is for {wanted.arch}, and hosts are {architecture}",
            advice=f"set host_environment to one for {architecture} (kaenv3 -l)",
        )
    named = [
        one
        for one in found
        if wanted.version in ("", one.version) and (not one.user or wanted.user in ("", one.user))
    ]
    fitting = list(dict.fromkeys(one for one in named if one.arch in ("", architecture)))
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = ", ".join(map(str, fitting[:4]))
        raise AmbiguousError(
            f"{requested} may be any of {len(fitting)} environments for {architecture}: {several}",
            advice="set host_environment to one of them, as name@user:version%arch",
        )
    if named:
        others = ", ".join(dict.fromkeys(one.arch for one in named))
        raise SpecError(
            f"{requested} exists for {others} only, and hosts are {architecture}",
            advice=f"set host_environment to one for {architecture} (kaenv3 -l)",
        )
    versions = ", ".join(dict.fromkeys(str(one) for one in found))
    raise SpecError(
        f"{requested} does not exist, but {versions}" if found else f"{requested} does not exist",
        advice="set host_environment to one that exists (kaenv3 -l)",
    )
