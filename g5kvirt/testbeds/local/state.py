"""The state directory of a running testbed: ``/run/g5kvirt/<name>/``.

=================  ===============================================================================
``state.json``     its init, the address of its API, its description
``names``          a first line ``# PID START_TIME`` of the init, then lines as in /etc/hosts
``ssh_config``     for `ssh -F`: works for all names of the testbed, and no others
``id_ed25519``     private key of the user
``lock``           held while the testbed is being started or stopped
``log/``           logs of its processes
``clients/``       configurations for other programs, see `clients`
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
from urllib.parse import quote, urlsplit, urlunsplit

from g5kvirt.errors import SpecError, TestbedDownError, TestbedError
from g5kvirt.paths import RUNTIME
from g5kvirt.testbeds.described.description import from_plain
from g5kvirt.testbeds.described.model import Description
from g5kvirt.testbeds.local import namespaces as ns

__all__ = [
    "RUNTIME",
    "SSH_OPTIONS",
    "State",
    "default_name",
    "directory",
    "hosts_text",
    "option",
    "ssh_config",
    "write",
]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


def default_name() -> str:
    """``local``, or ``local-USER`` under sudo, so that each user of a machine has a testbed."""
    user = re.sub(r"[^a-z0-9-]", "-", os.environ.get("SUDO_USER", "").lower())
    return f"local-{user}"[:32] if user and user != "root" else "local"


def option(name: str) -> str:
    """The option of `g5kvirt local …` for testbed ``name``: empty if it is the user's own."""
    return "" if name == default_name() else f" --name {name}"


def directory(name: str | None = None) -> Path:
    """The state directory of testbed ``name``. Raises SpecError for an invalid name."""
    name = default_name() if name is None else name
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is not a valid testbed name",
            advice="use at most 32 lower-case letters, digits and hyphens",
        )
    return RUNTIME / name


@dataclass(frozen=True)
class State:
    """A testbed that has been started."""

    name: str
    pid: int  #: of its init, as seen from this machine
    start_time: int  #: of its init, in clock ticks since boot
    api_uri: str
    api_user: str
    api_password: str
    plain: Mapping[str, Any]  #: the description, as from a file
    created: float  #: seconds since the epoch
    netem: bool = False  #: whether the latencies of the description are in effect

    @classmethod
    def load(cls, name: str | None = None) -> State:
        """Read the state of a testbed that is up.

        :raises TestbedError: it is not up.
        """
        state_dir = directory(name)
        try:
            plain = json.loads((state_dir / "state.json").read_text())
        except (FileNotFoundError, NotADirectoryError) as error:
            up = sorted(path.parent.name for path in RUNTIME.glob("*/ready"))
            other = f" (up now: {', '.join(f'local:{name}' for name in up[:5])})" if up else ""
            raise TestbedDownError(
                f"testbed {state_dir.name!r} is not up",
                advice=f"run g5kvirt local up{option(state_dir.name)}{other}",
            ) from error
        except PermissionError as error:
            raise TestbedError(f"testbed {state_dir.name!r} belongs to root", advice="use sudo") from error
        except ValueError as error:
            name_option = option(state_dir.name)
            remedy = f"run g5kvirt local down{name_option}, then g5kvirt local up{name_option}"
            raise TestbedError(f"{state_dir}/state.json cannot be read", advice=remedy) from error
        plain["plain"] = plain.pop("description")
        return cls(**plain)

    @classmethod
    def running(cls, name: str | None = None) -> State:
        """The state of a testbed whose processes run. Raises TestbedError for any other."""
        state = cls.load(name)
        if not state.alive:
            raise TestbedError(
                f"the testbed {state.name!r} has ended",
                advice=f"start it again: g5kvirt local up{option(state.name)}",
            )
        return state

    def to_plain(self) -> dict[str, Any]:
        """The contents of state.json."""
        plain = {key: getattr(self, key) for key in self.__dataclass_fields__}
        plain["description"] = plain.pop("plain")
        return plain

    @property
    def alive(self) -> bool:
        """Whether the init still runs."""
        return ns.start_time(self.pid) == self.start_time

    @property
    def authenticated_uri(self) -> str:
        """The API's address with user and password, for execo.

        It reads passwords only from a keyring or a terminal; those in the address it passes on unchanged.
        """
        parts = urlsplit(self.api_uri)
        login = f"{quote(self.api_user, safe='')}:{quote(self.api_password, safe='')}"
        return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))

    @property
    def directory(self) -> Path:
        return RUNTIME / self.name

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def key(self) -> Path:
        """Private key of the testbed's user, accepted by the frontends."""
        return self.directory / "id_ed25519"

    @cached_property
    def description(self) -> Description:
        return from_plain(self.plain)


def write(file: Path, text: str, mode: int = 0o600) -> None:
    """Write ``file`` atomically."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.chmod(mode)
    partial.rename(file)


def hosts_text(description: Description) -> str:
    """All names of the testbed as lines of /etc/hosts, without the loopback."""
    by_address: dict[str, list[str]] = {}
    for name, address in description.names().items():
        by_address.setdefault(str(address), []).append(name)
    return "".join(f"{address} {' '.join(names)}\n" for address, names in by_address.items())


#: For ssh with a plain shell (`g5kvirt.remote.access.Access.environment`), which then needs no other process
#: for a connection. Not in the configuration itself: it makes bash read ``.bashrc`` for a ProxyCommand.
SSH_OPTIONS = ("ProxyUseFdpass=yes",)


def ssh_config(state_dir: Path, pid: int, start_time: int) -> str:
    """An ssh configuration that works for all names of the testbed and rejects all others.

    ``pid`` and ``start_time``: of the testbed's init, see `State`.
    """
    proxy = Path(__file__).with_name("proxy.py")
    python = os.path.realpath(sys.executable)
    command = shlex.join([python, "-I", "-S", str(proxy), str(state_dir), str(pid), str(start_time)]).replace(
        "%", "%%"
    )
    return f"""\
# Generated by g5kvirt for the local testbed {state_dir.name}.
Host kavlan-?.*.grid5000.fr
  User g5k
Host *-*.*.grid5000.fr
  User root
Host *.grid5000.fr
  User g5k
Host *
  ProxyCommand {command} %h %p
  IdentityFile "{state_dir}/id_ed25519"
  IdentitiesOnly yes
  PreferredAuthentications publickey
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  GlobalKnownHostsFile /dev/null
  CheckHostIP no
  ForwardAgent no
  LogLevel ERROR
"""
