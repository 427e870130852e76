"""The drivers that a VM's kernel needs, out of its package, in the order of loading.

A module names what it depends on (``depends=`` in its section ``.modinfo``). What is built into the kernel is
in ``modules.builtin`` and needs no file. Debian 13 builds some of them in, and compresses the rest.
Source: Documentation/kbuild/modules.rst and kbuild.rst of Linux; modinfo(8).
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Iterable, Mapping

from g5kvirt.errors import MachineError

__all__ = ["MODULES", "drivers", "unsigned"]

#: What virtio-net and virtio-blk on PCI need; what these depend on is found out.
MODULES = ("virtio_pci", "virtio_net", "virtio_blk")

#: How the file of a module may end, and what unpacks it. (Python has no zstd before 3.14.)
_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".ko.xz": lzma.decompress,
    ".ko.gz": gzip.decompress,
}
_DEPENDS = re.compile(rb"(?:^|\0)depends=([A-Za-z0-9_,-]*)\0")

#: What ends a module to which a signature is appended; before it, twelve bytes of which the last four are
#: the length of the signature (big endian). See scripts/sign-file.c of Linux.
_SIGNED = b"~Module signature appended~\n"


def drivers(
    names: Iterable[str],
    paths: Iterable[str],
    builtin: str,
    read: Callable[[str], bytes],
) -> dict[str, bytes]:
    """File name (``virtio_net.ko``) → content of the modules ``names`` and all they depend on.

    Each comes after those that it depends on; without signature, unpacked; none that is built in. ``paths``:
    the files of the kernel's package; ``builtin``: its ``modules.builtin``; ``read``: gives a file's content.
    Raises MachineError for a module that the kernel has in neither way, or that cannot be unpacked.
    """
    inside = {_name(line) for line in builtin.split()}
    files = {_name(path): path for path in paths if _ending(path)}
    found: dict[str, bytes] = {}
    pending: list[str] = []

    def add(name: str) -> None:
        if name in inside or f"{name}.ko" in found or name in pending:
            return
        if name not in files:
            raise MachineError(
                f"this kernel has no module {name}, neither as a file nor built in",
                advice="use the kernel of Debian 12 or 13 (linux-image-cloud-amd64)",
            )
        pending.append(name)
        content = _unpacked(files[name], read(files[name]))
        for other in _dependencies(content):
            add(other)
        pending.pop()
        found[f"{name}.ko"] = content

    for name in names:
        add(_plain(name))
    return found


def _plain(name: str) -> str:
    """The kernel knows a module by its name with underscores, whatever its file is called."""
    return name.replace("-", "_")


def _name(path: str) -> str:
    return _plain(path.rpartition("/")[2].partition(".ko")[0])


def _ending(path: str) -> str:
    return next((ending for ending in (*_UNPACK, ".ko.zst") if path.endswith(ending)), "")


def _unpacked(path: str, data: bytes) -> bytes:
    ending = _ending(path)
    if ending not in _UNPACK:
        raise MachineError(
            f"the module {path} is compressed with zstd, which cannot be unpacked here",
            advice="use the kernel of Debian 12 or 13 (linux-image-cloud-amd64)",
        )
    try:
        return unsigned(_UNPACK[ending](data))
    except (lzma.LZMAError, OSError, EOFError) as error:
        raise MachineError(
            f"the module {path} is corrupt ({error})", advice="fetch the package again"
        ) from error


def _dependencies(module: bytes) -> list[str]:
    found = _DEPENDS.search(module)
    names = found.group(1).decode("ascii") if found else ""
    return [_plain(name) for name in names.split(",") if name]


def unsigned(module: bytes) -> bytes:
    """A kernel module without its signature, which is not needed here and slow to verify in emulation."""
    if not module.endswith(_SIGNED):
        return module
    end = len(module) - len(_SIGNED)
    return module[: end - 12 - int.from_bytes(module[end - 4 : end], "big")]
