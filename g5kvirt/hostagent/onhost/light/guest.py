"""What a guest does after its power-on: netboot, minimal system, tasks, the environment that was deployed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

from . import dhcp, http, task, tftp
from .boot_script import BootScript, argument, read_script
from .loop import READABLE, ready, sleep
from .netns import INTERFACE
from .root import kill_processes
from .ssh_server import SshServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..records import Record
    from .announcements import Announcements
    from .image import ImageStore
    from .loop import Loop
    from .netns import Home
    from .root import Root
    from .task import Sink

#: Seconds that the firmware waits for an address, and for a file, before it starts over.
PATIENCE = 60.0
FILE_PATIENCE = 300.0
SSH_PORT = 22
MOST_SESSIONS = 64  #: of its ssh server at once; each is a process of the host
_PAUSE = 0.05  #: seconds until a connection is tried again that could not be taken
LOOK = 0.5  #: seconds until a task is looked at again that was not as announced

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Reboot(Exception):  # noqa: N818  no error
    """The guest leaves the system that it runs."""


class Guest:
    """One guest of this host."""

    def __init__(
        self,
        vm: Record,
        ns: int,
        bridge: str,
        place: str,
        console: str,
        *,
        home: Home,
        loop: Loop,
        images: ImageStore,
        announcements: Announcements,
    ) -> None:
        self.name = str(vm["name"])
        self.mac = str(vm["mac"])
        self.vm = vm
        self.ns = ns
        self.bridge = bridge
        self.home = home
        self.loop = loop
        self.images = images
        self.announcements = announcements
        self.http = http.Client(home, ns)
        self.place = place  #: path without extension for what it writes
        self.console = console  #: file
        self._console = -1  # its descriptor: to open it for each line took a tenth of a deployment's time
        self.root: Root | None = None  #: what was deployed
        self.dns: tuple[str, ...] = ()  #: addresses of its DNS servers, from its last lease
        self.start = time.monotonic()
        self._assigned = ("", "")  # address and netmask of its interface
        self.server: SshServer | None = None  #: of an image that has none
        self.sessions: set[int] = set()  #: processes of ssh servers, or left by them

    # ---- its life -----------------------------------------------------------------------------------

    async def live(self) -> None:
        """From power-on on, until it is cancelled."""
        self.start = time.monotonic()
        self.log("power-on")
        while True:
            try:
                script = await self._firmware()
                self.http.close()  # the firmware ends
                if not script.from_disk:
                    await self._minimal_system(script)
                elif self.root is not None:
                    await self._environment(self.root)
                else:
                    raise OSError("the disk is empty")
            except Reboot:
                self.log("reboot")
                self.start = time.monotonic()
            except Exception as error:  # noqa: BLE001  whatever an odd server or image causes
                self.log(f"starting over: {type(error).__name__}: {error}")
                await sleep(1.0)
            finally:
                self.http.close()

    def log(self, line: str) -> None:
        """A line of its console."""
        with contextlib.suppress(OSError):  # a full disk ends no guest
            if self._console < 0:
                self._console = os.open(self.console, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(self._console, f"[{time.monotonic() - self.start:12.6f}] {line}\n".encode())

    async def fetch(self, url: str, sink: Sink, patience: float = FILE_PATIENCE) -> None:
        """A file, piece by piece into ``sink``, which keeps none of them. Raises OSError."""
        deadline = time.monotonic() + patience
        if url.startswith("tftp://"):
            server, _, path = url[7:].partition("/")
            await tftp.get(self.home, self.ns, server, path, sink, deadline)
        else:
            await self.http.get(url, sink, deadline)

    async def read(self, url: str, patience: float = FILE_PATIENCE) -> str:
        """A small file. Raises OSError."""
        text = bytearray()
        await self.fetch(url, text.extend, patience)
        return text.decode("utf-8", "replace")

    async def report(self, server: str, step: str, **values: object) -> None:
        """Send a report to the server, and retry until it is received."""
        words = {"step": step, "name": self.name, "mac": self.mac, "up": f"{self.uptime:.2f}", **values}
        url = f"{server}/report?" + "&".join(f"{key}={quote(str(value))}" for key, value in words.items())
        while True:
            try:
                await self.read(url, patience=30.0)
                return
            except OSError as error:
                self.log(f"report of {step}: {error}")
                await sleep(1.0)

    @property
    def uptime(self) -> float:
        """Seconds since it was powered on, or rebooted itself."""
        return time.monotonic() - self.start

    async def _address(self, ipxe: bool) -> dhcp.Lease:
        deadline = time.monotonic() + PATIENCE
        lease = await dhcp.lease(self.home, self.ns, INTERFACE, self.mac, ipxe=ipxe, deadline=deadline)
        self.dns = lease.dns
        # What runs in the guest may have changed it since the last boot.
        if ipxe or (lease.address, lease.netmask) != self._assigned:
            self.home.assign(self.ns, lease.address, lease.netmask)
            self.home.announce(self.bridge, lease.address, self.mac)
            self._assigned = (lease.address, lease.netmask)
        self.log(f"address {lease.address} ({'iPXE' if ipxe else 'system'})")
        return lease

    # ---- firmware -----------------------------------------------------------------------------------

    async def _firmware(self) -> BootScript:
        """iPXE: address, script, kernel and initrd."""
        lease = await self._address(ipxe=True)
        file = lease.file.replace("${net0/mac:hexhyp}", self.mac.replace(":", "-"))
        url = file if "://" in file else f"tftp://{lease.next_server}/{file}"
        script = read_script(await self.read(url))
        self.log(f"script {url}")
        for number in range(1, script.tries + 1):
            try:
                for name in (script.kernel, script.initrd):
                    if name:
                        await self.fetch(name, _discard)
                        self.log(f"fetched {name}")
                return script
            except OSError as error:
                self.log(str(error))
                await sleep(float(number))
        raise OSError(f"kernel and initrd could not be fetched in {script.tries} tries")

    # ---- minimal system -----------------------------------------------------------------------------

    async def _minimal_system(self, script: BootScript) -> None:
        """Report in, then do the tasks that the server has."""
        server = argument(script.arguments, "g5kvirt.server")
        poll = float(argument(script.arguments, "g5kvirt.poll", "2"))
        kernel = f"{self.uptime:.2f}"
        await self._address(ipxe=False)
        address = f"{self.uptime:.2f}"
        await self.report(server, "minimal-system", up_kernel=kernel, up_address=address)
        self.log("minimal system")
        host, last = str(self.vm["host"]), ""
        while True:
            self.http.close()  # while it waits, it holds none of the server's connections
            given = await self.announcements.next_task(server, host, self.name, poll, last)
            try:
                text = await self.read(f"{server}/task/{self.name}", patience=30.0)
                here = task.read_task(text)["deployment"]
            except OSError as error:  # taken back
                self.log(str(error))
                here = ""
            if here != given or here == last:  # what was read of the announcements is older
                await sleep(LOOK)
                continue
            last = here
            self.log(f"task {here}")
            root = await task.perform(self, text)
            if root is not None:
                self.forget()
                self.root = root
                raise Reboot

    # ---- environment --------------------------------------------------------------------------------

    async def _environment(self, root: Root) -> None:
        """Run what was deployed: answer ssh, until it reboots."""
        await self._address(ipxe=False)
        power = root.open()
        tasks = []
        try:
            tasks.append(self.loop.spawn(self._answer_ssh(root)))
            tasks.append(self.loop.spawn(self._report_environment(root)))
            self.log("environment")
            await ready(power, READABLE, float("inf"))
            raise Reboot
        finally:
            os.close(power)
            for one in tasks:
                self.loop.cancel(one)
            if self.server is not None:
                self.server.disconnect()
            self.end_processes()
            root.close()

    async def _report_environment(self, root: Root) -> None:
        about = {"deployment": root.identity["deployment"], "status": "ok"}
        await self.report(root.identity["server"], "environment", **about)
        self.http.close()

    async def _answer_ssh(self, root: Root) -> None:
        with self.home.inside(self.ns):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", SSH_PORT))
            listener.listen(64)
            listener.setblocking(False)
            while True:
                await ready(listener.fileno(), READABLE, float("inf"))
                try:
                    connection, _ = listener.accept()
                except OSError:  # it has gone again, or no descriptor is left
                    await sleep(_PAUSE)
                    continue
                self.reap()
                try:
                    self._serve(root, connection)
                except OSError as error:  # no process is left, or no ssh server: the guest goes on
                    connection.close()
                    self.log(f"ssh: {error}")

    def _serve(self, root: Root, connection: socket.socket) -> None:
        """By the image's ssh server, or by ours if it has none. Raises OSError."""
        if root.server is None:
            if self.server is None:
                self.server = SshServer(root, self.ns, self.loop, self.sessions)
            self.server.accept(connection)
            return
        with connection:
            if len(self.sessions) < MOST_SESSIONS:
                self.sessions.add(root.serve(connection, self.ns))

    def close(self) -> None:
        """It is stopped: nothing of it stays open."""
        self.forget()
        if self._console >= 0:
            os.close(self._console)
            self._console = -1

    def forget(self) -> None:
        """What was deployed, and its ssh server, are replaced."""
        if self.server is not None:
            self.server.close()
            self.server = None
        if self.root is not None:
            self.root.close()
            self.root = None

    def reap(self) -> None:
        """Collect ssh servers that have ended."""
        for pid in list(self.sessions):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.sessions.discard(pid)
            except ChildProcessError:
                self.sessions.discard(pid)

    def end_processes(self) -> None:
        """Kill what runs in the guest."""
        for pid in self.sessions:  # one that has left the guest's network, too
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.root is not None and self.root.used:
            kill_processes(self.ns)
            self.root.used = False
        for pid in list(self.sessions):
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass
        self.sessions.clear()


def quote(text: str) -> str:
    """As urllib's, whose import takes 10 ms."""
    return "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in text.encode())


def _discard(data: bytes | memoryview) -> None:
    """A kernel has no machine here that could run it."""
