"""Network namespaces of guests: made, entered for a moment, connected to the host's bridge."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

from ..interfaces import interface_names
from ..libc import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS, prctl, setns, unshare
from ..processes import run, run_checked
from ..records import read_text, write_setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PR_CAPBSET_DROP, _CAP_SYS_BOOT, _CAP_SYS_MODULE = 24, 22, 16

#: What a guest calls its interface.
INTERFACE = "eth0"

#: Room for a guest's TCP connections; a power of two.
_CONNECTIONS = 256

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_SIOCSARP = 0x8955
_IFF_UP = 1
_ARPHRD_ETHER, _ATF_COMPLETE, _ATF_PERMANENT = 1, 2, 4


def drop_capabilities() -> None:
    """Programs that are started from here on may neither load modules nor reboot: a guest's kernel is the
    host's."""
    for capability in (_CAP_SYS_BOOT, _CAP_SYS_MODULE):
        prctl(_PR_CAPBSET_DROP, capability)


class Home:
    """The host's own namespaces, to which the process returns after each visit elsewhere."""

    def __init__(self) -> None:
        self.fd, self._mounts, self._names = (
            os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt", "uts")
        )
        self.null = os.open(os.devnull, os.O_WRONLY)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The process may take a guest's root, mounts, host name and network here.

        If it cannot return, it ends: it would take the files of a guest for those of the host.
        """
        try:
            yield
        finally:
            try:
                setns(self._mounts, CLONE_NEWNS)  # with them come the host's root and directory
                setns(self._names, CLONE_NEWUTS)
                setns(self.fd, CLONE_NEWNET)
            except OSError as error:
                os.write(2, f"the way back from a guest's namespaces failed: {error}\n".encode())
                os._exit(1)  # nothing may be cleaned up here

    @contextlib.contextmanager
    def small_tables(self) -> Iterator[None]:
        """Namespaces that are made here have a table of TCP connections of their own (Linux 6.1).

        Without it /proc/net/tcp goes through that of the whole machine, 3 ms of a core, and dropbear reads it
        for each connection.
        """
        path = "/proc/sys/net/ipv4/tcp_child_ehash_entries"
        try:
            before = read_text(path)
        except FileNotFoundError:
            yield
            return
        try:
            write_setting(path, str(_CONNECTIONS))
            yield
        finally:
            write_setting(path, before)

    def create(self) -> int:
        """A new namespace without IPv6, whose router and listener messages would reach every other guest."""
        unshare(CLONE_NEWNET)
        try:
            fd = os.open("/proc/self/ns/net", os.O_RDONLY)
            for which in ("all", "default"):
                path = f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6"
                with contextlib.suppress(FileNotFoundError):
                    write_setting(path, "1")
            return fd
        finally:
            setns(self.fd, CLONE_NEWNET)

    @contextlib.contextmanager
    def inside(self, fd: int) -> Iterator[None]:
        """Inside a namespace: sockets that are opened here belong to it."""
        setns(fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(self.fd, CLONE_NEWNET)

    def connect(self, links: Sequence[tuple[str, str, int]], bridge: str) -> None:
        """A link (its name on the host, the guest's MAC address, its namespace) on the bridge for each guest.

        Nothing is flooded to a guest, or each broadcast of thousands would be copied to all of the others:
        the host's bridge answers ARP for it (proxy_arp, to other guests; proxy_arp_wifi, to other machines),
        which takes an entry for its MAC address here, and one for its IP address in `announce`.
        """
        # A guest that was stopped or killed leaves its link for as long as its namespace takes to go, which
        # may be over before the link is deleted here.
        here = interface_names()
        left = [f"link del {name}" for name, _, _ in links if name in here]
        if left:
            run(["ip", "-force", "-batch", "-"], "\n".join(left) + "\n")
        lines, addresses = [], []
        for name, mac, fd in links:
            end = f"netns /proc/{os.getpid()}/fd/{fd}"
            lines.append(f"link add {name} type veth peer name {INTERFACE} address {mac} {end}")
            lines.append(f"link set {name} addrgenmode none master {bridge} up")
            lines.append(f"link set {name} type bridge_slave proxy_arp on proxy_arp_wifi on")
            addresses.append(f"fdb replace {mac} dev {name} master static")
        run_checked(["ip", "-batch", "-"], "\n".join(lines) + "\n")
        run_checked(["bridge", "-batch", "-"], "\n".join(addresses) + "\n")

    def announce(self, bridge: str, address: str, mac: str) -> None:
        """Where a guest is: for the host itself, and for its bridge to answer ARP in the guest's place."""
        entry = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
        hardware = struct.pack("H6s8x", _ARPHRD_ETHER, bytes.fromhex(mac.replace(":", "")))
        flags = _ATF_COMPLETE | _ATF_PERMANENT
        request = entry + hardware + struct.pack("i16x16s", flags, bridge.encode())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSARP, request)

    def bring_up(self, fd: int) -> None:
        """The guest's interface up."""
        with self.inside(fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for name in ("lo", INTERFACE):
                request = struct.pack("16sH14x", name.encode(), 0)
                flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
                fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags | _IFF_UP))

    def assign(self, fd: int, address: str, netmask: str) -> None:
        """The guest's address; one that it had before is replaced."""
        with self.inside(fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, netmask)):
                body = struct.pack(
                    "16sHH4s8x", INTERFACE.encode(), socket.AF_INET, 0, socket.inet_aton(value)
                )
                fcntl.ioctl(control, request, body)
