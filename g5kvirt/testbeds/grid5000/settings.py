"""How Grid'5000 is reached: the driver's settings, and the file in which a user sets some for all runs.

::

    # ~/.config/g5kvirt/grid5000.yaml; every line may be left out
    user: jdoe                        # login on the frontends
    jump: jdoe@access.grid5000.fr     # ssh servers in between; "" for none; found out if left out
    ssh_config: ~/.ssh/grid5000       # instead of ~/.ssh/config
    package_proxy: http://proxy:3128  # proxy through which machines download missing packages
    password_file: ~/.python-grid5000.yaml  # username and password for the API, from outside
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g5kvirt import paths
from g5kvirt.errors import SpecError
from g5kvirt.remote import jumps
from g5kvirt.spec import fields
from g5kvirt.spec.yaml_files import load_yaml
from g5kvirt.testbeds.grid5000.api_login import read_login

__all__ = ["KEYS", "Settings", "load_settings", "settings_file"]

KEYS = ("user", "jump", "ssh_config", "package_proxy", "password_file")

_PROXY = re.compile(r"https?://(?:\[[0-9a-f:]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?/?")


@dataclass(frozen=True)
class Settings:
    """How execo_g5k reaches a testbed. The defaults are those of the real one, from inside it."""

    name: str = "grid5000"
    netem: bool | None = None  #: whether the kernels of hosts have netem; None: not known beforehand
    real_cores: int | None = None  #: where all hosts share one machine: its cores
    api_uri: str | None = None  #: None: execo's own (https://api.grid5000.fr/3.0/)
    cache: Path | None = None  #: None: execo's own; must differ for every testbed
    user: str | None = None  #: login on the frontends
    ssh_config: Path | None = None
    ssh_options: tuple[str, ...] = ()  #: ``Key=value`` of ssh_config(5), for our own connections only
    #: ssh servers in between, as ``ssh -J`` takes them: "" for none, None: see `g5kvirt.remote.jumps`
    jump: str | None = None
    package_proxy: str | None = None  #: proxy through which machines download packages: "http://proxy:3128"
    password_file: Path | None = None  #: username and password for the API; None: as execo is configured
    polling_interval: float = 10.0  #: seconds between two requests for a job's state
    tiny_polling_interval: float = 2.0
    command_timeout: float = 120.0  #: seconds for one command on a frontend
    charter: bool = True  #: refuse jobs that would break the usage charter


def settings_file() -> Path:
    """Where the file is: ``$XDG_CONFIG_HOME/g5kvirt/grid5000.yaml``, by default in ``~/.config``."""
    return paths.config() / "grid5000.yaml"


def load_settings(path: Path | None = None) -> Settings:
    """The settings in the file, the defaults without one. Raises SpecError if the file is wrong."""
    path = path or settings_file()
    if not path.exists():
        return Settings()
    found = load_yaml(path)
    try:
        return Settings(**_checked({} if found is None else found))
    except SpecError as error:
        raise SpecError(f"{path}: {error.message}", advice=error.advice) from error


def _checked(found: Any) -> dict[str, Any]:
    fields.keys(found, KEYS, "the file")
    for key, value in found.items():
        if not isinstance(value, str):
            fields.wrong(key, "text", value)
    if "jump" in found:
        jumps.check_jump(found["jump"])
    if "user" in found and not re.fullmatch(r"[a-z_][a-z0-9_.-]*", found["user"]):
        fields.wrong("user", "a login such as 'jdoe'", found["user"])
    if "package_proxy" in found and not _PROXY.fullmatch(found["package_proxy"]):
        fields.wrong(
            "package_proxy", "the URL of a proxy such as 'http://proxy:3128'", found["package_proxy"]
        )
    if "ssh_config" in found:
        config = Path(found["ssh_config"]).expanduser()
        if not config.is_file():
            raise SpecError(
                f"ssh_config: there is no file {config}", advice="correct the path, or leave it out"
            )
        found["ssh_config"] = config.resolve()
    if "password_file" in found:
        found["password_file"] = Path(found["password_file"]).expanduser().resolve()
        read_login(found["password_file"])  # it fails here rather than at the first request
    return dict(found)
