"""What other programs need to use a local testbed: python-grid5000, enoslib and execo.

`write_configurations` makes a directory with their configurations under the names that they look for in the
home directory, so that it can stand in for one: ``HOME=… python3 script.py``. The files hold the testbed's
password, and only their owner may read them; they are removed with the testbed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local.state import State, write

__all__ = ["Clients", "configurations", "write_configurations"]

_EXECO = """\
# For execo_g5k on the local testbed {name}, written by g5kvirt. The address holds the password.
g5k_configuration = {{
    "api_uri": {uri!r},
    "polling_interval": 0.5,
    "tiny_polling_interval": 0.25,
    "default_timeout": 60,
}}
default_connection_params = {{"ssh_options": {options!r}}}
default_frontend_connection_params = {{"ssh_options": {options!r}}}
"""
_PYTHON_GRID5000 = """\
# For python-grid5000 and enoslib on the local testbed {name}, written by g5kvirt.
uri: {uri}
username: {user}
password: {password}
timeout: 120
"""


@dataclass(frozen=True)
class Clients:
    """Where the configurations are."""

    state: State
    directory: Path

    @property
    def python_grid5000(self) -> Path:
        return self.directory / ".python-grid5000.yaml"

    @property
    def execo(self) -> Path:
        return self.directory / ".execo.conf.py"

    def __str__(self) -> str:
        state, site = self.state, self.state.description.sites[0]
        rows = (
            ("REST API", state.api_uri),
            ("user", f"{state.api_user}, on every frontend too; root on nodes"),
            ("password", f"in {self.python_grid5000}"),
            ("ssh", f"ssh -F {state.ssh_config} {site.fqdn}"),
            ("python-grid5000", f'Grid5000.from_yaml("{self.python_grid5000}")'),
            ("execo", f"HOME={self.directory} NO_PROXY=127.0.0.1 python3 SCRIPT"),
            ("enoslib", f'the same, with ANSIBLE_SSH_ARGS="-F {state.ssh_config}"'),
        )
        return "\n".join(f"{label:<16} {value}" for label, value in rows)


def configurations(state: State) -> dict[str, str]:
    """Name of each file → its content. Pure."""
    options = ("-F", str(state.ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=20")
    quoted = {
        "uri": json.dumps(state.api_uri),  # a JSON string is one of YAML too
        "user": json.dumps(state.api_user),
        "password": json.dumps(state.api_password),
    }
    return {
        ".python-grid5000.yaml": _PYTHON_GRID5000.format(name=state.name, **quoted),
        ".execo.conf.py": _EXECO.format(name=state.name, uri=state.authenticated_uri, options=options),
    }


def write_configurations(name: str | None = None) -> Clients:
    """Write the configurations for testbed ``name``. Raises TestbedError if it is not up."""
    state = State.running(name)
    clients = Clients(state, state.directory / "clients")
    try:
        clients.directory.mkdir(mode=0o700, exist_ok=True)
        for file, text in configurations(state).items():
            write(clients.directory / file, text)
    except OSError as error:
        raise TestbedError(f"{clients.directory} cannot be written ({error})", advice="use sudo") from error
    return clients
