#!/usr/bin/env python3
"""The host agent: everything g5kvirt does on a physical machine, in one file, standard library only.

It is sent to every host and run there over ssh, one connection for many things::

    python3 agent.py < request.json        python3 agent.py '{"requests": […]}'

The request is one JSON document: ``{"home": DIRECTORY, "requests": [{"op": …, …}, …]}`` (``home`` is
optional). Every result is one line of JSON ``{"op", "subject", "status": "ok"|"failed", "t", "detail"}``;
no VM, service or setting that fails hides another. The exit code is 0 unless the request cannot be read.

Everything is idempotent: what is already as asked says ``"unchanged": true``. Whatever it starts (QEMU,
services under their supervisor) is detached, recorded under ``home`` with its process id *and* start time,
so that a recycled process id is never mistaken for ours, and ended by ``teardown``.

Runs with Python 3.9 and newer. Times are seconds since the epoch, sizes bytes.
"""

from __future__ import annotations

# pathlib and contextlib are left out: they would cost every call their import
# ruff: noqa: PTH100, PTH101, PTH103, PTH105, PTH107, PTH110, PTH112, PTH116, PTH117, PTH120, PTH123, PTH202
# ruff: noqa: PTH208, SIM105, SIM115
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import IO, Any

    Record = dict[str, Any]
    Results = Iterator[tuple[str, Any]]  #: subject, and a Record or the exception that stopped it
    Started = tuple[Record, "subprocess.Popen[bytes]", socket.socket, float]

BEGAN = time.time()  #: when this call came in, by the host's clock
HOME = "/run/g5kvirt-host"
QEMU = "qemu-system-x86_64"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
LOG_LIMIT = 32 << 20  #: bytes of a service's log before it is put aside (one older piece is kept)
#: what an operation may raise on its way; anything else is a bug and shows as a traceback
TROUBLE = (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError)


# ------------------------------------------------------------------------------------------- small tools
def run(argv: Sequence[str], text: str = "", limit: float = 20.0) -> tuple[int, str]:
    """Run a program to its end within ``limit`` seconds; returns (exit code, its output and errors)."""
    done = subprocess.run(
        argv,
        input=text,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit,
        check=False,
    )
    return done.returncode, done.stdout.strip()


def must(argv: Sequence[str], text: str = "", limit: float = 20.0) -> str:
    """`run`, but an exit code other than 0 is an OSError that carries what the program said."""
    code, out = run(argv, text, limit)
    if code:
        raise OSError(f"{' '.join(argv[:4])} failed ({code}): {out[-800:]}")
    return out


def read(path: str, default: str | None = None) -> str:
    """The text of a file; ``default`` if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        if default is None:
            raise
        return default


def write(path: str, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    os.replace(temporary, path)


def load(path: str) -> Record:
    """A JSON record of ours, or {} if there is none."""
    record: Record = json.loads(read(path, "{}"))
    return record


def tail(path: str, size: int = 600) -> str:
    """The last ``size`` characters of a log."""
    return read(path, "")[-size:].strip()


def born(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def lives(record: Record) -> bool:
    """Whether the process of a record {"pid", "born"} is still the one that was started."""
    began = record.get("born")
    return bool(record.get("pid")) and began is not None and born(record["pid"]) == began


def end(records: Iterable[Record], limit: float = 3.0) -> None:
    """End processes: SIGTERM to all, ``limit`` seconds to obey together, then SIGKILL."""
    left = [r for r in records if lives(r)]
    for number, patience in ((signal.SIGTERM, limit), (signal.SIGKILL, 5.0)):
        for record in left:
            try:
                os.kill(record["pid"], number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            left = [r for r in left if lives(r)]
            if left:
                time.sleep(0.01)
    if left:
        raise OSError(f"processes {[r['pid'] for r in left]} do not end")


def name_of(name: Any) -> str:
    """A name that is safe in paths and on command lines."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no usable name (letters, digits, dot, dash, underscore; at most 63)")
    return name


def ip_json(*words: str) -> Any:
    """What ``ip -j …`` answers."""
    return json.loads(must(["ip", "-j", *words]) or "[]")


def links() -> set[str]:
    """Names of the network interfaces of this network namespace (no need for /sys)."""
    return {line.partition(":")[0].strip() for line in read("/proc/self/net/dev").splitlines()[2:]}


# ------------------------------------------------------------------------------------------------- facts
def facts(request: Record, home: str) -> Results:
    """Cores, memory, KVM that answers, missing programs, features, clock."""
    memory = {line.split(":")[0]: int(line.split()[1]) << 10 for line in read("/proc/meminfo").splitlines()}
    kvm, reason = kvm_answers(home, float(request.get("kvm_limit", 3.0)))
    qemu = re.search(r"version (\S+)", run([QEMU, "--version"])[1]) if shutil.which(QEMU) else None
    yield (
        os.uname().nodename,
        {
            "cores": len(re.findall(r"(?m)^processor\s*:", read("/proc/cpuinfo"))),
            "memory": memory["MemTotal"],
            "available": memory["MemAvailable"],
            "kvm": kvm,
            "kvm_reason": reason,
            "qemu": qemu.group(1) if qemu else None,
            "missing": [p for p in request.get("programs", []) if not shutil.which(p)],
            "features": {
                "tun": os.path.exists("/dev/net/tun"),
                "vhost_net": os.path.exists("/dev/vhost-net"),
                "bridge_netfilter": os.path.exists("/proc/sys/net/bridge"),
                "arp_table_sizes": os.path.exists("/proc/sys/net/ipv4/neigh/default/gc_thresh3"),
                "ipv6": os.path.exists("/proc/sys/net/ipv6"),
            },
            "kernel": os.uname().release,
            "python": sys.version.split()[0],
            "began": BEGAN,
            "clock": time.time(),
        },
    )


def kvm_answers(home: str, limit: float) -> tuple[bool, str]:
    """(True, "") only if a guest with KVM really ran; asked once a boot, then read from ``home``."""
    if not os.path.exists("/dev/kvm"):
        return False, "there is no /dev/kvm"
    if not shutil.which(QEMU):
        return False, f"{QEMU} is not installed"  # not kept: it may be, later
    path, boot = f"{home}/kvm.json", read("/proc/sys/kernel/random/boot_id", "?").strip()
    known = load(path)
    if known.get("boot") != boot:
        answers, reason = guest_answers("kvm", home, limit)
        known = {"boot": boot, "kvm": answers, "reason": reason}
        write(path, json.dumps(known))
    return known["kvm"], known["reason"]


def guest_answers(accel: str, home: str, limit: float) -> tuple[bool, str]:
    """Start the smallest guest there is: a boot sector that leaves QEMU with code 33, by way of the firmware.

    The device file alone proves nothing, nor do a few instructions: on some machines both work, and yet the
    guest hangs in its firmware for ever. ``-cpu host`` as the VMs will have it.
    """
    sector = b"\xb0\x10\xe6\xf4\xf4\xeb\xfd"  # mov al,0x10; out 0xf4,al; hlt; jmp back: code 0x10<<1|1
    with open(f"{home}/probe.img", "wb") as file:
        file.write(sector.ljust(510, b"\x00") + b"\x55\xaa" + b"\x00" * (1440 * 1024 - 512))
    argv = [QEMU, "-accel", accel, "-nodefaults", "-no-user-config", "-display", "none", "-m", "16"]
    argv += ["-drive", f"if=floppy,format=raw,file={comma(home)}/probe.img", "-boot", "a"]
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"] + ["-cpu", "host"] * (accel == "kvm")
    try:
        code, out = run(argv, limit=limit)
    except subprocess.TimeoutExpired:
        return False, f"a guest did not answer within {limit:g} s"
    return (True, "") if code == 33 else (False, f"a guest ended with {code}: {out[-300:]}")


# ---------------------------------------------------------------------------------------------- packages
#: Asked by Debian's maintainer scripts whether a service may be started; 101 says no.
POLICY = "/usr/sbin/policy-rc.d"
NO_SERVICE = "#!/bin/sh\n# by g5kvirt, while it installs packages: nothing starts by itself\nexit 101\n"


def packages(request: Record, home: str) -> Results:
    """Install the Debian packages of the programs that are missing, from the network; one answer for all.

    ``programs``: program → its package. Nothing that comes with them is started: a web server of the
    distribution's would take the port that ours is about to listen on.
    """
    wanted: Record = request["programs"]
    missing = [p for p in wanted if not shutil.which(p)]
    names = sorted({str(wanted[p]) for p in missing})
    subject = os.uname().nodename
    if not names:
        yield subject, {"unchanged": True}
        return
    if not shutil.which("apt-get"):
        raise OSError("it has no apt-get")
    root = str(request.get("root", ""))  # of the policy's file, for tests
    deadline = time.monotonic() + float(request.get("limit", 600.0))
    with no_services(root + POLICY):
        install(names, request.get("proxy") or "", request.get("options", []), deadline)
    left = [p for p in missing if not shutil.which(p)]
    if left:
        raise OSError(f"{', '.join(names)} is installed, but brought no {', '.join(left)}")
    yield subject, {"installed": names, "programs": missing}


class no_services:  # noqa: N801 - used as a statement; contextlib would cost every call its import
    """Nothing starts by itself meanwhile; a policy that was there before is there again afterwards."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.aside = f"{path}.g5kvirt"

    def __enter__(self) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        # one of ours was left behind by an agent that was killed: what was before is already aside
        if os.path.lexists(self.path) and read(self.path, "") != NO_SERVICE:
            os.replace(self.path, self.aside)
        write(self.path, NO_SERVICE, 0o755)

    def __exit__(self, *_: object) -> None:
        if os.path.lexists(self.aside):
            os.replace(self.aside, self.path)
        else:
            os.remove(self.path)


def install(names: list[str], proxy: str, options: list[str], deadline: float) -> None:
    """``apt-get install``, without and then with new package lists. Raises OSError with apt's last words."""
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::Retries=2"]
    for word in ("http", "https"):
        apt += ["-o", f"Acquire::{word}::Timeout=20"]
        apt += ["-o", f"Acquire::{word}::Proxy={proxy}"] if proxy else []
    apt += options
    # Whoever configured a package by hand keeps its configuration.
    command = [*apt, "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
    command += ["--no-install-recommends", "install", "--", *names]
    code, _ = patiently(command, deadline)
    if code == 0:
        return
    # A dpkg that was cut short, or lists that are missing or old; whether it helped, the next try shows.
    patiently(["dpkg", "--configure", "-a"], deadline)
    old, why = patiently([*apt, "-o", "APT::Update::Error-Mode=any", "update"], deadline)
    code, out = patiently(command, deadline)
    if code:
        reason = last_error(out) or f"apt-get ended with {code} and said nothing"
        raise OSError(f"{reason}; its lists are old: {last_error(why)}" if old else reason)


def patiently(command: list[str], deadline: float) -> tuple[int, str]:
    """Run a program of a package manager to its end; past ``deadline`` it is ended with all it started."""
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C",
        "NEEDRESTART_SUSPEND": "1",
    }
    left = deadline - time.monotonic()
    if left <= 0:
        raise OSError("the time for it was over")
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # dpkg lets its package be whole
        try:
            process.communicate(timeout=10.0)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            process.communicate()
        raise OSError(f"{' '.join(command[:1])} was not done in time") from None
    return process.returncode, out


def last_error(out: str) -> str:
    """What apt said was wrong: dpkg's own words, else its last error or warning that gives a reason."""
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    dpkg = [line for line in lines if "subprocess returned error" in line or line.startswith("dpkg: error")]
    errors = [line[3:] for line in lines if line.startswith(("E: ", "W: "))]
    # these stand behind the lines that say why
    said = [
        e for e in errors if not e.startswith(("Unable to fetch some archives", "Some index files failed"))
    ]
    return (dpkg or said or errors or lines or [""])[-1][:400]


# ----------------------------------------------------------------------------------------------- prepare
def prepare(request: Record, home: str) -> Results:
    """Bridge, extra addresses, kernel settings, RAM disk: one answer for each, in this order."""
    if "bridge" in request:
        yield part("bridge", make_bridge, home, request["bridge"], request.get("nic"))
    if request.get("addresses"):
        yield part("addresses", add_addresses, request.get("bridge", "br0"), request["addresses"])
    if request.get("sysctls"):
        yield part("sysctls", set_sysctls, request["sysctls"])
    if request.get("ramdisk"):
        yield part("ramdisk", make_ramdisk, home, int(request["ramdisk"]))


def part(subject: str, function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """One piece of an operation: its failure is its own."""
    try:
        return subject, function(*arguments)
    except TROUBLE as error:
        return subject, error


def default_nic(bridge: str) -> str:
    """The interface of the default route, else the first Ethernet interface with an IPv4 address."""
    for route in ip_json("-4", "route", "show", "default"):
        return str(route["dev"])
    for link in ip_json("-4", "addr"):
        if link.get("link_type") == "ether" and link["addr_info"] and link["ifname"] != bridge:
            return str(link["ifname"])
    raise OSError("this host has no default route and no Ethernet interface with an IPv4 address")


def make_bridge(home: str, bridge: str, nic: str | None = None) -> Record:
    """Put the default NIC into a bridge that keeps its MAC; addresses and routes move in one ``ip -batch``.

    One batch, because the ssh connection that asks for it comes in through that very NIC.
    """
    known = load(f"{home}/bridge.json")
    if bridge in links():
        ports = [link["ifname"] for link in ip_json("link", "show", "master", bridge)]
        if known.get("nic") in ports or (nic and nic in ports):
            return {"unchanged": True, **known}
        if not nic and default_nic(bridge) == bridge:  # made by somebody else: good as it is
            return {"unchanged": True, "bridge": bridge, "foreign": True}
    nic = nic or default_nic(bridge)
    link = ip_json("addr", "show", "dev", nic)[0]
    addresses = [
        f"{a['local']}/{a['prefixlen']}"
        for a in link["addr_info"]
        if a["scope"] == "global" and not a.get("temporary")
    ]
    routes = [r for r in ip_json("-4", "route", "show", "dev", nic) if r.get("protocol") != "kernel"]
    there = moving(bridge, addresses, preferred(routes))
    batch = [] if bridge in links() else [f"link add {bridge} type bridge"]
    batch += [
        f"link set {bridge} address {link['address']} mtu {link.get('mtu', 1500)}",
        f"link set {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {bridge} up",
        f"link set {nic} master {bridge}",
        f"link set {nic} up",
        f"addr flush dev {nic} scope global",
        *there,
    ]
    record = {"bridge": bridge, "nic": nic, "mac": link["address"], "addresses": addresses, "routes": routes}
    write(f"{home}/bridge.json", json.dumps(record))
    try:
        must(["ip", "-batch", "-"], "\n".join(batch) + "\n")
    except OSError:
        unmake_bridge(home)
        raise
    return record


def preferred(routes: list[Record]) -> list[Record]:
    """The routes without their metric, unless that tells two to the same place apart.

    The NIC's DHCP client is still there, and may set the routes of before anew, with the metric of before:
    then they would lead into a port of the bridge, and the host would be lost. Without one ours win.
    """
    places = [route["dst"] for route in routes]
    return [
        {k: v for k, v in route.items() if k != "metric" or places.count(route["dst"]) > 1}
        for route in routes
    ]


def moving(device: str, addresses: Iterable[str], routes: Iterable[Record]) -> list[str]:
    """Batch lines that give ``device`` these addresses and routes."""
    lines = [f"addr replace {a} {'nodad' if ':' in a else 'brd +'} dev {device}" for a in addresses]
    for route in sorted(routes, key=lambda r: "gateway" in r):  # on-link routes first: gateways need them
        words = ["route replace", route["dst"]]
        for key, word in (("gateway", "via"), ("prefsrc", "src"), ("metric", "metric"), ("scope", "scope")):
            if key in route:
                words += [word, str(route[key])]
        lines.append(
            " ".join(words + ["dev", device] + (["onlink"] if "onlink" in route.get("flags", []) else []))
        )
    return lines


def unmake_bridge(home: str) -> bool:
    """Give addresses and routes back to the NIC and remove the bridge; False if there was none of ours."""
    known = load(f"{home}/bridge.json")
    if not known:
        return False
    bridge, nic = known["bridge"], known["nic"]
    if bridge in links() and nic in links():
        batch = [f"link set {nic} nomaster", f"addr flush dev {bridge}", f"link del {bridge}"]
        run(
            ["ip", "-force", "-batch", "-"],
            "\n".join(batch + moving(nic, known["addresses"], known["routes"])) + "\n",
        )
    os.remove(f"{home}/bridge.json")
    return True


def add_addresses(bridge: str, addresses: list[str]) -> Record:
    """Further addresses on the bridge (a service machine's address in the VM network)."""
    there = {f"{a['local']}/{a['prefixlen']}" for a in ip_json("addr", "show", "dev", bridge)[0]["addr_info"]}
    missing = [a for a in addresses if a not in there]
    if missing:
        must(["ip", "-batch", "-"], "\n".join(moving(bridge, missing, [])) + "\n")
    return {"unchanged": not missing, "addresses": list(addresses)}


def set_sysctls(wanted: Record) -> Record:
    """Kernel settings, best effort; each key says set, unchanged, absent or why not.

    The sizes of the ARP table, say, exist only in the machine's first network namespace.
    """
    results = {}
    for key, value in wanted.items():
        path = "/proc/sys/" + (key if "/" in key else key.replace(".", "/"))
        try:
            if ".." in key:
                raise ValueError("no such key")
            if not os.path.exists(path):
                results[key] = "absent"
            elif read(path).split() == str(value).split():
                results[key] = "unchanged"
            else:
                with open(path, "w", encoding="ascii") as file:
                    file.write(str(value))
                results[key] = "set"
        except (OSError, ValueError) as error:
            results[key] = f"refused: {error}"
    return {"unchanged": "set" not in results.values(), "keys": results}


def make_ramdisk(home: str, size: int) -> Record:
    """A tmpfs of ``size`` bytes for disks and serial consoles; an existing one is resized if need be."""
    path = f"{home}/ram"
    os.makedirs(path, mode=0o700, exist_ok=True)
    mounted = os.path.ismount(path)
    if mounted:
        figures = os.statvfs(path)
        if abs(figures.f_blocks * figures.f_frsize - size) < 1 << 20:
            return {"unchanged": True, "path": path, "size": size}
    must(
        [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"{'remount,' * mounted}size={size},mode=700,nosuid,nodev",
            "g5kvirt",
            path,
        ]
    )
    return {"path": path, "size": size, "resized": mounted}


# ---------------------------------------------------------------------------------------------------- VMs
def paths(home: str, name: str) -> dict[str, str]:
    """Where the pieces of a VM live. Disk and consoles on the RAM disk, if there is one."""
    place = {key: f"{home}/vms/{name}.{key}" for key in ("json", "qmp", "log")}
    place.update({key: f"{home}/ram/{name}.{key}" for key in ("disk", "serial")})
    if len(place["qmp"]) > 104:
        raise ValueError(f"{place['qmp']} is too long for a unix socket: a shorter VM name, please")
    return place


def known_vms(home: str) -> list[str]:
    """Names of the VMs that have a record."""
    try:
        return sorted(f[:-5] for f in os.listdir(f"{home}/vms") if f.endswith(".json"))
    except FileNotFoundError:
        return []


def qemu_argv(home: str, vm: Record) -> list[str]:
    """The whole command line of one VM. Everything it could do without is left out: 16 start in a second."""
    place = paths(home, vm["name"])
    boot, kvm = vm.get("boot", "rom"), vm.get("accel") == "kvm"
    argv = [QEMU, "-name", vm["name"], "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]
    argv += ["-machine", "pc", "-smp", str(int(vm.get("cores", 1))), "-m", f"{int(vm['memory']) >> 20}M"]
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
        argv += ["-drive", f"if=none,id=cd0,media=cdrom,readonly=on,format=raw,file={comma(vm['iso'])}"]
        argv += ["-device", "ide-cd,drive=cd0,bootindex=1"]
    elif boot != "rom":
        raise ValueError(f"{boot!r} is no way to boot: rom or iso")
    if vm.get("disk"):
        argv += [
            "-drive",
            f"if=none,id=disk0,format=raw,cache=unsafe,discard=unmap,file={comma(place['disk'])}",
        ]
        argv += ["-device", "virtio-blk-pci,drive=disk0,bootindex=2"]
    argv += ["-serial", f"file:{place['serial']}", "-qmp", f"unix:{comma(place['qmp'])},server=on,wait=off"]
    return [*argv, "-S"]  # wait for `cont`: guests must not take the cores from QEMUs that still start


def comma(path: str) -> str:
    """QEMU reads a comma in a value as its end unless it is doubled."""
    return path.replace(",", ",,")


def start(request: Record, home: str) -> Results:
    """VMs in one round trip: taps in one batch, disks, all QEMUs at once, each one's QMP must answer."""
    accepted = []
    for item in request["vms"]:
        vm = {**request.get("defaults", {}), **item}
        subject = str(vm.get("name"))
        try:
            name_of(vm["name"])
            if not MAC.fullmatch(vm["mac"]):
                raise ValueError(f"{vm['mac']!r} is no MAC address (lower case, colons)")
            vm["tap"] = "v" + vm["mac"].replace(":", "")
            record = load(paths(home, subject)["json"])
            if not lives(record):
                qemu_argv(home, vm)  # raises if the order makes no sense
                accepted.append(vm)
            elif record["vm"] != vm:
                yield subject, ValueError(f"{subject} runs already with other settings: stop it first")
            elif "power_on" in record:
                yield subject, {"unchanged": True, "pid": record["pid"], "power_on": record["power_on"]}
            else:  # an agent that was killed between QEMU's start and its `cont` left it waiting
                qmp(home, subject, "cont")
                write(paths(home, subject)["json"], json.dumps({**record, "power_on": time.time()}))
                yield subject, {"pid": record["pid"], "power_on": time.time()}
        except TROUBLE as error:
            yield subject, error
    if accepted:
        make_taps([vm["tap"] for vm in accepted], request.get("bridge", "br0"))
        yield from power_on(home, accepted, float(request.get("limit", 20.0)), fresh=True)


def make_taps(taps: list[str], bridge: str) -> None:
    """All taps of a host in one ``ip -batch``; one that fails does not stop the others (QEMU will say so)."""
    here = links()
    missing = [tap for tap in taps if tap not in here]
    lines = [f"tuntap add dev {tap} mode tap" for tap in missing]
    lines += [f"link set {tap} addrgenmode none master {bridge} up" for tap in missing]
    if missing:
        run(["ip", "-force", "-batch", "-"], "\n".join(lines) + "\n")


def power_on(home: str, vms: list[Record], limit: float, fresh: bool) -> Results:
    """Start QEMU for each, let all come up side by side, then let them run; yields one answer a VM."""
    starting = {}
    for vm in vms:
        try:
            starting[vm["name"]] = spawn_vm(home, vm, fresh)
        except TROUBLE as error:
            yield vm["name"], error
    ready, begun = {}, time.monotonic()
    while starting:
        for name in list(starting):
            _, process, connection, _ = starting[name]
            if process.poll() is not None:
                connection.close()
                del starting[name]
                yield (
                    name,
                    OSError(f"QEMU ended at once ({process.returncode}): {tail(paths(home, name)['log'])}"),
                )
            elif greeted(connection, paths(home, name)["qmp"]):
                ready[name] = starting.pop(name)
        # one that is slow to come up does not hold back the others for ever
        if not starting or time.monotonic() - begun > 2.0:
            yield from let_run(home, ready)
        if starting and time.monotonic() - begun > limit:
            for name, (_, process, connection, _) in starting.items():
                process.kill()
                connection.close()
                yield (
                    name,
                    OSError(f"QEMU did not answer within {limit:g} s: {tail(paths(home, name)['log'])}"),
                )
            return
        if starting:
            time.sleep(0.005)


def spawn_vm(home: str, vm: Record, fresh: bool) -> Started:
    """One QEMU, detached, not yet running its guest."""
    place = paths(home, vm["name"])
    for path in (place["json"], place["qmp"]):
        if os.path.exists(path):
            os.remove(path)
    for directory in (f"{home}/vms", f"{home}/ram"):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    if vm.get("disk") and (fresh or not os.path.exists(place["disk"])):
        with open(os.open(place["disk"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as disk:
            disk.truncate(int(vm["disk"]))  # sparse: costs memory only where it is written
    with open(place["log"], "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            qemu_argv(home, vm),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    write(
        place["json"], json.dumps({"vm": vm, "pid": process.pid, "born": born(process.pid), "t": time.time()})
    )
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    return vm, process, connection, time.time()


def greeted(connection: socket.socket, path: str) -> bool:
    """Whether QEMU's monitor has said hello, which it does when the whole machine has been built."""
    try:
        connection.connect(path)
    except OSError as error:
        if error.errno != 106:  # EISCONN: connected before
            return False
    try:
        return b"QMP" in connection.recv(65536)
    except BlockingIOError:
        return False


def let_run(home: str, ready: dict[str, Started]) -> Results:
    """Say ``cont`` to every QEMU that is up: all are told before any answer is waited for."""
    told: dict[str, float] = {}
    failed: dict[str, Exception] = {}
    for step in (settle, tell_cont):
        for name, (vm, process, connection, _) in ready.items():
            if name not in failed:
                try:
                    step(vm, process, connection)
                    told[name] = time.time()
                except TROUBLE as error:
                    failed[name] = error
    for name in list(ready):
        vm, process, connection, spawned = ready.pop(name)
        path = paths(home, name)["json"]
        try:
            if name in failed:
                raise failed[name]
            hear(connection)
            write(path, json.dumps({**load(path), "power_on": told[name]}))
            yield name, {"pid": process.pid, "power_on": told[name], "spawn": spawned, "tap": vm["tap"]}
        except TROUBLE as error:
            yield name, OSError(f"QEMU does not obey: {error}; {tail(paths(home, name)['log'])}")
        finally:
            connection.close()


def settle(vm: Record, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Take up the monitor, and make an emulated guest nice: sshd, dnsmasq and nginx need the cores too.

    Only now, so that QEMU itself has come up at full speed. Nice values of sessions weigh against each
    other by their autogroup, where the kernel has that.
    """
    connection.settimeout(5.0)
    talk(connection, "qmp_capabilities")
    nice = int(vm.get("nice", 0))
    for thread in os.listdir(f"/proc/{process.pid}/task") if nice else []:
        os.setpriority(os.PRIO_PROCESS, int(thread), nice)
    if nice and os.path.exists(f"/proc/{process.pid}/autogroup"):
        with open(f"/proc/{process.pid}/autogroup", "w", encoding="ascii") as group:
            group.write(str(nice))


def tell_cont(_vm: Record, _process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Let the guest run; `hear` whether QEMU obeyed."""
    tell(connection, "cont")


def tell(connection: socket.socket, command: str) -> None:
    """Send one QMP command."""
    connection.sendall(json.dumps({"execute": command}).encode() + b"\n")


def hear(connection: socket.socket) -> Any:
    """The answer to a QMP command, skipping events. Raises OSError if QEMU refuses."""
    data = b""
    while True:
        while b"\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                raise OSError("QEMU closed its monitor")
            data += piece
        line, _, data = data.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(f"QEMU refuses: {answer['error'].get('desc')}")
        if "return" in answer:
            return answer["return"]


def talk(connection: socket.socket, command: str) -> Any:
    """One QMP command and its answer."""
    tell(connection, command)
    return hear(connection)


def qmp(home: str, name: str, command: str) -> Any:
    """Connect to a running VM's monitor and say one command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(paths(home, name)["qmp"])
        if b"QMP" not in connection.recv(65536):
            raise OSError("no QMP greeting")
        talk(connection, "qmp_capabilities")
        return talk(connection, command)


def status(request: Record, home: str) -> Results:
    """What is with each VM: running, dead or unknown, with its process's CPU seconds and memory."""
    tick = os.sysconf("SC_CLK_TCK")
    for name in named(request, home, known_vms):
        record = load(paths(home, name_of(name))["json"])
        if not record:
            yield name, {"state": "unknown"}
        elif not lives(record):
            yield (
                name,
                {"state": "off" if record.get("off") else "dead", "log": tail(paths(home, name)["log"])},
            )
        else:
            fields = read(f"/proc/{record['pid']}/stat", ") 0").rsplit(")", 1)[1].split() + ["0"] * 40
            detail = {"state": "running", "pid": record["pid"], "since": record["t"]}
            detail["cpu"] = (int(fields[11]) + int(fields[12])) / tick
            detail["resident"] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            yield name, detail


def console(request: Record, home: str) -> Results:
    """The last ``size`` bytes that VMs wrote to their serial consoles, as text."""
    size = int(request.get("size", 8192))
    for name in named(request, home, known_vms):
        yield part(name, last_words, paths(home, name_of(name))["serial"], size)


def last_words(path: str, size: int) -> Record:
    """The last ``size`` bytes of a file that may be long."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return {"text": file.read(size).decode("utf-8", "replace")}


def stop(request: Record, home: str) -> Results:
    """End VMs and remove their taps, disks and consoles; without ``names``: all."""
    names = [name_of(n) for n in named(request, home, known_vms)]
    records = {name: load(paths(home, name)["json"]) for name in names}
    trouble = part("", end, [r for r in records.values() if r], float(request.get("limit", 3.0)))[1]
    taps = [r["vm"]["tap"] for r in records.values() if r and not lives(r)]
    here = links()
    lines = [f"link del {tap}" for tap in taps if tap in here]
    if lines:
        run(["ip", "-force", "-batch", "-"], "\n".join(lines) + "\n")
    for name, record in records.items():
        if record and lives(record):
            yield name, OSError(f"process {record['pid']} does not end: {trouble}")
            continue
        gone = [path for path in paths(home, name).values() if os.path.exists(path)]
        for path in gone:
            os.remove(path)
        yield name, {"unchanged": not record and not gone}


def power(request: Record, home: str) -> Results:
    """reset (warm, by QMP), off (the process ends, disk and tap stay), on, cycle (off and on)."""
    action, again = request["action"], []
    if action not in ("reset", "off", "on", "cycle"):
        raise ValueError(f"{action!r} is no power action: reset, off, on or cycle")
    names = [name_of(n) for n in named(request, home, known_vms)]
    records = {name: load(paths(home, name)["json"]) for name in names}
    if action in ("off", "cycle"):
        end([r for r in records.values() if r], float(request.get("limit", 3.0)))
    for name, record in records.items():
        try:
            if not record:
                raise ValueError(f"there is no VM {name} on this host")
            if action == "reset":
                qmp(home, name, "system_reset")
                yield name, {"power_on": time.time(), "pid": record["pid"]}
            elif action == "off":
                write(paths(home, name)["json"], json.dumps({**record, "off": True}))
                yield name, {"power_off": time.time(), "unchanged": bool(record.get("off"))}
            elif lives(record):
                yield name, {"unchanged": True, "pid": record["pid"]}
            else:
                again.append(record["vm"])
        except TROUBLE as error:
            yield name, error
    make_taps([vm["tap"] for vm in again], request.get("bridge", "br0"))
    yield from power_on(home, again, 20.0, fresh=False)


# ----------------------------------------------------------------------------------------------- services
def serve(request: Record, home: str) -> Results:
    """Write a service's files, let the program itself check them, keep it running under a supervisor.

    If a check fails, the files are put back as they were and whatever ran goes on running. ``until``: when
    its supervisor ends it for good.
    """
    name = name_of(request["name"])
    until = request.get("until")
    if until is not None and time.time() >= until:
        raise ValueError(f"its time is over since {time.time() - until:.0f} s")
    place = f"{home}/services/{name}"
    os.makedirs(place, mode=0o700, exist_ok=True)
    for directory in request.get("directories", []):
        os.makedirs(directory["path"], exist_ok=True)
        os.chmod(directory["path"], int(directory.get("mode", 0o755)))
    before, change = {}, set()
    for item in request.get("files", []):
        path, mode = item["path"], int(item.get("mode", 0o644))
        old = (read(path), os.stat(path).st_mode & 0o7777) if os.path.exists(path) else None
        if old != (item["content"], mode):
            before[path] = old
            change.add(item.get("change", "restart"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write(path, item["content"], mode)
    if before:
        for argv in request.get("check", []):
            code, out = run(argv, limit=30.0)
            if code:
                for path, old in before.items():
                    write(path, *old) if old else os.remove(path)
                yield name, OSError(f"{argv[0]} does not accept its configuration ({code}): {out[-1500:]}")
                return
    spec = {"command": request["command"], "until": until}
    state, old_spec = load(f"{place}/state.json"), load(f"{place}/spec.json")
    since = os.path.getsize(f"{place}/log") if os.path.exists(f"{place}/log") else 0
    if lives(state) and old_spec == spec:
        if "restart" in change:
            os.kill(state["pid"], signal.SIGUSR1)
        elif "reload" in change:
            os.kill(state["pid"], signal.SIGHUP)
        if "restart" not in change:
            yield (
                name,
                {
                    "unchanged": not before,
                    "pid": state["pid"],
                    "changed": sorted(before),
                    "log": f"{place}/log",
                },
            )
            return
    else:
        end_service(place)
        write(f"{place}/spec.json", json.dumps(spec))
        argv = [sys.executable, "-I", os.path.abspath(__file__), "supervise", place]
        with open(f"{place}/supervisor.log", "w", encoding="utf-8") as log:
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
    await_service(place, state, since, request.get("ready", {}), float(request.get("limit", 10.0)))
    state = load(f"{place}/state.json")
    yield (
        name,
        {"pid": state["pid"], "child": state["child"], "changed": sorted(before), "log": f"{place}/log"},
    )


def await_service(place: str, old: Record, since: int, ready: Record, limit: float) -> None:
    """Wait until a new process of the service is there and, if asked, has logged a text or listens."""
    deadline = time.monotonic() + limit
    why = "its process did not start"
    while time.monotonic() < deadline:
        state = load(f"{place}/state.json")
        if state.get("child") and state["child"] != old.get("child") and born(state["child"]):
            if "tcp" in ready:
                why = "it does not listen on {}:{}".format(*ready["tcp"])
                try:
                    socket.create_connection((ready["tcp"][0], int(ready["tcp"][1])), 1.0).close()
                    return
                except OSError:
                    pass
            elif ready.get("log", "") in said(f"{place}/log", since):
                return
            else:
                why = f"it does not log {ready['log']!r}"
        time.sleep(0.02)
    raise OSError(f"not ready within {limit:g} s: {why}; its log ends: {tail(f'{place}/log')}")


def said(path: str, since: int) -> str:
    """What a service itself has logged behind an offset; its supervisor's own lines are left out."""
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as log:
        log.seek(since)
        lines = log.read().decode("utf-8", "replace").splitlines()
    return "\n".join(line for line in lines if line.split(" ", 2)[1:2] != ["supervisor:"])


def end_service(place: str) -> bool:
    """End a service's supervisor and, should that have been killed before, the orphaned service too."""
    state = load(f"{place}/state.json")
    was = lives(state)
    end([state], 8.0)
    if state.get("child") and born(state["child"]) == state.get("child_born"):
        kill_group(state["child"])
    if os.path.exists(f"{place}/state.json"):
        os.remove(f"{place}/state.json")
    return was


def services(request: Record, home: str) -> Results:
    """State of every service: running or dead, how often it was started, the end of its log."""
    for name in named(request, home, known_services):
        place = f"{home}/services/{name_of(name)}"
        state = load(f"{place}/state.json")
        alive = lives(state) and born(state.get("child", 0)) == state.get("child_born")
        detail = {
            "state": "running" if alive else "dead" if state else "unknown",
            "log": tail(f"{place}/log"),
        }
        yield name, {**detail, **{k: state[k] for k in ("pid", "child", "starts", "last_exit") if k in state}}


def named(request: Record, home: str, known: Callable[[str], list[str]]) -> list[str]:
    """The names that are asked for: none if none are listed, all that are known if nothing is said."""
    return list(request["names"]) if "names" in request else known(home)


def known_services(home: str) -> list[str]:
    """Names of the services that have a directory."""
    return sorted(os.listdir(f"{home}/services")) if os.path.isdir(f"{home}/services") else []


def stop_service(request: Record, home: str) -> Results:
    """End services; their log stays until the next start or teardown."""
    for name in named(request, home, known_services):
        subject, result = part(name, end_service, f"{home}/services/{name_of(name)}")
        yield subject, {"unchanged": not result} if isinstance(result, bool) else result


def kill_group(pid: int) -> None:
    """Kill what is left of a process group (nginx's workers outlive a killed master and keep its port)."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def die_with_parent() -> None:
    """In a new child: SIGTERM when the supervisor dies (prctl PR_SET_PDEATHSIG)."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM, 0, 0, 0)


def supervise(place: str) -> None:
    """Keep one command running: start again when it dies, stamp its output with times, bounded log.

    SIGTERM ends both, and so does the time that is set; SIGHUP is handed on, SIGUSR1 restarts the command.
    """
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    state: Record = {"pid": os.getpid(), "born": born(os.getpid()), "starts": 0, "last_exit": None}
    spec, pause, ending = load(f"{place}/spec.json"), 0.1, False
    command, until = spec["command"], spec.get("until") or float("inf")
    while not ending:
        began = time.monotonic()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        state.update(child=child.pid, child_born=born(child.pid), starts=state["starts"] + 1)
        write(f"{place}/state.json", json.dumps(state))
        ending, restart = attend(child, wake, f"{place}/log", until)
        kill_group(child.pid)
        state["last_exit"] = child.returncode
        pause = 0.1 if restart or time.monotonic() - began > 10 else min(5.0, pause * 2)
        if not ending and not restart:
            log_lines(f"{place}/log", [f"supervisor: ended with {child.returncode}, again in {pause:.1f} s"])
            write(f"{place}/state.json", json.dumps(state))
            select.select([wake], [], [], pause)
            ending = signal.SIGTERM in drain(wake) or time.time() >= until


def attend(child: subprocess.Popen[bytes], wake: int, log: str, until: float) -> tuple[bool, bool]:
    """Copy a child's lines into the log until it ends; returns (asked to end, asked to restart).

    At ``until`` it is as if it had been asked to end.
    """
    output, rest, ending, restart, deadline = child.stdout, b"", False, False, 0.0
    assert output is not None
    pipe = output.fileno()
    while child.poll() is None:
        readable = select.select([wake] + ([pipe] if pipe >= 0 else []), [], [], 0.5)[0]
        asked = drain(wake) if wake in readable else b""
        if time.time() >= until and not ending:
            log_lines(log, ["supervisor: its time is over"])
            asked += bytes([signal.SIGTERM])
        for number in asked:
            if number == signal.SIGHUP:
                child.send_signal(signal.SIGHUP)
            elif number in (signal.SIGTERM, signal.SIGUSR1):
                ending, restart = ending or number == signal.SIGTERM, True
                deadline = deadline or time.monotonic() + 5.0
                child.terminate()
        if pipe in readable:
            data = os.read(pipe, 1 << 16)
            pipe = pipe if data else -1
            *lines, rest = (rest + data).split(b"\n")
            log_lines(log, [line.decode("utf-8", "replace") for line in lines])
        if deadline and time.monotonic() > deadline:
            child.kill()
    os.set_blocking(output.fileno(), False)
    last = rest + (output.read() or b"")
    log_lines(log, [line.decode("utf-8", "replace") for line in last.split(b"\n") if line])
    output.close()
    return ending, restart


def drain(wake: int) -> bytes:
    """The signal numbers that have come in since the last look."""
    try:
        return os.read(wake, 4096)
    except BlockingIOError:
        return b""


def log_lines(path: str, lines: Iterable[str]) -> None:
    """Append lines, each with its time in microseconds: dnsmasq's own log knows only seconds."""
    stamp = f"{time.time():.6f} "
    with open(path, "a", encoding="utf-8") as log:
        log.write("".join(stamp + line + "\n" for line in lines))
        full = log.tell() > LOG_LIMIT
    if full:
        os.replace(path, path + ".1")


# ------------------------------------------------------------------------------------------------- follow
def follow(request: Record, emit: Callable[[Record], object]) -> None:
    """Emit every line that is appended to the files, until nobody reads our output any more.

    A file may not exist yet, may be put aside and begun anew. ``offset`` is where the next line begins:
    given back as the start, nothing is lost or seen twice. A beat every 5 s shows that the stream lives.
    """
    pause, beat = max(0.01, float(request.get("poll", 0.05))), 0.0
    until = time.monotonic() + float(request.get("seconds", 10 * 86400))
    files = {path: [None, int(offset), b""] for path, offset in request["files"].items()}
    hangup = select.poll()
    hangup.register(sys.stdout.fileno(), 0)
    if len(sys.argv) > 1:  # the request was an argument, so an end of the input means that the asker left
        hangup.register(sys.stdin.fileno(), select.POLLIN)
    while time.monotonic() < until and not hangup.poll(0):
        for path, state in files.items():
            for line, offset in appended(path, state):
                emit({"op": "follow", "file": path, "offset": offset, "line": line})
        if time.monotonic() - beat > 5.0:
            beat = time.monotonic()
            emit({"op": "follow", "t": time.time()})
        sys.stdout.flush()
        time.sleep(pause)


def appended(path: str, state: list[Any]) -> Iterator[tuple[str, int]]:
    """New whole lines of a file with the offset behind each; ``state`` is [open file, offset, torn line]."""
    file: IO[bytes] | None = state[0]
    if file is None:
        try:
            file = state[0] = open(path, "rb")
        except FileNotFoundError:
            return
        if state[1] > os.fstat(file.fileno()).st_size:
            state[1] = 0
        file.seek(state[1])
    data = file.read()
    *lines, torn = (state[2] + data).split(b"\n")
    for line in lines:
        state[1] += len(line) + 1
        yield line.decode("utf-8", "replace"), state[1]
    state[2] = torn
    if not data:
        there = os.fstat(file.fileno())
        try:
            now = os.stat(path)
        except FileNotFoundError:
            return
        if (now.st_ino, now.st_dev) != (there.st_ino, there.st_dev) or now.st_size < state[1]:
            file.close()
            state[:] = [None, 0, b""]


# ----------------------------------------------------------------------------------------------- teardown
def teardown(request: Record, home: str) -> Results:
    """End and remove all that this agent made on the host; the NIC gets its addresses back."""
    for function in (stop_service, stop):
        for subject, result in function({}, home):
            if isinstance(result, Exception):
                yield subject, result
    if os.path.ismount(f"{home}/ram"):
        must(["umount", "-l", f"{home}/ram"])
    restored = unmake_bridge(home)
    for path in request.get("directories", []):
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(home)
    yield os.uname().nodename, {"bridge": "removed" if restored else "none of ours"}


# --------------------------------------------------------------------------------------------------- main
OPERATIONS = {
    "facts": facts,
    "packages": packages,
    "prepare": prepare,
    "start": start,
    "status": status,
    "console": console,
    "stop": stop,
    "power": power,
    "serve": serve,
    "services": services,
    "stop-service": stop_service,
    "teardown": teardown,
}


def answer(op: str, subject: str, result: Any) -> None:
    """One result as the line of JSON that the notebook's side reads."""
    bad = isinstance(result, BaseException)
    reason = f"{result.args[0]!r} is missing" if isinstance(result, KeyError) else str(result)
    detail = (
        {"reason": reason} if bad else {k: v for k, v in result.items() if (k, v) != ("unchanged", False)}
    )
    line = {
        "op": op,
        "subject": subject,
        "status": "failed" if bad else "ok",
        "t": time.time(),
        "detail": detail,
    }
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the asker is gone; what was begun must still be brought to its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def perform(request: Record, home: str) -> None:
    """One operation, one answer for each of its subjects."""
    op = str(request.get("op"))
    try:
        if op not in OPERATIONS:
            raise ValueError(f"unknown operation {op!r}: {', '.join(sorted(OPERATIONS))} or follow")
        for subject, result in OPERATIONS[op](request, home):
            answer(op, subject, result)
    except TROUBLE as error:
        answer(op, str(request.get("name", os.uname().nodename)), error)


def locked(home: str, limit: float = 60.0) -> IO[str]:
    """Hold the host's lock: two connections never change the same host at once. Returns the open file."""
    file = open(f"{home}/lock", "w", encoding="ascii")
    deadline = time.monotonic() + limit
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(f"another agent has been busy on this host for {limit:g} s") from None
            time.sleep(0.01)


def main(arguments: list[str]) -> int:
    """Read the request, do it; 0 unless it cannot be read."""
    if arguments[:1] == ["supervise"]:
        supervise(arguments[1])
        return 0
    try:
        document = json.loads(arguments[0] if arguments else sys.stdin.read())
        home, requests = document.get("home", HOME), list(document["requests"])
        if not all(isinstance(r, dict) for r in requests) or not os.path.isabs(home):
            raise ValueError("requests must be objects and home an absolute path")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sys.stderr.write(
            f"the request cannot be read ({error}): send one JSON document with a list of requests\n"
        )
        return 2
    if any(r.get("op") == "follow" for r in requests):
        try:
            for request in requests:
                follow(request, lambda line: sys.stdout.write(json.dumps(line) + "\n"))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: that is the end
        return 0
    os.makedirs(home, mode=0o700, exist_ok=True)
    os.chmod(home, 0o700)
    with locked(home):
        for request in requests:
            perform(request, home)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
