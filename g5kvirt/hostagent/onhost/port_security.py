"""What a VM may send: frames from its own MAC and IP address only, and no answers of a DHCP server.

The services know a VM by its address, and the bridge by its MAC. Without this a VM could report the steps of
another, or draw its traffic. A DHCP server knows it by the MAC in its message, which is therefore its own,
too: or it could decline another's address, which a server then gives to nobody for minutes.

What a VM may receive: answers of the run's own DHCP servers only. A KaVLAN has a server of the testbed's,
which refuses by a broadcast (DHCPNAK) each address that ours offer, as it is not of the KaVLAN's network.
"""

from __future__ import annotations

import shutil

from .processes import run_checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .records import Record

TABLE = "bridge g5kvirt"

#: Taps are called ``v`` and the MAC address. The sets stay as they are: VMs may be running.
RULES = f"""
add table {TABLE}
add set {TABLE} macs {{ typeof iifname . ether saddr; }}
add set {TABLE} addresses {{ typeof iifname . ip saddr; }}
add map {TABLE} clients {{ type ifname : verdict; }}
add chain {TABLE} vms
flush chain {TABLE} vms
add rule {TABLE} vms iifname . ether saddr != @macs drop
add rule {TABLE} vms ether type arp arp saddr ip != 0.0.0.0 iifname . arp saddr ip != @addresses drop
add rule {TABLE} vms ether type ip udp sport 67 udp dport 68 drop
add rule {TABLE} vms ether type ip ip saddr != 0.0.0.0 iifname . ip saddr != @addresses drop
add rule {TABLE} vms icmpv6 type nd-router-advert drop
add rule {TABLE} vms ether type ip udp dport 67 iifname vmap @clients
add chain {TABLE} prerouting {{ type filter hook prerouting priority -300; policy accept; }}
flush chain {TABLE} prerouting
add rule {TABLE} prerouting iifname "v*" jump vms
"""

#: A chain for what is passed on to VMs: what the host itself gets by DHCP is not concerned.
DHCP_RULES = f"""
add set {TABLE} dhcp_servers {{ type ipv4_addr; }}
add chain {TABLE} forward {{ type filter hook forward priority -300; policy accept; }}
flush chain {TABLE} forward
add rule {TABLE} forward oifname "v*" ether type ip udp sport 67 udp dport 68 ip saddr != @dhcp_servers drop
"""


#: For each VM, of what it sends to DHCP servers. The client's MAC is 28 bytes behind UDP's header, which has
#: 8 (RFC 2131); in a fragment it may be out of sight.
CLIENT_RULES = """
add chain {table} {tap}
flush chain {table} {tap}
add rule {table} {tap} ip frag-off & 0x3fff == 0 @th,288,48 0x{digits} return
add rule {table} {tap} drop
add element {table} clients {{ "{tap}" : jump {tap} }}
"""


def client_rules(tap: str, mac: str) -> str:
    """What a VM may send to DHCP servers."""
    return CLIENT_RULES.format(table=TABLE, tap=tap, digits=mac.replace(":", ""))


def enforce(vms: Sequence[Record], dhcp_servers: Iterable[str] = ()) -> None:
    """Let VMs, whose taps need not exist yet, use the addresses that are theirs, and no others.

    ``dhcp_servers``: IPv4 addresses from which DHCP reaches VMs; without any, from all. One call for all VMs
    of a request; VMs that run already keep their entries. Raises OSError where the host's nftables lack
    something.
    """
    known = [(f'"{vm["tap"]}"', vm["mac"], vm["ip"]) for vm in vms if "ip" in vm]
    clients = "".join(client_rules(vm["tap"], vm["mac"]) for vm in vms if "ip" in vm)
    if known:
        macs = ", ".join(f"{tap} . {mac}" for tap, mac, _ in known)
        addresses = ", ".join(f"{tap} . {ip}" for tap, _, ip in known)
        elements = f"add element {TABLE} macs {{ {macs} }}\nadd element {TABLE} addresses {{ {addresses} }}\n"
        if servers := ", ".join(dhcp_servers):
            elements += f"{DHCP_RULES}add element {TABLE} dhcp_servers {{ {servers} }}\n"
        try:
            run_checked(["nft", "-f", "-"], RULES + clients + elements)
        except OSError as error:
            raise OSError(f"{error}; without nftables, set port_security of the VMs to false") from error


def remove() -> None:
    """The host as it was before. Raises OSError."""
    if shutil.which("nft"):
        run_checked(["nft", "-f", "-"], f"add table {TABLE}\ndelete table {TABLE}\n")
