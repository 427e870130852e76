"""What a host is: cores, memory, whether KVM works, which programs are missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from . import clock
from .packages import is_installed
from .processes import run
from .qemu import QEMU
from .records import load_record, read_text, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results


def facts(request: Record, home: str) -> Results:
    """Cores, memory, whether KVM works, missing programs, features, clock.

    QEMU is started for its version only where it is among the programs that are needed, or none is named.
    """
    memory = {
        line.split(":")[0]: int(line.split()[1]) << 10 for line in read_text("/proc/meminfo").splitlines()
    }
    known = dict(request.get("kvm_known", {}))
    kvm, reason = kvm_works(home, float(request.get("kvm_limit", 3.0)), known)
    programs = request.get("programs", [])
    wanted = (not programs or QEMU in programs) and shutil.which(QEMU)
    qemu = re.search(r"version (\S+)", run([QEMU, "--version"])[1]) if wanted else None
    yield (
        os.uname().nodename,
        {
            "cores": len(re.findall(r"(?m)^processor\s*:", read_text("/proc/cpuinfo"))),
            "memory": memory["MemTotal"],
            "available": memory["MemAvailable"],
            "kvm": kvm,
            "kvm_reason": reason,
            "qemu": qemu.group(1) if qemu else None,
            "missing": [p for p in programs if not is_installed(p)],
            "features": {
                "tun": os.path.exists("/dev/net/tun"),
                "vhost_net": os.path.exists("/dev/vhost-net"),
                "bridge_netfilter": os.path.exists("/proc/sys/net/bridge"),
                "arp_table_sizes": os.path.exists("/proc/sys/net/ipv4/neigh/default/gc_thresh3"),
                "ipv6": os.path.exists("/proc/sys/net/ipv6"),
            },
            "kernel": os.uname().release,
            "kvm_known": known,
            "python": sys.version.split()[0],
            "began": clock.call_start,
            "clock": time.time(),
        },
    )


def kvm_works(home: str, limit: float, tried: dict[str, str]) -> tuple[bool, str]:
    """(True, "") only if a guest with KVM really ran; tried once per boot, then read from ``home``.

    ``tried``: boot id of a kernel → why a guest did not run on it, empty if it did, as found on another host;
    containers on one machine share their kernel. What is found here is added.
    """
    if not os.path.exists("/dev/kvm"):
        return False, "there is no /dev/kvm"
    if not shutil.which(QEMU):
        return False, f"{QEMU} is not installed"  # not kept: it may be, later
    path, boot = f"{home}/kvm.json", read_text("/proc/sys/kernel/random/boot_id", "?").strip()
    if boot in tried:
        return not tried[boot], tried[boot]
    known = load_record(path)
    if known.get("boot") != boot:
        works, reason = probe_guest_runs("kvm", home, limit)
        known = {"boot": boot, "kvm": works, "reason": reason}
        write_text(path, json.dumps(known))
    tried[boot] = known["reason"]
    return known["kvm"], known["reason"]


def escape_commas(path: str) -> str:
    """QEMU reads a comma in a value as its end unless it is doubled."""
    return path.replace(",", ",,")


def probe_guest_runs(accel: str, home: str, limit: float) -> tuple[bool, str]:
    """Start the smallest guest there is: a boot sector that leaves QEMU with code 33, by way of the firmware.

    The device file alone proves nothing, nor do a few instructions: on some machines both work, and yet the
    guest hangs in its firmware for ever. ``-cpu host`` as the VMs will have it.
    """
    sector = b"\xb0\x10\xe6\xf4\xf4\xeb\xfd"  # mov al,0x10; out 0xf4,al; hlt; jmp back: code 0x10<<1|1
    with open(f"{home}/probe.img", "wb") as file:
        file.write(sector.ljust(510, b"\x00") + b"\x55\xaa" + b"\x00" * (1440 * 1024 - 512))
    argv = [QEMU, "-accel", accel, "-nodefaults", "-no-user-config", "-display", "none", "-m", "16"]
    argv += ["-drive", f"if=floppy,format=raw,file={escape_commas(home)}/probe.img", "-boot", "a"]
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"] + ["-cpu", "host"] * (accel == "kvm")
    try:
        code, out = run(argv, limit=limit)
    except subprocess.TimeoutExpired:
        return False, f"a test guest did not end within {limit:g} s"
    return (True, "") if code == 33 else (False, describe_end(code, out))


def describe_end(code: int, out: str) -> str:
    """How QEMU ended instead of running the test guest; its own words, on one line, are quoted at the end."""
    how = (
        f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"
    )
    words = " ".join(out.split())
    if len(words) > 300:
        words = "…" + words[-300:]
    return f"QEMU {how} before the test guest had run" + (f'; QEMU reported: "{words}"' if words else "")
