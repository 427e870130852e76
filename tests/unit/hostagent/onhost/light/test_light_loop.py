"""Coroutines over epoll, and transfers over real sockets of this machine."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from g5kvirt.hostagent.onhost.light import dhcp, http, tftp
from g5kvirt.hostagent.onhost.light.loop import READABLE, Cancelled, Loop, Signal, ready, sleep
from g5kvirt.hostagent.onhost.light.netns import Home


class Here:
    """The network namespace of the test."""

    @contextmanager
    def inside(self, fd: int) -> Iterator[None]:
        yield


HOME = cast(Home, Here())


def run(coroutine: Any, limit: float = 20.0) -> Any:
    """The result of a coroutine, or what it raised."""
    loop, found = Loop(), []

    async def kept() -> None:
        try:
            found.append(await coroutine)
        except Exception as error:  # noqa: BLE001
            found.append(error)

    loop.spawn(kept())
    end = time.monotonic() + limit
    loop.run(lambda: not found and time.monotonic() < end)
    assert found, "it did not end"
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def test_a_signal_wakes_all_that_wait_and_no_longer_those_that_gave_up() -> None:
    loop, signal, order = Loop(), Signal(), []

    async def wait(name: str, seconds: float) -> None:
        try:
            await signal.wait(time.monotonic() + seconds)
            order.append(name)
        except TimeoutError:
            order.append(f"{name} in vain")

    async def fire() -> None:
        await sleep(0.05)
        loop.cancel(cancelled)
        loop.fire(signal)
        loop.fire(signal)
        await sleep(0.05)
        order.append("end")

    for name, seconds in (("one", 5.0), ("short", 0.01), ("two", float("inf"))):
        loop.spawn(wait(name, seconds))
    cancelled = loop.spawn(wait("cancelled", 5.0))
    loop.spawn(fire())
    end = time.monotonic() + 5
    loop.run(lambda: order[-1:] != ["end"] and time.monotonic() < end)
    assert order == ["short in vain", "one", "two", "end"]
    assert not signal.waiting


def test_waits_end_at_their_deadline_and_tasks_run_side_by_side() -> None:
    order: list[str] = []
    reading, writing = os.pipe()

    async def wait_in_vain() -> None:
        try:
            await ready(reading, READABLE, time.monotonic() + 0.05)
        except TimeoutError:
            order.append("timeout")

    async def short() -> None:
        await sleep(0.01)
        order.append("short")

    loop = Loop()
    loop.spawn(wait_in_vain())
    loop.spawn(short())
    loop.run(lambda: len(order) < 2)
    assert order == ["short", "timeout"]
    os.close(reading)
    os.close(writing)


def test_cancelled_task_cleans_up_and_a_bug_ends_its_task_alone(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    async def waits() -> None:
        try:
            await sleep(60)
        except Cancelled:
            seen.append("cleaned")
            raise

    async def breaks() -> None:
        raise ZeroDivisionError("a bug")

    async def cancels() -> None:
        await sleep(0.01)
        loop.cancel(task)
        loop.cancel(never)
        seen.append("end")

    loop = Loop()
    task, never = loop.spawn(waits()), Loop().spawn(waits())
    loop.spawn(breaks())
    loop.spawn(cancels())
    loop.run(lambda: "end" not in seen)
    assert seen == ["cleaned", "end"]
    assert task.done
    assert "a bug" in capfd.readouterr().err


def test_two_tasks_cannot_wait_for_one_descriptor() -> None:
    reading, writing = os.pipe()
    caught: list[OSError] = []

    async def waits() -> None:
        try:
            await ready(reading, READABLE, time.monotonic() + 0.2)
        except OSError as error:
            caught.append(error)

    loop = Loop()
    loop.spawn(waits())
    loop.spawn(waits())
    loop.run(lambda: len(caught) < 2)
    assert {type(error) for error in caught} == {FileExistsError, TimeoutError}
    os.close(reading)
    os.close(writing)


@contextmanager
def web(answer: bytes) -> Iterator[str]:
    """A server that gives one answer to each connection, byte for byte."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file"
        thread.join(5)


def fetch(url: str, sink: Callable[[memoryview], object]) -> Any:
    return http.get(HOME, 0, url, sink, time.monotonic() + 10)


@pytest.mark.parametrize("head", [b"Content-Length: 5\r\n", b""])
def test_a_file_is_fetched(head: bytes) -> None:
    file = bytearray()
    with web(b"HTTP/1.1 200 OK\r\n" + head + b"\r\nhello") as url:
        assert run(fetch(url, file.extend)) == 5
    assert file == b"hello"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "5 of 9 bytes came"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "chunked"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000, "closed the connection"),
        (b"", "closed the connection"),
    ],
)
def test_what_is_no_complete_file_is_an_error(answer: bytes, words: str) -> None:
    with web(answer) as url, pytest.raises(http.TransferError, match=words):
        run(fetch(url, lambda data: None))


@pytest.mark.parametrize(("most", "connections"), [(9, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("announced", [True, False])
def test_a_connection_is_kept_while_its_server_keeps_it(most: int, connections: int, announced: bool) -> None:
    """``most``: requests after which the server closes a connection, with or without a word."""
    accepted = []

    def serve(listener: socket.socket) -> None:
        while len(accepted) < connections:
            link, _ = listener.accept()
            accepted.append(link)
            with link:
                for number in range(1, most + 1):
                    if not link.recv(4096):
                        break
                    close = b"Connection: close\r\n" if announced and number == most else b""
                    link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + close + b"\r\nhello")

    async def fetch_all(client: http.Client, url: str, file: bytearray) -> None:
        for _ in range(4):
            await client.get(url, file.extend, time.monotonic() + 10)
            await sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        client, file = http.Client(HOME, 0), bytearray()
        run(fetch_all(client, f"http://127.0.0.1:{listener.getsockname()[1]}/file", file))
        client.close()
        thread.join(5)
    assert file == b"hello" * 4
    assert len(accepted) == connections


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(http.TransferError, match="cannot be reached"):
        run(fetch(f"http://127.0.0.1:{port}/x", lambda data: None))


def test_tftp_block_size_is_what_the_server_agrees_to() -> None:
    assert tftp.block_size(b"\0\6blksize\x001024\0") == 1024
    assert tftp.block_size(b"\0\6BLKSIZE\x00512\0tsize\x009\0") == 512
    assert tftp.block_size(b"\0\6") == 512
    for bad in (b"\0\6blksize\x000\0", b"\0\6blksize\x00x\0", b"\0\6blksize\x0065000\0"):
        with pytest.raises(http.TransferError, match="block size"):
            tftp.block_size(bad)


def dhcp_answer(request: bytes, kind: int, server: str) -> bytes:
    """What a server sends after ``request``, which names its own address as the guest's, to be told apart."""
    mac, (xid,) = request[6:12], struct.unpack("!I", request[46:50])
    address = socket.inet_aton(server)
    frame = bytearray(dhcp.frame(mac, xid, kind, b"\x36\x04" + address))
    frame[34:38], frame[58:62] = b"\0\x43\0\x44", address
    return bytes(frame)


@pytest.mark.parametrize("kinds", [[dhcp.OFFER, dhcp.ACK], [dhcp.OFFER, dhcp.NAK, dhcp.OFFER, dhcp.ACK]])
def test_dhcp_takes_a_refusal_from_the_chosen_server_only(
    monkeypatch: pytest.MonkeyPatch, kinds: list[int]
) -> None:
    """``kinds``: what the chosen server answers; another one, which is faster, always refuses."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.settimeout(10)
    monkeypatch.setattr(dhcp, "_open", lambda *_: ours)
    requests: list[int] = []

    def serve() -> None:
        for kind in kinds:
            data = theirs.recv(2048)
            requests.append(data[42 + 242])
            theirs.send(dhcp_answer(data, dhcp.NAK, "10.9.0.1"))
            theirs.send(dhcp_answer(data, kind, "10.0.0.1"))

    thread = threading.Thread(target=serve)
    thread.start()
    mac, end = "02:00:00:00:00:01", time.monotonic() + 10
    with theirs:
        lease = run(dhcp.lease(HOME, 0, "eth0", mac, ipxe=False, deadline=end))
        thread.join(10)
    assert lease.address == "10.0.0.1"
    assert requests == [dhcp.DISCOVER, dhcp.REQUEST] * (len(kinds) // 2)
