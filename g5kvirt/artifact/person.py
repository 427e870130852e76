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


def redaction_of_this_person() -> Redaction:
    """Replaces logins, secrets in environment variables, names of this machine, and the home directory."""
    logins = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    logins |= set(_configured_logins())
    with contextlib.suppress(KeyError, OSError):  # a number without a name
        logins.add(getpass.getuser())
    secrets = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    if (api_login := _api_login()) is not None:
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


def _configured_logins() -> Iterator[str]:
    settings = _settings()
    if settings is None:
        return
    yield settings.user or ""
    if settings.jump and "@" in settings.jump:
        yield settings.jump.partition("@")[0]


def _api_login() -> ApiLogin | None:
    from g5kvirt.testbeds.grid5000.api_login import read_login

    settings = _settings()
    return read_login(settings.password_file) if settings and settings.password_file else None
