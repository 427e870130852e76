"""The relay's decisions, without a network."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.hostagent.onhost.relay import server
from g5kvirt.hostagent.onhost.relay.http import REQUEST_LINE, body_offset, header_field, parse_range
from g5kvirt.hostagent.onhost.relay.image import CHUNK, StoredFile
from g5kvirt.hostagent.onhost.relay.predecessor import Predecessor
from g5kvirt.hostagent.onhost.relay.server import Relay
from g5kvirt.hostagent.onhost.relay.silence import (
    HALF_LIFE,
    MIN_STALL,
    MIN_WAKE,
    WAKE_INTERVAL,
    ArrivalStats,
    silence_action,
)
from g5kvirt.hostagent.onhost.transfers import transfers

SUM = "ab" * 32


@pytest.mark.parametrize("replaced", [False, True])
def test_relay_removes_its_own_file_and_no_other(tmp_path: Path, replaced: bool) -> None:
    image = StoredFile({"size": 10, "sha256": SUM, "store": str(tmp_path)})
    try:
        image.append(memoryview(b"12345"))
        if replaced:  # by a broadcast of another kind
            (tmp_path / "new").write_bytes(b"1234567890")
            (tmp_path / "new").replace(tmp_path / SUM)
    finally:
        image.close(remove=True)
    assert [path.name for path in tmp_path.iterdir()] == ([SUM] if replaced else [])


@pytest.mark.parametrize(
    ("value", "span"),
    [
        (b"bytes=0-", (0, 100)),
        (b"bytes=40-", (40, 100)),
        (b"bytes=40-49", (40, 50)),
        (b"bytes=40-4900", (40, 100)),
        (b"bytes=-5", None),
        (b"bytes=1-2,4-5", None),
        (b"", None),
    ],
)
def test_parse_range(value: bytes, span: tuple[int, int] | None) -> None:
    assert parse_range(value, 100) == span


def test_body_offset_refuses_another_file() -> None:
    part = b"HTTP/1.1 206 x\r\nContent-Range: bytes 40-99/100\r\n"
    assert body_offset(206, part, 100) == 40
    assert body_offset(200, b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n", 100) == 0
    for code, header in ((206, part.replace(b"/100", b"/101")), (206, b""), (200, b"Content-Length: 99\r\n")):
        with pytest.raises(ValueError, match="a different size"):
            body_offset(code, header, 100)


@given(st.binary(max_size=200))
def test_no_header_makes_the_parsers_raise(data: bytes) -> None:
    REQUEST_LINE.match(data)
    parse_range(header_field(data, b"Range"), 100)
    parse_range(data, 100)


seconds = st.floats(0, 10, allow_nan=False)
limits = st.fixed_dictionaries({"stall": st.floats(0.01, 0.4), "connect": st.floats(0.01, 0.6)})


@given(limits, seconds, seconds, st.booleans())
def test_predecessor_with_a_usual_pause_is_not_probed(
    limit: dict[str, float], quiet: float, probe_age: float, connected: bool
) -> None:
    action = silence_action(
        min(quiet, limit["stall"]), limit["stall"], probe_age, connected, limit["connect"], 0.6
    )
    assert action == "wait"


@given(limits, seconds, seconds)
def test_predecessor_is_passed_only_if_its_kernel_does_not_answer(
    limit: dict[str, float], more: float, probe_age: float
) -> None:
    quiet = limit["stall"] + more + 0.001
    connect = min(limit["connect"], 0.6)
    assert silence_action(quiet, limit["stall"], None, False, connect, 0.6) == "probe"
    assert silence_action(quiet, limit["stall"], probe_age, True, connect, 0.6) == (
        "leave" if probe_age > 0.6 else "wait"
    )
    gone = silence_action(quiet, limit["stall"], probe_age, False, connect, 0.6)
    assert gone == ("leave" if probe_age > 0.6 else "pass" if probe_age > connect else "wait")


def flow(pauses: list[float]) -> ArrivalStats:
    """What a relay knows after bytes with these pauses between them."""
    known = ArrivalStats(0.0, 0.2)
    known.begin_connection(0.0)
    known.add_arrival(5.0, 1000)  # the time before the first byte is no pause
    now = 5.0
    for pause in pauses:
        now += pause
        known.add_arrival(now, 1000)
    return known


@given(st.lists(st.floats(0.0001, 3.0), min_size=1, max_size=50))
def test_stall_follows_the_last_pauses_within_bounds(pauses: list[float]) -> None:
    known = flow(pauses)
    assert MIN_STALL <= known.stall(0.4) <= 0.4
    assert known.stall(0.4) >= 0.999 * min(0.4, 2 * pauses[-1])
    assert known.stall(100.0) >= 1.999 * max(pauses) * 0.5 ** (sum(pauses) / HALF_LIFE)


def test_backlog_is_no_pause_and_no_sign_of_life() -> None:
    known = flow([0.001] * 2000)
    last, stall, count = known.last, known.stall(0.4), known.count
    known.add_backlog(700)
    assert (known.last, known.stall(0.4), known.count) == (last, stall, count + 700)


def test_stall_is_short_where_bytes_flow_fast() -> None:
    assert flow([0.001] * 2000).stall(0.4) == MIN_STALL
    assert flow([0.1] * 20).stall(0.4) == pytest.approx(0.2)
    assert flow([0.001]).stall(0.4) == pytest.approx(0.4, abs=0.01), "little is known yet"
    broken = flow([0.001] * 2000)
    broken.begin_connection(broken.last + 60)
    broken.add_arrival(broken.last + 1, 1000)
    assert broken.stall(0.4) == MIN_STALL, "an outage is no pause that is usual here"


@given(st.floats(1e4, 1.3e9), st.integers(1, 1 << 30))
def test_relay_is_woken_for_a_millisecond_of_bytes(rate: float, left: int) -> None:
    known = ArrivalStats(0.0, 0.2)
    for n in range(1, 101):
        known.add_arrival(n / 100, int(rate / 100))
    lowat = known.wake_bytes(left)
    assert 1 <= lowat <= min(left, CHUNK)
    assert lowat in (left, MIN_WAKE, CHUNK) or abs(lowat / (rate * WAKE_INTERVAL) - 1) < 0.05


@pytest.mark.parametrize(
    "url", ["http://h/x", "https://h:1/x", "http://u@h:1/x", "http://h:1/a b", "http://h:1"]
)
def test_predecessor_needs_a_plain_address(url: str) -> None:
    with pytest.raises(ValueError, match="not an http URL"):
        Predecessor({"host": "x", "url": url})


def test_predecessor_may_have_an_ipv6_address() -> None:
    peer = Predecessor({"host": "x", "url": "http://[fd00::1]:80/x"})
    assert (peer.address, peer.port, peer.path) == ("fd00::1", 80, "/x")


def test_name_of_a_predecessor_is_looked_up_once_while_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[object] = []

    def lookup(*words: object) -> list[tuple[object, ...]]:
        lookups.append(words)
        if len(lookups) == 1:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    peer = Predecessor({"host": "a", "url": "http://a.nancy:80/x"})
    with pytest.raises(OSError, match="try again"):
        peer.resolve()
    assert peer.resolve() == peer.resolve() == (socket.AF_INET, 6, ("10.0.0.1", 80))
    assert len(lookups) == 2
    peer.back_off(now=0.0)
    peer.resolve()
    assert len(lookups) == 3, "it may have another address by now"


class Serving:
    """A relay that has its image, in a thread, open to VMs at `port`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data = bytes(range(256)) * (32 << 10)  # 8 MiB, more than the kernel buffers
        self.digest, self.state = hashlib.sha256(self.data).hexdigest(), folder / "state.json"
        (folder / self.digest).write_bytes(self.data)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        place = {"store": str(folder), "open": [["127.0.0.1", self.port]], "source": None, "remove": False}
        job = {"host": "h", "sha256": self.digest, "size": len(self.data), "token": "x" * 16, **place}
        self.relay = Relay(job, str(self.state))
        monkeypatch.setattr("signal.signal", lambda *_: None)  # they are for the main thread
        monkeypatch.setattr("signal.set_wakeup_fd", lambda _: None)
        self.thread = threading.Thread(target=self.relay.run)

    def __enter__(self) -> Serving:
        self.thread.start()
        wait_for(lambda: self.state.exists() and json.loads(self.state.read_text())["state"] == "ok")
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.ending = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def vm(self, address: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 10, (address, 0))

    def takes(self, address: str) -> bool:
        """Whether a VM of this address gets something."""
        with self.vm(address) as link:
            try:
                link.sendall(f"GET /{self.digest} HTTP/1.1\r\n\r\n".encode())
                return bool(link.recv(1000))
            except ConnectionError:
                return False


def test_what_a_vm_has_taken_is_in_the_state_also_after_the_image_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Serving(tmp_path, monkeypatch) as serving:
        state, size = serving.state, len(serving.data)
        assert json.loads(state.read_text())["taken"] == {}
        with serving.vm() as vm:
            vm.sendall(f"GET /{serving.digest} HTTP/1.1\r\n\r\n".encode())
            got = len(vm.recv(1000))
            wait_for(lambda: 0 < taken(state) < size)  # it takes no more, and that is seen
            while got < size:
                got += len(vm.recv(1 << 20))
        wait_for(lambda: taken(state) == size)


def test_no_vm_keeps_the_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Serving(tmp_path, monkeypatch) as serving:
        held = [serving.vm("127.0.0.2") for _ in range(server.OF_ONE + 5)]
        wait_for(lambda: len(serving.relay.clients) == server.OF_ONE)
        assert not serving.takes("127.0.0.2")
        assert serving.takes("127.0.0.3")
        monkeypatch.setattr(server, "CONNECTIONS", server.OF_ONE + server.FOR_SUCCESSORS)
        assert not serving.takes("127.0.0.3"), "what is left is for successors"
        assert serving.relay.has_room("127.0.0.3", needs_token=True)
        for link in held:
            link.close()


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def taken(state: Path) -> int:
    """Bytes of the VM, by the host agent's operation."""
    ((_, detail),) = transfers({"state": str(state)}, "/home")
    return int(detail["taken"].get("127.0.0.1", -1))
