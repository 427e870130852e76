"""Many QEMUs at once: all come up in parallel, then their guests run."""

from __future__ import annotations

import json
import socket
import subprocess
import time

from . import niceness
from .processes import EXPECTED_ERRORS, detach, start_time
from .qemu import spawn_qemu, vm_paths
from .qmp import execute, has_greeted, receive, send
from .records import load_record, tail, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .qemu import Started
    from .records import Record, Results


def start_qemus(home: str, vms: list[Record], limit: float, fresh: bool) -> Results:
    """Start QEMU for each, let all come up in parallel, then let them run; yields one answer per VM."""
    starting = {}
    for vm in vms:
        try:
            starting[vm["name"]] = spawn_qemu(home, vm, fresh)
        except EXPECTED_ERRORS as error:
            yield vm["name"], error
    ready, begun = {}, time.monotonic()
    while starting:
        for name in list(starting):
            _, process, connection, _ = starting[name]
            if process.poll() is not None:
                connection.close()
                del starting[name]
                yield name, failure(home, name, f"QEMU ended at once ({process.returncode})")
            elif has_greeted(connection, vm_paths(home, name)["qmp"]):
                ready[name] = starting.pop(name)
        # one that is slow to come up does not hold back the others for ever
        if not starting or time.monotonic() - begun > 2.0:
            yield from resume_all(home, ready)
        if starting and time.monotonic() - begun > limit:
            for name, (_, process, connection, _) in starting.items():
                process.kill()
                connection.close()
                yield name, failure(home, name, f"QEMU did not answer within {limit:g} s")
            return
        if starting:
            time.sleep(0.005)


def failure(home: str, name: str, what: str) -> OSError:
    """Why a VM does not run, with the end of QEMU's log."""
    return OSError(f"{what}: {tail(vm_paths(home, name)['log'])}")


def resume_all(home: str, ready: dict[str, Started]) -> Results:
    """Send ``cont`` to every QEMU that is up: to all of them before any answer is awaited."""
    sent: dict[str, float] = {}
    failed: dict[str, Exception] = {}
    for step in (open_monitor, send_cont):
        for name, (vm, process, connection, _) in ready.items():
            if name not in failed:
                try:
                    step(vm, process, connection)
                    sent[name] = time.time()
                except EXPECTED_ERRORS as error:
                    failed[name] = error
    make_nice(home, [ready[name] for name in sent if name not in failed])
    for name in list(ready):
        vm, process, connection, spawned = ready.pop(name)
        path = vm_paths(home, name)["json"]
        try:
            if name in failed:
                raise failed[name]
            receive(connection)
            write_text(path, json.dumps({**load_record(path), "power_on": sent[name]}))
            yield name, {"pid": process.pid, "power_on": sent[name], "spawn": spawned, "tap": vm["tap"]}
        except EXPECTED_ERRORS as error:
            yield name, failure(home, name, f"QEMU could not start its guest: {error}")
        finally:
            connection.close()


def open_monitor(vm: Record, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Open the monitor, and make an emulated guest nice: sshd, dnsmasq and nginx need the cores too.

    Only now, so that QEMU itself has come up at full speed.
    """
    connection.settimeout(5.0)
    execute(connection, "qmp_capabilities")
    if nice := int(vm.get("nice", 0)):
        niceness.set_threads(process.pid, nice)


def make_nice(home: str, running: list[Started]) -> None:
    """The sessions of emulated guests; in the background where that takes a while."""
    later: dict[int, list[Record]] = {}
    for vm, process, _, _ in running:
        nice, record = int(vm.get("nice", 0)), {"pid": process.pid, "born": start_time(process.pid)}
        if nice and (later or not niceness.set_session(process.pid, nice)):
            later.setdefault(nice, []).append(record)

    def work() -> None:
        for nice, processes in later.items():
            niceness.set_sessions(processes, nice)

    if later:
        detach(work, f"{home}/niceness.log", "g5kvirt-nice")


def send_cont(_vm: Record, _process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """Let the guest run; `qmp.receive` gives the answer."""
    send(connection, "cont")
