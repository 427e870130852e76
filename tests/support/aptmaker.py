"""A repository of Debian packages, and a server for it that is also a proxy for any other."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Handler(SimpleHTTPRequestHandler):
    """Serves a directory, to who asks for it or, as a proxy does, for any address."""

    def do_GET(self) -> None:
        """The path alone says which file."""
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("http://"):
            self.path = "/" + self.path.split("/", 3)[3]
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@dataclass
class Repository:
    """Packages of our own below ``folder``, served at ``port``; ``requested``: the paths so far."""

    folder: Path
    port: int
    requested: list[str]

    def package(
        self,
        name: str,
        *more: str,
        files: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
    ) -> None:
        """Make a package; without ``files`` (path → text, all of them programs) with one of its name.

        ``links``: path → where the symbolic link leads.
        """
        tree = self.folder / "tree" / name
        control = [
            f"Package: {name}",
            "Version: 1",
            "Architecture: all",
            "Maintainer: nobody <n@example.org>",
            "Description: made for a test",
        ]
        texts = {f"usr/bin/{name}": "#!/bin/sh\n"} if files is None else dict(files)
        texts["DEBIAN/control"] = "\n".join([*control, *more, ""])
        for path, text in texts.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o644 if path.endswith("control") else 0o755)
        for path, target in (links or {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).symlink_to(target)
        deb = self.folder / "www" / f"{name}.deb"
        command = ["dpkg-deb", "--build", "--root-owner-group", str(tree), str(deb)]
        subprocess.run(command, check=True, timeout=30, stdout=subprocess.DEVNULL)

    def publish(self) -> None:
        """Write the repository's list."""
        www = self.folder / "www"
        blocks = []
        for deb in sorted(www.glob("*.deb")):
            about = subprocess.check_output(["dpkg-deb", "--field", str(deb)], text=True, timeout=30)
            digest = subprocess.check_output(["sha256sum", str(deb)], text=True, timeout=30).split()[0]
            blocks.append(f"{about}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
        (www / "Packages").write_text("\n".join(blocks))


@contextmanager
def serving(folder: Path, listening: socket.socket | None = None) -> Iterator[Repository]:
    """A repository in an empty folder; ``listening``: a bound socket, instead of one of this machine."""
    (folder / "www").mkdir()

    def handle(*arguments: Any) -> None:
        _Handler(*arguments, directory=str(folder / "www"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), handle, bind_and_activate=listening is None)  # type: ignore[arg-type]
    if listening is not None:
        server.socket.close()
        server.socket = listening
        server.server_activate()
    requested: list[str] = []
    server.requested = requested  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield Repository(folder, server.socket.getsockname()[1], requested)
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
