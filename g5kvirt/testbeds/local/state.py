"""What is kept on disk of a testbed that is up: ``/run/g5kvirt/<name>/``.

=================  ===============================================================================
``state.json``     who its init is, where its API answers, its description
``names``          a first line ``# PID START_TIME`` of the init, then lines as in /etc/hosts
``ssh_config``     for `ssh -F`: reaches every name of the testbed, and no other
``id_ed25519``     the user's own key
``lock``           held while the testbed is raised or taken down
``log/``           what its processes say
=================  ===============================================================================
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.paths import RUNTIME
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.description import from_plain
from g5kvirt.testbeds.local.model import Description

__all__ = ["RUNTIME", "State", "default_name", "directory", "hosts_text", "option", "ssh_config", "write"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


def default_name() -> str:
    """``local``, or ``local-USER`` under sudo, so that two users of a machine have two testbeds."""
    user = re.sub(r"[^a-z0-9-]", "-", os.environ.get("SUDO_USER", "").lower())
    return f"local-{user}"[:32] if user and user != "root" else "local"


def option(name: str) -> str:
    """What `g5kvirt local …` has to be told for testbed ``name``: nothing if it is the user's own."""
    return "" if name == default_name() else f" --name {name}"


def directory(name: str | None = None) -> Path:
    """The state directory of testbed ``name``. Raises SpecError if that cannot be a name."""
    name = default_name() if name is None else name
    if not _NAME.fullmatch(name):
        raise SpecError(f"{name!r} cannot name a testbed: use small letters, digits and hyphens, at most 32.")
    return RUNTIME / name


@dataclass(frozen=True)
class State:
    """A testbed that was raised."""

    name: str
    pid: int  #: of its init, seen from this machine
    start_time: int  #: of its init, in clock ticks since boot
    api_uri: str
    api_user: str
    api_password: str
    plain: Mapping[str, Any]  #: the description, as in a file
    created: float  #: seconds since the epoch
    netem: bool = False  #: does the latency of the description hold?

    @classmethod
    def load(cls, name: str | None = None) -> State:
        """Read the state of a testbed that is up.

        :raises TestbedError: it is not up.
        """
        where = directory(name)
        try:
            plain = json.loads((where / "state.json").read_text())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TestbedError(
                f"testbed {where.name!r} is not up: g5kvirt local up{option(where.name)}."
            ) from error
        except PermissionError as error:
            raise TestbedError(f"testbed {where.name!r} belongs to root: use it as root.") from error
        except ValueError as error:
            how = f"g5kvirt local down{option(where.name)}, then up"
            raise TestbedError(f"{where}/state.json cannot be read: {how}.") from error
        plain["plain"] = plain.pop("description")
        return cls(**plain)

    def to_plain(self) -> dict[str, Any]:
        """What state.json holds."""
        plain = {key: getattr(self, key) for key in self.__dataclass_fields__}
        plain["description"] = plain.pop("plain")
        return plain

    @property
    def alive(self) -> bool:
        """Does the init that was started still run?"""
        return ns.start_time(self.pid) == self.start_time

    @property
    def directory(self) -> Path:
        return RUNTIME / self.name

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def key(self) -> Path:
        """Private key of the testbed's user, which opens the frontends."""
        return self.directory / "id_ed25519"

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    @cached_property
    def description(self) -> Description:
        return from_plain(self.plain)


def write(file: Path, text: str, mode: int = 0o600) -> None:
    """Write ``file`` whole or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.chmod(mode)
    partial.rename(file)


def hosts_text(description: Description) -> str:
    """All names of the testbed as in /etc/hosts, without the loopback's."""
    by_address: dict[str, list[str]] = {}
    for name, address in description.names().items():
        by_address.setdefault(str(address), []).append(name)
    return "".join(f"{address} {' '.join(names)}\n" for address, names in by_address.items())


def ssh_config(where: Path) -> str:
    """An ssh configuration that reaches every name of the testbed, and refuses every other one."""
    proxy = Path(__file__).with_name("proxy.py")
    python = os.path.realpath(sys.executable)
    words = [python, "-I", "-S", str(proxy), str(where)]
    command = shlex.join(words).replace("%", "%%")
    return f"""\
# Made by g5kvirt: the local testbed {where.name}.
Host kavlan-?.*.grid5000.fr
  User g5k
Host *-*.*.grid5000.fr
  User root
Host *.grid5000.fr
  User g5k
Host *
  ProxyCommand {command} %h %p
  ProxyUseFdpass yes
  IdentityFile "{where}/id_ed25519"
  IdentitiesOnly yes
  PreferredAuthentications publickey
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  CheckHostIP no
  ForwardAgent no
  LogLevel ERROR
"""
