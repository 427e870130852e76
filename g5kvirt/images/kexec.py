"""How much memory a VM needs to start an environment by kexec, from the kernel and the initrd in its image.

Linux refuses to load more than half of the memory for kexec (``sanity_check_segment_list`` in its
kernel/kexec_core.c). What is loaded is the initrd, and the kernel with the room that it unpacks itself into:
``init_size`` in the header of a bzImage (Documentation/arch/x86/boot.rst).
"""

from __future__ import annotations

import posixpath
import struct
import tarfile
from pathlib import Path

from g5kvirt.images.archive_links import resolve

__all__ = ["KERNEL_RESERVE", "least_memory", "loaded_bytes"]

#: MiB of a VM that the kernel of the minimal system keeps for itself: what MemTotal in /proc/meminfo is less.
#: Measured in VMs of 160 and 256 MiB: 38 with the cloud kernel of Debian 12, 43 with that of Debian 13.
KERNEL_RESERVE = 43

_MODES = {"none": "r|", "gzip": "r|gz", "bzip2": "r|bz2", "xz": "r|xz"}
_HEADER = 0x264  #: bytes up to the end of ``init_size``
_MAGIC, _VERSION, _INIT_SIZE = 0x202, 0x206, 0x260
_HAS_INIT_SIZE = 0x020A  #: the version of the boot protocol from which on it is there
_SMALLEST = 1 << 18  #: no kernel is smaller


def least_memory(loaded: int) -> int:
    """MiB of a VM of which half holds ``loaded`` bytes."""
    return -(-2 * loaded // (1 << 20)) + KERNEL_RESERVE


def loaded_bytes(path: Path, compression: str, kernel: str, initrd: str) -> int:
    """Bytes that kexec loads of the ``kernel`` and the ``initrd`` (may be empty) in the archive at ``path``.

    0 where that is not known: no such files, a kernel of another kind, an archive that cannot be read here
    (zstd). Reads the whole archive.
    """
    if compression not in _MODES:
        return 0
    links: dict[str, str] = {}
    sizes: dict[str, int] = {}
    kernels: dict[str, int] = {}
    try:
        with tarfile.open(path, _MODES[compression]) as archive:  # type: ignore[call-overload]
            for member in archive:
                name = posixpath.normpath(member.name.lstrip("/"))
                if member.issym() or member.islnk():
                    hard = f"/{member.linkname.lstrip('/')}"
                    links[name] = hard if member.islnk() else member.linkname
                elif member.isreg():
                    sizes[name] = member.size
                    if member.size >= _SMALLEST:
                        file = archive.extractfile(member)
                        kernels[name] = _init_size(file.read(_HEADER) if file else b"")
    except (tarfile.TarError, EOFError, OSError):
        return 0  # `archives.check_archive` says what is wrong with it
    size = kernels.get(resolve(kernel, links) or "", 0)
    rest = sizes.get(resolve(initrd, links) or "", 0) if initrd else 0
    return size + rest if size and (rest or not initrd) else 0


def _init_size(header: bytes) -> int:
    """Of a bzImage's header; 0 for any other file."""
    if len(header) < _HEADER or header[_MAGIC : _MAGIC + 4] != b"HdrS":
        return 0
    (version,) = struct.unpack_from("<H", header, _VERSION)
    (size,) = struct.unpack_from("<I", header, _INIT_SIZE)
    return int(size) if version >= _HAS_INIT_SIZE else 0
