"""One file of 200 MB to 8 hosts, the chain beside its peers: ``python benchmarks/broadcast.py`` as root.

A server and the hosts are network namespaces of our own on one bridge; htb limits each of their links, both
ways, to 100 Mb/s and to 1 Gb/s. The same file goes, one after the other, through

- the chain of relays; and again with one host killed half-way (its process; its whole link, silently),
- plain HTTP: eight requests to one server,
- TakTuk's ``broadcast put`` (its tree over plain TCP connections, which spares it ssh's encryption),
- udpcast's ``udp-sender``: one multicast stream, acknowledged,
- BitTorrent: aria2 with a tracker of ours.

Every copy is checked by its SHA-256. Programs that are not installed are taken from Debian's packages and
unpacked into a cache; one that cannot be had is reported as missing. The clock runs from the moment when all
are ready until the last host has the last byte; TakTuk, which has no such moment, is given the time back that
it takes for nothing at all. The last lines are a table and JSON, one object a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from g5kvirt.hostagent import relay
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.network import shape

RELAY = Path(relay.__file__)
PORT = 25390
#: Of an htb link's rate, what is left for data of a TCP stream with frames of 1500 bytes.
PAYLOAD = (1500 - 52) / (1500 + 14)
PACKAGES = {"udp-sender": ["udpcast"], "aria2c": ["aria2", "libaria2-0", "libc-ares2", "libssh2-1"]}


# ------------------------------------------------------------------------------------------- the hosts
class Lab:
    """Namespaces ``s`` (server) and 1…n (hosts) on one bridge, each behind a link of ``rate`` bit/s."""

    def __init__(self, hosts: int, rate: float) -> None:
        self.hosts, self.rate = hosts, rate
        self.folder = Path(tempfile.mkdtemp(prefix="g5kvirt-", dir="/dev/shm"))
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
        """Start a program on a host; it ends with the lab at the latest."""
        words = [*self.inside(n), "setpriv", "--pdeathsig", "KILL", *map(str, argv)]
        more = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL) | more
        folder = self.folder / str(min(n, self.hosts))
        child: Any = subprocess.Popen(words, cwd=folder, **more)
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
        argv = (sys.executable, "-I", "-S", RELAY, "run", folder / "job.json", folder / "state.json")
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


@dataclass(frozen=True)
class Outcome:
    """What one method did: seconds until the last host had all, how many were right, of how many."""

    seconds: float
    right: int
    asked: int
    note: str = ""


def checked(lab: Lab, paths: Sequence[Path], image: Path, seconds: float, note: str = "") -> Outcome:
    """Compare every copy with the original."""
    sha256 = digest(image)
    right = sum(1 for path in paths if path.exists() and digest(path) == sha256)
    return Outcome(seconds, right, len(paths), note)


def chain(lab: Lab, image: Path, limit: float, kill: str = "") -> Outcome:
    """The chain; ``kill``: "process" or "link" of the middle host, when it has half of the file."""
    with contextlib.ExitStack() as stack:
        stack.callback(lab.end)
        relays = Chain(lab, image)
        begun, victim = relays.go(), (lab.hosts + 1) // 2
        hosts = [n for n in range(1, lab.hosts + 1) if not kill or n != victim]
        if kill:
            until(lambda: relays.have(victim) >= relays.size / 2, limit, "no half", 0.002)
            if kill == "process":
                relays.relays[victim].kill()
            else:
                stack.callback(lab.rejoin, victim)
                lab.cut(victim)
        relays.wait(hosts, limit)
        seconds = max(relays.arrival(n) for n in hosts) - begun
        check = max(float(relays.last(n)["t"]) for n in hosts) - begun
        cpu = sum(relays.last(n)["cpu"] for n in (0, *hosts))
        note = f"all sums checked after {check:.2f} s, {cpu:.1f} CPU s"
        return checked(lab, [lab.folder / str(n) / relays.sha256 for n in hosts], image, seconds, note)
    raise AssertionError  # for the type checker: nothing above swallows an exception


# ------------------------------------------------------------------------------------------ the peers
def plain_http(lab: Lab, image: Path, limit: float) -> Outcome:
    """Every host asks the server, which sends by sendfile(2) as nginx does: a relay that is only a head."""
    try:
        relays = Chain(lab, image)
        hosts = range(1, lab.hosts + 1)
        relays.start(0)
        for n in hosts:
            relays.start(n, before=relays.job(n)["before"][-1:])
        begun = max(float(relays.reports(n)[0]["t"]) for n in hosts)
        relays.wait(hosts, limit)
        seconds = max(relays.arrival(n) for n in hosts) - begun
        return checked(lab, [lab.folder / str(n) / relays.sha256 for n in hosts], image, seconds)
    finally:
        lab.end()


def timed(children: Sequence[subprocess.Popen[bytes]], begun: float, limit: float) -> float:
    """Seconds from ``begun`` until all have ended. Raises TimeoutError."""
    until(lambda: all(c.poll() is not None for c in children), limit, "it does not end", 0.005)
    return time.time() - begun


def udpcast(lab: Lab, image: Path, limit: float, programs: Path) -> Outcome:
    """One stream for all by multicast; receivers acknowledge each slice."""
    try:
        copies = [lab.folder / str(n) / "copy" for n in range(1, lab.hosts + 1)]
        receivers = [
            lab.spawn(n, programs / "udp-receiver", "--nokbd", "--interface", "eth0", "--file", copy)
            for n, copy in enumerate(copies, 1)
        ]
        time.sleep(1.0)
        begun = time.time()
        argv = ("--nokbd", "--interface", "eth0", "--min-receivers", str(lab.hosts), "--full-duplex")
        lab.spawn(0, programs / "udp-sender", *argv, "--file", image)
        return checked(lab, copies, image, timed(receivers, begun, limit))
    finally:
        lab.end()


#: What TakTuk runs in the place of ssh, once as a service on each host and once for each connection: no
#: login, no encryption, the words of the command and then the bytes, as they are.
SHELL = """
import os, socket, subprocess, sys, threading
if sys.argv[1] == "serve":
    listener = socket.create_server((sys.argv[2], 2222))
    while True:
        connection = listener.accept()[0]
        line = bytearray()
        while not line.endswith(b"\\0"):
            line += connection.recv(1)
        argv = ["sh", "-c", line[:-1].decode()]
        subprocess.Popen(argv, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL)
        connection.close()
connection = socket.create_connection((sys.argv[2], 2222))
connection.sendall(" ".join(sys.argv[3:]).encode() + b"\\0")
def back():
    while data := connection.recv(1 << 16):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view):]
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 1 << 16):
    connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
threading.Event().wait()
"""


def taktuk(lab: Lab, image: Path, limit: float) -> Outcome:
    """``taktuk broadcast put``; its tree is TakTuk's own (binary here: the links are what is scarce)."""
    script = lab.folder / "shell.py"
    script.write_text(SHELL)
    hosts = range(1, lab.hosts + 1)
    try:
        for n in hosts:
            lab.spawn(n, sys.executable, "-I", script, "serve", lab.address(n))
        time.sleep(1.0)
        copies = [lab.folder / str(n) / "copy" for n in hosts]
        spent = []
        for work in (["broadcast", "exec", "[", "true", "]"], ["broadcast", "put", "[", str(image), "]"]):
            if "put" in work:
                work += ["[", f"{lab.folder}/$TAKTUK_RANK/copy", "]"]
            argv = ["taktuk", "-s", "-d", "2", "-c", f"{sys.executable} -I {script} connect"]
            argv += [word for n in hosts for word in ("-m", lab.address(n))]
            begun = time.time()
            child = lab.spawn(
                0, *argv, *work, ";", "synchronize", "broadcast", "exec", "[", "true", "]", ";", "quit"
            )
            spent.append(timed([child], begun, limit))
        note = f"{spent[0]:.1f} s for nothing at all taken off"
        return checked(lab, copies, image, max(0.001, spent[1] - spent[0]), note)
    finally:
        lab.end()


class Tracker(BaseHTTPRequestHandler):
    """The least of a BitTorrent tracker (BEP 3, BEP 23): who asks is told of all the others."""

    peers: dict[bytes, bytes]

    def do_GET(self) -> None:
        """An announcement."""
        query = dict(urllib.parse.parse_qsl(self.path.partition("?")[2], encoding="latin-1"))
        place = socket.inet_aton(self.client_address[0]) + struct.pack("!H", int(query["port"]))
        others = b"".join(p for p in self.peers.values() if p != place)
        self.peers[query["peer_id"].encode("latin-1")] = place
        body = b"d8:intervali5e12:min intervali1e5:peers%d:%se" % (len(others), others)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def torrent(image: Path, announce: str, piece: int = 1 << 20) -> bytes:
    """A torrent of one file (BEP 3)."""
    sums = bytearray()
    with image.open("rb") as file:
        while data := file.read(piece):
            sums += hashlib.sha1(data).digest()
    name = image.name.encode()
    info = b"d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:%se" % (
        image.stat().st_size,
        len(name),
        name,
        piece,
        len(sums),
        bytes(sums),
    )
    return b"d8:announce%d:%s4:info%se" % (len(announce), announce.encode(), info)


def aria2(lab: Lab, image: Path, limit: float, programs: Path) -> Outcome:
    """BitTorrent: the server seeds, the hosts exchange pieces."""

    class Ours(Tracker):
        """A tracker of this time only."""

        peers: dict[bytes, bytes] = {}  # noqa: RUF012  shared on purpose: each announcement is a new handler

    with lab.within(0):
        tracker = ThreadingHTTPServer((lab.address(0), 6969), Ours)
    thread = threading.Thread(target=tracker.serve_forever, daemon=True)
    thread.start()
    try:
        file = lab.folder / "image.torrent"
        file.write_bytes(torrent(image, f"http://{lab.address(0)}:6969/announce"))
        libraries = ":".join(str(p) for p in programs.parent.glob("lib/*-linux-gnu"))
        command: list[str | Path] = ["env", f"LD_LIBRARY_PATH={libraries}", f"HOME={lab.folder}"]
        command += [
            programs / "aria2c",
            "--no-conf",
            "--enable-dht=false",
            "--bt-enable-lpd=false",
            "--quiet",
        ]
        command += ["--file-allocation=none", "--bt-max-peers=0", "--bt-request-peer-speed-limit=1000M"]
        hook = lab.folder / "whole"  # called with a number, the number of files and the first one's path
        hook.write_text('#!/bin/sh\n: >"$3.whole"\n')
        hook.chmod(0o755)
        command.append(f"--on-bt-download-complete={hook}")
        command += [
            "--listen-port=6881",
            "--bt-tracker-interval=1",
            "--seed-ratio=0",
            "--enable-peer-exchange=true",
        ]
        peers = [
            lab.spawn(n, *command, "--seed-time=60", f"--dir={lab.folder / str(n)}", file)
            for n in range(1, lab.hosts + 1)
        ]
        copies = [lab.folder / str(n) / image.name for n in range(1, lab.hosts + 1)]
        until(lambda: len(Ours.peers) >= lab.hosts, 20, "not all announce themselves")
        begun = time.time()
        lab.spawn(0, *command, "--seed-time=60", "--bt-seed-unverified=true", f"--dir={image.parent}", file)
        marks = [Path(f"{copy}.whole") for copy in copies]
        until(
            lambda: all(m.exists() for m in marks) or any(p.poll() is not None for p in peers),
            limit,
            "no end",
        )
        return checked(lab, copies, image, time.time() - begun)
    finally:
        tracker.shutdown()
        tracker.server_close()
        thread.join(5)
        lab.end()


def peer_program(program: str, cache: Path) -> Path | str:
    """Where a peer's programs are: installed, or unpacked from Debian's packages; else why there are none."""
    found = shutil.which(program)
    if found:
        return Path(found).parent
    place = cache / program
    if not (place / "usr/bin" / program).exists():
        place.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES[program]:
            argv = ["apt-get", "-o", "APT::Sandbox::User=root", "-q", "download", package]
            try:
                subprocess.run(argv, cwd=place, check=True, timeout=120, capture_output=True)
                (archive,) = place.glob(f"{package}_*.deb")
                subprocess.run(
                    ["dpkg-deb", "-x", archive, place], check=True, timeout=60, capture_output=True
                )
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                return f"missing: {package} cannot be had ({error})"
    return place / "usr/bin"


# ------------------------------------------------------------------------------------------ all of it
def methods(cache: Path) -> Iterator[tuple[str, Callable[[Lab, Path, float], Outcome] | str, float | None]]:
    """Name, what to call or why it cannot be, and the least share of a link that the project asks for."""
    yield "chain", chain, 0.95
    yield (
        "chain, a host's process killed half-way",
        lambda lab, image, limit: chain(lab, image, limit, "process"),
        0.90,
    )
    yield (
        "chain, a host's link cut half-way",
        lambda lab, image, limit: chain(lab, image, limit, "link"),
        None,
    )
    yield "plain HTTP from one server", plain_http, None
    yield (
        "taktuk broadcast put",
        taktuk if shutil.which("taktuk") else "missing: taktuk is not installed",
        None,
    )
    for name, program, function in (("udpcast", "udp-sender", udpcast), ("aria2", "aria2c", aria2)):
        where = peer_program(program, cache)
        if isinstance(where, str):
            yield name, where, None
        else:
            yield name, lambda *a, f=function, w=where: f(*a, w), None


def machine() -> str:
    """The machine in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, {platform.machine()}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars: share of the slowest link, one group a rate."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    done = [row for row in rows if row["value"] is not None]
    figure, axes = plt.subplots(figsize=(8, 0.35 * len(done) + 1), layout="constrained")
    names = [f"{row['method']}, {row['link']}" for row in done]
    bars = axes.barh(names, [100 * row["value"] for row in done])
    axes.bar_label(bars, [f"{row['seconds']:.1f} s" for row in done], padding=3)
    axes.axvline(100, color="0.5", linewidth=1)
    axes.set(xlabel="share of what a link carries of TCP data (%)", xlim=(0, 115))
    axes.invert_yaxis()
    figure.savefig(path)
    plt.close(figure)


def main() -> int:
    """Measure, print; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--size", type=int, default=200, help="megabytes (10^6 bytes)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e8, 1e9], help="bits per second")
    parser.add_argument("--runs", type=int, default=3, help="runs of what has a bound; the median counts")
    parser.add_argument("--only", help="methods whose name contains this")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for one method")
    parser.add_argument("--figure", type=Path, help="file for the figure")
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/g5kvirt/peers").expanduser(), help="unpacked packages"
    )
    arguments = parser.parse_args()
    if os.geteuid():
        print("broadcast.py: needs root for network namespaces", file=sys.stderr)
        return 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, then end
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        image = Path(folder) / "image"
        with image.open("wb") as file:
            for left in range(arguments.size, 0, -10):
                file.write(secrets.token_bytes(min(left, 10) * 10**6))
        for rate in arguments.rates:
            ideal = image.stat().st_size * 8 / rate
            with Lab(arguments.hosts, rate) as lab:
                for name, method, bound in methods(arguments.cache):
                    if arguments.only and arguments.only not in name:
                        continue
                    row: dict[str, Any] = {
                        "name": f"broadcast: {name}, {rate / 1e6:g} Mb/s",
                        "value": None,
                        "bound": bound,
                    }
                    row |= {
                        "unit": "share of what the link carries",
                        "method": name,
                        "link": f"{rate / 1e6:g} Mb/s",
                    }
                    row |= {"seconds": None, "of_rate": None, "right": 0, "asked": 0, "note": str(method)}
                    rows.append(row)
                    if not isinstance(method, str):
                        try:
                            runs = arguments.runs if bound is not None else 1
                            tried = [method(lab, image, arguments.limit) for _ in range(runs)]
                        except (TimeoutError, subprocess.SubprocessError) as error:
                            row["note"] = str(error)
                        else:
                            tried.sort(key=lambda o: (o.right == o.asked, o.seconds))
                            outcome = tried[0] if tried[0].right < tried[0].asked else tried[len(tried) // 2]
                            row["all_seconds"] = [round(o.seconds, 3) for o in tried]
                            row.update(right=outcome.right, asked=outcome.asked, note=outcome.note)
                            row["seconds"] = round(outcome.seconds, 3)
                            if outcome.right == outcome.asked:
                                row["of_rate"] = round(ideal / outcome.seconds, 4)
                                row["value"] = round(ideal / PAYLOAD / outcome.seconds, 4)
                    print(f"{row['name']}: {row['seconds']} s, {row['value']}, {row['note']}", flush=True)
    print(f"\n{'method':42} {'link':>10} {'seconds':>9} {'of link':>8} {'of rate':>8} {'right':>6}  note")
    for row in rows:
        numbers = [f"{100 * row[k]:.1f} %" if row[k] is not None else "-" for k in ("value", "of_rate")]
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.2f}"
        right = f"{row['right']}/{row['asked']}"
        print(
            f"{row['method']:42} {row['link']:>10} {seconds:>9} {numbers[0]:>8} {numbers[1]:>8} {right:>6} "
            f" {row['note']}"
        )
    if arguments.figure:
        draw(rows, arguments.figure)
    for row in rows:
        print(json.dumps({**row, "machine": machine()}))
    return int(any(row["bound"] is not None and (row["value"] or 0) < row["bound"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
