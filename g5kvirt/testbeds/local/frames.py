"""ARP and broadcasts of a KaVLAN, as far as the managed switch reads them: ARP (RFC 826), DHCP (RFC 2131)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

__all__ = ["OFFLOAD", "Frame", "read"]

#: Bytes before each frame of a packet socket with PACKET_VNET_HDR: which checksums are still to be computed.
OFFLOAD = 10

_ETHERNET, _IPV4, _ARP = 14, 0x0800, 0x0806
_UDP, _DHCP_SERVER, _DHCP_CLIENT = 17, 67, 68
_ARP_PREFIX = bytes.fromhex("000108000604")  # Ethernet, IPv4, their lengths
_ARP_REQUEST = b"\0\1"
_NO_ADDRESS = b"\0\0\0\0"


Kind = Literal["arp", "answer", "dhcp", "offer", "other"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a frame is for.

    ``arp``: a broadcast request; ``answer``: ARP to one machine; ``dhcp``: from a client to servers;
    ``offer``: from a DHCP server to the client ``mac``; ``other``: anything else. ``sender`` and ``target``
    are the IPv4 addresses of ARP; ``sender`` is empty if it has none yet.
    """

    kind: Kind
    source: bytes  #: MAC address
    sender: bytes = b""
    target: bytes = b""
    mac: bytes = b""


def read(data: bytes) -> Frame | None:
    """A frame without its `OFFLOAD`; None if it is neither ARP nor a broadcast."""
    if len(data) < _ETHERNET:
        return None
    broadcast = data[:6] == b"\xff" * 6
    source, (number,) = data[6:12], struct.unpack_from("!H", data, 12)
    if number == _ARP and len(data) >= _ETHERNET + 28 and data[14:20] == _ARP_PREFIX:
        sender, target = data[28:32], data[38:42]
        asks = data[20:22] == _ARP_REQUEST and sender != target  # else it announces its address
        kind: Kind = ("arp" if asks else "other") if broadcast else "answer"
        return Frame(kind, source, b"" if sender == _NO_ADDRESS else sender, target)
    if not broadcast:
        return None
    if number == _IPV4 and len(data) >= _ETHERNET + 20 and data[23] == _UDP:
        udp = _ETHERNET + 4 * (data[14] & 15)
        ports = struct.unpack_from("!HH", data, udp) if len(data) >= udp + 8 else (0, 0)
        if ports == (_DHCP_CLIENT, _DHCP_SERVER):
            return Frame("dhcp", source)
        if ports == (_DHCP_SERVER, _DHCP_CLIENT) and len(data) >= udp + 8 + 34:
            return Frame("offer", source, mac=data[udp + 36 : udp + 42])
    return Frame("other", source)
