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

from g5kvirt.artifact.redaction import Redaction
from g5kvirt.errors import SpecError

__all__ = ["redaction_of_this_person"]

_SECRET_VARIABLE = re.compile(r"PASS|TOKEN|SECRET|API_?KEY|CREDENTIAL", re.IGNORECASE)


def redaction_of_this_person() -> Redaction:
    """Replaces logins, secrets in environment variables, names of this machine, and the home directory."""
    logins = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    logins |= set(_configured_logins())
    with contextlib.suppress(KeyError, OSError):  # a number without a name
        logins.add(getpass.getuser())
    secrets = [
        value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name) and len(value) >= 6
    ]
    hosts = {platform.node(), socket.gethostname()}
    return Redaction(logins, secrets, hosts - {""}, str(Path.home()))


def _configured_logins() -> Iterator[str]:
    from g5kvirt.testbeds.grid5000.api_login import read_login
    from g5kvirt.testbeds.grid5000.settings import load_settings

    try:
        settings = load_settings()
    except SpecError:
        return
    yield settings.user or ""
    if settings.jump and "@" in settings.jump:
        yield settings.jump.partition("@")[0]
    if settings.password_file is not None:
        with contextlib.suppress(SpecError):
            yield read_login(settings.password_file).username
