"""Images from a server that breaks off, lies, refuses or speaks no TLS; nothing half is ever taken."""

from __future__ import annotations

import errno
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images import download
from g5kvirt.images.download import Download, fetch

DATA = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``data`` below any path; ``breaks``: bytes after which a connection ends, one for each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.breaks: list[int] = []
        self.status = 0
        self.ranges = True
        self.requests: list[str] = []  #: their Range headers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/image"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "")
        server.requests.append(wanted)
        if server.status:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-") or 0) if server.ranges else 0
        if start and start >= len(server.data):
            self.send_error(416)
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Encoding", "gzip")  # as some servers call a .tar.gz
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join(10)


def get(server: Server, path: Path, sha256: str = SHA256) -> list[str]:
    lines: list[str] = []
    fetch(Download("the image of mine", server.url, sha256), path, lines.append)
    return lines


def refusal(server: Server, path: Path, sha256: str = SHA256) -> str:
    with pytest.raises(SpecError) as error:
        get(server, path, sha256)
    text = str(error.value)
    assert text.startswith(("the image of mine cannot be fetched from http", "the file at http"))
    assert "\n" not in text
    return text


def test_a_file_is_fetched_byte_for_byte_and_its_progress_reported(server: Server, tmp_path: Path) -> None:
    lines = get(server, tmp_path / "deep" / "image")
    assert (tmp_path / "deep" / "image").read_bytes() == DATA
    assert lines[-1] == "the image of mine: 0.5 of 0.5 MB (100%) fetched"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["image"]


def test_broken_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 50_000]
    get(server, tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == DATA
    assert server.requests == ["", "bytes=100000-", "bytes=150000-"]


def test_partial_download_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    server.breaks = [1000, 1000, 1000]
    assert refusal(server, tmp_path / "image").endswith("try again: the download will resume")
    assert not (tmp_path / "image").exists()
    get(server, tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == DATA
    assert server.requests[-1] == "bytes=3000-"


@pytest.mark.parametrize("ranges", [True, False])
def test_partial_download_of_an_older_file_is_restarted(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    for older in (b"older", DATA + b"longer"):
        (tmp_path / "image.part").write_bytes(older)
        get(server, tmp_path / "image")
        assert (tmp_path / "image").read_bytes() == DATA
        (tmp_path / "image").unlink()


def test_an_interrupted_download_can_be_resumed(server: Server, tmp_path: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Download("the image of mine", server.url, SHA256), tmp_path / "image", interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["image.part"]
    get(server, tmp_path / "image")
    assert server.requests[-1].startswith("bytes=")
    assert (tmp_path / "image").read_bytes() == DATA


def test_concurrent_downloads_fetch_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: get(server, tmp_path / "image"), range(4)))
    assert (tmp_path / "image").read_bytes() == DATA
    assert len(server.requests) == 1


def test_a_file_with_another_checksum_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    assert f"but {SHA256}: correct the description" in refusal(server, tmp_path / "image", "0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "words"), [(404, "answers 404 Not Found: correct the URL"), (403, "403"), (503, "503")]
)
def test_a_server_that_refuses_is_quoted(server: Server, tmp_path: Path, status: int, words: str) -> None:
    server.status = status
    assert words in refusal(server, tmp_path / "image")
    assert list(tmp_path.iterdir()) == []


def test_unreachable_or_plain_text_server_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "url", f"https://127.0.0.1:{server.server_port}/image")
    assert "certificate is not accepted" in refusal(server, tmp_path / "image")
    monkeypatch.setattr(Server, "url", "http://127.0.0.1:1/image")
    assert "Connection refused" in refusal(server, tmp_path / "image")


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    released = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: released.wait(10))
    assert "the server sent nothing for 0 s: check the URL" in refusal(server, tmp_path / "image")
    released.set()


def test_a_download_that_takes_too_long_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TOTAL_TIMEOUT", -1.0)
    assert "use a faster server" in refusal(server, tmp_path / "image")


def test_full_disk_and_unusable_cache_are_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        MachineError, match=r"cannot be written to .* set XDG_CACHE_HOME to another directory"
    ):
        get(server, tmp_path / "file" / "image")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(MachineError, match=r"\(No space left on device\): make room there"):
        get(server, tmp_path / "image")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
