"""Which ssh servers stand between this machine and a machine of Grid'5000.

=========================  =======================================================================
where it is                how ssh gets there
=========================  =======================================================================
frontend                   from inside Grid'5000 directly; from outside through access.grid5000.fr
machine in production,     the same: routed and global KaVLANs (numbers 4 to 9, and from 10 on) can be
routed or global KaVLAN    reached from everywhere inside
machine in a local KaVLAN  nothing is routed into it (numbers 1 to 3): on from the site's frontend
                           through the KaVLAN's own gateway, kavlan-N.SITE.grid5000.fr
VM                         through its own host, which is on its network
=========================  =======================================================================

As the Grid'5000 documentation has it, in its pages "KaVLAN" (kinds, numbers, gateways) and "SSH".
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

from g5kvirt.errors import SpecError
from g5kvirt.remote.access import Access, check_host

__all__ = ["ACCESS", "LAST_LOCAL", "check_jump", "detect", "gateways", "needed"]

#: The only machines of Grid'5000 that answer ssh from the Internet.
ACCESS = "access.grid5000.fr"
#: KaVLANs up to this number are local ones.
LAST_LOCAL = 3

_DOMAIN = "grid5000.fr"
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def needed(hostname: str, configured: bool) -> bool:
    """Whether a way through `ACCESS` has to be named, from a machine of this name.

    Not on one of Grid'5000 itself, nor where ssh's own configuration knows a way already (``configured``).
    """
    return not configured and not f".{hostname.lower().rstrip('.')}".endswith(f".{_DOMAIN}")


def detect(ssh_config: Path | None = None, login: str | None = None) -> str:
    """The jump that is needed from here, as ``ssh -J`` takes it; "" for none. See `needed`.

    In Grid'5000's own VPN, which cannot be told from here, a jump is one step too many and does no harm.
    Raises MachineError if there is no ssh.
    """
    name = socket.gethostname()
    if not needed(name if "." in name else socket.getfqdn(), False):
        return ""
    here = Access(user=None, ssh_config=ssh_config)
    if not needed(name, here.identity(f"nancy.{_DOMAIN}").proxied):
        return ""
    return f"{login}@{ACCESS}" if login else ACCESS


def check_jump(jump: str) -> str:
    """Give ``jump`` back if ``ssh -J`` takes it: ``[LOGIN@]HOST[:PORT]``, several with commas, or ""."""
    for hop in jump.split(",") if jump else ():
        login, at, host = hop.rpartition("@")
        if at and not _LOGIN.fullmatch(login):
            raise SpecError(f"{hop!r} is no ssh server to jump through: [LOGIN@]HOST[:PORT] is expected")
        check_host(host)
    return jump


def gateways(vlan: int | None, domain: str) -> tuple[str, ...]:
    """What stands between the inside of Grid'5000 and a machine in KaVLAN ``vlan`` of a site.

    ``domain``: that of the site, ``nancy.grid5000.fr``, which is its frontend's name too.
    """
    if vlan is None or not 1 <= vlan <= LAST_LOCAL:
        return ()
    return domain, f"kavlan-{vlan}.{domain}"
