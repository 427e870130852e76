"""The testbed's networks: what to tell `ip`, `bridge` and `tc`, and how to say it in a namespace.

::

    backbone (network namespace of the testbed's init; clients enter here)
       │ one veth a site, limited to the uplink's rate, with latency where the kernel has netem
    router and frontend of a site (the site container's namespace)
       ├── bridge prod      production network
       ├── bridge vlanN     a KaVLAN, made when the first node joins; a global one has a vxlan to all sites
       └── veth nI          to eth0 of node I, limited to the rate of its card on both ends

The first functions are pure: they return batch files. Local KaVLANs cannot be left, as on Grid'5000: their
frontend sees them, nobody else. Nothing leads out of the backbone.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.model import Description, Node, SiteDescription, Vlan

__all__ = [
    "Batch",
    "apply",
    "attach",
    "backbone",
    "configure_node",
    "connect_inside",
    "detach",
    "has_netem",
    "join",
    "move",
    "port",
    "shape",
    "site",
    "vlan_bridge",
]

_UPLINK_MTU = 1600  # room for vxlan's 50 bytes around 1500
_VXLAN_PORT = 4789
_TIMEOUT = 30.0  # seconds; a batch takes milliseconds


@dataclass(frozen=True)
class Batch:
    """Lines for `ip`, `bridge` and `tc`, run in this order in one network namespace."""

    ip: tuple[str, ...] = ()
    bridge: tuple[str, ...] = ()
    tc: tuple[str, ...] = ()

    def __add__(self, other: Batch) -> Batch:
        return Batch(self.ip + other.ip, self.bridge + other.bridge, self.tc + other.tc)


def port(node: Node) -> str:
    """The site's end of a node's cable."""
    return f"n{node.index}"


def join(vlan: int | None) -> str:
    """The bridge of a KaVLAN, or of the production network."""
    return "prod" if vlan is None else f"vlan{vlan}"


def shape(device: str, rate: float, latency: float = 0.0) -> Iterator[str]:
    """tc lines that limit what leaves through ``device`` to ``rate`` bit/s, ``latency`` seconds later."""
    burst = max(256 << 10, int(rate / 8 / 1000))  # a millisecond's worth, and room for offloaded segments
    yield f"qdisc add dev {device} root handle 1: htb default 1"
    yield (
        f"class add dev {device} parent 1: classid 1:1 htb rate {rate:.0f}bit burst {burst}b cburst {burst}b"
        " quantum 60000"
    )
    if latency:
        yield f"qdisc add dev {device} parent 1:1 netem delay {latency * 1e6:.0f}us limit 100000"


_ROUTER = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    # An address that nobody has is given up after 1.5 s instead of 3: each deployment asks for some.
    "net.ipv4.neigh.default.retrans_time_ms": "500",
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}


def router_sysctl() -> dict[str, str]:
    """Kernel settings of the backbone's and the sites' network namespaces."""
    return dict(_ROUTER)


def backbone(description: Description, site_pids: dict[str, int], netem: bool) -> Batch:
    """Links from the backbone to each site's namespace, and the routes to what is there."""
    ip = ["link set lo up"]
    tc: list[str] = []
    for one in description.sites:
        name = f"w{one.index}"
        ip += [
            f"link add {name} mtu {_UPLINK_MTU} type veth"
            f" peer name uplink mtu {_UPLINK_MTU} netns {site_pids[one.name]}",
            f"addr add {one.wan_gateway}/24 dev {name}",
            f"link set {name} up",
        ]
        routed = [v.network for v in one.vlans if v.kind != "local"]
        ip += [
            # Clients acknowledge at once: ssh's handshake else waits twice for a delayed acknowledgement,
            # which is 80 of 140 ms where there is no distance.
            f"route add {network} via {one.wan_ip} onlink dev {name} quickack 1"
            for network in (one.network, one.subnet_network, *routed)
        ]
        tc += shape(name, one.uplink_rate, one.uplink_latency if netem else 0.0)
    return Batch(tuple(ip), (), tuple(tc))


def site(one: SiteDescription, netem: bool) -> Batch:
    """The router's own interfaces; the uplink is there already."""
    ip = (
        "link set lo up",
        f"addr add {one.wan_ip}/24 dev uplink",
        "link set uplink up",
        f"route add default via {one.wan_gateway}",
        *_bridge("prod"),
        f"addr add {one.gateway}/{one.network.prefixlen} dev prod",
        f"addr add {one.subnet_gateway}/{one.subnet_network.prefixlen} dev prod",
        # A KaVLAN that nobody is in yet: say so at once, rather than send the packet back to the backbone.
        *(f"route add unreachable {v.network} metric 9999" for v in one.vlans),
    )
    return Batch(ip, (), tuple(shape("uplink", one.uplink_rate, one.uplink_latency if netem else 0.0)))


def _bridge(name: str) -> tuple[str, str]:
    return (f"link add {name} type bridge forward_delay 0 mcast_snooping 0", f"link set {name} up")


def vlan_bridge(description: Description, one: SiteDescription, vlan: Vlan) -> Batch:
    """The bridge of ``vlan`` on a site; its gateway is on the site that the vlan belongs to."""
    name = join(vlan.id)
    ip = [*_bridge(name)]
    bridge: list[str] = []
    if vlan.site == one.name:
        ip.append(f"addr add {vlan.gateway}/{vlan.network.prefixlen} dev {name}")
    if vlan.kind == "local":
        ip += [f"rule add iif {name} prohibit"]
        ip += [f"rule add iif {other} to {vlan.network} prohibit" for other in ("prod", "uplink")]
    if vlan.kind == "global":
        tunnel = f"vx{vlan.id}"
        ip += [
            f"link add {tunnel} mtu 1500 type vxlan id {vlan.id} local {one.wan_ip} dstport {_VXLAN_PORT}",
            f"link set {tunnel} master {name} up",
        ]
        bridge += [
            f"fdb append 00:00:00:00:00:00 dev {tunnel} dst {other.wan_ip}"
            for other in description.sites
            if other.name != one.name
        ]
    return Batch(tuple(ip), tuple(bridge))


def attach(nodes: Iterable[tuple[Node, int]], vlan: int | None) -> Batch:
    """In the site's namespace: cables to nodes, given with the pids of their inits, on a vlan's bridge."""
    ip: list[str] = []
    tc: list[str] = []
    for node, pid in nodes:
        name = port(node)
        ip += [
            f"link add {name} type veth peer name eth0 address {node.mac} netns {pid}",
            f"link set {name} master {join(vlan)} up",
        ]
        tc += shape(name, node.nic_rate)
    return Batch(tuple(ip), (), tuple(tc))


def detach(node: Node) -> Batch:
    """Pull out a node's cable (an error if there is none)."""
    return Batch((f"link del {port(node)}",))


def move(node: Node, vlan: int | None) -> Batch:
    """Plug a node's cable into the bridge of another vlan."""
    return Batch((f"link set {port(node)} master {join(vlan)}",))


def configure_node(description: Description, node: Node, vlan: int | None, *, first: bool = True) -> Batch:
    """In the node's namespace: its address and default route; ``first`` also brings the links up."""
    one = description.site(node.site)
    if vlan is None:
        address, network, gateway = node.ip, one.network, one.gateway
    else:
        where = description.vlan(node.site, vlan)
        address, network, gateway = description.kavlan_ip(node, vlan), where.network, where.gateway
    up = ("link set lo up", "link set eth0 up") if first else ("addr flush dev eth0 scope global",)
    ip = (
        *up,
        f"addr add {address}/{network.prefixlen} brd + dev eth0",
        f"route add default via {gateway}",
    )
    return Batch(ip, (), tuple(shape("eth0", node.nic_rate)) if first else ())


def apply(batch: Batch, pid: int | None = None, *, check: bool = True) -> None:
    """Run ``batch`` in the network namespace of process ``pid``, or in our own.

    :raises TestbedError: a line failed, with the tool's own words (not with ``check=False``).
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
            raise TestbedError(f"{tool} in the testbed's network did not end in {_TIMEOUT:.0f} s") from error
        if check and done.returncode:
            raise TestbedError(f"{tool} in the testbed's network failed: {_words(done.stderr, lines)}.")


def _words(stderr: str, lines: tuple[str, ...]) -> str:
    words = stderr.strip().splitlines() or ["no words"]
    number = words[-1].rpartition(":")[2]
    at = f" at “{lines[int(number) - 1]}”" if number.isdigit() and 0 < int(number) <= len(lines) else ""
    return words[0].removesuffix(".") + at


def set_sysctl(values: dict[str, str]) -> None:
    """Set kernel settings of our own network namespace; what this kernel does not have is left out."""
    for name, value in values.items():
        file = Path("/proc/sys") / name.replace(".", "/")
        if file.exists():
            file.write_text(value)


def has_netem() -> bool:
    """Can this kernel delay packets? Asked of the loopback of our own (private) network namespace."""
    words = ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1us"]
    if subprocess.run(words, capture_output=True, timeout=_TIMEOUT).returncode:
        return False
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True, timeout=_TIMEOUT)
    return True


def connect_inside(pid: int, host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection made in the network namespace of process ``pid``. Raises OSError."""
    with ExitStack() as opened:
        theirs, ours = (os.open(f"/proc/{who}/ns/net", os.O_RDONLY) for who in (pid, "thread-self"))
        opened.callback(os.close, theirs)
        opened.callback(os.close, ours)
        ns.setns(theirs, ns.NEWNET)  # a socket stays in the namespace in which it was made
        try:
            link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        finally:
            ns.setns(ours, ns.NEWNET)
    try:
        link.settimeout(timeout)
        link.connect((host, port))
    except OSError:
        link.close()
        raise
    return link
