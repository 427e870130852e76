"""The deployment environment: the system that Kadeploy3 netboots a VM into, and works in.

Made from Debian packages like the minimal system, once, and cached: Debian's cloud kernel, and an initrd with
what Kadeploy3 calls on a node. Its commands come by TakTuk, which wants Perl there, and OpenSSH's client to
continue to further nodes with the key that is forwarded; its scripts want bash, ``stat --format``, mkfs and
kexec; ours fdisk and extlinux. dropbear answers on port 22 and on the port by which Kadeploy3 knows that this
is the deployment environment. Whose keys it accepts is not in what is cached: `with_keys`.

Source: the micro-steps of Kadeploy 3.3, which name what they run on a node. Same packages, same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from g5kvirt.errors import SpecError
from g5kvirt.images import cache as build_cache
from g5kvirt.images import cpio, mini, packages, tools
from g5kvirt.images.cache import ProgressCallback, no_progress
from g5kvirt.images.minimal import gather
from g5kvirt.images.modules import MODULES

__all__ = ["FILES", "System", "build", "initramfs", "with_keys"]

_RECIPE = 1
_LIB = "lib/x86_64-linux-gnu"
_PERL = f"usr/{_LIB}/perl-base"

#: What TakTuk loads, with what these load.
_PERL_MODULES = """
Carp.pm Errno.pm Exporter.pm Exporter/Heavy.pm Fcntl.pm File/Basename.pm POSIX.pm SelectSaver.pm Socket.pm
Symbol.pm Tie/Hash.pm XSLoader.pm bytes.pm bytes_heavy.pl constant.pm overload.pm overloading.pm strict.pm
vars.pm warnings.pm warnings/register.pm auto/Fcntl/Fcntl.so auto/POSIX/POSIX.so auto/Socket/Socket.so
"""

#: Package → files, as the system has them later.
FILES: Mapping[str, tuple[str, ...]] = {
    **mini.FILES,
    **{name: files for name, files in tools.FILES.items() if name != "coreutils"},
    "libc6": (*packages.LIBC["libc6"], f"{_LIB}/libm.so.6", f"{_LIB}/libresolv.so.2"),
    "bash": ("bin/bash",),
    "libtinfo6": (f"{_LIB}/libtinfo.so.6",),
    "perl-base": ("usr/bin/perl", *(f"{_PERL}/{module}" for module in _PERL_MODULES.split())),
    # busybox's stat knows no long options, and Debian's busybox no nohup
    "coreutils": ("usr/bin/nohup", "usr/bin/stat"),
    "util-linux": ("sbin/mkfs",),
    "openssh-client": ("usr/bin/ssh",),
    "libssl3": (f"usr/{_LIB}/libcrypto.so.3",),
    "libselinux1": (f"{_LIB}/libselinux.so.1",),
    "libpcre2-8-0": (f"usr/{_LIB}/libpcre2-8.so.0",),
    "libgssapi-krb5-2": (f"usr/{_LIB}/libgssapi_krb5.so.2",),
    "libkrb5-3": (f"usr/{_LIB}/libkrb5.so.3",),
    "libk5crypto3": (f"usr/{_LIB}/libk5crypto.so.3",),
    "libkrb5support0": (f"usr/{_LIB}/libkrb5support.so.0",),
    "libkeyutils1": (f"{_LIB}/libkeyutils.so.1",),
}

#: Programs of busybox besides those of the environment ``mini``.
_APPLETS = """
arping base64 blockdev bunzip2 bzcat bzip2 fdisk init losetup mkswap modprobe rmmod route swapoff swapon unxz
xz xzcat
"""

#: What mkfs looks for by name.
_LINKS = {f"sbin/mkfs.{kind}": "mke2fs" for kind in ("ext2", "ext3", "ext4")}

_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "group": "root:x:0:\n",
    "shells": "/bin/sh\n/bin/bash\n",
    "hosts": "127.0.0.1 localhost\n",
}


@dataclass(frozen=True)
class System:
    """Kernel and initrd, and where they come from. Nobody can log in before `with_keys`."""

    kernel: Path
    initrd: Path
    manifest: Mapping[str, Any]  #: package → version, and the SHA-256 of each file


def build(
    cache: Path | None = None, progress: ProgressCallback = no_progress, *, refresh: bool = False
) -> System:
    """The deployment environment from the cache, or built into it (about 35 MB of packages).

    ``refresh`` rebuilds it. Raises MachineError if the packages cannot be fetched or are not as expected.
    """
    scripts = _scripts()
    recipe = [_RECIPE, MODULES, {k: list(v) for k, v in FILES.items()}, _APPLETS, mini.APPLETS, _ETC, scripts]
    directory = build_cache.build_directory("kadeploy3", json.dumps(recipe), cache=cache)
    build_cache.build(directory, lambda work: _build_into(work, scripts, progress), refresh=refresh)
    return System(directory / "kernel", directory / "initrd", build_cache.manifest(directory))


def with_keys(initrd: bytes, keys: Iterable[str]) -> bytes:
    """The initrd for those who have the private keys of these public ones, each on one line.

    They go into a second archive behind the first, which the kernel unpacks over it. Raises SpecError if
    there is none, or one that is more than a line.
    """
    listed = [key.strip() for key in keys]
    if not listed or not all(key.isprintable() and " " in key for key in listed):
        raise SpecError("the deployment environment needs at least one public ssh key, each on one line")
    text = "".join(f"{key}\n" for key in listed)
    entries = [
        cpio.directory("root", 0o700),
        cpio.directory("root/.ssh", 0o700),
        cpio.regular("root/.ssh/authorized_keys", text.encode(), 0o600),
    ]
    return initrd + gzip.compress(cpio.archive(entries), mtime=0)


def _scripts() -> dict[str, str]:
    own = resources.files("g5kvirt.provisioners.kadeploy3").joinpath("files", "system")
    found = {
        name: own.joinpath(name).read_text(encoding="utf-8") for name in ("init", "inittab", "rc", "reboot")
    }
    address = resources.files("g5kvirt.images").joinpath("guest", "address")
    return {**found, "address": address.read_text(encoding="utf-8")}


def _build_into(work: Path, scripts: Mapping[str, str], progress: ProgressCallback) -> dict[str, Any]:
    progress("deployment environment: fetching the kernel, Perl, OpenSSH's client and others from Debian")
    found = gather(FILES, work)
    progress("deployment environment: writing kernel and initrd")
    written = {
        "kernel": found.kernel,
        "initrd": gzip.compress(initramfs(found.files, found.drivers, scripts), 6, mtime=0),
    }
    for name, content in written.items():
        (work / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
    return {"packages": found.versions, "release": found.release, "sha256": sums}


def initramfs(files: Mapping[str, bytes], drivers: Mapping[str, bytes], scripts: Mapping[str, str]) -> bytes:
    """The archive: ``files`` (path → content), ``drivers`` (file name → content, in the order of loading),
    our own ``scripts``."""
    made = {path: cpio.regular(path, data, _mode(path)) for path, data in files.items()}
    for number, (name, data) in enumerate(drivers.items()):
        path = f"lib/modules/{number:02}-{name}"
        made[path] = cpio.regular(path, data)
    for path, text in {
        **{f"etc/{name}": text for name, text in _ETC.items()},
        "etc/inittab": scripts["inittab"],
    }.items():
        made[path] = cpio.regular(path, text.encode())
    for path, name in {
        "init": "init",
        "etc/rc": "rc",
        "etc/address": "address",
        "sbin/reboot": "reboot",
    }.items():
        made[path] = cpio.regular(path, scripts[name].encode(), 0o755)
    links = {f"bin/{applet}": "busybox" for applet in {*mini.APPLETS.split(), *_APPLETS.split()}} | _LINKS
    # what a package brings, and our own reboot, come before busybox's
    names = {path.rpartition("/")[2] for path in made if "bin/" in path}
    for path, target in links.items():
        if path.rpartition("/")[2] not in names:
            made[path] = cpio.symlink(path, target)
    folders = {parent.as_posix() for path in made for parent in Path(path).parents} - {"."}
    folders |= {"dev", "etc/dropbear", "mnt", "proc", "run", "sys", "tmp", "var", "var/log"}
    entries = [cpio.directory(path, 0o1777 if path == "tmp" else 0o755) for path in sorted(folders)]
    entries += [cpio.device("dev/console", 5, 1), cpio.device("dev/null", 1, 3, 0o666)]
    return cpio.archive([*entries, *(made[path] for path in sorted(made))])


def _mode(path: str) -> int:
    return 0o755 if "bin/" in path or ".so" in path else 0o644
