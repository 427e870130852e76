"""The operations on services: serve, services, stop-service. Each runs under a supervisor of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time

from .processes import attempt, detach, is_alive, kill_group, next_look, run, start_time, terminate
from .records import check_name, load_record, read_text, requested_names, tail, write_text
from .supervisor import supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .records import Record, Results

#: Seconds before its end at which a service's end may be put off without a restart.
PUT_OFF = 2.0
#: What Python runs: the directory that holds this package and ``__main__.py``.
DIRECTORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def serve(request: Record, home: str) -> Results:
    """Write a service's files, let the program itself check them, keep it running under a supervisor.

    If a check fails, the files are put back as they were and a running service keeps running. ``until``: when
    its supervisor ends it for good; to put that off does not disturb it.
    """
    name, until = check_name(request["name"]), request.get("until")
    if until is not None and time.time() >= until:
        raise ValueError(f"its time limit ended {time.time() - until:.0f} s")
    place = f"{home}/services/{name}"
    os.makedirs(place, mode=0o700, exist_ok=True)
    for directory in request.get("directories", []):
        os.makedirs(directory["path"], exist_ok=True)
        os.chmod(directory["path"], int(directory.get("mode", 0o755)))
    before, changes = write_files(request.get("files", []))
    reason = refusal(request.get("check", [])) if before else ""
    if reason:
        restore_files(before)
        raise OSError(reason)
    spec = {"command": request["command"], "until": until, "rotated": request.get("rotated", [])}
    state, old_spec = load_record(f"{place}/state.json"), load_record(f"{place}/spec.json")
    since = os.path.getsize(f"{place}/log") if os.path.exists(f"{place}/log") else 0
    detail: Record = {"changed": sorted(before), "log": f"{place}/log"}
    if is_alive(state) and only_later(old_spec, spec):
        write_text(f"{place}/spec.json", json.dumps(spec))
        old_spec = spec
    if is_alive(state) and old_spec == spec:
        if "restart" in changes:
            os.kill(state["pid"], signal.SIGUSR1)
        else:
            if "reload" in changes:
                os.kill(state["pid"], signal.SIGHUP)
            yield name, {"unchanged": not before, "pid": state["pid"], **detail}
            return
    else:
        terminate_service(place)
        write_text(f"{place}/spec.json", json.dumps(spec))
        start_supervisor(place)
    wait_until_ready(place, state, since, request.get("ready", {}), float(request.get("limit", 10.0)))
    state = load_record(f"{place}/state.json")
    yield name, {"pid": state["pid"], "child": state["child"], **detail}


def only_later(old: Record, new: Record) -> bool:
    """Whether a service is to end later than before and nothing else: its supervisor reads that in time."""
    before, after = old.get("until"), new.get("until")
    return (
        before is not None
        and after is not None
        and time.time() + PUT_OFF <= before < after
        and {**old, "until": after} == new
    )


def write_files(items: list[Record]) -> tuple[dict[str, Any], set[str]]:
    """Write the files that are not there as requested.

    Returns what each of them was before (text and permissions, or None), and what the service must do now.
    """
    before: dict[str, Any] = {}
    changes = set()
    for item in items:
        path, mode = item["path"], int(item.get("mode", 0o644))
        old = (read_text(path), os.stat(path).st_mode & 0o7777) if os.path.exists(path) else None
        if old != (item["content"], mode):
            before[path] = old
            changes.add(item.get("change", "restart"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            write_text(path, item["content"], mode)
    return before, changes


def restore_files(before: dict[str, Any]) -> None:
    """Put back what `write_files` has changed."""
    for path, old in before.items():
        if old:
            write_text(path, *old)
        else:
            os.remove(path)


def refusal(checks: list[list[str]]) -> str:
    """Why a program does not accept its configuration, by the first check that fails; empty if none does."""
    for argv in checks:
        code, out = run(argv, limit=30.0)
        if code:
            return f"{argv[0]} does not accept its configuration ({code}): {out[-1500:]}"
    return ""


def start_supervisor(place: str) -> None:
    """Start a service's supervisor, detached, in the version of the agent that this call is."""
    detach(lambda: supervise(place, own_program), f"{place}/supervisor.log", "g5kvirt-service")


def own_program(command: list[str]) -> Callable[[], int] | None:
    """What to do for a command that is a relay of this very agent, with all that it needs imported; None for
    any other."""
    if command[:5] != ["python3", "-I", "-S", DIRECTORY, "relay"]:
        return None
    from .relay import command as relay
    from .relay import server  # noqa: F401

    return lambda: relay.main(command[5:])


def wait_until_ready(place: str, old: Record, since: int, ready: Record, limit: float) -> None:
    """Wait until a new process of the service is there and, if required, has logged a text or listens."""
    began = time.monotonic()
    deadline = began + limit
    why = "its process did not start"
    while time.monotonic() < deadline:
        state = load_record(f"{place}/state.json")
        if state.get("child") and state["child"] != old.get("child") and start_time(state["child"]):
            if "tcp" in ready:
                why = "it does not listen on {}:{}".format(*ready["tcp"])
                try:
                    socket.create_connection((ready["tcp"][0], int(ready["tcp"][1])), 1.0).close()
                    return
                except OSError:
                    pass
            elif ready.get("log", "") in service_output(f"{place}/log", since):
                return
            else:
                why = f"it does not log {ready['log']!r}"
        time.sleep(next_look(began, 0.02, limit))
    raise OSError(f"not ready within {limit:g} s: {why}; its log ends: {tail(f'{place}/log')}")


def service_output(path: str, since: int) -> str:
    """What a service itself has logged behind an offset; its supervisor's own lines are left out."""
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as log:
        log.seek(since)
        lines = log.read().decode("utf-8", "replace").splitlines()
    return "\n".join(line for line in lines if line.split(" ", 2)[1:2] != ["supervisor:"])


def terminate_service(place: str) -> bool:
    """End a service's supervisor and, should that have been killed before, the orphaned service too."""
    state = load_record(f"{place}/state.json")
    was = is_alive(state)
    terminate([state], 8.0)
    if state.get("child") and start_time(state["child"]) == state.get("child_born"):
        kill_group(state["child"])
    if os.path.exists(f"{place}/state.json"):
        os.remove(f"{place}/state.json")
    return was


def services(request: Record, home: str) -> Results:
    """State of every service: running or dead, how often it was started, the end of its log."""
    for name in requested_names(request, home, known_services):
        place = f"{home}/services/{check_name(name)}"
        state = load_record(f"{place}/state.json")
        alive = is_alive(state) and start_time(state.get("child", 0)) == state.get("child_born")
        detail = {
            "state": "running" if alive else "dead" if state else "unknown",
            "log": tail(f"{place}/log"),
        }
        yield name, {**detail, **{k: state[k] for k in ("pid", "child", "starts", "last_exit") if k in state}}


def known_services(home: str) -> list[str]:
    """Names of the services that have a directory."""
    return sorted(os.listdir(f"{home}/services")) if os.path.isdir(f"{home}/services") else []


def stop_service(request: Record, home: str) -> Results:
    """End services, then remove files; their log stays until the next start or teardown."""
    for name in requested_names(request, home, known_services):
        subject, result = attempt(name, terminate_service, f"{home}/services/{check_name(name)}")
        yield subject, {"unchanged": not result} if isinstance(result, bool) else result
    for path in request.get("remove", []):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
