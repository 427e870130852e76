"""The environment ``debian12-min``: Debian 12 with systemd and OpenSSH, made by mmdebstrap on request.

Its packages are installed into a directory of its own, which needs root and takes some minutes. Nothing is
installed on this machine: mmdebstrap is taken from its package if it is not here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from g5kvirt.errors import MachineError
from g5kvirt.images import packages
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.netboot.services import KERNEL_ARGUMENTS

__all__ = ["DESCRIPTION", "RECIPE", "fields", "scripts", "write"]

#: The sizes are the smallest with which a deployment was tried and succeeded.
DESCRIPTION = "Debian 12, small: systemd, OpenSSH, cloud kernel; deployed with vm.memory 160, vm.disk 364 MiB"

SUITE = "bookworm"

#: Besides the essential ones.
INCLUDE = (packages.KERNEL, "initramfs-tools", "iproute2", "openssh-server", "systemd-sysv", "udev", "zstd")

#: Seconds for the whole build.
BUILD_TIMEOUT = 1800.0

#: Files of the environment: an initrd with just the drivers of a VM, DHCP by systemd-networkd, one host key
#: made at the first boot (one of the RSA kind would take an emulated VM long).
_BEFORE: Mapping[str, str] = {
    "etc/initramfs-tools/conf.d/g5kvirt": "MODULES=list\nCOMPRESS=gzip\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\nvirtio_net\next4\n",
    "etc/dpkg/dpkg.cfg.d/g5kvirt": "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\n"
    "path-exclude=/usr/share/locale/*\n",
}
_AFTER: Mapping[str, str] = {
    "etc/fstab": "/dev/vda1 / auto defaults,noatime 0 1\n",
    "etc/systemd/network/10-g5kvirt.network": "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n"
    "LinkLocalAddressing=no\n\n[DHCPv4]\nUseHostname=no\nClientIdentifier=mac\n",
    "etc/ssh/sshd_config.d/g5kvirt.conf": "HostKey /etc/ssh/ssh_host_ed25519_key\n"
    "PasswordAuthentication no\nUseDNS no\n",
    "etc/systemd/system/ssh.service.d/g5kvirt.conf": '[Service]\nExecStartPre=\nExecStartPre=/bin/sh -c "'
    "[ -s /etc/ssh/ssh_host_ed25519_key ] || "
    "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key\"\n"
    "ExecStartPre=/usr/sbin/sshd -t\n",
}

RECIPE = [2, SUITE, list(INCLUDE), dict(_BEFORE), dict(_AFTER)]


def scripts() -> dict[str, str]:
    """Files of this package in the image: none."""
    return {}


def fields() -> dict[str, object]:
    """The environment's description, without the image."""
    return {
        "name": "debian12-min",
        "description": DESCRIPTION,
        "boot": {"kernel": "/vmlinuz", "initrd": "/initrd.img", "kernel_params": KERNEL_ARGUMENTS},
        "filesystem": "ext4",
        "compression": "gzip",
    }


def write(work: Path, progress: ProgressCallback) -> dict[str, str]:
    """Write ``image`` (a gzipped tar) into ``work``; returns the versions of the packages in it.

    Raises MachineError without root, or with mmdebstrap's last error.
    """
    if os.geteuid() != 0:
        raise MachineError(
            "the environment debian12-min must be built by root", advice="run this once with sudo"
        )
    progress("environment debian12-min: fetching and installing Debian, some minutes")
    program = shutil.which("mmdebstrap")
    scratch = work / "scratch"
    scratch.mkdir()
    if program is None:
        (package,) = packages.fetch(["mmdebstrap"], scratch).values()
        packages.unpack(package, scratch / "mmdebstrap")
        program = str(scratch / "mmdebstrap" / "usr" / "bin" / "mmdebstrap")
    for name, files in (("before", _BEFORE), ("after", _AFTER)):
        for path, text in files.items():
            file = scratch / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    _run(_command(program, scratch, work / "image.tar"), scratch, progress)
    progress("environment debian12-min: compressing the image")
    subprocess.run(["gzip", "-n", "-6", str(work / "image.tar")], check=True, timeout=BUILD_TIMEOUT)
    (work / "image.tar.gz").rename(work / "image")
    installed = (scratch / "installed").read_text(encoding="utf-8").split()
    shutil.rmtree(scratch)
    return dict(entry.partition("=")[::2] for entry in installed)


def _command(program: str, scratch: Path, image: Path) -> list[str]:
    """mmdebstrap's command line; its hooks are given the new root as ``$1``."""
    after = " && ".join(
        [
            f'cp -r "{scratch}/after/." "$1/"',
            'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/resolv.conf "$1"/var/log/*.log',
            ': > "$1/etc/machine-id"',
            'chroot "$1" systemctl enable systemd-networkd ssh',
            'chroot "$1" passwd -d root',
            f'chroot "$1" dpkg-query -W -f \'${{Package}}=${{Version}}\\n\' > "{scratch}/installed"',
        ]
    )
    return [
        program,
        "--mode=root",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(INCLUDE)}",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=Acquire::Languages "none"',
        f'--setup-hook=cp -r "{scratch}/before/." "$1/"',
        f"--customize-hook={after}",
        SUITE,
        str(image),
    ]


def _run(argv: list[str], scratch: Path, progress: ProgressCallback) -> None:
    """Run mmdebstrap, and report its lines of progress; bounded by `BUILD_TIMEOUT`."""
    lines: list[str] = []
    environment = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        alarm = threading.Timer(BUILD_TIMEOUT, process.terminate)
        alarm.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.strip())
                if line.startswith("I: "):
                    progress(f"environment debian12-min: {line[3:].strip()}")
            code = process.wait()
        finally:
            alarm.cancel()
            if process.poll() is None:
                process.terminate()
    if code:
        errors = [line for line in lines if line.startswith("E: ")] or lines or ["no output"]
        raise MachineError(
            f"mmdebstrap failed ({errors[-1]})",
            advice="check the network and the disk's space, then try again",
        )
