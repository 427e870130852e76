"""The packets that a guest sent, from a capture file that QEMU wrote. Pure.

Sources: the file format of libpcap (draft-ietf-opsawg-pcap); RFC 2131 and 2132 for DHCP.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["dhcp_messages"]

_GLOBAL, _RECORD = 24, 16
_COOKIE = b"\x63\x82\x53\x63"
_MESSAGES = {
    1: "discover",
    2: "offer",
    3: "request",
    4: "decline",
    5: "ack",
    6: "nak",
    7: "release",
    8: "inform",
}


def dhcp_messages(capture: bytes) -> list[str]:
    """The DHCP messages of client and server in order: ``discover``, ``offer``, ``request``, ``ack``."""
    found = []
    for frame in _frames(capture):
        if frame[12:14] != b"\x08\x00" or len(frame) < 34 or frame[23] != 17:  # IPv4, UDP
            continue
        udp = frame[14 + 4 * (frame[14] & 15) :]
        if len(udp) < 8 or not {67, 68} & set(struct.unpack_from(">HH", udp)):
            continue
        kind = _kind(udp[8:])
        if kind in _MESSAGES:
            found.append(_MESSAGES[kind])
    return found


def _frames(capture: bytes) -> Iterator[bytes]:
    at = _GLOBAL
    order = ">" if capture[:4] == b"\xa1\xb2\xc3\xd4" else "<"
    while at + _RECORD <= len(capture):
        (length,) = struct.unpack_from(f"{order}I", capture, at + 8)
        frame = capture[at + _RECORD : at + _RECORD + length]
        if len(frame) < length:  # it is being written
            return
        yield frame
        at += _RECORD + length


def _kind(message: bytes) -> int:
    """The value of the option "DHCP message type"; 0 if there is none."""
    if message[236:240] != _COOKIE:
        return 0
    at = 240
    while at + 2 < len(message) and message[at] != 255:
        if message[at] == 0:  # padding
            at += 1
            continue
        if message[at] == 53:
            return message[at + 2]
        at += 2 + message[at + 1]
    return 0
