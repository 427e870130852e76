"""The process that holds all light guests of a host; `operations` calls it over a unix socket.

It ends with its last guest. If it is killed, its guests go with it, as VMs go with their QEMU.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time

from ..processes import EXPECTED_ERRORS, start_time
from ..records import write_text
from .announcements import Announcements
from .guest import Guest
from .image import ImageStore
from .loop import READABLE, Loop, ready, sleep
from .netns import Home, drop_capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..records import Record
    from .loop import Task

#: Seconds without a guest after which the process ends: the first ones are on their way when it starts.
IDLE_LIMIT = 60.0


class Daemon:
    """The guests of one host. ``home_directory``: the agent's."""

    def __init__(self, home_directory: str) -> None:
        self._directory = home_directory
        self._loop = Loop()
        self._home = Home()
        self._images = ImageStore(f"{home_directory}/light/images", self._loop)
        self._announcements = Announcements(self._home, self._loop)
        self._guests: dict[str, Guest] = {}
        self._lives: dict[str, Task] = {}
        self._running = True
        self._empty_since = time.monotonic()

    def run(self) -> None:
        """Serve until the last guest is stopped, or SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self._end())
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        drop_capabilities()
        path = f"{self._directory}/light/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            if os.path.exists(path):
                os.remove(path)
            listener.bind(path)
            os.chmod(path, 0o600)
            listener.listen(64)
            listener.setblocking(False)
            self._loop.spawn(self._serve(listener))
            self._loop.spawn(self._watch())
            self._loop.run(lambda: self._running)
        for name in list(self._guests):
            self._stop(name)

    def _end(self) -> None:
        self._running = False

    async def _watch(self) -> None:
        """Ended ssh servers are collected; without guests the process ends."""
        while True:
            await sleep(1.0)
            for guest in self._guests.values():
                guest.reap()
            if self._guests:
                self._empty_since = time.monotonic()
            elif time.monotonic() - self._empty_since > IDLE_LIMIT:
                self._end()

    async def _serve(self, listener: socket.socket) -> None:
        while True:
            await ready(listener.fileno(), READABLE, float("inf"))
            try:
                connection, _ = listener.accept()
            except OSError:  # it has gone again, or no descriptor is left for the moment
                await sleep(0.05)
                continue
            self._loop.spawn(self._answer(connection))

    async def _answer(self, connection: socket.socket) -> None:
        """One request, a line of JSON; one answer, likewise: [[subject, result or reason], …]."""
        with connection:
            connection.setblocking(False)
            data = b""
            while not data.endswith(b"\n"):
                await ready(connection.fileno(), READABLE, time.monotonic() + 10.0)
                piece = connection.recv(1 << 20)
                if not piece:
                    return
                data += piece
            request = json.loads(data)
            connection.setblocking(True)
            connection.settimeout(10.0)
            connection.sendall(json.dumps(self._perform(request)).encode() + b"\n")
            if request["op"] == "stop" and not self._guests:
                self._end()
                connection.detach()  # open until this process ends, for which the other end waits

    def _perform(self, request: Record) -> list[tuple[str, Any]]:
        if request["op"] == "start":
            return self._start(request["vms"], request["bridge"])
        answers: list[tuple[str, Any]] = []
        for name in request["names"]:
            try:
                if name not in self._guests:
                    raise ValueError(f"there is no VM {name} on this host")
                answers.append((name, self._change(name, request["op"])))
            except EXPECTED_ERRORS as error:
                answers.append((name, str(error)))
        return answers

    # ---- power --------------------------------------------------------------------------------------

    def _start(self, vms: list[Record], bridge: str) -> list[tuple[str, Any]]:
        """All namespaces, all links in one call of ip, then every guest is powered on."""
        new = [vm for vm in vms if vm["name"] not in self._guests]
        with self._home.small_tables():
            links = [(vm["tap"], vm["mac"], self._home.create()) for vm in new]
        try:
            self._home.connect(links, bridge)
        except EXPECTED_ERRORS as error:
            for _, _, ns in links:
                os.close(ns)
            return [(vm["name"], str(error)) for vm in new]
        answers: list[tuple[str, Any]] = []
        for vm, (_, _, ns) in zip(new, links):  # noqa: B905  Python 3.9
            name = vm["name"]
            guest = Guest(
                vm,
                ns,
                bridge,
                f"{self._directory}/ram/{name}",
                f"{self._directory}/consoles/{name}.serial",
                home=self._home,
                loop=self._loop,
                images=self._images,
                announcements=self._announcements,
            )
            self._home.bring_up(ns)
            self._guests[name] = guest
            answers.append((name, self._power_on(name)))
        return answers

    def _power_on(self, name: str) -> Record:
        guest = self._guests[name]
        now = time.time()
        self._lives[name] = self._loop.spawn(guest.live())
        self._record(guest, power_on=now)
        return {"pid": os.getpid(), "power_on": now, "tap": guest.vm["tap"]}

    def _record(self, guest: Guest, **state: object) -> None:
        """Where the host agent looks the guest up."""
        process = {"pid": os.getpid(), "born": start_time(os.getpid()), "t": time.time()}
        path = f"{self._directory}/vms/{guest.name}.json"
        write_text(path, json.dumps({"vm": guest.vm, **process, **state}))

    def _power_off(self, name: str) -> None:
        life = self._lives.pop(name, None)
        if life is not None:
            self._loop.cancel(life)
        self._guests[name].end_processes()

    def _change(self, name: str, op: str) -> Record:
        guest, on = self._guests[name], name in self._lives
        if op == "stop":
            self._stop(name)
            return {}
        if op == "on" and on:
            return {"unchanged": True, "pid": os.getpid()}
        if op == "off":
            self._power_off(name)
            self._record(guest, off=True)
            return {"power_off": time.time(), "unchanged": not on}
        self._power_off(name)  # reset, cycle, or on
        return self._power_on(name)

    def _stop(self, name: str) -> None:
        """A guest and everything of it."""
        self._power_off(name)
        guest = self._guests.pop(name)
        root = guest.root
        guest.close()
        if root is not None:
            root.remove()
        os.close(guest.ns)  # with its namespace goes its link
