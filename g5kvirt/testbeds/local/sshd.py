"""Configuration of the ssh servers of frontends and nodes."""

from __future__ import annotations

__all__ = ["HOST_KEY", "KEY_EXCHANGE", "config"]

#: Generates the only host key of a server.
HOST_KEY = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key")

#: Disables the key exchange that OpenSSH 9 prefers: it takes 0.1 s of CPU time for each connection, more than
#: the rest of a login, and no traffic inside the testbed leaves this machine.
KEY_EXCHANGE = "KexAlgorithms -sntrup*"

_CONFIG = f"""\
AddressFamily inet
HostKey {HOST_KEY[-1]}
AuthorizedKeysFile .ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 500
MaxSessions 500
PidFile none
Subsystem sftp internal-sftp
{KEY_EXCHANGE}
"""


def config(user: str) -> str:
    """Configuration of a server that admits only ``user``, with a key."""
    return f"{_CONFIG}AllowUsers {user}\nPermitRootLogin prohibit-password\n"
