"""A Debian system as an image: installed by mmdebstrap into a directory of its own, packed and compressed.

Needs root. Nothing is installed on this machine: mmdebstrap is taken from its package if it is not here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images import packages, repository
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.images.kexec import loaded_bytes
from g5kvirt.images.repository import fraction, reported

__all__ = ["AFTER", "BEFORE", "COMPRESSORS", "INCLUDE", "System", "SystemRecipe", "program", "write"]

#: What every image has besides the essential packages: what `AFTER` sets up, and a kernel with an initrd.
INCLUDE = (packages.KERNEL, "initramfs-tools", "iproute2", "openssh-server", "systemd-sysv", "udev", "zstd")

#: Seconds for the whole build.
BUILD_TIMEOUT = 1800.0

#: Files that are there before packages are installed: an initrd with just the drivers of a VM.
BEFORE: Mapping[str, str] = {
    "etc/initramfs-tools/conf.d/g5kvirt": "MODULES=list\nCOMPRESS=gzip\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\nvirtio_net\next4\n",
    "etc/dpkg/dpkg.cfg.d/g5kvirt": "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"
    "path-exclude=/usr/share/locale/*\n",
}
#: Files that come last. DHCP by systemd-networkd on any network card, whatever it is called, but not on what
#: an experiment makes in the VM: bridges, taps and veths have a kind, and networkd would take them off their
#: bridge. One host key, made at the first boot (one of the RSA kind would take an emulated VM long).
AFTER: Mapping[str, str] = {
    "etc/fstab": "/dev/vda1 / auto defaults,noatime 0 1\n",
    "etc/systemd/network/10-g5kvirt.network": "[Match]\nType=ether\nKind=!*\n\n[Network]\n"
    "DHCP=ipv4\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n\n[DHCPv4]\nUseHostname=no\nClientIdentifier=mac\n",
    "etc/ssh/sshd_config.d/g5kvirt.conf": "HostKey /etc/ssh/ssh_host_ed25519_key\n"
    "PasswordAuthentication no\nUseDNS no\n",
    "etc/systemd/system/ssh.service.d/g5kvirt.conf": '[Service]\nExecStartPre=\nExecStartPre=/bin/sh -c "'
    "[ -s /etc/ssh/ssh_host_ed25519_key ] || "
    "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key\"\n"
    "ExecStartPre=/usr/sbin/sshd -t\n",
}

#: Compression → the program that does it, reading and writing standard streams, and its Debian package.
COMPRESSORS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "gzip": (("gzip", "-n", "-6", "-c"), "gzip"),
    "xz": (("xz", "-6", "-T0", "-c"), "xz-utils"),
    "zstd": (("zstd", "-q", "-6", "-T0", "-c"), "zstd"),
}

#: What the hook prints when a user's script has failed.
_SCRIPT_FAILED = "g5kvirt: the script ended with exit code "


@dataclass(frozen=True)
class SystemRecipe:
    """What a system is made of."""

    release: str  #: such as ``bookworm``
    label: str  #: for progress: ``environment mine``
    include: Sequence[str] = INCLUDE
    before: Mapping[str, str] = field(default_factory=lambda: BEFORE)
    after: Mapping[str, str] = field(default_factory=lambda: AFTER)
    compression: str = "gzip"
    script: bytes = b""  #: run in the system as root when all packages are installed; empty: none


@dataclass(frozen=True)
class System:
    """What was built."""

    packages: Mapping[str, str]  #: package → version
    unpacked: int  #: bytes of the archive when it is not compressed
    loaded: int = 0  #: bytes that kexec loads of its kernel and initrd


def write(recipe: SystemRecipe, work: Path, progress: ProgressCallback) -> System:
    """Write ``image`` (a compressed tar) into ``work``.

    Raises MachineError without root, or with the last error of apt or mmdebstrap; SpecError for a package
    that the release does not have, and for a script that fails.
    """
    if os.geteuid() != 0:
        raise MachineError(f"the {recipe.label} must be built by root", advice="run this once with sudo")

    def tell(what: str) -> None:
        progress(f"{recipe.label}: {what}")

    scratch = work / "scratch"
    scratch.mkdir()
    lines, files = repository.fetch_all(recipe.release, recipe.include, tell)
    installer = program(scratch)
    for name, texts in (("before", recipe.before), ("after", recipe.after)):
        for path, text in texts.items():
            file = scratch / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    (scratch / "packages").write_text("".join(f"{file}\0" for file in files), encoding="utf-8")
    if recipe.script:
        (scratch / "script").write_bytes(recipe.script)
        (scratch / "script").chmod(0o755)
    with reported(lambda: _installed_so_far(scratch, len(files)), tell):
        _run(_command(installer, recipe, scratch, lines, work / "image.tar"), scratch)
    size = (work / "image.tar").stat().st_size
    loaded = loaded_bytes(work / "image.tar", "none", "/vmlinuz", "/initrd.img")
    _compress(work / "image.tar", work / "image", recipe.compression, scratch, tell)
    installed = (scratch / "installed").read_text(encoding="utf-8").split()
    shutil.rmtree(scratch)
    return System(dict(entry.partition("=")[::2] for entry in installed), size, loaded)


def program(scratch: Path) -> str:
    """The path of mmdebstrap, of this machine or out of its package, which is unpacked into ``scratch``."""
    found = shutil.which("mmdebstrap")
    if found is not None:
        return found
    (package,) = packages.fetch(["mmdebstrap"], scratch).values()
    packages.unpack(package, scratch / "mmdebstrap")
    return str(scratch / "mmdebstrap" / "usr" / "bin" / "mmdebstrap")


def _command(
    program: str, recipe: SystemRecipe, scratch: Path, lines: Sequence[str], image: Path
) -> list[str]:
    """mmdebstrap's command line; its hooks are given the new root as ``$1``."""
    place = shlex.quote(str(scratch))
    archives = '"$1/var/cache/apt/archives/"'
    before = [
        f'cp -r {place}/before/. "$1/"',
        f"mkdir -p {archives}",
        f"xargs -0 -a {place}/packages cp -t {archives}",
    ]
    script = [
        f'cp {place}/script "$1/root/g5kvirt-script"',
        '{ chroot "$1" /root/g5kvirt-script || { echo "' + _SCRIPT_FAILED + '$?"; exit 1; }; }',
        'rm -f "$1/root/g5kvirt-script"',
    ]
    after = [
        f'cp -r {place}/after/. "$1/"',
        *(script if recipe.script else ()),
        'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/resolv.conf "$1"/var/log/*.log',
        ': > "$1/etc/machine-id"',
        'chroot "$1" systemctl enable systemd-networkd ssh',
        'chroot "$1" passwd -d root',
        f"chroot \"$1\" dpkg-query -W -f '${{Package}}=${{Version}}\\n' > {place}/installed",
    ]
    return [
        program,
        "--mode=root",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(recipe.include)}",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=Acquire::Languages "none"',
        f"--setup-hook={' && '.join(before)}",
        f"--customize-hook={' && '.join(after)}",
        recipe.release,
        str(image),
        *lines,
    ]


def _installed_so_far(scratch: Path, total: int) -> str:
    """How many packages are installed, by dpkg's log; empty before the first."""
    for log in scratch.glob("mmdebstrap.*/var/log/dpkg.log"):
        done = min(
            total,
            len(set(re.findall(r"(?m)^\S+ \S+ status installed (\S+)", log.read_text("utf-8", "replace")))),
        )
        return f"installing packages: {done} of {total} ({100 * done // max(total, 1)} %)"
    return ""


def _run(argv: list[str], scratch: Path) -> None:
    """Run mmdebstrap, bounded by `BUILD_TIMEOUT`. What it started ends with it.

    It mounts in a namespace of its own: however it ends, nothing stays mounted in the cache.
    """
    lines: deque[str] = deque(maxlen=2000)
    environment = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        ["unshare", "--mount", *argv],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        alarm = threading.Timer(BUILD_TIMEOUT, process.terminate)
        alarm.start()
        try:
            assert process.stdout is not None
            lines.extend(line.strip() for line in process.stdout)
            code = process.wait()
        finally:
            alarm.cancel()
            if process.poll() is None:
                process.terminate()
    if code:
        raise _failure(list(lines))


def _failure(lines: Sequence[str]) -> MachineError | SpecError:
    """Why mmdebstrap failed, from all that it printed."""
    for number, line in enumerate(lines):
        if line.startswith(_SCRIPT_FAILED):
            last = next((one for one in reversed(lines[:number]) if one), "it printed nothing")
            return SpecError(
                f"the script ended with exit code {line.removeprefix(_SCRIPT_FAILED)} ({last})",
                advice="correct it; it runs as root in the new system, with the network of this machine",
            )
    found = [line for line in lines if line.startswith("E: ") and line != "E: mmdebstrap failed to run"]
    errors = found or list(lines) or ["no output"]
    return MachineError(
        f"mmdebstrap failed ({errors[-1]})", advice="check the network and the disk's space, then try again"
    )


def _compress(
    source: Path, target: Path, compression: str, scratch: Path, progress: ProgressCallback
) -> None:
    """Compress a file into another, which replaces it. Raises MachineError."""
    if compression == "none":
        source.rename(target)
        return
    (program, *options), package = COMPRESSORS[compression]
    if shutil.which(program) is None:
        (fetched,) = packages.fetch([package], scratch).values()
        packages.unpack(fetched, scratch / package)
        program = str(scratch / package / "usr" / "bin" / program)
    total = source.stat().st_size
    with source.open("rb") as given, target.open("wb") as made:

        def read() -> str:
            done = os.lseek(given.fileno(), 0, os.SEEK_CUR)  # shared with the program
            return f"compressing the image: {fraction(done, total)}"

        with reported(read, progress):
            done = subprocess.run(
                [program, *options], stdin=given, stdout=made, stderr=subprocess.PIPE, timeout=BUILD_TIMEOUT
            )
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise MachineError(f"{program} failed ({message or done.returncode})", advice="make room on the disk")
    source.unlink()
