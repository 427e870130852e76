"""How a host is reached: the ssh command line, its environment, and what ssh makes of a host's name."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from g5kvirt.errors import MachineError, SpecError

__all__ = ["COMMON", "Access", "Identity", "check_host"]

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._:%-]*[A-Za-z0-9])?")

#: Said on every ssh of ours. The key exchange that OpenSSH 9 prefers, made to withstand quantum computers,
#: costs the client 70 ms of processor a connection, this one 15: with hundreds of hosts that is what one
#: waits for. No question is ever asked, no pseudo-terminal (it would spoil binary output), no shared
#: connection (its master would outlive us), no host key kept: every deployment makes new ones. The alive
#: messages end a connection whose host died silently after 30 s.
COMMON = (
    "BatchMode=yes",
    "RequestTTY=no",
    "ForwardX11=no",
    "ControlMaster=no",
    "ControlPath=none",
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "GSSAPIAuthentication=no",
    "KexAlgorithms=^curve25519-sha256",
    "LogLevel=ERROR",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
)


def check_host(host: str) -> str:
    """Give ``host`` back if it can stand on a command line as a host's name or address; else SpecError."""
    if not _HOST.fullmatch(host):
        raise SpecError(f"{host!r} is not a host's name: letters, digits, dots and hyphens are expected")
    return host


@dataclass(frozen=True)
class Identity:
    """What ssh itself would use for a host, as told by ``ssh -G``."""

    user: str
    keys: tuple[Path, ...]  #: private keys that exist, in the order ssh tries them
    proxied: bool = False  #: through a jump or a proxy that its configuration names


@dataclass(frozen=True)
class Access:
    """The way in: which user, which ssh configuration, which key.

    ``user=None`` leaves the user to the configuration. ``ssh_config=None`` means the person's own
    ``~/.ssh/config``; the local testbed gives its own file, whose ProxyCommand enters the testbed.
    ``options`` are further ``Key=value`` words of ssh_config(5) and win over all others. ``jump``: the ssh
    servers in between, as ``ssh -J`` takes them, and ``login``: who one is there (None: as the configuration
    has it); the way to them, their keys and host keys are the configuration's. ``connect_timeout`` (seconds)
    bounds the connection and the banner; up to `login_timeout` a host may take until our command runs there.
    """

    user: str | None = "root"
    ssh_config: Path | None = None
    key: Path | None = None
    options: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    jump: str = ""
    login: str | None = None

    def through(self, *hosts: str) -> Access:
        """The same, with further ssh servers in between."""
        names = [f"{self.login}@{check_host(h)}" if self.login else check_host(h) for h in hosts]
        return replace(self, jump=",".join([*([self.jump] if self.jump else []), *names]))

    @property
    def login_timeout(self) -> float:
        """Seconds from the start of ssh to the start of the command, after which a host is given up.

        A ProxyCommand is not bound by ssh's ConnectTimeout, and a loaded host forks slowly: three times it.
        """
        return 3 * self.connect_timeout

    def prefix(self) -> tuple[str, ...]:
        """The ssh command without a host: ``[*prefix, "--", host, command]`` runs."""
        words = ["ssh"]
        if self.ssh_config is not None:
            words += ["-F", str(self.ssh_config)]
        if self.jump:
            words += ["-J", self.jump]
        # ssh takes the first value it meets, so what must win comes first.
        for option in (*self.options, *self._shared()):
            words += ["-o", option]
        if self.key is not None:
            words += ["-i", str(self.key), "-o", "IdentitiesOnly=yes"]
        if self.user is not None:
            words += ["-l", self.user]
        return tuple(words)

    def inner(self, identity: Identity) -> tuple[str, ...]:
        """The ssh command with which one host of a tree reaches the next: no file of this machine is
        there."""
        words = ["ssh", "-A"]
        for option in self._shared():
            words += ["-o", option]
        return (*words, "-l", self.user or identity.user)

    def argv(self, host: str, command: str) -> list[str]:
        """The whole ssh command line that has ``host``'s login shell run ``command``."""
        return [*self.prefix(), "--", check_host(host), command]

    def environment(self) -> dict[str, str]:
        """Environment for ssh: the reasons that it gives must be in English for us to understand them."""
        return {**os.environ, "LC_ALL": "C"}

    def identity(self, host: str) -> Identity:
        """Ask ssh which user and keys it would use for ``host``. Nothing is connected.

        Raises MachineError if ssh is missing or cannot read its configuration.
        """
        argv = [*self.prefix(), "-G", "--", check_host(host)]
        try:
            done = subprocess.run(
                argv, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=10
            )
        except FileNotFoundError:
            raise MachineError("ssh was not found: install openssh-client") from None
        except subprocess.TimeoutExpired:
            raise MachineError("ssh -G did not answer within 10 s: look at the ssh configuration") from None
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise MachineError(
                f"ssh cannot use its configuration: {done.stderr.decode(errors='replace').strip()}"
            )
        return parse_identity(text.splitlines())

    def _shared(self) -> tuple[str, ...]:
        return (*COMMON, f"ConnectTimeout={max(1, round(self.connect_timeout))}")


def parse_identity(lines: Sequence[str]) -> Identity:
    """Read the answer of ``ssh -G``; keys that do not exist are left out."""
    user, keys, proxied = "root", [], False
    for line in lines:
        word, _, value = line.partition(" ")
        if word == "user":
            user = value
        elif word == "identityfile":
            path = Path(value).expanduser()
            if path.is_file() and path not in keys:
                keys.append(path)
        elif word in ("proxycommand", "proxyjump"):
            proxied = value != "none"
    return Identity(user, tuple(keys), proxied)
