"""The root file system of a container: an overlay of a layer over this machine's `/`.

A container sees the operating system of this machine (`/usr`, `/etc`, `/var`, …) below the layer, which it
cannot change because writes go to its own tmpfs. Everything personal is hidden: `/root`, `/home`, `/opt`,
`/tmp`, `/run`, `/mnt`, unusual directories of `/`, backups, mails and logs in `/var`, disks in `/dev`, and
what only root may read in `/etc`: ssh host keys, passwords. The kernel's settings but those of the network
are read-only.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from functools import cache
from pathlib import Path

from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.container_spec import ContainerSpec

__all__ = ["secrets_of_the_machine", "set_up"]

_VISIBLE = {"bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "sbin", "srv", "usr", "var"}
_PRIVATE = ("var/backups", "var/log", "var/mail", "var/spool/cron")  #: of this machine
_FRESH = {"dev", "proc", "sys", "run", "tmp"}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "net/tun", "kvm", "vhost-net", "fuse")


def set_up(spec: ContainerSpec) -> None:
    """Mount it, and make it the root of this mount namespace."""
    ns.private_mounts()
    mount_point = Path(spec.mount_point)
    ns.mount("tmpfs", mount_point, "tmpfs", data="mode=755")
    for name in ("upper", "work", "root", "proc", "settings"):
        (mount_point / name).mkdir()
    root = mount_point / "root"
    options = f"lowerdir={spec.layer}:/,upperdir={mount_point}/upper,workdir={mount_point}/work"
    ns.mount("overlay", root, "overlay", data=options)
    _hide(root, Path(spec.layer))
    _set_up_devices(root / "dev")
    ns.mount("proc", root / "proc", "proc", ns.MS_NOSUID | ns.MS_NODEV)
    ns.mount("proc", mount_point / "settings", "proc")
    ns.bind(mount_point / "settings/sys", root / "proc/sys", read_only=True)
    ns.bind(mount_point / "settings/sys/net", root / "proc/sys/net")
    for name in ("sysrq-trigger", "kcore", "keys"):
        if (root / "proc" / name).exists():
            ns.bind("/dev/null", root / "proc" / name, read_only=True)
    for name in ("acpi", "bus", "fs", "irq", "mtrr", "scsi"):  # that root may write, by its user id alone
        if (root / "proc" / name).exists():
            ns.bind(root / "proc" / name, root / "proc" / name, read_only=True)
    ns.mount("sysfs", root / "sys", "sysfs", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_RDONLY)
    ns.mount("tmpfs", root / "run", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    ns.mount("tmpfs", root / "tmp", "tmpfs", ns.MS_NODEV, "mode=1777")
    for name in ("lock", "sshd"):
        (root / "run" / name).mkdir()
    (root / "run/lock").chmod(0o1777)
    for name, (mode, text) in spec.files.items():
        file = root / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)
    for source, target in spec.binds:
        _bind(Path(source), root / target.lstrip("/"), read_only=True)
    for source, target in spec.shares:
        _bind(Path(source), root / target.lstrip("/"), read_only=False)
    for name, text in spec.proc.items():
        (mount_point / "proc" / name).write_text(text)
        ns.bind(mount_point / "proc" / name, root / "proc" / name, read_only=True)
    ns.pivot_root(root)
    for name, user in spec.owners.items():
        entry = pwd.getpwnam(user)
        Path(name).mkdir(parents=True, exist_ok=True)
        for path in (Path(name), *Path(name).rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid)


def _bind(source: Path, target: Path, *, read_only: bool) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or not target.exists():
            target.unlink(missing_ok=True)
            target.touch()
    ns.bind(source, target, read_only=read_only)


def _hide(root: Path, layer: Path) -> None:
    """Hide everything but the operating system of this machine; what is in ``layer`` stays."""
    for entry in root.iterdir():
        name = entry.name
        if name in _VISIBLE or entry.is_symlink():
            continue
        if not entry.is_dir():
            entry.unlink()
        elif name not in _FRESH:
            ns.mount("tmpfs", entry, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755,size=25%")
    (root / "root").chmod(0o700)
    ns.mount("tmpfs", root / "var/tmp", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=1777")
    for name in _PRIVATE:
        if (root / name).is_dir():
            ns.mount("tmpfs", root / name, "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
            _copy_tree(layer / name, root / name)
    users = [line.partition(":")[0] for line in (root / "etc/shadow").read_text().splitlines() if ":" in line]
    for secret in secrets_of_the_machine():
        if not (layer / secret).exists():
            (root / secret).unlink(missing_ok=True)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    shadow = root / "etc/shadow"
    shadow.unlink(missing_ok=True)
    shadow.touch(0o600)
    shadow.write_text(
        "".join(f"{user}:*:19000:0:99999:7:::\n" for user in users)
    )  # no password, but not locked


@cache
def secrets_of_the_machine() -> tuple[Path, ...]:
    """The files of /etc that not everybody may read, relative to ``/``.

    They are looked for once, before containers are forked.
    """
    found = []
    for folder, _, names in os.walk("/etc"):
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink() and not path.stat().st_mode & stat.S_IROTH:
                found.append(path.relative_to("/"))
    return tuple(found)


def _copy_tree(source: Path, target: Path) -> None:
    """The content of a directory, with owners and modes; of one that does not exist, nothing."""
    for entry in source.iterdir() if source.is_dir() else ():
        copy = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            copy.mkdir()
            _copy_tree(entry, copy)
        else:
            shutil.copyfile(entry, copy, follow_symlinks=False)
        status = entry.lstat()
        os.chown(copy, status.st_uid, status.st_gid, follow_symlinks=False)
        if not entry.is_symlink():
            copy.chmod(stat.S_IMODE(status.st_mode))


def _set_up_devices(dev: Path) -> None:
    """A /dev with the harmless devices of this machine and a private devpts."""
    ns.mount("tmpfs", dev, "tmpfs", ns.MS_NOSUID, "mode=755")
    for name in _DEVICES:
        outer = Path("/dev") / name
        if not outer.exists():
            continue
        status = outer.stat()
        inner = dev / name
        inner.parent.mkdir(exist_ok=True)
        os.mknod(inner, stat.S_IFCHR | 0o666, status.st_rdev)
        inner.chmod(0o666)
    for name in ("pts", "shm"):
        (dev / name).mkdir()
    ns.mount("devpts", dev / "pts", "devpts", ns.MS_NOSUID, "newinstance,ptmxmode=0666,mode=620,gid=5")
    ns.mount("tmpfs", dev / "shm", "tmpfs", ns.MS_NOSUID | ns.MS_NODEV, "mode=1777")
    for link, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ):
        (dev / link).symlink_to(target)
