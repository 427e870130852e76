"""Which jump hosts are between this machine and a machine of Grid'5000.

=========================  =======================================================================
target                     route of ssh
=========================  =======================================================================
frontend                   from inside Grid'5000 directly; from outside through access.grid5000.fr
machine in production,     the same: routed and global KaVLANs (numbers 4 to 9, and from 10 on) can be
routed or global KaVLAN    reached from everywhere inside
machine in a local KaVLAN  not routed (numbers 1 to 3): from the site's frontend through the gateway of
                           the KaVLAN, kavlan-N.SITE.grid5000.fr
VM                         through its host, which is on the same network
=========================  =======================================================================

Source: the pages "KaVLAN" (kinds, numbers, gateways) and "SSH" of the Grid'5000 documentation.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

from g5kvirt.errors import SpecError
from g5kvirt.remote.access import Access, check_host

__all__ = ["ACCESS_HOST", "LAST_LOCAL_VLAN", "check_jump", "detect", "gateways", "needed"]

#: The only host of Grid'5000 with ssh access from the Internet.
ACCESS_HOST = "access.grid5000.fr"
#: KaVLANs up to this number are local.
LAST_LOCAL_VLAN = 3

_DOMAIN = "grid5000.fr"
_LOGIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def needed(hostname: str, configured: bool) -> bool:
    """Whether ssh needs `ACCESS_HOST` as a jump host on the machine ``hostname``.

    Not on a machine of Grid'5000 itself, nor if the ssh configuration has a jump or proxy (``configured``).
    """
    return not configured and not f".{hostname.lower().rstrip('.')}".endswith(f".{_DOMAIN}")


def detect(ssh_config: Path | None = None, login: str | None = None) -> str:
    """The jump host needed from this machine, in the syntax of ``ssh -J``; "" for none. See `needed`.

    Inside the VPN of Grid'5000, which we cannot detect, the jump is superfluous but harmless.
    Raises MachineError if there is no ssh.
    """
    name = socket.gethostname()
    if not needed(name if "." in name else socket.getfqdn(), False):
        return ""
    here = Access(user=None, ssh_config=ssh_config)
    if not needed(name, here.identity(f"nancy.{_DOMAIN}").proxied):
        return ""
    return f"{login}@{ACCESS_HOST}" if login else ACCESS_HOST


def check_jump(jump: str) -> str:
    """Return ``jump`` if it is valid for ``ssh -J``: ``[LOGIN@]HOST[:PORT]``, comma-separated, or ""."""
    for hop in jump.split(",") if jump else ():
        login, at, host = hop.rpartition("@")
        if at and not _LOGIN.fullmatch(login):
            raise SpecError(f"{hop!r} is not a valid jump host", advice="use [LOGIN@]HOST[:PORT]")
        check_host(host)
    return jump


def gateways(vlan: int | None, domain: str) -> tuple[str, ...]:
    """The jump hosts from inside Grid'5000 to a machine in KaVLAN ``vlan`` of a site.

    ``domain``: the domain of the site, ``nancy.grid5000.fr``, which is also the name of its frontend.
    """
    if vlan is None or not 1 <= vlan <= LAST_LOCAL_VLAN:
        return ()
    return domain, f"kavlan-{vlan}.{domain}"
