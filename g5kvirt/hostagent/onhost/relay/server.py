"""The relay itself: one thread that waits for the network, and a separate process that verifies the file."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import socket
import sys
import time

from ..records import write_text
from .client import Client, peer_address
from .fetch import Fetcher
from .image import StoredFile
from .limits import DEFAULTS
from .listener import accept, listen
from .priority import Priority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..records import Record

#: Seconds between two looks at the clock: while the file is coming, and otherwise. In between, a tenth of the
#: time since the last byte: hundreds of relays that wait for those before them may share one processor.
FETCH_TICK = 0.005
TICK = 0.1
START_TICK = 1.0  #: as long as nothing has come: those before us may be starting
IDLE_TICK = 2.0  #: when all is here and nobody wants it
CONNECTIONS = 1024  #: at once
FOR_SUCCESSORS = 256  #: of them, which VMs do not get
OF_ONE = 32  #: of one address


class Relay:
    """One thread that waits for the network, and a separate process that verifies the file."""

    def __init__(self, job: Record, state: str | None = None) -> None:
        self.job, self.state_file = job, state
        self.limits = {**DEFAULTS, **job.get("limits", {})}
        self.token = str(job["token"]).encode("ascii")
        if not re.fullmatch(r"[0-9a-f]{64}", str(job["sha256"])) or len(self.token) < 16:
            raise ValueError("a job needs the file's SHA-256 and a token of 16 characters or more")
        self.now = self.began = time.monotonic()
        self.selector = selectors.DefaultSelector()
        self.clients: set[Client] = set()
        self.taken: dict[str, int] = {}  # address of a VM → bytes of the file that its last connection took
        self.listeners: list[socket.socket] = []
        self.fetch = Fetcher(self, job.get("before", []))
        self.image = StoredFile(job)
        self.resumed = self.image.have  # found here, from a relay that was killed
        self.state, self.reason = "waiting", ""
        self.arrived: float | None = None
        self.ended: float | None = None
        self.ending = False
        self.reported = 0.0
        self.unwritten = False  # a VM may have taken more than the state file says
        self.wake = os.pipe()

    # ------------------------------------------------------------------------------------ life and death
    def run(self) -> int:
        """Do the job; 0 if the file came and is right."""
        self.priority = Priority()
        os.set_blocking(self.wake[0], False)
        os.set_blocking(self.wake[1], False)
        signal.set_wakeup_fd(self.wake[1])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "ending", True))
        self.selector.register(self.wake[0], selectors.EVENT_READ, lambda _: os.read(self.wake[0], 512))
        self.selector.register(self.image.result, selectors.EVENT_READ, self.on_checked)
        try:
            self.listen()
            self.report()
            self.begin()
            ticked = 0.0
            while not self.ending:
                events = self.selector.select(self.pause())
                self.now = time.monotonic()
                for key, mask in events:
                    now = self.selector.get_map().get(key.fd)
                    if now is not None and now.data == key.data:  # else an event before it has closed it
                        key.data(mask)
                # All that has come is read before a predecessor is judged by the clock, however late we are.
                if self.ended is None and self.arrived is None:
                    self.fetch.tick()
                if self.now - ticked > TICK / 2:
                    ticked = self.now
                    self.tick()
        finally:
            self.close()
        return 0 if self.state == "ok" else 1

    def pause(self) -> float:
        """Seconds until the clock has to be looked at again."""
        if self.ended is not None and not self.clients:
            return IDLE_TICK
        if self.arrived is not None:
            return TICK
        longest = START_TICK if self.fetch.arrivals.first is None else TICK
        return min(longest, max(FETCH_TICK, (self.now - self.fetch.arrivals.last) / 10))

    def begin(self) -> None:
        """Check that there is something to do, and room for it."""
        missing = self.image.size - self.image.have
        if not missing:
            self.complete()
            return
        disk = os.fstatvfs(self.image.fd)
        free = disk.f_bavail * disk.f_frsize
        if disk.f_blocks and free < missing:
            self.fail(f"the disk has {free} bytes left, and {missing} are missing")

    def close(self) -> None:
        """Remove everything: connections, the file, the state."""
        signal.set_wakeup_fd(-1)
        for client in list(self.clients):
            client.close()
        for listener in self.listeners:
            listener.close()
        self.fetch.close()
        self.image.close(remove=bool(self.job.get("remove", True)))
        self.selector.close()
        if self.state_file and self.job.get("remove", True) and os.path.exists(self.state_file):
            os.remove(self.state_file)

    def listen(self) -> None:
        """Open the addresses of the job, and no other."""
        for needs_token, places in ((True, self.job.get("listen", [])), (False, self.job.get("open", []))):
            for address, port in places:
                listener = listen(address, int(port))
                self.listeners.append(listener)
                self.selector.register(listener, selectors.EVENT_READ, self.acceptor(listener, needs_token))

    def acceptor(self, listener: socket.socket, needs_token: bool) -> Callable[[int], None]:
        """What to do when a client comes to a listening socket."""

        def on_client(_: int) -> None:
            sock = accept(listener)
            if sock is None:
                return
            if self.has_room(peer_address(sock), needs_token):
                self.clients.add(Client(self, sock, needs_token))
            else:
                sock.close()

        return on_client

    def has_room(self, address: str, needs_token: bool) -> bool:
        """Whether one more connection is taken: nobody, and not all VMs together, can keep the others out."""
        most = CONNECTIONS if needs_token else CONNECTIONS - FOR_SUCCESSORS
        return len(self.clients) < most and sum(one.peer == address for one in self.clients) < OF_ONE

    # -------------------------------------------------------------------------------------------- the file
    def hand_on(self) -> None:
        """More data is available: clients that have taken everything so far get it at once."""
        for client in list(self.clients):
            if client.streaming and client.mask == selectors.EVENT_READ and client.at < client.end:
                client.ready(selectors.EVENT_WRITE)

    def complete(self) -> None:
        """The last byte has arrived."""
        self.arrived = time.monotonic()
        self.image.check_at_full_speed()
        self.state = "received"
        self.report()

    def on_checked(self, _: int) -> None:
        """The check has ended, with or without a result."""
        self.selector.unregister(self.image.result)
        self.image.read_sum()
        if self.ended is not None:
            return
        self.state = "ok"
        if self.image.sum != self.image.sha256:
            self.fail(f"its SHA-256 is {self.image.sum}", cut=self.image.have < self.image.size)
        else:
            self.finish()

    def tick(self) -> None:
        """Periodic work."""
        if self.ended is not None:
            self.ending = self.ending or self.now - self.ended > self.limits["serve"]
            if (self.clients or self.unwritten) and self.now - self.reported >= 1.0:  # VMs take it, or did
                self.unwritten = bool(self.clients)
                self.write_state()
        elif self.now - self.began > self.limits["deadline"]:
            self.fail(f"not received within {self.limits['deadline']:g} s")
        elif self.now - self.reported >= 1.0:
            self.report()
        self.set_priority()
        for client in [c for c in self.clients if c.expired()]:
            client.close()

    def fail(self, reason: str, cut: bool = True) -> None:
        """End without the file, or with a wrong one.

        Clients that wait for more are disconnected at once, so that they can look elsewhere or report it;
        clients of a wrong file receive it to its end (``cut=False``) and find out from its checksum.
        """
        self.fetch.close()
        self.state, self.reason = "failed", reason
        for client in list(self.clients) if cut else ():
            client.close()
        self.finish()

    def set_priority(self) -> None:
        """Be a real-time process only while bytes come or go: others need processors, too."""
        begun = self.fetch.arrivals.first is not None
        coming = begun and self.arrived is None and self.ended is None
        going = self.image.have and any(client.is_successor() for client in self.clients)
        self.priority.set_realtime(bool(coming or going))

    def finish(self) -> None:
        """Nothing more will come: report how it ended."""
        self.ended = self.now
        self.report()

    # ---------------------------------------------------------------------------------------------- reports
    def report(self) -> None:
        """Write the relay's progress as one line of JSON to standard output and to the state file."""
        self.reported = self.now
        text = json.dumps(self.record())
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # the reader is gone; the VMs are still here
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self.write_state(text)

    def write_state(self, text: str = "") -> None:
        """Write the relay's progress to its state file only: what VMs take after the end fills no log."""
        self.reported = self.now
        if self.state_file:
            write_text(self.state_file, (text or json.dumps(self.record())) + "\n")

    def taken_by_vms(self) -> dict[str, int]:
        """Bytes of the file that each VM has taken, by its address."""
        for client in self.clients:
            client.note_progress()
        return self.taken

    def record(self) -> Record:
        """The progress, as `broadcast.reports` reads it."""
        now, cpu = time.monotonic(), os.times()
        return {
            "op": "broadcast",
            "host": self.job["host"],
            "pid": os.getpid(),
            "sha256": self.image.sha256,
            "state": self.state,
            "have": self.image.have,
            "size": self.image.size,
            "resumed": self.resumed,
            "from": self.fetch.peer.host if self.fetch.peer else "",
            "took_from": self.fetch.sources,
            "skipped": self.fetch.skipped,
            "outage": round(self.fetch.arrivals.outage, 3),
            "seconds": round((self.arrived or now) - self.began, 4),
            "checked": round(now - self.began, 4) if self.ended is not None else None,
            "cpu": round(cpu.user + cpu.system, 3),
            "clients": len(self.clients),
            "taken": self.taken_by_vms(),
            "reason": self.reason,
            "t": time.time(),
        }
