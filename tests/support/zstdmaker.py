"""zstd files without a program for it: frames of raw blocks (RFC 8878)."""

from __future__ import annotations

MAGIC = (0xFD2FB528).to_bytes(4, "little")
BLOCK = 1 << 17


def stored(data: bytes, *, size: bool = True) -> bytes:
    """A frame that holds ``data`` as it is; without ``size`` its header does not say how much that is."""
    head = b"\xa0" + len(data).to_bytes(4, "little") if size else b"\x00\x58"
    pieces = [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)] or [b""]
    blocks = [
        (len(piece) << 3 | (number == len(pieces) - 1)).to_bytes(3, "little") + piece
        for number, piece in enumerate(pieces)
    ]
    return MAGIC + head + b"".join(blocks)


def skippable(data: bytes) -> bytes:
    """A frame that readers pass over."""
    return (0x184D2A5E).to_bytes(4, "little") + len(data).to_bytes(4, "little") + data
