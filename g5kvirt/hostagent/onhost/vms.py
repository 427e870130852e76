"""The operations on VMs: start, status, console, stop, power."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time

from . import links, port_security
from .interfaces import create_taps, interface_names
from .light import operations as light
from .processes import EXPECTED_ERRORS, attempt, is_alive, run, terminate
from .qemu import known_vms, qemu_argv, vm_paths
from .qmp import execute_on
from .records import check_name, load_record, read_text, requested_names, tail, write_text
from .startup import start_qemus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def start(request: Record, home: str) -> Results:
    """VMs in one round trip: taps in one batch, disks, all QEMUs at once, each one's QMP must answer."""
    accepted: list[Record] = []
    servers = [socket.inet_ntoa(socket.inet_aton(s)) for s in request.get("dhcp_servers", [])]
    for item in request["vms"]:
        vm = {**request.get("defaults", {}), **item}
        subject = str(vm.get("name"))
        try:
            check_name(vm["name"])
            if any(subject == one["name"] for one in accepted):
                raise ValueError(f"{subject} is there twice in the request")
            if not MAC.fullmatch(vm["mac"]):
                raise ValueError(f"{vm['mac']!r} is no MAC address (lower case, colons)")
            if "ip" in vm:
                socket.inet_aton(vm["ip"])  # OSError
            vm["tap"] = "v" + vm["mac"].replace(":", "")
            record = load_record(vm_paths(home, subject)["json"])
            if not is_alive(record):
                if vm.get("kind") != light.KIND:
                    qemu_argv(
                        vm, dict.fromkeys(("monitor", "tap"), 0)
                    )  # raises if the request makes no sense
                accepted.append(vm)
            elif light.is_light(record) and record.get("off"):
                yield from light.power(home, "on", [subject])
            elif record["vm"] != vm:
                yield subject, ValueError(f"{subject} runs already with other settings: stop it first")
            elif "power_on" in record:
                yield subject, {"unchanged": True, "pid": record["pid"], "power_on": record["power_on"]}
            else:  # an agent that was killed between QEMU's start and its `cont` left it waiting
                execute_on(vm_paths(home, subject)["qmp"], "cont")
                write_text(vm_paths(home, subject)["json"], json.dumps({**record, "power_on": time.time()}))
                yield subject, {"pid": record["pid"], "power_on": time.time()}
        except EXPECTED_ERRORS as error:
            yield subject, error
    bridge = request.get("bridge", "br0")
    port_security.enforce(accepted, servers)  # before any of them can send
    guests = [vm for vm in accepted if vm.get("kind") == light.KIND]
    if guests:
        yield from with_links(home, light.start(home, guests, bridge))
    machines = [vm for vm in accepted if vm.get("kind") != light.KIND]
    if machines:
        create_taps([vm["tap"] for vm in machines], bridge)
        links.restore(home)
        yield from start_qemus(home, machines, float(request.get("limit", 20.0)), fresh=True)


def with_links(home: str, results: Results) -> Results:
    """The results of light guests that were started, whose links are made together with them.

    One without the classes of its links must not pass for one that has them.
    """
    started = list(results)
    _, error = attempt("", links.restore, home)
    for subject, result in started:
        yield subject, error if isinstance(error, Exception) else result


def status(request: Record, home: str) -> Results:
    """The state of each VM (running, off, dead or unknown), its process's CPU seconds and memory."""
    tick = os.sysconf("SC_CLK_TCK")
    for name in requested_names(request, home, known_vms):
        record = load_record(vm_paths(home, check_name(name))["json"])
        if not record:
            yield name, {"state": "unknown"}
        elif light.is_light(record):
            yield name, light.status(record)
        elif not is_alive(record):
            yield (
                name,
                {"state": "off" if record.get("off") else "dead", "log": tail(vm_paths(home, name)["log"])},
            )
        else:
            fields = read_text(f"/proc/{record['pid']}/stat", ") 0").rsplit(")", 1)[1].split() + ["0"] * 40
            detail = {"state": "running", "pid": record["pid"], "since": record["t"]}
            detail["cpu"] = (int(fields[11]) + int(fields[12])) / tick
            detail["resident"] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            yield name, detail


def console(request: Record, home: str) -> Results:
    """The last ``size`` bytes that VMs wrote to their serial consoles, as text."""
    size = int(request.get("size", 8192))
    for name in requested_names(request, home, known_vms):
        yield attempt(name, file_end, vm_paths(home, check_name(name))["serial"], size)


def file_end(path: str, size: int) -> Record:
    """The last ``size`` bytes of a file that may be long."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return {"text": file.read(size).decode("utf-8", "replace")}


def stop(request: Record, home: str) -> Results:
    """End VMs and remove their taps, disks and consoles; without ``names``: all."""
    names = [check_name(n) for n in requested_names(request, home, known_vms)]
    records = {name: load_record(vm_paths(home, name)["json"]) for name in names}
    guests = [name for name, r in records.items() if light.is_light(r) and is_alive(r)]
    ended = light.stop(home, guests) if guests else {}
    processes = [r for r in records.values() if r and not light.is_light(r)]
    trouble = attempt("", terminate, processes, float(request.get("limit", 3.0)))[1]
    taps = [r["vm"]["tap"] for r in processes if not is_alive(r)]
    here = interface_names()
    lines = [f"link del {tap}" for tap in taps if tap in here]
    if lines:
        run(["ip", "-force", "-batch", "-"], "\n".join(lines) + "\n")
    for name, record in records.items():
        if isinstance(ended.get(name), Exception):
            yield name, ended[name]
            continue
        if record and not light.is_light(record) and is_alive(record):
            yield name, OSError(f"process {record['pid']} does not end: {trouble}")
            continue
        gone = [path for path in vm_paths(home, name).values() if os.path.exists(path)]
        for path in gone:
            if os.path.isdir(path):  # what a light guest has instead of a disk
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.remove(path)
        yield name, {"unchanged": not record and not gone}


def power(request: Record, home: str) -> Results:
    """reset (warm, by QMP), off (the process ends, disk and tap stay), on, cycle (off and on)."""
    action, again = request["action"], []
    if action not in ("reset", "off", "on", "cycle"):
        raise ValueError(f"{action!r} is not a power action: use reset, off, on or cycle")
    names = [check_name(n) for n in requested_names(request, home, known_vms)]
    records = {name: load_record(vm_paths(home, name)["json"]) for name in names}
    guests = [name for name, r in records.items() if light.is_light(r) and is_alive(r)]
    if guests:
        yield from with_links(home, light.power(home, action, guests))
        records = {name: record for name, record in records.items() if name not in guests}
    if action in ("off", "cycle"):
        terminate([r for r in records.values() if r], float(request.get("limit", 3.0)))
    for name, record in records.items():
        try:
            if not record:
                raise ValueError(f"there is no VM {name} on this host")
            if light.is_light(record):
                raise ValueError(f"{name} has gone with the process of the light guests: start it")
            if action == "reset":
                execute_on(vm_paths(home, name)["qmp"], "system_reset")
                yield name, {"power_on": time.time(), "pid": record["pid"]}
            elif action == "off":
                write_text(vm_paths(home, name)["json"], json.dumps({**record, "off": True}))
                yield name, {"power_off": time.time(), "unchanged": bool(record.get("off"))}
            elif is_alive(record):
                yield name, {"unchanged": True, "pid": record["pid"]}
            else:
                again.append(record["vm"])
        except EXPECTED_ERRORS as error:
            yield name, error
    create_taps([vm["tap"] for vm in again], request.get("bridge", "br0"))
    links.restore(home)
    yield from start_qemus(home, again, 20.0, fresh=False)
