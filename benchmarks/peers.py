"""The ways to bring one file to many hosts that the chain is compared with; each is timed and checked alike.

The clock runs from the moment when all are ready until the last host has the last byte. Trees have no such
moment: they are given the time back that they take for (next to) nothing at all.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from chainlab import Chain, Lab, digest, until

from g5kvirt.remote import Access, Fanout, File

__all__ = ["Outcome", "aria2", "checked", "plain_http", "programs", "taktuk", "tree", "udpcast"]

#: What a program needs from Debian where it is not installed.
PACKAGES = {
    "udp-sender": ["udpcast"],
    "aria2c": ["aria2", "libaria2-0", "libc-ares2", "libssh2-1"],
    "taktuk": ["taktuk"],
    "sshd": ["openssh-server", "libwrap0"],
}


class MissingError(Exception):
    """A program is not available; the message is the reason."""


def programs(program: str, cache: Path) -> Path:
    """The directory of a program: this machine's, or that of Debian's packages unpacked below ``cache``.

    Raises MissingError.
    """
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found:
        return Path(found).parent
    place = cache / program
    if not (place / "whole").exists():
        place.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES[program]:
            argv = ["apt-get", "-o", "APT::Sandbox::User=root", "-q", "download", package]
            try:
                subprocess.run(argv, cwd=place, check=True, timeout=120, capture_output=True)
                (archive,) = place.glob(f"{package}_*.deb")
                argv = ["dpkg-deb", "-x", str(archive), str(place)]
                subprocess.run(argv, check=True, timeout=60, capture_output=True)
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                raise MissingError(f"{package} is not available from Debian: {error}") from None
        (place / "whole").touch()
    for folder in ("bin", "sbin"):
        if (place / "usr" / folder / program).exists():
            return place / "usr" / folder
    raise MissingError(f"{PACKAGES[program][0]} has no {program}")


def libraries(place: Path) -> list[str]:
    """What to put before a program of ours that brings libraries."""
    return ["env", "LD_LIBRARY_PATH=" + ":".join(str(p) for p in place.parent.glob("lib/*-linux-gnu"))]


@dataclass(frozen=True)
class Outcome:
    """The result of one method: seconds until the last host was done, correct copies, hosts."""

    seconds: float
    right: int
    hosts: int
    note: str = ""


def checked(paths: Sequence[Path], image: Path, seconds: float, note: str = "") -> Outcome:
    """Compare every copy with the original."""
    sha256 = digest(image)
    right = sum(1 for path in paths if path.exists() and digest(path) == sha256)
    return Outcome(seconds, right, len(paths), note)


def timed(children: Sequence[subprocess.Popen[bytes]], begun: float, limit: float) -> float:
    """Seconds from ``begun`` until all have ended. Raises TimeoutError."""
    until(lambda: all(c.poll() is not None for c in children), limit, "it does not end", 0.005)
    return time.time() - begun


def plain_http(lab: Lab, image: Path, limit: float, hosts: int = 0) -> Outcome:
    """Every host (or the first few) asks the server, which sends by sendfile(2) as nginx does: a relay that
    is only a head."""
    try:
        relays = Chain(lab, image)
        asking = range(1, (hosts or lab.hosts) + 1)
        order = (*asking, 0) if len(asking) > 1 else (0, 1)  # nobody has a start
        for n in order:
            relays.start(n, **({"before": relays.job(n)["before"][-1:]} if n else {}))
        begun = float(relays.reports(order[-1])[0]["t"])
        relays.wait(asking, limit)
        seconds = max(relays.arrival(n) for n in asking) - begun
        return checked([lab.folder / str(n) / relays.sha256 for n in asking], image, seconds)
    finally:
        lab.end()


def udpcast(lab: Lab, image: Path, limit: float, place: Path) -> Outcome:
    """One stream for all by multicast; receivers acknowledge each slice."""
    try:
        copies = [lab.folder / str(n) / "copy" for n in range(1, lab.hosts + 1)]
        receivers = [
            lab.spawn(n, place / "udp-receiver", "--nokbd", "--interface", "eth0", "--file", copy)
            for n, copy in enumerate(copies, 1)
        ]
        time.sleep(1.0)
        begun = time.time()
        argv = ("--nokbd", "--interface", "eth0", "--min-receivers", str(lab.hosts), "--full-duplex")
        lab.spawn(0, place / "udp-sender", *argv, "--file", image)
        return checked(copies, image, timed(receivers, begun, limit))
    finally:
        lab.end()


# -------------------------------------------------------------------------------------------------- trees
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


def taktuk(lab: Lab, image: Path, limit: float, place: Path) -> Outcome:
    """``taktuk broadcast put`` over plain TCP connections, which spares it ssh's encryption; its tree is
    TakTuk's own (binary here: the links are what is scarce)."""
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
            argv = [str(place / "taktuk"), "-s", "-d", "2", "-c", f"{sys.executable} -I {script} connect"]
            argv += [argument for n in hosts for argument in ("-m", lab.address(n))]
            work += [";", "synchronize", "broadcast", "exec", "[", "true", "]", ";", "quit"]
            begun = time.time()
            spent.append(timed([lab.spawn(0, *argv, *work)], begun, limit))
        note = f"{spent[0]:.1f} s for nothing at all taken off"
        return checked(copies, image, max(0.001, spent[1] - spent[0]), note)
    finally:
        lab.end()


SSHD_CONFIG = """Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile none
"""


def tree(lab: Lab, image: Path, limit: float, sshd: Path, taktuk: Path) -> Outcome:
    """This project's ``broadcast="tree"``: TakTuk over ssh, whose encryption is part of it."""
    hosts = range(1, lab.hosts + 1)
    users = Path("/etc/passwd").read_text()
    if "\nsshd:" not in users:
        users += "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    (lab.folder / "passwd").write_text(users)
    for name in ("host_key", "key"):
        (lab.folder / name).unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lab.folder / name)]
        subprocess.run(argv, check=True, timeout=10, stdin=subprocess.DEVNULL)
    (lab.folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=lab.folder))
    prepare = f"mount --bind {lab.folder}/passwd /etc/passwd && mkdir -p /run/sshd"
    try:
        for n in hosts:
            subprocess.run([*lab.inside(n), "sh", "-c", prepare], check=True, timeout=10)
            argv = [*libraries(sshd), str(sshd / "sshd"), "-D", "-f", f"{lab.folder}/sshd_config"]
            lab.spawn(n, *argv)
        copies = [Path(f"/proc/{lab.holders[n].pid}/root/run/copy") for n in hosts]
        path = f"{taktuk}:{os.environ.get('PATH', '')}"
        argv = [sys.executable, __file__, str(lab.folder / "key"), str(image), "/run/copy", str(limit)]
        with (lab.folder / "put.log").open("w+b") as log:
            put = lab.spawn(0, "env", f"PATH={path}", *argv, *map(lab.address, hosts), stdout=log, stderr=log)
            until(lambda: put.poll() is not None, 2 * limit, "it does not end")
            log.seek(0)
            output = log.read().decode("utf-8", "replace")
        if put.returncode:
            raise TimeoutError(f"it failed: {output.strip()[-300:]}")
        nothing, spent = json.loads(output.splitlines()[-1])
        note = f"{nothing:.1f} s for one byte taken off"
        return checked(copies, image, max(0.001, spent - nothing), note)
    finally:
        lab.end()
        for n in hosts:
            subprocess.run([*lab.inside(n), "rm", "-f", "/run/copy"], check=True, timeout=10)


def put_on_tree(key: Path, image: Path, target: str, limit: float, hosts: Sequence[str]) -> None:
    """What `tree` runs on the server: print the seconds for one byte and for all; exit with a reason."""
    fanout = Fanout(Access(key=key, ssh_config=Path("/dev/null")), tree_from=1)
    byte = image.with_name("byte")
    byte.write_bytes(b"x")
    spent = []
    for source in (byte, image):
        begun = time.time()
        results = fanout.put(hosts, [File(source, target, 0o600)], timeout=limit)
        spent.append(time.time() - begun)
        bad = [r.reason for r in results.values() if not r.ok]
        if bad:
            sys.exit(bad[0])
    byte.unlink()
    print(json.dumps(spent))


# --------------------------------------------------------------------------------------------- BitTorrent
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
            sums += sha1(data).digest()
    name, size = image.name.encode(), image.stat().st_size
    info = b"d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:" % (
        size,
        len(name),
        name,
        piece,
        len(sums),
    )
    return b"d8:announce%d:%s4:info%s%see" % (len(announce), announce.encode(), info, bytes(sums))


def aria2(lab: Lab, image: Path, limit: float, place: Path) -> Outcome:
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
        hook = lab.folder / "whole"  # called with a number, the number of files and the first one's path
        hook.write_text('#!/bin/sh\n: >"$3.whole"\n')
        hook.chmod(0o755)
        command = [*libraries(place), f"HOME={lab.folder}", str(place / "aria2c"), "--no-conf", "--quiet"]
        command += ["--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=true"]
        command += ["--file-allocation=none", "--bt-max-peers=0", "--bt-request-peer-speed-limit=1000M"]
        command += ["--listen-port=6881", "--bt-tracker-interval=1", f"--on-bt-download-complete={hook}"]
        command += ["--seed-ratio=0", f"--seed-time={int(limit / 60) + 1}"]
        peers = [
            lab.spawn(n, *command, f"--dir={lab.folder / str(n)}", file) for n in range(1, lab.hosts + 1)
        ]
        until(lambda: len(Ours.peers) >= lab.hosts, 20, "not all announce themselves")
        begun = time.time()
        lab.spawn(0, *command, "--bt-seed-unverified=true", f"--dir={image.parent}", file)
        copies = [lab.folder / str(n) / image.name for n in range(1, lab.hosts + 1)]
        marks = [Path(f"{copy}.whole") for copy in copies]

        def over() -> bool:
            return all(m.exists() for m in marks) or any(p.poll() is not None for p in peers)

        until(over, limit, "not all have it")
        return checked(copies, image, time.time() - begun)
    finally:
        tracker.shutdown()
        tracker.server_close()
        thread.join(5)
        lab.end()


if __name__ == "__main__":
    put_on_tree(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]), sys.argv[5:])
