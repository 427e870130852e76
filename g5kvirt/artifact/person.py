"""What is known of this person, this machine and its environment, for a `Redaction`."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from g5kvirt.artifact.redaction import Redaction
from g5kvirt.errors import SpecError

if TYPE_CHECKING:
    from g5kvirt.testbeds.grid5000.api_login import ApiLogin
    from g5kvirt.testbeds.grid5000.settings import Settings

__all__ = ["redaction_of_this_person"]

_SECRET_VARIABLE = re.compile(r"PASS|TOKEN|SECRET|API_?KEY|CREDENTIAL", re.IGNORECASE)

#: Where other programs keep the login of Grid'5000: a file below the home, and what names it there.
_LOGINS_OF_OTHERS = (
    (".ssh/config", re.compile(r"^[ \t]*User[ \t=]+\"?([A-Za-z_][\w.-]*)", re.I | re.M)),
    (".execo.conf.py", re.compile(r"api_username['\"\]]*\s*[:=]\s*['\"]([A-Za-z_][\w.-]*)")),
)


def redaction_of_this_person() -> Redaction:
    """Replaces logins, secrets in environment variables, names of this machine, and the home directory."""
    logins = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    settings = _settings()
    logins |= {*_configured_logins(settings), *_logins_of_others()}
    with contextlib.suppress(KeyError, OSError):  # a number without a name
        logins.add(getpass.getuser())
    secrets = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    if (api_login := _api_login(settings)) is not None:
        logins.add(api_login.username)
        secrets.append(api_login.password)
    secrets = [secret for secret in secrets if len(secret) >= 6]
    hosts = {platform.node(), socket.gethostname()}
    return Redaction(logins, secrets, hosts - {""}, str(Path.home()))


def _settings() -> Settings | None:
    from g5kvirt.testbeds.grid5000.settings import load_settings

    try:
        return load_settings()
    except SpecError:
        return None


def _configured_logins(settings: Settings | None) -> Iterator[str]:
    if settings is None:
        return
    yield settings.user or ""
    if settings.jump and "@" in settings.jump:
        yield settings.jump.partition("@")[0]


def _logins_of_others() -> Iterator[str]:
    for name, pattern in _LOGINS_OF_OTHERS:
        with contextlib.suppress(OSError):  # most have no such file
            yield from pattern.findall((Path.home() / name).read_text(errors="replace"))


def _api_login(settings: Settings | None) -> ApiLogin | None:
    """The login and password of the file that the settings name, if it can be read."""
    from g5kvirt.testbeds.grid5000.api_login import read_login

    if settings is None or settings.password_file is None:
        return None
    try:
        return read_login(settings.password_file)
    except SpecError:
        return None
