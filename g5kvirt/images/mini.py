"""The environment ``mini``: Debian's cloud kernel and busybox with an ssh server, quick to deploy.

Its initrd mounts the disk, its init is busybox's: an address by DHCP, then dropbear with the run's key. About
22 MB, of which 14 are the kernel, and not compressed: an emulated VM would take longer to unpack it than to
write it. Same packages, same bytes.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from g5kvirt.images import cpio, packages
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.images.minimal import gather
from g5kvirt.images.modules import MODULES
from g5kvirt.netboot.services import KERNEL_ARGUMENTS

__all__ = ["APPLETS", "DESCRIPTION", "FILES", "RECIPE", "fields", "initrd", "write"]

DESCRIPTION = "busybox and dropbear on Debian's cloud kernel: the smallest that answers ssh"

_LIB = "lib/x86_64-linux-gnu"
FILES: Mapping[str, tuple[str, ...]] = {
    **packages.LIBC,
    "busybox-static": ("bin/busybox",),
    "dropbear-bin": ("usr/sbin/dropbear", "usr/bin/dropbearkey"),
    "libtomcrypt1": (f"usr/{_LIB}/libtomcrypt.so.1",),
    "libtommath1": (f"usr/{_LIB}/libtommath.so.1",),
    "libgmp10": (f"usr/{_LIB}/libgmp.so.10",),
    "openssh-sftp-server": ("usr/lib/sftp-server",),  # where dropbear looks for it; scp needs it, too
    "zlib1g": (f"{_LIB}/libz.so.1",),
    "libcrypt1": (f"{_LIB}/libcrypt.so.1",),
}

#: Programs by name, in /bin and, for what others look for there, in /sbin.
APPLETS = """
sh ash awk basename cat chmod chown chroot clear cmp cp cut date dd df diff dirname dmesg du echo env
expr false find free grep gunzip gzip halt head hexdump hostname id insmod ip kill killall less ln logger
ls lsmod md5sum mkdir mkfifo mknod mktemp mount mv nc netstat nproc od passwd ping poweroff printf ps pwd
readlink realpath reboot rm rmdir sed seq setsid sha256sum sleep sort stat stty su sync sysctl tail tar
tee test time timeout top touch tr true tty udhcpc umount uname uniq uptime vi watch wc wget which who
whoami xargs yes zcat
"""

#: Files that can be executed.
_PROGRAM = re.compile(r"bin/|\.so|sftp-server$")

_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "shells": "/bin/sh\n",
    "hosts": "127.0.0.1 localhost\n",
    "profile": "export PATH=/bin:/sbin:/usr/bin:/usr/sbin\n",
}

#: Part of the key in the cache; the number is raised when the code would write other bytes.
RECIPE = [3, dict(FILES), APPLETS, _ETC, list(MODULES)]


def scripts() -> dict[str, str]:
    """Files of this package that go into the image, by name."""
    folder = resources.files("g5kvirt.images").joinpath("guest")
    found = {
        name: folder.joinpath("mini", name).read_text(encoding="utf-8")
        for name in ("initrd-init", "rc", "report", "inittab")
    }
    return {**found, "address": folder.joinpath("address").read_text(encoding="utf-8")}


def fields() -> dict[str, object]:
    """The environment's description, without the image."""
    return {
        "name": "mini",
        "description": DESCRIPTION,
        "boot": {"kernel": "/boot/vmlinuz", "initrd": "/boot/initrd", "kernel_params": KERNEL_ARGUMENTS},
        "filesystem": "ext4",
    }


def write(work: Path, progress: ProgressCallback) -> dict[str, str]:
    """Write ``image`` (a tar, not compressed) into ``work``; returns the versions of the packages in it.

    Raises MachineError if the packages cannot be fetched.
    """
    progress("environment mini: fetching the kernel, busybox and dropbear from Debian")
    found = gather(FILES, work)
    progress("environment mini: writing the image")
    texts, files = scripts(), found.files
    files["boot/vmlinuz"] = found.kernel
    archive = initrd(files["bin/busybox"], found.drivers, texts["initrd-init"])
    files["boot/initrd"] = gzip.compress(archive, 9, mtime=0)
    (work / "image").write_bytes(image(files, texts))
    return dict(found.versions)


def initrd(busybox: bytes, modules: Mapping[str, bytes], init: str) -> bytes:
    """The archive that loads the drivers (file name → content, in that order) and goes over to the disk."""
    entries = [cpio.directory(path) for path in ("bin", "dev", "lib", "lib/modules", "mnt", "proc")]
    entries += [cpio.device("dev/console", 5, 1), cpio.device("dev/null", 1, 3, 0o666)]
    entries += [cpio.regular("bin/busybox", busybox, 0o755)]
    entries += [cpio.symlink(f"bin/{name}", "busybox") for name in _applets(init)]
    entries += [
        cpio.regular(f"lib/modules/{number:02}-{name}", content)
        for number, (name, content) in enumerate(modules.items())
    ]
    return cpio.archive([*entries, cpio.regular("init", init.encode(), 0o755)])


def _applets(script: str) -> list[str]:
    """Programs that a script names."""
    known = {*APPLETS.split(), "switch_root"}
    return sorted(known & set(re.findall(r"[a-z_]+", script)))


def image(files: Mapping[str, bytes], texts: Mapping[str, str]) -> bytes:
    """The tar archive of the environment: ``files`` (path → content) and what makes a system of them."""
    made = {path: (data, 0o755 if _PROGRAM.search(path) else 0o644) for path, data in files.items()}
    made |= {f"etc/{name}": (text.encode(), 0o644) for name, text in _ETC.items()}
    made |= {f"etc/{name}": (texts[name].encode(), 0o755) for name in ("rc", "report", "address")}
    made["etc/inittab"] = (texts["inittab"].encode(), 0o644)
    links = {f"bin/{name}": "busybox" for name in APPLETS.split()} | {"sbin/init": "../bin/busybox"}
    folders = {parent.as_posix() for path in [*made, *links] for parent in Path(path).parents} - {"."}
    folders |= {"dev", "etc/dropbear", "mnt", "proc", "root", "run", "sys", "tmp", "var", "var/log"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folders):
            entry = tarfile.TarInfo(path)
            entry.type = tarfile.DIRTYPE
            entry.mode = {"tmp": 0o1777, "root": 0o700}.get(path, 0o755)
            tar.addfile(entry)
        for path, (data, mode) in sorted(made.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for path, target in sorted(links.items()):
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return buffer.getvalue()
