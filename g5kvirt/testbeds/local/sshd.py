"""The ssh servers of the testbed, of frontends and nodes alike."""

from __future__ import annotations

__all__ = ["HOST_KEY", "KEY_EXCHANGE", "config"]

#: Makes the server's only host key.
HOST_KEY = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key")

#: Without the key exchange that OpenSSH 9 prefers: it takes 0.1 s of a core for each connection, more than
#: all else of a login, and nothing that is said inside the testbed leaves this machine.
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
    """Of a server that lets in ``user`` alone, with a key."""
    return f"{_CONFIG}AllowUsers {user}\nPermitRootLogin prohibit-password\n"
