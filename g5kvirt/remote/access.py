"""How to log in to a host: the ssh command line, its environment, and the identity ssh uses for a host."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.run.printable import short

__all__ = ["OPTIONS", "PLAIN_LOGIN", "PLAIN_SHELL", "SILENCE", "Access", "SshIdentity", "check_host"]

#: For the ProxyCommand of every ssh that we start; see `Access.environment`.
PLAIN_SHELL = "/bin/sh"

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._:%-]*[A-Za-z0-9])?")

#: What a user's ssh configuration may contain for their own logins, and must not do to ours: another command,
#: a port that is taken already (ExitOnForwardFailure), a connection that others close, a failure
#: without its reason (LogLevel QUIET).
PLAIN_LOGIN = (
    "RemoteCommand=none",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardX11=no",
    "ControlMaster=no",
    "ControlPath=none",
    "LogLevel=ERROR",
)

#: Options of every ssh that we start. The post-quantum key exchange that OpenSSH 9 prefers costs the client
#: 70 ms of CPU time per connection, this one 15 ms, which dominates with hundreds of hosts. Never prompt; no
#: pseudo-terminal (it would corrupt binary output); no connection sharing (its master would outlive us); no
#: host key is stored, because every deployment creates new ones. The keep-alive messages end the connection
#: to a host that died silently after 30 s.
OPTIONS = (
    "BatchMode=yes",
    "RequestTTY=no",
    *PLAIN_LOGIN,
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "GSSAPIAuthentication=no",
    "KexAlgorithms=^curve25519-sha256",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
)

#: For connections that are kept, by which a lost host is noticed: it has to answer every few seconds.
_WATCHED = ("ServerAliveInterval=4", "ServerAliveCountMax=3")
#: Seconds after which such a connection to a silent host has ended.
SILENCE = 16.0


def check_host(host: str) -> str:
    """Return ``host`` if it is a valid host name or address, safe on a command line; else raise SpecError."""
    if not _HOST.fullmatch(host):
        raise SpecError(f"{host!r} is not a valid host name", advice="use letters, digits, dots and hyphens")
    return host


@dataclass(frozen=True)
class SshIdentity:
    """What ssh would use for a host, according to ``ssh -G``."""

    user: str
    keys: tuple[Path, ...]  #: existing private keys, in the order in which ssh tries them
    proxied: bool = False  #: the ssh configuration names a jump host or a proxy


@dataclass(frozen=True)
class Access:
    """How to log in: user, ssh configuration, key, jump hosts.

    ``user=None`` leaves the user to the ssh configuration. ``ssh_config=None`` means the user's own
    ``~/.ssh/config``; the local testbed has its own file, whose ProxyCommand enters the testbed.
    ``options`` are additional ``Key=value`` options of ssh_config(5) and override all others. ``jump``: the
    jump hosts, in the syntax of ``ssh -J``, and ``login``: the user name on them (None: as configured); keys
    and host keys of the jump hosts come from the ssh configuration. ``agent``: the socket of an ssh agent of
    our own, for hosts (see `forwarding`). ``connect_timeout`` (seconds) bounds the connection and the banner;
    `login_timeout` bounds the time until our command starts on the host.
    """

    user: str | None = "root"
    ssh_config: Path | None = None
    key: Path | None = None
    options: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    jump: str = ""
    login: str | None = None
    agent: Path | None = None

    def through(self, *hosts: str) -> Access:
        """A copy with additional jump hosts."""
        names = [f"{self.login}@{check_host(h)}" if self.login else check_host(h) for h in hosts]
        return replace(self, jump=",".join([*([self.jump] if self.jump else []), *names]))

    def forwarding(self, agent: Path | None) -> Access:
        """A copy with which hosts may use an ssh agent: that of a socket, or the user's."""
        return replace(self, agent=agent, options=(*self.options, f"ForwardAgent={agent or 'yes'}"))

    def watching(self) -> Access:
        """A copy whose connections end after `SILENCE` seconds in which the host does not answer."""
        return replace(self, options=(*self.options, *_WATCHED))

    @property
    def login_timeout(self) -> float:
        """Seconds from the start of ssh within which the command must start; after that we give the host up.

        Three times `connect_timeout`: ConnectTimeout does not apply to a ProxyCommand, and a loaded host
        forks slowly.
        """
        return 3 * self.connect_timeout

    def prefix(self) -> tuple[str, ...]:
        """The ssh command without the host: run ``[*prefix, "--", host, command]``."""
        argv = ["ssh"]
        if self.ssh_config is not None:
            argv += ["-F", str(self.ssh_config)]
        if self.jump:
            argv += ["-J", self.jump]
        # ssh uses the first value of an option, so the overriding ones come first.
        for option in (*self.options, *self._common_options()):
            argv += ["-o", option]
        if self.key is not None:
            argv += ["-i", str(self.key), "-o", "IdentitiesOnly=yes"]
        if self.user is not None:
            argv += ["-l", self.user]
        return tuple(argv)

    def relay_prefix(self, identity: SshIdentity) -> tuple[str, ...]:
        """The ssh command with which one host of a TakTuk tree connects to the next.

        It names no file of this machine, because the hosts do not have them.
        """
        argv = ["ssh", "-A"]
        for option in self._common_options():
            argv += ["-o", option]
        return (*argv, "-l", self.user or identity.user)

    def argv(self, host: str, command: str) -> list[str]:
        """The complete ssh command line that runs ``command`` in the login shell of ``host``."""
        return [*self.prefix(), "--", check_host(host), command]

    def environment(self) -> dict[str, str]:
        """Environment for ssh: English messages, which `classify_failure` reads, and a plain shell.

        ssh runs a ProxyCommand with ``$SHELL``, and bash, when its input is a socket (ProxyUseFdpass) and no
        shell is above it, reads the user's ``.bashrc`` first: with pyenv or conda in there, logins at once
        wait for each other, 54 to 91 s where 0.3 s are enough.
        """
        found = {**os.environ, "LC_ALL": "C", "SHELL": PLAIN_SHELL}
        if self.agent is not None and not os.path.exists(found.get("SSH_AUTH_SOCK", "")):  # noqa: PTH110
            # ssh forwards none unless there is one here; the user's may hold the key for a jump host
            found["SSH_AUTH_SOCK"] = str(self.agent)
        return found

    def identity(self, host: str) -> SshIdentity:
        """Which user and keys ssh would use for ``host``, without connecting.

        Raises MachineError if ssh is missing or cannot read its configuration.
        """
        argv = [*self.prefix(), "-G", "--", check_host(host)]
        try:
            done = subprocess.run(
                argv, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=10
            )
        except FileNotFoundError:
            raise MachineError("ssh not found", advice="install openssh-client") from None
        except subprocess.TimeoutExpired:
            raise MachineError(
                "ssh -G did not finish within 10 s", advice="check the ssh configuration"
            ) from None
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise MachineError(
                f"ssh rejects its configuration: {short(done.stderr.decode(errors='replace'))}"
            )
        return parse_identity(text.splitlines())

    def _common_options(self) -> tuple[str, ...]:
        return (*OPTIONS, f"ConnectTimeout={max(1, round(self.connect_timeout))}")


def parse_identity(lines: Sequence[str]) -> SshIdentity:
    """Parse the output of ``ssh -G``; keys that do not exist are omitted."""
    user, keys, proxied = "root", [], False
    for line in lines:
        keyword, _, value = line.partition(" ")
        if keyword == "user":
            user = value
        elif keyword == "identityfile":
            with contextlib.suppress(RuntimeError, ValueError, OSError):  # the home of nobody, no path at all
                path = Path(value).expanduser()
                if path.is_file() and path not in keys:
                    keys.append(path)
        elif keyword in ("proxycommand", "proxyjump"):
            proxied = value != "none"
    return SshIdentity(user, tuple(keys), proxied)
