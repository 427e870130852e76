"""Names and MAC addresses of VMs, which follow from the plan without any look-up.

VMs are called ``vm-1``, ``vm-2``, …, those of a group ``client-1``, ``client-2``, … A VM's
MAC is ``52:54`` and the four bytes of its IPv4 address: locally administered, unicast, and unique wherever
its address is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

__all__ = ["format_ips", "format_macs", "mac_of", "vm_name", "vm_names"]

_MAC_PREFIX = (0x52, 0x54)


def vm_name(index: int, group: str = "vm") -> str:
    """The name of VM number ``index`` (of a group), counted from 1."""
    return f"{group}-{index}"


def vm_names(count: int) -> list[str]:
    """The names of VMs 1 to ``count``."""
    return [f"vm-{i}" for i in range(1, count + 1)]


def mac_of(address: IPv4Address | int) -> str:
    """``10.144.0.1`` → ``52:54:0a:90:00:01``."""
    raw = bytes(_MAC_PREFIX) + int(address).to_bytes(4, "big")
    return ":".join(f"{byte:02x}" for byte in raw)


def format_macs(addresses: NDArray[np.uint32]) -> list[str]:
    """`mac_of` for an array of addresses."""
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    text = np.full((len(addresses), 17), ord(":"), dtype=np.uint8)
    for place, byte in enumerate(_MAC_PREFIX):
        text[:, 3 * place] = digits[byte >> 4]
        text[:, 3 * place + 1] = digits[byte & 15]
    for place, shift in enumerate((24, 16, 8, 0), start=2):
        byte_column = (addresses >> np.uint32(shift)) & np.uint32(255)
        text[:, 3 * place] = digits[byte_column >> 4]
        text[:, 3 * place + 1] = digits[byte_column & 15]
    whole = text.tobytes().decode("ascii")
    return [whole[i : i + 17] for i in range(0, len(whole), 17)]


def format_ips(addresses: NDArray[np.uint32]) -> list[str]:
    """Dotted notation for an array of addresses."""
    halves = _halves()
    high: list[int] = (addresses >> np.uint32(16)).tolist()
    low: list[int] = (addresses & np.uint32(0xFFFF)).tolist()
    return [f"{halves[h]}.{halves[w]}" for h, w in zip(high, low, strict=True)]


@cache
def _halves() -> Sequence[str]:
    return [f"{i >> 8}.{i & 255}" for i in range(1 << 16)]
