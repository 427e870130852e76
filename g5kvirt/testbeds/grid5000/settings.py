"""What a person has set about Grid'5000, once for all runs: a file beside that of the environments.

::

    # ~/.config/g5kvirt/grid5000.yaml; every line may be left out
    user: jdoe                        # login on the frontends
    jump: jdoe@access.grid5000.fr     # ssh servers on the way in; "" for none; else found out
    ssh_config: ~/.ssh/grid5000       # instead of ~/.ssh/config
    package_proxy: http://proxy:3128  # through which machines get the packages that they lack
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from g5kvirt import paths
from g5kvirt.errors import SpecError
from g5kvirt.remote import jumps
from g5kvirt.spec import fields
from g5kvirt.spec.yaml_files import load_yaml
from g5kvirt.testbeds.grid5000.driver import Settings

__all__ = ["KEYS", "file", "settings"]

KEYS = ("user", "jump", "ssh_config", "package_proxy")

_PROXY = re.compile(r"https?://(?:\[[0-9a-f:]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?/?")


def file() -> Path:
    """Where it is looked for: ``$XDG_CONFIG_HOME/g5kvirt/grid5000.yaml``, by default in ``~/.config``."""
    return paths.config() / "grid5000.yaml"


def settings(path: Path | None = None) -> Settings:
    """Settings as the file has them, the usual ones without it. Raises SpecError for what it must not say."""
    path = path or file()
    if not path.exists():
        return Settings()
    found = load_yaml(path)
    try:
        return Settings(**_checked({} if found is None else found))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


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
        fields.wrong("package_proxy", "a proxy's address such as 'http://proxy:3128'", found["package_proxy"])
    if "ssh_config" in found:
        config = Path(found["ssh_config"]).expanduser()
        if not config.is_file():
            raise SpecError(f"ssh_config names {config}, which is no file: name one, or leave the line out")
        found["ssh_config"] = config.resolve()
    return dict(found)
