"""The login for the REST API, which asks for one outside Grid'5000: from a file, or execo's prompt.

execo takes the password from a keyring or a prompt. A run in the background, a batch job and papermill have
neither, so ``password_file`` in `g5kvirt.testbeds.grid5000.settings` names a file with it.
"""

from __future__ import annotations

import getpass
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.spec.yaml_files import load_yaml

__all__ = ["ApiLogin", "ask_password", "read_login", "use_login"]

_ATTEMPTS = 3


@dataclass(frozen=True)
class ApiLogin:
    """Login and password for the REST API."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"ApiLogin({self.username!r})"  # errors and logs may show it


def read_login(path: Path) -> ApiLogin:
    """The login in a YAML file with ``username`` and ``password``, as python-grid5000 reads it.

    Other keys are ignored. Raises SpecError if it is no such file, or if other users may read it.
    """
    if not path.is_file():
        raise SpecError(f"password_file: there is no file {path}", advice="correct the path, or leave it out")
    try:
        others = path.stat().st_mode & 0o077
    except OSError as error:
        raise SpecError(f"{path} cannot be read ({error.strerror})", advice="correct the path") from error
    if others:
        raise SpecError(f"other users may read {path}", advice=f"chmod 600 {path}")
    found: Any = load_yaml(path)
    for key in ("username", "password"):
        value = found.get(key) if isinstance(found, dict) else None
        if not isinstance(value, str) or not value:
            raise SpecError(
                f"{path} has no {key}",
                advice="it should have two lines, 'username: LOGIN' and 'password: \"PASSWORD\"'"
                " (with quotation marks if it is a number)",
            )
    return ApiLogin(found["username"], found["password"])


def use_login(login: ApiLogin | None) -> None:
    """Have execo_g5k log in with ``login``; for None, as its own configuration says. Before any request."""
    from execo_g5k import api_utils
    from execo_g5k.config import g5k_configuration

    api_utils._ask_password = ask_password
    if login is not None:
        g5k_configuration["api_username"] = login.username
        api_utils._g5k_api = api_utils.APIConnection(username=login.username, password=login.password)


def ask_password(username: str, uri: str, _: str, accepted: Callable[[str, str, str], bool]) -> str:
    """The password that a person types; instead of execo's function of this name.

    That one goes on without a login if the third password is wrong, and does not expect that nobody can type.
    Raises TestbedError in both cases.
    """
    for _attempt in range(_ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", getpass.GetPassWarning)
                password = getpass.getpass(f"Grid'5000 password of {username}, for {uri}: ")
        # NotImplementedError: from a notebook's kernel that has no browser
        except (EOFError, OSError, NotImplementedError, getpass.GetPassWarning) as error:
            raise TestbedError(
                f"the API needs the password of {username}, and there is no terminal to type it",
                advice="set password_file in ~/.config/g5kvirt/grid5000.yaml (see docs/grid5000.md)",
            ) from error
        if accepted(username, uri, password):
            return password
    raise TestbedError(
        f"the API accepted none of {_ATTEMPTS} passwords of {username}",
        advice="check api_username in ~/.execo.conf.py, and try to log in at https://api.grid5000.fr",
    )
