"""The process that raises a testbed and stays with it: ``python -m …local.daemon NAME DIRECTORY``.

Started by `lifecycle.up` with its orders as JSON on standard input. It goes into namespaces of its own, below
whose init (see `spawner`) everything of the testbed lives; so the end of that init is the end of everything.
Progress goes to a pipe, a JSON object a line; when nobody reads it any more before the testbed is up, the
testbed ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local import spawner
from g5kvirt.testbeds.local.spawner import Spawner

log = logging.getLogger(__name__)


def main() -> int:
    """Read the orders, go into namespaces, become the init's parent, leave."""
    orders = json.load(sys.stdin)
    directory = Path(orders["directory"])
    go, started = os.pipe()
    ns.unshare(ns.ALL)
    child = os.fork()
    if child == 0:
        os.close(started)
        if os.read(go, 1) != b"g":
            return 1
        os.close(go)
        _init(orders)
    record = {**orders["record"], "pid": child, "start_time": ns.start_time(child)}
    names = (directory / "names.new").read_text()
    _write(directory / "names", f"# {child} {record['start_time']}\n{names}")
    (directory / "names.new").unlink()
    _write(directory / "state.json", json.dumps(record))
    os.write(started, b"g")
    return 0


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}")
    partial.write_text(text)
    partial.chmod(0o600)
    partial.rename(file)


def _init(orders: Mapping[str, Any]) -> None:
    """Process 1 of the testbed."""
    progress, listening = orders["progress_fd"], orders["socket_fd"]
    try:
        ns.private_mounts()
        ns.mount("proc", "/proc", "proc")
        ns.set_hostname(orders["record"]["name"])
        private = Path(orders["directory"]) / "private"
        private.mkdir()
        ns.mount("tmpfs", private, "tmpfs", data="mode=755")
        for layer, image in orders["layers"].items():
            (private / layer).mkdir()
            words = ["mount", "-t", "squashfs", "-o", "loop,ro", image, str(private / layer)]
            subprocess.run(words, check=True, capture_output=True, text=True)
        (private / "box").mkdir()
        os.chdir("/")
    except (OSError, subprocess.CalledProcessError) as error:
        words_of_tool = getattr(error, "stderr", "") or ""
        _report(progress, error=f"{error} {words_of_tool}".strip())
        os._exit(1)
    ns.process_name("g5kvirt-init")
    spawner.init(lambda link: _daemon(orders, link, progress, listening))


def _report(fd: int, **message: Any) -> None:
    os.write(fd, json.dumps(message).encode() + b"\n")


def _daemon(orders: Mapping[str, Any], link: Spawner, progress: int, listening: int) -> int:
    """Process 2 of the testbed."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ns.process_name("g5kvirt-daemon")
    try:
        from g5kvirt.testbeds.local.raising import Testbed

        def tell(what: str, seconds: float) -> None:
            _report(progress, what=what, seconds=seconds)

        began = time.monotonic()
        testbed = Testbed(orders, link, socket.socket(fileno=listening), tell)
        testbed.up()
        log.info("up after %.2f s", time.monotonic() - began)
        _report(progress, ready=True, netem=testbed.netem)
        os.close(progress)
    except BaseException as error:  # noqa: BLE001 - the end of the line: whatever it is, it is told
        traceback.print_exc()
        _report(progress, error=str(error))
        return 1
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
