"""An iPXE ISO with a script of ours, made from Debian's ``ipxe.iso`` without compiling anything.

Debian's ISO starts iPXE by isolinux. Its place for UEFI (``EFI.IMG``), which QEMU's BIOS does not read,
takes the script, and isolinux is configured to pass it to iPXE as an initrd, which iPXE runs as its embedded
script. Only the contents and sizes of two files change (directory records: ECMA-119, 9.1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from g5kvirt.errors import MachineError

__all__ = ["with_script"]

_SECTOR = 2048
_CONFIGURATION = b"""\
SAY g5kvirt: iPXE that never gives up
TIMEOUT 0
DEFAULT ipxe
LABEL ipxe
 KERNEL ipxe.krn
 INITRD efi.img
"""


def _records(image: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """(name, offset of its record, first sector, size) of the files in the root directory."""
    volume = image[16 * _SECTOR : 17 * _SECTOR]
    if volume[1:6] != b"CD001":
        raise MachineError(
            "ipxe.iso of the package ipxe is not an ISO 9660 image", advice="boot the VMs by ROM instead"
        )
    start, size = struct.unpack_from("<I", volume, 158)[0] * _SECTOR, struct.unpack_from("<I", volume, 166)[0]
    at = start
    while at < start + size and image[at]:
        name = image[at + 33 : at + 33 + image[at + 32]]
        yield (
            name,
            at,
            struct.unpack_from("<I", image, at + 2)[0],
            struct.unpack_from("<I", image, at + 10)[0],
        )
        at += image[at]


def with_script(image: bytes, script: str) -> bytes:
    """``image`` (Debian's ipxe.iso) so that iPXE runs ``script`` instead of its own autoboot.

    Raises MachineError if the image is not made as expected.
    """
    iso = bytearray(image)
    files = {name: rest for name, *rest in _records(image)}
    if not {b"EFI.IMG;1", b"ISOLINUX.CFG;1", b"IPXE.KRN;1"} <= files.keys():
        raise MachineError(
            "ipxe.iso of the package ipxe has an unexpected structure", advice="boot the VMs by ROM instead"
        )
    for name, content in ((b"EFI.IMG;1", script.encode()), (b"ISOLINUX.CFG;1", _CONFIGURATION)):
        record, sector, size = files[name]
        room = -(-size // _SECTOR) * _SECTOR
        if len(content) > room:
            raise MachineError(f"a script of {len(content)} bytes does not fit into the ISO ({room})")
        iso[sector * _SECTOR : sector * _SECTOR + room] = content.ljust(room, b"\0")
        struct.pack_into("<I", iso, record + 10, len(content))
        struct.pack_into(">I", iso, record + 14, len(content))
    return bytes(iso)
