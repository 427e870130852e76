"""Names of Kadeploy3 environments: ``name@user:version%arch``, where all but the name is optional."""

from __future__ import annotations

import re
from dataclasses import dataclass

from g5kvirt.spec.fields import text

__all__ = ["EnvironmentName", "environment_name", "read_name"]

_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._+-]*)(?:@(?P<user>[A-Za-z0-9][A-Za-z0-9._-]*))?"
    r"(?::(?P<version>[0-9]{1,18}))?(?:%(?P<arch>[a-z0-9_]+))?"
)
_NEEDED = (
    "a name of letters, digits and . _ + - that starts with a letter or digit, or name@user:version%arch such"
    " as debian12-min@deploy:2026010101%x86_64"
)


@dataclass(frozen=True)
class EnvironmentName:
    """The parts of a name; "" for what it leaves open."""

    name: str
    user: str = ""
    version: str = ""
    arch: str = ""

    def __str__(self) -> str:
        user, version = self.user and f"@{self.user}", self.version and f":{self.version}"
        return f"{self.name}{user}{version}" + (self.arch and f"%{self.arch}")


def environment_name(field: str, value: object) -> str:
    """A field of the specification that names an environment. Raises SpecError for anything else."""
    return text(field, value, _NAME, _NEEDED, 200)


def read_name(value: str) -> EnvironmentName | None:
    """The parts of a name; None if it is none."""
    found = _NAME.fullmatch(value)
    return EnvironmentName(*(part or "" for part in found.groups())) if found else None
