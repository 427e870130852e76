"""What an image's archive tells about how it will boot: paths, links, and a few small files. Pure.

A finding is a problem only if no VM could be deployed with it; what may be right in ways that are not known
here is a warning, and the trial boot decides.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from g5kvirt.images.archive_links import resolve
from g5kvirt.images.descriptions import Environment

__all__ = ["Finding", "Tree", "inspect"]

State = Literal["ok", "warn", "fail", "unknown"]

_SERVERS = ("usr/sbin/sshd", "usr/sbin/dropbear", "usr/bin/sshd", "usr/bin/dropbear", "usr/sbin/tinysshd")
#: Programs that get an address by DHCP, and what names the software in a message.
_CLIENTS = {
    "usr/lib/systemd/systemd-networkd": "systemd-networkd",
    "usr/sbin/ifup": "ifupdown",
    "usr/sbin/NetworkManager": "NetworkManager",
    "usr/sbin/dhclient": "dhclient",
    "usr/sbin/dhcpcd": "dhcpcd",
    "usr/bin/udhcpc": "udhcpc",
    "usr/sbin/udhcpc": "udhcpc",
}
#: Where systemd lists what it starts, below /etc/systemd/system.
_WANTS = re.compile(r"etc/systemd/system/[^/]+\.wants/(?P<unit>[^/]+)")


@dataclass(frozen=True)
class Finding:
    """What was looked at, and what came out of it. ``fail``: no VM can be deployed with this image."""

    name: str
    state: State
    found: str
    advice: str = ""


@dataclass
class Tree:
    """The files of an archive: path without leading slash → type and permissions, target of a link, size."""

    modes: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  #: path → content, of small files in ``etc``

    def add(self, path: str, mode: int, link: str = "", size: int = 0) -> None:
        """One member of the archive."""
        name = path.removeprefix("./").strip("/")
        self.modes[name], self.sizes[name] = mode, size
        if link:
            self.links[name] = link

    def resolve(self, path: str) -> str | None:
        """Where a path leads, links followed in every part of it; None if there is nothing."""
        return resolve(path, self.links, self._exists)

    def _exists(self, name: str) -> bool:
        return name in self.modes or any(known.startswith(f"{name}/") for known in self.modes)

    def has(self, path: str) -> bool:
        """Whether there is a file with something in it."""
        found = self.resolve(path)
        return found is not None and stat.S_ISREG(self.modes.get(found, 0)) and self.sizes[found] > 0

    def first(self, paths: Iterable[str]) -> str:
        """The first of these that is there, also where /sbin and /bin are no links to /usr; "" for none."""
        return next((p for p in paths if self.has(p) or self.has(p.removeprefix("usr/"))), "")

    @property
    def units(self) -> set[str]:
        """What systemd starts because it is enabled."""
        return {found["unit"] for path in self.modes if (found := _WANTS.fullmatch(path))}


def inspect(tree: Tree, environment: Environment) -> list[Finding]:
    """All findings about an image, in the order of a boot."""
    return [
        *_boot_files(tree, environment),
        _console(environment),
        _root(tree),
        _network(tree),
        *_ssh(tree),
        *_identities(tree),
    ]


def _boot_files(tree: Tree, environment: Environment) -> list[Finding]:
    found = []
    for name, path in (("kernel", environment.kernel), ("initrd", environment.initrd)):
        if not path:
            found.append(Finding(name, "ok", "the description names none"))
        elif tree.has(path):
            found.append(Finding(name, "ok", path))
        else:
            others = sorted(p for p in tree.modes if re.search(rf"(^|/){_FILES[name]}[^/]*$", p))[:3]
            advice = f"set boot.{name} in the description" + (
                f": there is /{', /'.join(others)}" * bool(others)
            )
            found.append(Finding(name, "fail", f"there is no {path} in the archive", advice))
    if not tree.first(("usr/sbin/init", "usr/lib/systemd/systemd", "usr/bin/init")):
        found.append(
            Finding("init", "fail", "there is no /sbin/init", "install systemd-sysv, or another init")
        )
    return found


_FILES = {"kernel": "(vmlinuz|bzImage)", "initrd": "(initrd|initramfs)"}


def _console(environment: Environment) -> Finding:
    if re.search(r"(^| )console=ttyS0", environment.kernel_arguments):
        return Finding("serial console", "ok", "console=ttyS0")
    advice = "add console=ttyS0 to boot.kernel_params: consoles of VMs are serial ones"
    return Finding("serial console", "warn", "the kernel prints nothing there", advice)


def _root(tree: Tree) -> Finding:
    for line in tree.texts.get("etc/fstab", "").splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 2 and words[1] == "/":
            if words[0] in ("/dev/vda1", "/dev/root"):
                return Finding("root file system", "ok", f"{words[0]} in /etc/fstab")
            advice = (
                "name /dev/vda1 in /etc/fstab, or leave the line out: the file system is made anew each time"
            )
            return Finding("root file system", "warn", f"/etc/fstab has {words[0]} for /", advice)
    return Finding("root file system", "ok", "none in /etc/fstab; the kernel command line names it")


def _network(tree: Tree) -> Finding:
    program = tree.first(_CLIENTS)
    if not program:
        advice = "install one, such as systemd-networkd, and run it on any Ethernet interface"
        return Finding("DHCP client", "fail", "none was found", advice)
    client = _CLIENTS[program]
    if client == "systemd-networkd" and tree.units and "systemd-networkd.service" not in tree.units:
        others = tree.first(path for path, name in _CLIENTS.items() if name != client)
        if not others:
            advice = "systemctl enable systemd-networkd, and a .network file with DHCP=yes"
            return Finding("DHCP client", "fail", "systemd-networkd is installed, but not enabled", advice)
        client = _CLIENTS[others]
    return Finding("DHCP client", "ok", client)


def _ssh(tree: Tree) -> list[Finding]:
    server = tree.first(_SERVERS)
    if not server:
        return [Finding("ssh server", "fail", "none was found", "install openssh-server or dropbear")]
    units = {"ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "dropbear.service"}
    found = [Finding("ssh server", "ok", f"/{server}")]
    if tree.units and not units & tree.units:
        found.append(Finding("ssh at boot", "warn", "systemd does not start it", "systemctl enable ssh"))
    return found


def _identities(tree: Tree) -> list[Finding]:
    """What every VM must have of its own."""
    found = []
    keys = [
        path for path in tree.modes if re.fullmatch(r"etc/(ssh|dropbear)/(ssh_host|dropbear)_.*key", path)
    ]
    if keys:
        advice = (
            "remove them, and have the ssh server's unit generate them at the first boot (see the how-to)"
        )
        found.append(
            Finding("host keys", "warn", "they are in the image: all VMs would have the same", advice)
        )
    if tree.texts.get("etc/machine-id", "").strip() not in ("", "uninitialized"):
        advice = "empty /etc/machine-id: some DHCP clients derive their identifier from it"
        found.append(Finding("machine-id", "warn", "it is in the image: all VMs would have the same", advice))
    return found
