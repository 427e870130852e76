"""Hosts to broadcast to, for benchmarks and tests: network namespaces of our own on one bridge, behind links
that htb limits, with the project's relays on them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from g5kvirt.hostagent import bundle
from g5kvirt.hostagent.onhost.relay.priority import NICENESS
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.network import shape

__all__ = ["PAYLOAD", "PORT", "Chain", "Lab", "digest", "until"]

PORT = 25390
#: Of an htb link's rate, what is left for the data of a TCP stream: a frame of 1514 bytes, as htb counts it,
#: carries 1448 of them, the rest are the headers of Ethernet, IP and TCP, with timestamps.
PAYLOAD = 1448 / 1514


# ------------------------------------------------------------------------------------------- the hosts
class Lab:
    """Namespaces ``s`` (server) and 1…n (hosts) on one bridge, each behind a link of ``rate`` bit/s."""

    def __init__(self, hosts: int, rate: float) -> None:
        self.hosts, self.rate = hosts, rate
        self.folder = Path(tempfile.mkdtemp(prefix="g5kvirt-", dir="/dev/shm"))
        self.agent = bundle.unpack(self.folder / "agent")
        self.children: list[subprocess.Popen[bytes]] = []
        self.holders: list[subprocess.Popen[bytes]] = []
        try:
            self._raise()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _raise(self) -> None:
        for _ in range(self.hosts + 2):
            argv = ["unshare", "-n", "-m", "--propagation", "private", "setpriv", "--pdeathsig", "KILL"]
            argv += ["sh", "-c", "mount -t tmpfs tmpfs /run && echo && exec sleep 3600"]
            holder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            self.holders.append(holder)
        for holder in self.holders:
            assert holder.stdout is not None
            holder.stdout.readline()
        lines = ["link add br0 type bridge mcast_snooping 0 forward_delay 0", "link set br0 up"]
        shapes: list[str] = []
        for n in range(self.hosts + 1):
            lines.append(f"link add p{n} type veth peer name eth0 netns {self.holders[n].pid}")
            lines.append(f"link set p{n} master br0 up")
            shapes += shape(f"p{n}", self.rate)
        self._batch(self.switch, lines, shapes)
        for n in range(self.hosts + 1):
            lines = ["link set lo up", "link set eth0 up", f"addr add {self.address(n)}/24 brd + dev eth0"]
            lines.append("route add 224.0.0.0/4 dev eth0")
            self._batch(n, lines, list(shape("eth0", self.rate)))
            (self.folder / str(n)).mkdir()

    @property
    def switch(self) -> int:
        """The namespace of the bridge."""
        return self.hosts + 1

    @staticmethod
    def address(n: int) -> str:
        """The address of the server (0) or a host."""
        return f"10.77.0.{n + 1}"

    def _batch(self, n: int, ip: Sequence[str], tc: Sequence[str]) -> None:
        for program, lines in (("ip", ip), ("tc", tc)):
            argv = [*self.inside(n), program, "-batch", "-"]
            text = "\n".join(lines) + "\n"
            subprocess.run(argv, input=text, text=True, check=True, timeout=30, capture_output=True)

    def inside(self, n: int) -> list[str]:
        """What to put before a command to have it run there."""
        return ["nsenter", "-t", str(self.holders[n].pid), "-n", "-m", "--"]

    def spawn(self, n: int, *argv: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program on a host; it ends with the lab at the latest. Whatever it is, it is a session with
        the priority that relays give themselves, and of real time as they are."""
        prefer = f'echo {NICENESS} >/proc/self/autogroup; exec nice -n {NICENESS} chrt -r 1 "$@"'
        words = ["sh", "-c", prefer, "sh", *self.inside(n), "setpriv", "--pdeathsig", "KILL", *map(str, argv)]
        more = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL) | more
        folder = self.folder / str(min(n, self.hosts))
        child: Any = subprocess.Popen(words, cwd=folder, start_new_session=True, **more)
        self.children.append(child)
        opened: subprocess.Popen[bytes] = child
        return opened

    @contextlib.contextmanager
    def within(self, n: int) -> Iterator[None]:
        """Let the calling thread's new sockets be the host's."""
        with Path(f"/proc/self/task/{threading.get_native_id()}/ns/net").open() as home:
            with Path(f"/proc/{self.holders[n].pid}/ns/net").open() as there:
                ns.setns(there.fileno(), ns.NEWNET)
            try:
                yield
            finally:
                ns.setns(home.fileno(), ns.NEWNET)

    def cut(self, n: int) -> None:
        """Let no frame of a host through any more; nobody is told."""
        self._batch(self.switch, [f"link set p{n} nomaster"], [])

    def rejoin(self, n: int) -> None:
        """Undo `cut`."""
        self._batch(self.switch, [f"link set p{n} master br0"], [])

    def end(self) -> None:
        """Kill what runs on the hosts and empty their disks."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
        for child in self.children:
            child.wait(10)
            for pipe in (child.stdout, child.stderr):
                if pipe:
                    pipe.close()
        self.children.clear()
        for n in range(1, self.hosts + 1):
            shutil.rmtree(self.folder / str(n), ignore_errors=True)
            (self.folder / str(n)).mkdir(exist_ok=True)

    def close(self) -> None:
        """Leave nothing."""
        self.end()
        for holder in self.holders:
            holder.kill()
            holder.wait(10)
            if holder.stdout:
                holder.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


# ------------------------------------------------------------------------------------------ the chain
class Chain:
    """Relays on the server (host 0, with the file) and on all hosts of a lab, started in the wrong order."""

    def __init__(self, lab: Lab, image: Path, **limits: float) -> None:
        self.lab, self.image, self.token = lab, image, secrets.token_hex(16)
        self.size, self.sha256 = image.stat().st_size, digest(image)
        self.limits = limits
        self.relays: dict[int, subprocess.Popen[bytes]] = {}

    def job(self, n: int) -> dict[str, Any]:
        """The job of a host's relay."""
        here, path = self.lab.address, f"/{self.sha256}"
        return {
            "host": f"host-{n}",
            "sha256": self.sha256,
            "size": self.size,
            "token": self.token,
            "store": str(self.lab.folder / str(n)),
            "source": None if n else str(self.image),
            "listen": [[here(n), PORT]],
            "before": [
                {"host": f"host-{m}", "url": f"http://{here(m)}:{PORT}{path}"} for m in range(n - 1, -1, -1)
            ],
            "limits": {"deadline": 300.0, "serve": 300.0, **self.limits},
            "remove": False,
        }

    def start(self, n: int, **changes: Any) -> None:
        """Start a relay and wait until it listens."""
        folder = self.lab.folder / str(n)
        (folder / "job.json").write_text(json.dumps({**self.job(n), **changes}))
        log = (folder / "log").open("wb")
        python = (sys.executable, "-I", "-S", self.lab.agent)
        argv = (*python, "relay", "run", folder / "job.json", folder / "state.json")
        self.relays[n] = self.lab.spawn(n, *argv, stdout=log, stderr=log)
        log.close()
        until(lambda: bool(self.reports(n)), 10, f"relay {n} does not start: {self.log(n)}")

    def log(self, n: int) -> str:
        """All that a relay has said."""
        return (self.lab.folder / str(n) / "log").read_text()

    def reports(self, n: int) -> list[dict[str, Any]]:
        """What a relay has reported so far."""
        return [json.loads(line) for line in self.log(n).splitlines() if line.startswith("{")]

    def go(self) -> float:
        """Start all; returns when the first host, which was last, was ready to ask for the file."""
        for n in (*range(self.lab.hosts, 1, -1), 0, 1):
            self.start(n)
        return float(self.reports(1)[0]["t"])

    def have(self, n: int) -> int:
        """Bytes that a host has."""
        path = self.lab.folder / str(n) / self.sha256
        return path.stat().st_size if path.exists() else 0

    def last(self, n: int) -> dict[str, Any]:
        """What a relay reported last."""
        return self.reports(n)[-1]

    def ended(self, hosts: Sequence[int]) -> bool:
        """Whether all these know how it ended."""
        return all(self.last(n)["state"] in ("ok", "failed") for n in hosts)

    def wait(self, hosts: Sequence[int], limit: float) -> None:
        """Wait until all these know how it ended."""
        until(lambda: self.ended(hosts), limit, "the chain does not end")

    def arrival(self, n: int) -> float:
        """When (seconds since the epoch) a host had the last byte."""
        return float(self.reports(n)[0]["t"]) + float(self.last(n)["seconds"])


def until(what: Callable[[], bool], limit: float, why: str, pause: float = 0.02) -> None:
    """Wait for a condition. Raises TimeoutError with ``why``."""
    deadline = time.monotonic() + limit
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{why} within {limit:g} s")
        time.sleep(pause)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
