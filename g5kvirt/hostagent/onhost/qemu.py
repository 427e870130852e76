"""One VM as QEMU sees it: its files, its command line, its process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import time

from .processes import start_time
from .records import write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .records import Record

    Started = tuple[Record, "subprocess.Popen[bytes]", socket.socket, float]  #: VM, process, monitor, when

QEMU = "qemu-system-x86_64"

#: What QEMU knows as /dev/fdset/N.
SETS = {"serial": 1, "disk": 2, "disk-read": 2, "iso": 3}  # it looks at a disk before it writes to it

#: From linux/if_tun.h: IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
TUNSETIFF = 0x400454CA
TAP_FLAGS = 0x0002 | 0x1000 | 0x4000

#: User and group of every QEMU. No program of the host has it: it is between the ranges that systemd and
#: Debian give out (https://systemd.io/UIDS-GIDS).
USER = 61_000

#: A guest that takes over its QEMU may neither start programs nor gain privileges.
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def vm_paths(home: str, name: str) -> dict[str, str]:
    """Where the pieces of a VM live. Disks and consoles are in memory, if the host was prepared."""
    place = {key: f"{home}/vms/{name}.{key}" for key in ("json", "qmp", "log")}
    place["disk"] = f"{home}/ram/{name}.disk"
    place["serial"] = f"{home}/consoles/{name}.serial"
    if len(place["qmp"]) > 104:
        raise ValueError(f"{place['qmp']} is too long for a unix socket: choose a shorter VM name")
    return place


def known_vms(home: str) -> list[str]:
    """Names of the VMs that have a record."""
    try:
        return sorted(f[:-5] for f in os.listdir(f"{home}/vms") if f.endswith(".json"))
    except FileNotFoundError:
        return []


def qemu_argv(vm: Record, opened: Mapping[str, int]) -> list[str]:
    """The whole command line of one VM. What it could do without is left out: 16 start in a second.

    ``opened``: the descriptors of what `open_all` opens.
    """
    boot, kvm = vm.get("boot", "rom"), vm.get("accel") == "kvm"
    argv = [QEMU, "-name", vm["name"], "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]
    argv += ["-sandbox", SANDBOX, "-machine", "pc", "-smp", str(int(vm.get("cores", 1)))]
    argv += ["-m", f"{int(vm['memory']) >> 20}M"]
    if kvm:
        argv += ["-accel", "kvm", "-cpu", "host"]
    else:
        # rdrand: without it a guest makes its random numbers from the jitter of its clock, and the first that
        # wants one waits for that, at 100 % of a core: a second and more
        argv += ["-accel", f"tcg,thread=single,tb-size={int(vm.get('tb_size', 32))}"]
        argv += ["-cpu", "qemu64,+rdrand"]
    # a netboot that fails must not be the end: the firmware starts over after a second
    argv += ["-boot", "menu=off,reboot-timeout=1000"]
    argv += ["-netdev", f"tap,id=net0,fd={opened['tap']}"]
    rom = ",bootindex=1" if boot == "rom" else ",romfile="
    argv += ["-device", f"virtio-net-pci,netdev=net0,mac={vm['mac']}{rom}"]
    for name in sorted(SETS.keys() & opened.keys()):
        argv += ["-add-fd", f"fd={opened[name]},set={SETS[name]}"]
    if boot == "iso":
        file = f"/dev/fdset/{SETS['iso']}"
        argv += ["-drive", f"if=none,id=cd0,media=cdrom,readonly=on,format=raw,file={file}"]
        argv += ["-device", "ide-cd,drive=cd0,bootindex=1"]
    elif boot != "rom":
        raise ValueError(f"{boot!r} is not a way to boot: use rom or iso")
    if vm.get("disk"):
        file = f"/dev/fdset/{SETS['disk']}"
        argv += ["-drive", f"if=none,id=disk0,format=raw,cache=unsafe,discard=unmap,file={file}"]
        argv += ["-device", "virtio-blk-pci,drive=disk0,bootindex=2"]
    argv += ["-serial", f"file:/dev/fdset/{SETS['serial']}"]
    argv += ["-chardev", f"socket,id=monitor,fd={opened['monitor']},server=on,wait=off"]
    argv += ["-mon", "chardev=monitor,mode=control"]
    return [*argv, "-S"]  # wait for `cont`: guests must not take the cores from QEMUs that still start


def open_all(home: str, vm: Record, fresh: bool) -> dict[str, int]:
    """Everything that a VM uses, opened for its QEMU, which may open nothing itself; name → descriptor.

    Raises OSError, with nothing left open.
    """
    place = vm_paths(home, vm["name"])
    opened: dict[str, int] = {}
    try:
        opened["monitor"] = listen(place["qmp"])
        opened["tap"] = open_tap(vm["tap"])
        opened["serial"] = os.open(place["serial"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        if vm.get("disk"):
            kept = 0 if not fresh and os.path.exists(place["disk"]) else os.O_TRUNC
            opened["disk"] = os.open(place["disk"], os.O_RDWR | os.O_CREAT | kept, 0o600)
            os.ftruncate(opened["disk"], int(vm["disk"]))  # sparse: costs memory only where it is written
            opened["disk-read"] = os.open(place["disk"], os.O_RDONLY)
        if vm.get("boot") == "iso":
            opened["iso"] = os.open(vm["iso"], os.O_RDONLY)
    except BaseException:
        close_all(opened)
        raise
    return opened


def close_all(opened: Mapping[str, int]) -> None:
    """QEMU has its own copies."""
    for descriptor in opened.values():
        os.close(descriptor)


def listen(path: str) -> int:
    """A socket for a monitor, to which only our user may connect."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.bind(path)
        monitor.listen(1)
        return monitor.detach()


def open_tap(name: str) -> int:
    """A tap that exists, as QEMU opens one."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_FLAGS))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def as_user(vm: Record) -> dict[str, Any]:
    """How a VM's QEMU gets its user; empty if we are not root, or if only root may open /dev/kvm."""
    groups = []
    if vm.get("accel") == "kvm":
        device = os.stat("/dev/kvm")
        if device.st_mode & 0o006 != 0o006:
            if device.st_mode & 0o060 != 0o060:
                return {}
            groups = [device.st_gid]
    return {"user": USER, "group": USER, "extra_groups": groups} if os.geteuid() == 0 else {}


def spawn_qemu(home: str, vm: Record, fresh: bool) -> Started:
    """One QEMU, detached, not yet running its guest; as a user who owns nothing, where we are root."""
    place = vm_paths(home, vm["name"])
    for path in (place["json"], place["qmp"]):
        if os.path.exists(path):
            os.remove(path)
    for directory in (f"{home}/vms", f"{home}/ram", f"{home}/consoles"):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    opened = open_all(home, vm, fresh)
    try:
        with open(place["log"], "w", encoding="utf-8") as log:
            process = subprocess.Popen(
                qemu_argv(vm, opened),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                pass_fds=list(opened.values()),
                **as_user(vm),
            )
    finally:
        close_all(opened)
    write_text(
        place["json"],
        json.dumps({"vm": vm, "pid": process.pid, "born": start_time(process.pid), "t": time.time()}),
    )
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    return vm, process, connection, time.time()
