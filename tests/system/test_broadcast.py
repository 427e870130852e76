"""The chain of relays over real links: network namespaces of our own behind veths that htb limits."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import agent_copy
import pytest

from g5kvirt.broadcast import chain, relays
from g5kvirt.broadcast.reports import Progress
from g5kvirt.hostagent import bundle, protocol
from g5kvirt.inventory import Host
from g5kvirt.remote import Result

MISSING = [p for p in ("unshare", "nsenter", "setpriv", "ip", "tc") if not shutil.which(p)]
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

HOSTS = 4
RATE = 160e6  #: bit/s: 20 MB/s
SIZE = 16 << 20


def _benchmark() -> ModuleType:
    """The benchmark has such hosts, too; a directory of scripts is no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "chainlab.py"
    spec = importlib.util.spec_from_file_location("benchmark_chainlab", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bench = _benchmark()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("image") / "image"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture(scope="module")
def whole() -> Iterator[Any]:
    try:
        lab = bench.Lab(HOSTS, RATE)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this kernel has no such links: {error.stderr}")
    with lab:
        yield lab
    assert not lab.folder.exists()


@pytest.fixture
def lab(whole: Any) -> Iterator[Any]:
    yield whole
    whole.end()


def right(relays: Any, hosts: Sequence[int]) -> None:
    """Every one of these has the image, whole and right, and says so."""
    for n in hosts:
        last = relays.last(n)
        assert last["state"] == "ok", last
        path = relays.lab.folder / str(n) / relays.sha256
        assert bench.digest(path) == relays.sha256


def sent(lab: Any, n: int) -> int:
    """Bytes that have left a host."""
    argv = [*lab.inside(n), "ip", "-j", "-s", "link", "show", "eth0"]
    return int(
        json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)[0]["stats64"]["tx"]["bytes"]
    )


def half(relays: Any, n: int) -> None:
    """Wait until a host has half of the image."""
    bench.until(lambda: relays.have(n) > SIZE / 2, 30, "no half", 0.005)
    assert relays.have(n) < SIZE


def test_the_image_crosses_every_link_once_and_streams(lab: Any, image: Path) -> None:
    before = [sent(lab, n) for n in range(HOSTS + 1)]
    relays = bench.Chain(lab, image)
    begun = relays.go()
    relays.wait(range(1, HOSTS + 1), 60)
    right(relays, range(1, HOSTS + 1))
    for n in range(HOSTS):
        assert SIZE < sent(lab, n) - before[n] < 1.15 * SIZE
        assert relays.last(n + 1)["took_from"] == [f"host-{n}"]
    alone = SIZE * 8 / RATE / bench.PAYLOAD
    assert relays.arrival(HOSTS) - begun < 2.5 * alone, (
        "stored and forwarded, it would take four times as long"
    )


def real_time() -> bool:
    """Whether processes of real time are allowed here."""
    word = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", word], capture_output=True).returncode == 0


def test_a_relay_comes_first_only_while_hosts_wait_for_it(lab: Any, image: Path) -> None:
    if not real_time():
        pytest.skip("no process of real time is allowed here")
    relays = bench.Chain(lab, image)
    relays.go()
    half(relays, 2)
    pids = [relays.last(n)["pid"] for n in range(HOSTS + 1)]
    assert os.sched_getscheduler(pids[0]) == os.sched_getscheduler(pids[2]) == os.SCHED_RR
    relays.wait(range(1, HOSTS + 1), 60)
    bench.until(lambda: all(os.sched_getscheduler(pid) == os.SCHED_OTHER for pid in pids), 30, "still first")


def test_a_relay_that_keeps_a_processor_becomes_an_ordinary_process() -> None:
    if not real_time():
        pytest.skip("no process of real time is allowed here")
    program = f"""
import os, sys, time
sys.path.insert(0, {str(agent_copy.directory())!r})
from onhost.relay.priority import Priority
priority = Priority()
priority.set_realtime(True)
print(os.sched_getscheduler(0) == os.SCHED_RR)
end = time.monotonic() + 60
while priority.realtime and time.monotonic() < end:
    pass
priority.set_realtime(True)
print(os.sched_getscheduler(0) == os.SCHED_OTHER)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90)
    assert done.stdout.split() == ["True", "True"], done.stderr


@pytest.mark.parametrize("kill", ["process", "link"])
def test_a_lost_host_is_skipped_and_those_behind_resume(lab: Any, image: Path, kill: str) -> None:
    relays = bench.Chain(lab, image)
    relays.go()
    half(relays, 2)
    before = sent(lab, 1)
    lost = time.time()
    if kill == "process":
        relays.relays[2].kill()
    else:
        lab.cut(2)
    try:
        relays.wait((1, 3, 4), 60)
    finally:
        lab.rejoin(2)
    right(relays, (1, 3, 4))
    assert relays.last(3)["took_from"] == ["host-2", "host-1"]
    assert relays.last(3)["skipped"] == ["host-2"]
    assert relays.last(4)["took_from"] == ["host-3"], "who is behind the first one behind must stay"
    assert sent(lab, 1) - before < 0.75 * SIZE, "it must not begin anew"
    assert max(relays.arrival(n) for n in (3, 4)) - lost < SIZE / 2 * 8 / RATE * 2 + 4


def test_a_host_that_stalls_is_skipped_and_comes_in_later(lab: Any, image: Path) -> None:
    relays = bench.Chain(lab, image)
    relays.go()
    half(relays, 2)
    # nsenter and setpriv have become the relay itself
    relays.relays[2].send_signal(signal.SIGSTOP)
    try:
        relays.wait((3, 4), 60)
    finally:
        relays.relays[2].send_signal(signal.SIGCONT)
    assert relays.last(3)["skipped"] == ["host-2"]
    relays.wait((2,), 30)
    right(relays, range(1, HOSTS + 1))


def test_a_relay_that_waits_for_a_processor_is_not_taken_for_lost(lab: Any, image: Path) -> None:
    relays = bench.Chain(lab, image, answer=20.0)
    relays.go()
    half(relays, 2)
    relays.relays[2].send_signal(signal.SIGSTOP)
    time.sleep(0.5)  # many times what the kernel of a lost host would be given
    relays.relays[2].send_signal(signal.SIGCONT)
    relays.wait(range(1, HOSTS + 1), 60)
    right(relays, range(1, HOSTS + 1))
    assert [relays.last(n)["took_from"] for n in (3, 4)] == [["host-2"], ["host-3"]]


def test_a_disk_that_is_or_becomes_full_is_a_reason_and_gets_its_room_back(lab: Any, image: Path) -> None:
    relays = bench.Chain(lab, image)
    for n, room in ((1, SIZE + (1 << 20)), (2, SIZE // 2)):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", "/run"]
        subprocess.run([*lab.inside(n), *mount], check=True, timeout=10)
    try:
        for n in (2, 1):
            relays.start(n, store="/run/images")
        assert "bytes left, and" in relays.last(2)["reason"]
        fill = f"head -c {SIZE // 2} /dev/zero >/run/else"
        subprocess.run([*lab.inside(1), "sh", "-c", fill], check=True, timeout=10)
        relays.start(0)  # last, so that nothing has come before the room is taken
        relays.wait((1, 2), 30)
        assert relays.last(1)["reason"] == "cannot write to the disk: No space left on device"
        words = [*lab.inside(1), "du", "-s", "-B1", "/run/images"]
        left = int(subprocess.run(words, check=True, capture_output=True, timeout=10).stdout.split()[0])
        assert left < SIZE / 8
    finally:
        lab.end()
        for n in (1, 2):
            subprocess.run([*lab.inside(n), "umount", "-l", "/run"], check=True, timeout=10)


def test_a_killed_relay_goes_on_where_its_file_ends_and_so_does_a_restarted_head(
    lab: Any, image: Path
) -> None:
    relays = bench.Chain(lab, image)
    relays.go()
    half(relays, 4)
    for n in (4, 0):
        relays.relays[n].kill()
        relays.relays[n].wait(5)
        relays.start(n)
    assert relays.reports(4)[0]["resumed"] > SIZE / 2
    relays.wait(range(1, HOSTS + 1), 60)
    right(relays, range(1, HOSTS + 1))


def test_hosts_without_the_image_report_the_reason(lab: Any, image: Path) -> None:
    relays = bench.Chain(lab, image, patience=1.5, grace=0.2)
    relays.start(2)
    relays.start(1)
    relays.wait((1, 2), 20)
    for n in (1, 2):
        last = relays.last(n)
        assert last["state"] == "failed"
        assert "host-0: Connection refused" in last["reason"]


def test_wrong_file_is_reported_by_every_host(lab: Any, image: Path) -> None:
    actual, hosts = bench.digest(image), range(1, HOSTS + 1)
    wrong = bench.Chain(lab, image)
    wrong.sha256 = "0" * 64
    wrong.go()
    wrong.wait(hosts, 30)
    assert all(f"its SHA-256 is {actual}" in wrong.last(n)["reason"] for n in hosts)
    lab.end()
    folder = lab.folder / "1"
    (folder / wrong.sha256).symlink_to(image)
    argv = [sys.executable, "-m", "http.server", str(bench.PORT), "--bind", lab.address(0), "-d", folder]
    lab.spawn(0, *argv)
    wrong = bench.Chain(lab, image)
    wrong.sha256 = "0" * 64
    for n in reversed(hosts):
        wrong.start(n, store=str(lab.folder / str(n) / "store"))
    wrong.wait(hosts, 30)
    assert [wrong.last(n)["reason"] for n in hosts] == [f"its SHA-256 is {actual}"] * HOSTS


def ask(lab: Any, n: int, to: tuple[str, int], request: str) -> socket.socket:
    """Ask a relay from a host, by hand."""
    with lab.within(n):
        connection = socket.socket()
    connection.settimeout(10)
    connection.connect(to)
    connection.sendall(request.encode())
    return connection


def everything(connection: socket.socket) -> bytes:
    with connection, connection.makefile("rb") as file:
        return file.read()


def test_vms_fetch_while_it_arrives_and_strangers_get_nothing(lab: Any, image: Path) -> None:
    relays = bench.Chain(lab, image)
    address = lab.address(1)
    vm_side = ("127.0.0.1", 8081)
    for n in (0, 2):
        relays.start(n)
    relays.start(1, open=[vm_side])
    vm = ask(lab, 1, vm_side, f"GET /{relays.sha256} HTTP/1.0\r\n\r\n")
    first = vm.recv(4096)
    assert relays.have(1) < SIZE, "the first bytes must not wait for the last"
    path = f"/{relays.sha256}"
    token = f"Authorization: Bearer {relays.token}\r\n"
    for request, status in (
        (f"GET {path} HTTP/1.1\r\n\r\n", b"401"),
        (f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {'0' * 32}\r\n\r\n", b"401"),
        (f"GET /../{relays.sha256} HTTP/1.1\r\n{token}\r\n", b"404"),
        (f"GET /etc/passwd HTTP/1.1\r\n{token}\r\n", b"404"),
        (f"POST {path} HTTP/1.1\r\n{token}\r\n", b"400"),
        (f"GET {path} HTTP/1.1\r\n{token}Range: bytes={SIZE + 1}-\r\n\r\n", b"416"),
        (f"HEAD {path} HTTP/1.1\r\n{token}\r\n", b"200"),
        ("x" * 9000, b"400"),
    ):
        assert everything(ask(lab, 2, (address, bench.PORT), request)).split()[1] == status, request
    part = everything(
        ask(lab, 2, (address, bench.PORT), f"GET {path} HTTP/1.1\r\n{token}Range: bytes=100-199\r\n\r\n")
    )
    assert part.partition(b"\r\n\r\n")[2] == image.read_bytes()[100:200]
    head, _, body = (first + everything(vm)).partition(b"\r\n\r\n")
    assert f"Content-Length: {SIZE}".encode() in head
    assert hashlib.sha256(body).hexdigest() == relays.sha256
    listening = subprocess.run(
        [*lab.inside(1), "cat", "/proc/net/tcp", "/proc/net/tcp6"], check=True, capture_output=True, text=True
    ).stdout
    places = {line.split()[1] for line in listening.splitlines() if line.split()[3:4] == ["0A"]}
    expected = {
        f"{int.from_bytes(socket.inet_aton(a), 'little'):08X}:{p:04X}"
        for a, p in ((address, bench.PORT), vm_side)
    }
    assert places == expected


def test_nothing_is_left_behind(lab: Any, image: Path) -> None:
    relays = bench.Chain(lab, image)
    for n in (0, 1):
        relays.start(n, remove=True)
    relays.wait((1,), 30)
    children = Path(f"/proc/{relays.relays[1].pid}/task/{relays.relays[1].pid}/children").read_text().split()
    relays.relays[1].terminate()
    assert relays.relays[1].wait(5) == 0
    relays.relays[0].terminate()
    assert relays.relays[0].wait(5) == 0
    assert sorted(p.name for p in (lab.folder / "1").iterdir()) == ["job.json", "log"]
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert image.exists(), "the head's file is not the relay's"


class Here:
    """`Fanout`'s calls, with nsenter in the place of ssh."""

    keeps_connections = False

    def __init__(self, lab: Any) -> None:
        self.lab = lab

    def run(
        self,
        hosts: Mapping[str, Any],
        command: Sequence[str],
        *,
        stdin: bytes | Mapping[str, bytes] | None = None,
        timeout: float,
        within: float | None = None,
        idempotent: bool = False,
        on_line: Callable[[str, str, float], None] | None = None,
    ) -> dict[str, Result]:
        results = {}
        here = str(agent_copy.directory())
        moved = {"python3": sys.executable, bundle.DIRECTORY: here}
        words = [moved.get(word, word) for word in command]
        for host in hosts:
            n = int(host.rpartition(".")[2]) - 1
            data = stdin[host] if isinstance(stdin, Mapping) else stdin
            text = data.replace(bundle.DIRECTORY.encode(), here.encode()) if data else b""
            begun = time.time()
            done = subprocess.run(
                [*self.lab.inside(n), *words], input=text, capture_output=True, timeout=timeout, check=False
            )
            for line in done.stdout.decode().splitlines():
                if on_line:
                    on_line(host, line, time.time())
            ok, code = done.returncode == 0, done.returncode
            results[host] = Result(
                host,
                ok,
                code,
                done.stdout,
                done.stderr,
                begun,
                time.time(),
                reason="" if ok else f"exit code {code}",
            )
        return results


def test_driven_through_the_host_agent_even_when_a_relay_is_killed(lab: Any, image: Path) -> None:
    head = bench.Chain(lab, image)
    head.start(0, listen=[], open=[(lab.address(0), 80)])
    hosts = [Host(f"node-{n}", "nancy", "node", 1, 1, address=lab.address(n)) for n in range(1, HOSTS + 1)]
    lost = Host("node-9", "nancy", "node", 1, 1, address=lab.address(9))
    fanout: Any = Here(lab)
    plan = chain.chain(
        [*hosts, lost],
        chain.Payload(head.sha256, SIZE),
        head_url=f"http://{lab.address(0)}:80/{head.sha256}",
        open_at={h.name: "127.0.0.1" for h in hosts},
        port=8081,
        store="/run/images",
        limits={"grace": 1.0},
    )
    up = replace(plan, stops=plan.stops[:-1])  # there is no machine behind the last name
    try:
        assert relays.start(fanout, up) == {}
        service = f"{protocol.HOME}/services/{plan.service}/state.json"
        state = subprocess.run([*lab.inside(2), "cat", service], capture_output=True, check=True).stdout
        os.kill(int(json.loads(state)["child"]), signal.SIGKILL)
        seen: list[Progress] = []
        results = relays.collect(
            fanout, plan, timeout=60, failed={lost.name: "there is no such machine"}, on_progress=seen.append
        )
        assert [r.ok for r in results.values()] == [True] * HOSTS + [False], results
        assert results["node-9"].reason == "there is no such machine"
        assert {p.host for p in seen} == {h.name for h in hosts}
        url = plan.url(hosts[2]).replace("http://127.0.0.1:8081", "")
        body = everything(ask(lab, 3, ("127.0.0.1", 8081), f"GET {url} HTTP/1.0\r\n\r\n")).partition(
            b"\r\n\r\n"
        )[2]
        assert hashlib.sha256(body).hexdigest() == head.sha256
        one, was = replace(plan, stops=plan.stops[:1]), results["node-1"].t
        assert relays.start(fanout, one) == {}
        again = relays.collect(fanout, one, timeout=60)["node-1"]
        assert again.ok, "whoever is asked again gets a second chance"
        assert again.t > was
    finally:
        left = relays.stop(fanout, up)
    assert left == {}
    for n in range(1, HOSTS + 1):
        found = subprocess.run([*lab.inside(n), "ls", "/run/images"], capture_output=True, check=True).stdout
        assert found == b""
