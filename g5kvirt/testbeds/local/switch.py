"""The managed switch: each broadcast of a KaVLAN goes only to the machines that it concerns.

A plain bridge copies a broadcast to all of its ports, on all sites of a global KaVLAN. For 361 nodes that
takes 3.5 ms of a core, each guest sends about eight when it boots, and here one machine pays for all copies.
What the switches of a data centre do in hardware is done here by one thread: ports of nodes are not flooded
(``bcast_flood off``), and

- an ARP request goes to the port where its target was seen, whose machine answers it itself;
- a request for an address by DHCP goes to the nodes of its site on which something listens on UDP port 67, as
  if each site had its own DHCP relay; to those of all sites if there is none on its own;
- a DHCP server's broadcast goes to its client;
- anything else goes to all ports, as does an ARP request for an address that was never seen.

Broadcasts to the gateway need no help: the bridges themselves, and the tunnels between sites, are flooded.
What is forwarded here does not pass the links between sites, so it takes none of their bandwidth.
"""

from __future__ import annotations

import ctypes
import logging
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from g5kvirt.testbeds.local import frames, network
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.frames import Frame

__all__ = ["Port", "Switch", "Vlan", "serves_dhcp"]

log = logging.getLogger(__name__)

_LOOK = 2.0  #: seconds between two looks for DHCP servers

_SOL_PACKET, _IGNORE_OUTGOING, _VNET_HDR, _ATTACH_FILTER = 263, 23, 15, 26
_ETH_P_ALL = 3
#: For the kernel (classic BPF): ARP, whose answers show where a machine is, and broadcasts.
_WANTED = (
    (0x28, 0, 0, 12),  # ldh [12]: the kind of frame
    (0x15, 4, 0, 0x0806),
    (0x20, 0, 0, 0),  # ld [0]: the destination
    (0x15, 0, 3, 0xFFFFFFFF),
    (0x28, 0, 0, 4),  # ldh [4]
    (0x15, 0, 1, 0xFFFF),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)
#: The same, sent by the bridge itself: the packet type (an extension at -4096 + 4) is "outgoing" (4).
_WANTED_OF_OWN = ((0x28, 0, 0, 0xFFFFF004), (0x15, 0, 7, 4), *_WANTED)


def serves_dhcp(pid: int) -> bool:
    """Whether anything listens on UDP port 67 in the network namespace of a process."""
    try:
        return ns.is_listening(67, pid, ("udp",))
    except OSError:  # it has ended
        return False


@dataclass(eq=False)
class Port:
    """Where a machine is connected; ``pid`` is its init."""

    name: str
    site: str
    pid: int
    link: socket.socket

    def send(self, data: bytes) -> bool:
        """Send a frame to the machine; False if it is lost: a full queue, or a link that has gone."""
        try:
            self.link.send(data)
        except OSError:
            return False
        return True


@dataclass(eq=False)
class Vlan:
    """What is known of a KaVLAN, and the decision where a broadcast goes."""

    gateway: bytes
    ports: dict[str, Port] = field(default_factory=dict)
    addresses: dict[bytes, Port] = field(default_factory=dict)  #: IPv4 → where it was seen
    macs: dict[bytes, Port] = field(default_factory=dict)
    servers: list[Port] = field(default_factory=list)  #: of DHCP
    looked: float = -1e9

    def receivers(self, frame: Frame, source: Port | None, now: float) -> list[Port]:
        """The ports to which a broadcast goes; ``source`` None: from the gateway."""
        if source is not None:
            self.macs[frame.source] = source
            if frame.sender:
                self.addresses[frame.sender] = source
        found: Iterable[Port]
        match frame.kind:
            case "answer":
                found = ()
            case "arp":
                found = () if frame.target == self.gateway else self._known(self.addresses.get(frame.target))
            case "dhcp":
                found = self._servers(now)
                if source is not None:
                    found = [port for port in found if port.site == source.site] or found
            case "offer":
                found = self._known(self.macs.get(frame.mac))
            case _:
                found = self.ports.values()
        return [port for port in found if port is not source]

    def _known(self, port: Port | None) -> Iterable[Port]:
        """That port, if it is still there; else all."""
        return [port] if port is not None and self.ports.get(port.name) is port else self.ports.values()

    def _servers(self, now: float) -> list[Port]:
        if now - self.looked > _LOOK:
            self.looked = now
            self.servers = [port for port in self.ports.values() if serves_dhcp(port.pid)]
        return self.servers


class Switch:
    """The thread that forwards, and its ports. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vlans: dict[tuple[str, int], Vlan] = {}  # by the site of its gateway, and its number
        self._epoll = select.epoll()
        self._sources: dict[int, tuple[Vlan, socket.socket, Port | None]] = {}
        self._plugged: dict[str, Vlan] = {}
        self.lost = 0  #: frames

    def start(self) -> None:
        """Begin to forward."""
        threading.Thread(target=self._run, name="switch", daemon=True).start()

    def add_vlan(self, vlan: tuple[str, int], gateway: bytes, router: int, bridge: str) -> None:
        """A KaVLAN, with the bridge of its gateway in the network namespace of process ``router``.

        ``vlan``: the site of its gateway, and its number; sites number their own KaVLANs alike.
        """
        if vlan in self._vlans:
            return
        link = _packet_socket(router, bridge, _WANTED_OF_OWN)
        with self._lock:
            self._vlans[vlan] = one = Vlan(gateway)
            self._add(one, link, None)

    def plug(
        self,
        name: str,
        site: str,
        vlan: tuple[str, int],
        router: int,
        interface: str,
        *,
        pid: int,
        address: bytes,
    ) -> None:
        """Connect a machine whose port is ``interface`` in the namespace of process ``router``.

        ``pid``: its init. ``address``: its own, since a machine that only answers is never seen here.
        """
        self.unplug(name)
        one = self._vlans[vlan]
        port = Port(name, site, pid, _packet_socket(router, interface, _WANTED, incoming=True))
        with self._lock:
            self._plugged[name] = one
            one.ports[name] = one.addresses[address] = port
            one.looked = -1e9
            self._add(one, port.link, port)

    def unplug(self, name: str) -> None:
        """Disconnect a machine, if it is connected."""
        with self._lock:
            vlan = self._plugged.pop(name, None)
            if vlan is None:
                return
            port = vlan.ports.pop(name)
            del self._sources[port.link.fileno()]
            self._epoll.unregister(port.link)
            port.link.close()

    def _add(self, vlan: Vlan, link: socket.socket, port: Port | None) -> None:
        self._sources[link.fileno()] = (vlan, link, port)
        self._epoll.register(link, select.EPOLLIN)

    def _run(self) -> None:
        while True:
            for number, _ in self._epoll.poll():
                with self._lock:
                    try:
                        self._forward(number)
                    except Exception:  # one odd frame must not stop a network
                        log.exception("switch: a frame is lost")
                        self.lost += 1

    def _forward(self, number: int) -> None:
        """All frames that wait at a port, up to a number that keeps others from waiting."""
        if number not in self._sources:  # unplugged meanwhile
            return
        vlan, link, port = self._sources[number]
        for _ in range(64):
            try:
                data = link.recv(65600)
            except OSError:  # no more, or the interface has gone
                return
            frame = frames.read(data[frames.OFFLOAD :])
            if frame is None:
                continue
            for one in vlan.receivers(frame, port, time.monotonic()):
                self.lost += not one.send(data)


def _packet_socket(
    pid: int, interface: str, program: Iterable[tuple[int, int, int, int]], *, incoming: bool = False
) -> socket.socket:
    """A socket for the ARP and the broadcasts of an interface in the network namespace of process ``pid``."""
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    kept = ctypes.create_string_buffer(code)
    filter_ = struct.pack("HL", len(code) // 8, ctypes.addressof(kept))
    with network.socket_inside(pid, socket.AF_PACKET, socket.SOCK_RAW) as link:
        # it gets nothing before it is bound
        link.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, filter_)
        link.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
        if incoming:
            link.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        link.setblocking(False)
        link.bind((interface, _ETH_P_ALL))
        return link
