"""What a host's Python runs before it has the agent: ``python3 -I -S -c TEXT install|session DIRECTORY``.

``install`` reads the agent's archive on standard input. ``session`` asks for it where it is missing, then
continues as the agent. The text of this module is all that such a host has: the standard library of Python
3.9, without what is slow to import (tarfile), and no programs: where hundreds of hosts share one machine,
each one counts.
"""

from __future__ import annotations

import os
import sys

#: What a host without python3 writes on standard error instead of anything else, whatever its language is.
NO_PYTHON = "g5kvirt: this host has no python3"


def is_installed(directory: str) -> bool:
    """Whether the agent is there: a directory that is there is complete."""
    return os.path.exists(f"{directory}/__main__.py")


def install(directory: str, archive: bytes) -> None:
    """Unpack the archive aside, then rename it: gzip's checksum tells whether it is whole.

    Exits with a message if that is not possible.
    """
    import time
    import zlib

    aside = f"{directory}.{os.getpid()}.{time.time_ns()}"
    try:
        for name, content in unpacked(zlib.decompress(archive, 31)):
            os.makedirs(os.path.dirname(f"{aside}/{name}"), exist_ok=True)
            with open(f"{aside}/{name}", "wb") as file:
                file.write(content)
        os.rename(aside, directory)
    except (OSError, zlib.error) as error:
        import shutil

        shutil.rmtree(aside, ignore_errors=True)
        if not is_installed(directory):  # else another was faster
            sys.exit(f"the host agent cannot be installed: {error}")


def unpacked(tar: bytes) -> list[tuple[str, bytes]]:
    """The files of a tar in the form ustar: their names, of at most 100 bytes, and contents."""
    files, at = [], 0
    while tar[at]:
        name = tar[at : at + 100].rstrip(b"\0").decode()
        size, at = int(tar[at + 124 : at + 135], 8), at + 512
        files.append((name, tar[at : at + size]))
        at += (size + 511) // 512 * 512
    return files


def receive() -> bytes:
    """The archive, as a session gets it: its length, a space, and its bytes."""
    os.write(1, b'{"send": true}\n')
    head = b""
    while not head.endswith(b" "):
        head += os.read(0, 1) or sys.exit(1)
    data = b""
    while len(data) < int(head):
        data += os.read(0, int(head) - len(data)) or sys.exit(1)
    return data


def main(mode: str, directory: str) -> None:
    """Install the agent unless it is there; in a session, continue as it."""
    # what is sent is read in any case, so that nobody fails to send it
    archive = sys.stdin.buffer.read() if mode == "install" else b""
    try:
        import json  # noqa: F401  Debian's python3-minimal lacks it
    except ImportError:
        sys.stderr.write(f"{NO_PYTHON}\n")
        sys.exit(127)
    if not is_installed(directory):
        install(directory, archive if mode == "install" else receive())
    if mode == "session":
        sys.path.insert(0, directory)
        from onhost.main import main as agent  # type: ignore[import-not-found]

        sys.exit(agent(["session"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
