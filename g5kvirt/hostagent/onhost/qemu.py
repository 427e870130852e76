"""One VM as QEMU sees it: its files, its command line, its process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time

from .processes import start_time
from .records import write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    from .records import Record

    Started = tuple[Record, "subprocess.Popen[bytes]", socket.socket, float]  #: VM, process, monitor, when

QEMU = "qemu-system-x86_64"

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


def qemu_argv(home: str, vm: Record, monitor: int = 3) -> list[str]:
    """The whole command line of one VM. What it could do without is left out: 16 start in a second.

    ``monitor``: the descriptor of the socket on which its monitor listens.
    """
    place = vm_paths(home, vm["name"])
    boot, kvm = vm.get("boot", "rom"), vm.get("accel") == "kvm"
    argv = [QEMU, "-name", vm["name"], "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]
    argv += [
        "-sandbox",
        SANDBOX,
        "-machine",
        "pc",
        "-smp",
        str(int(vm.get("cores", 1))),
        "-m",
        f"{int(vm['memory']) >> 20}M",
    ]
    if kvm:
        argv += ["-accel", "kvm", "-cpu", "host"]
    else:
        # rdrand: without it a guest makes its random numbers from the jitter of its clock, and the first that
        # wants one waits for that, at 100 % of a core: a second and more
        argv += ["-accel", f"tcg,thread=single,tb-size={int(vm.get('tb_size', 32))}"]
        argv += ["-cpu", "qemu64,+rdrand"]
    # a netboot that fails must not be the end: the firmware starts over after a second
    argv += ["-boot", "menu=off,reboot-timeout=1000"]
    argv += [
        "-netdev",
        f"tap,id=net0,ifname={vm['tap']},script=no,downscript=no,vhost={vm.get('vhost', 'off')}",
    ]
    rom = ",bootindex=1" if boot == "rom" else ",romfile="
    argv += ["-device", f"virtio-net-pci,netdev=net0,mac={vm['mac']}{rom}"]
    if boot == "iso":
        argv += [
            "-drive",
            f"if=none,id=cd0,media=cdrom,readonly=on,format=raw,file={escape_commas(vm['iso'])}",
        ]
        argv += ["-device", "ide-cd,drive=cd0,bootindex=1"]
    elif boot != "rom":
        raise ValueError(f"{boot!r} is not a way to boot: use rom or iso")
    if vm.get("disk"):
        argv += [
            "-drive",
            f"if=none,id=disk0,format=raw,cache=unsafe,discard=unmap,file={escape_commas(place['disk'])}",
        ]
        argv += ["-device", "virtio-blk-pci,drive=disk0,bootindex=2"]
    argv += [
        "-serial",
        f"file:{place['serial']}",
        "-chardev",
        f"socket,id=monitor,fd={monitor},server=on,wait=off",
        "-mon",
        "chardev=monitor,mode=control",
    ]
    return [*argv, "-S"]  # wait for `cont`: guests must not take the cores from QEMUs that still start


def own_file(path: str, user: int | None) -> IO[bytes]:
    """An empty file that only ``user`` may read and write."""
    file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
    if user is not None:
        os.fchown(file.fileno(), user, user)
    return file


def device_groups(vm: Record) -> list[int]:
    """The groups that may open the devices of a VM."""
    return [os.stat("/dev/kvm").st_gid] if vm.get("accel") == "kvm" else []


def escape_commas(path: str) -> str:
    """QEMU reads a comma in a value as its end unless it is doubled."""
    return path.replace(",", ",,")


def spawn_qemu(home: str, vm: Record, fresh: bool) -> Started:
    """One QEMU, detached, not yet running its guest; as a user who owns nothing else, where we are root.

    What it needs is made for it: it may open its disk, its console and its tap, and nothing of others'.
    """
    place = vm_paths(home, vm["name"])
    for path in (place["json"], place["qmp"]):
        if os.path.exists(path):
            os.remove(path)
    for directory, mode in (("vms", 0o700), ("ram", 0o711), ("consoles", 0o711)):
        os.makedirs(f"{home}/{directory}", mode=mode, exist_ok=True)
    user = USER if os.geteuid() == 0 else None
    if vm.get("disk") and (fresh or not os.path.exists(place["disk"])):
        with own_file(place["disk"], user) as disk:
            disk.truncate(int(vm["disk"]))  # sparse: costs memory only where it is written
    own_file(place["serial"], user).close()
    as_user: dict[str, Any] = {}
    if user is not None:
        as_user = {"user": user, "group": user, "extra_groups": device_groups(vm)}
    with socket.socket(socket.AF_UNIX) as monitor, open(place["log"], "w", encoding="utf-8") as log:
        monitor.bind(place["qmp"])
        monitor.listen(1)
        process = subprocess.Popen(
            qemu_argv(home, vm, monitor.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            pass_fds=[monitor.fileno()],
            **as_user,
        )
    write_text(
        place["json"],
        json.dumps({"vm": vm, "pid": process.pid, "born": start_time(process.pid), "t": time.time()}),
    )
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    return vm, process, connection, time.time()
