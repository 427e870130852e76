"""The process that starts and runs a testbed: ``python -m …local.daemon NAME DIRECTORY``.

Started by `lifecycle.up` with its configuration as JSON on standard input. It moves into new namespaces;
everything of the testbed runs below their init (see `spawner`), so the end of that init ends everything.
Progress is written to a pipe, one JSON object per line; if its reader goes away before the testbed is up, the
testbed ends.
"""

from __future__ import annotations

import json
import logging
import os
import resource
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
    """Read the configuration, fork the init in new namespaces, record it, exit."""
    config = json.load(sys.stdin)
    directory = Path(config["directory"])
    start_read, start_write = os.pipe()
    ns.unshare(ns.ALL)
    child = os.fork()
    if child == 0:
        os.close(start_write)
        if os.read(start_read, 1) != b"g":
            return 1
        os.close(start_read)
        _init(config)
    record = {**config["record"], "pid": child, "start_time": ns.start_time(child)}
    _write(directory / "state.json", json.dumps(record))
    os.write(start_write, b"g")
    return 0


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}")
    partial.write_text(text)
    partial.chmod(0o600)
    partial.rename(file)


def _init(config: Mapping[str, Any]) -> None:
    """Process 1 of the testbed."""
    progress, listening = config["progress_fd"], config["socket_fd"]
    try:
        ns.private_mounts()
        ns.mount("proc", "/proc", "proc")
        ns.set_hostname(config["record"]["name"])
        private = Path(config["directory"]) / "private"
        private.mkdir()
        ns.mount("tmpfs", private, "tmpfs", data="mode=755")
        for layer, image in config["layers"].items():
            (private / layer).mkdir()
            command = ["mount", "-t", "squashfs", "-o", "loop,ro", image, str(private / layer)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        (private / "root").mkdir()
        os.chdir("/")
    except (OSError, subprocess.CalledProcessError) as error:
        stderr = getattr(error, "stderr", "") or ""
        _report(progress, error=f"{error} {stderr}".strip())
        os._exit(1)
    ns.process_name("g5kvirt-init")
    spawner.init(lambda link: _daemon(config, link, progress, listening))


def _report(fd: int, **message: Any) -> None:
    os.write(fd, json.dumps(message).encode() + b"\n")


def _daemon(config: Mapping[str, Any], link: Spawner, progress: int, listening: int) -> int:
    """Process 2 of the testbed."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ns.process_name("g5kvirt-daemon")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # four for each node
    try:
        from g5kvirt.testbeds.local.startup import LocalTestbed

        def report(step: str, seconds: float) -> None:
            _report(progress, step=step, seconds=seconds)

        start = time.monotonic()
        testbed = LocalTestbed(config, link, socket.socket(fileno=listening), report)
        testbed.up()
        log.info("up after %.2f s", time.monotonic() - start)
        _report(progress, ready=True, netem=testbed.netem)
        os.close(progress)
    except BaseException as error:  # noqa: BLE001 - the last handler: every error is reported
        traceback.print_exc()
        _report(progress, error=str(error))
        return 1
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
