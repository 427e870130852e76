"""The testbed's networks: commands for `ip`, `bridge` and `tc`, and their execution in a namespace.

::

    backbone (network namespace of the testbed's init; clients enter here)
       │ one veth per site, limited to the uplink's rate, with latency if the kernel has netem
    router and frontend of a site (the site container's namespace)
       ├── bridge prod      production network
       ├── bridge vlanN     a KaVLAN, created when the first node joins; a global one has a vxlan to all sites
       └── veth nI          to eth0 of node I, limited to the node's rate at both ends

The first functions are pure: they return batch files. As on Grid'5000, local KaVLANs are isolated: only their
frontend can reach them. There is no route out of the backbone.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.model import Description, NodeDescription, SiteDescription, Vlan
from g5kvirt.testbeds.local import namespaces as ns

__all__ = [
    "VXLAN_PORT",
    "Batch",
    "apply",
    "attach",
    "backbone",
    "bridge_name",
    "configure_node",
    "connect_inside",
    "detach",
    "has_netem",
    "move",
    "port_name",
    "router",
    "shape",
    "socket_inside",
    "vlan_bridge",
]

_UPLINK_MTU = 1600  # room for vxlan's 50 bytes around 1500
VXLAN_PORT = 4789
_MANAGED_AGEING = 86_400  # seconds for which a managed switch remembers where a machine is
_TIMEOUT = 30.0  # seconds; a batch takes milliseconds


@dataclass(frozen=True)
class Batch:
    """Batch lines for `ip`, `bridge` and `tc`, run in this order in one network namespace."""

    ip: tuple[str, ...] = ()
    bridge: tuple[str, ...] = ()
    tc: tuple[str, ...] = ()

    def __add__(self, other: Batch) -> Batch:
        return Batch(self.ip + other.ip, self.bridge + other.bridge, self.tc + other.tc)


def port_name(node: NodeDescription) -> str:
    """Name of the interface to a node on the router of its site."""
    return f"n{node.index}"


def bridge_name(vlan: int | None) -> str:
    """Name of the bridge of a KaVLAN, or of the production network."""
    return "prod" if vlan is None else f"vlan{vlan}"


def shape(device: str, rate: float, latency: float = 0.0) -> Iterator[str]:
    """tc lines that limit the output of ``device`` to ``rate`` bit/s and delay it by ``latency`` seconds."""
    burst = max(256 << 10, int(rate / 8 / 1000))  # one millisecond, and room for offloaded segments
    yield f"qdisc add dev {device} root handle 1: htb default 1"
    yield (
        f"class add dev {device} parent 1: classid 1:1 htb rate {rate:.0f}bit burst {burst}b cburst {burst}b"
        " quantum 60000"
    )
    if latency:
        yield f"qdisc add dev {device} parent 1:1 netem delay {latency * 1e6:.0f}us limit 100000"


#: For routers, and for nodes on a managed switch, where the multicasts of each would be copied to all others:
#: 5 % of the processor time of configure with 361 nodes, and up to 16 % of launch (measured).
_WITHOUT_IPV6 = {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}

_ROUTER = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    # Resolving an unused address fails after 1.5 s instead of 3: each deployment tries some.
    "net.ipv4.neigh.default.retrans_time_ms": "500",
    **_WITHOUT_IPV6,
    # Switches do not filter; where a kernel has br_netfilter, all frames would pass through its hooks.
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-arptables": "0",
}


def router_sysctl() -> dict[str, str]:
    """Kernel settings of the network namespaces of the backbone and the sites."""
    return dict(_ROUTER)


def backbone(description: Description, site_pids: dict[str, int], netem: bool) -> Batch:
    """Links from the backbone to the namespace of each site, and the routes to its networks."""
    ip = ["link set lo up"]
    tc: list[str] = []
    for site in description.sites:
        name = f"w{site.index}"
        ip += [
            f"link add {name} mtu {_UPLINK_MTU} type veth"
            f" peer name uplink mtu {_UPLINK_MTU} netns {site_pids[site.name]}",
            f"addr add {site.wan_gateway}/24 dev {name}",
            f"link set {name} up",
        ]
        routed = [v.network for v in site.vlans if v.kind != "local"]
        ip += [
            # Acknowledge at once: the handshake of ssh otherwise waits twice for a delayed acknowledgement,
            # which takes 80 of 140 ms without latency.
            f"route add {network} via {site.wan_ip} onlink dev {name} quickack 1"
            for network in (site.network, site.subnet_network, *routed)
        ]
        tc += shape(name, site.uplink_rate, site.uplink_latency if netem else 0.0)
    return Batch(tuple(ip), (), tuple(tc))


def router(site: SiteDescription, netem: bool) -> Batch:
    """Interfaces of the router of a site; its uplink exists already."""
    ip = (
        "link set lo up",
        f"addr add {site.wan_ip}/24 dev uplink",
        "link set uplink up",
        f"route add default via {site.wan_gateway}",
        *_bridge("prod"),
        f"addr add {site.gateway}/{site.network.prefixlen} dev prod",
        f"addr add {site.subnet_gateway}/{site.subnet_network.prefixlen} dev prod",
        # Reject packets to an empty KaVLAN instead of sending them back to the backbone.
        *(f"route add unreachable {v.network} metric 9999" for v in site.vlans),
    )
    return Batch(ip, (), tuple(shape("uplink", site.uplink_rate, site.uplink_latency if netem else 0.0)))


def _bridge(name: str) -> tuple[str, str]:
    return (f"link add {name} type bridge forward_delay 0 mcast_snooping 0", f"link set {name} up")


def vlan_bridge(description: Description, site: SiteDescription, vlan: Vlan) -> Batch:
    """The bridge of ``vlan`` on a site; the gateway is on the site that owns the vlan."""
    name = bridge_name(vlan.id)
    ip = [*_bridge(name)]
    managed = description.switch == "managed"
    if managed:  # a machine that is forgotten would be flooded to all of them
        ip.append(f"link set {name} type bridge ageing_time {100 * _MANAGED_AGEING}")
    bridge: list[str] = []
    if vlan.site == site.name:
        ip.append(f"addr add {vlan.gateway}/{vlan.network.prefixlen} dev {name}")
    if vlan.kind == "local":
        ip += [f"rule add iif {name} prohibit"]
        ip += [f"rule add iif {other} to {vlan.network} prohibit" for other in ("prod", "uplink")]
    if vlan.kind == "global":
        tunnel = f"vx{vlan.id}"
        ip += [
            f"link add {tunnel} mtu 1500 type vxlan id {vlan.id} local {site.wan_ip} dstport {VXLAN_PORT}"
            + (f" ageing {_MANAGED_AGEING}" if managed else ""),
            f"link set {tunnel} master {name} up",
        ]
        bridge += [
            f"fdb append 00:00:00:00:00:00 dev {tunnel} dst {other.wan_ip}"
            for other in description.sites
            if other.name != site.name
        ]
    return Batch(tuple(ip), tuple(bridge))


def attach(nodes: Iterable[tuple[NodeDescription, int]], vlan: int | None, *, managed: bool = False) -> Batch:
    """In the site's namespace: connect nodes, with the pids of their inits, to the bridge of a vlan.

    ``managed``: broadcasts in a KaVLAN are left to a `g5kvirt.testbeds.local.switch.Switch`.
    """
    ip: list[str] = []
    tc: list[str] = []
    for node, pid in nodes:
        name = port_name(node)
        ip += [
            f"link add {name} type veth peer name eth0 address {node.mac} netns {pid}",
            f"link set {name} master {bridge_name(vlan)} up",
            *_flooding(node, vlan, managed),
        ]
        tc += shape(name, node.nic_rate)
    return Batch(tuple(ip), (), tuple(tc))


def detach(node: NodeDescription) -> Batch:
    """Disconnect a node (an error if it is not connected)."""
    return Batch((f"link del {port_name(node)}",))


def move(node: NodeDescription, vlan: int | None, *, managed: bool = False) -> Batch:
    """Connect a node to the bridge of another vlan; ``managed`` as in `attach`."""
    ip = (f"link set {port_name(node)} master {bridge_name(vlan)}", *_flooding(node, vlan, managed))
    return Batch(ip)


def _flooding(node: NodeDescription, vlan: int | None, managed: bool) -> Iterator[str]:
    if managed and vlan is not None:
        yield f"link set {port_name(node)} type bridge_slave bcast_flood off"


def configure_node(
    description: Description, node: NodeDescription, vlan: int | None, *, first: bool = True
) -> Batch:
    """In the node's namespace: set address and default route; with ``first``, also bring the links up."""
    site = description.site(node.site)
    if vlan is None:
        address, network, gateway = node.ip, site.network, site.gateway
    else:
        kavlan = description.vlan(node.site, vlan)
        address, network, gateway = description.kavlan_ip(node, vlan), kavlan.network, kavlan.gateway
    up = ("link set lo up", "link set eth0 up") if first else ("addr flush dev eth0 scope global",)
    ip = (
        *up,
        f"addr add {address}/{network.prefixlen} brd + dev eth0",
        f"route add default via {gateway}",
    )
    return Batch(ip, (), tuple(shape("eth0", node.nic_rate)) if first else ())


def apply(batch: Batch, pid: int | None = None, *, check: bool = True) -> None:
    """Run ``batch`` in the network namespace of process ``pid``, or in our own.

    :raises TestbedError: a line failed, with the message of the tool (not with ``check=False``).
    """
    enter = [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net"]
    for tool, lines in (("ip", batch.ip), ("bridge", batch.bridge), ("tc", batch.tc)):
        if not lines:
            continue
        try:
            done = subprocess.run(
                [*enter, tool, "-batch", "-"],
                input="".join(f"{line}\n" for line in lines),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            raise TestbedError(
                f"{tool} in the testbed's network did not finish within {_TIMEOUT:.0f} s"
            ) from error
        if check and done.returncode:
            raise TestbedError(
                f"{tool} in the testbed's network failed: {_error_message(done.stderr, lines)}"
            )


def _error_message(stderr: str, lines: tuple[str, ...]) -> str:
    messages = stderr.strip().splitlines() or ["no error message"]
    number = messages[-1].rpartition(":")[2]
    at = f" at “{lines[int(number) - 1]}”" if number.isdigit() and 0 < int(number) <= len(lines) else ""
    return messages[0].removesuffix(".") + at


def set_sysctl(values: dict[str, str]) -> None:
    """Apply kernel settings in our network namespace; settings that this kernel lacks are skipped."""
    for name, value in values.items():
        file = Path("/proc/sys") / name.replace(".", "/")
        if file.exists():
            file.write_text(value)


def has_netem() -> bool:
    """Whether this kernel can delay packets; tried on the loopback of our (private) network namespace."""
    probe = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1us"]
    if subprocess.run(probe, capture_output=True, timeout=_TIMEOUT).returncode:
        return False
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True, timeout=_TIMEOUT)
    return True


def disable_ipv6(pid: int) -> None:
    """No IPv6 in the network namespace of process ``pid``, unless an interface is given it later."""
    with _inside(pid):
        set_sysctl(_WITHOUT_IPV6)


@contextmanager
def _inside(pid: int) -> Iterator[None]:
    """This thread in the network namespace of process ``pid``."""
    with ExitStack() as opened:
        theirs, ours = (os.open(f"/proc/{who}/ns/net", os.O_RDONLY) for who in (pid, "thread-self"))
        opened.callback(os.close, theirs)
        opened.callback(os.close, ours)
        ns.setns(theirs, ns.NEWNET)
        try:
            yield
        finally:
            ns.setns(ours, ns.NEWNET)


@contextmanager
def socket_inside(pid: int, family: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
    """A new socket in the network namespace of process ``pid``, closed if what is done with it here fails."""
    with _inside(pid):  # in which it stays
        link = socket.socket(family, kind, protocol)
    try:
        yield link
    except BaseException:
        link.close()
        raise


def connect_inside(pid: int, host: str, port: int, timeout: float) -> socket.socket:
    """Open a TCP connection in the network namespace of process ``pid``. Raises OSError."""
    with socket_inside(pid, socket.AF_INET, socket.SOCK_STREAM) as link:
        link.settimeout(timeout)
        link.connect((host, port))
        return link
