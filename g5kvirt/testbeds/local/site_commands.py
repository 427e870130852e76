"""OAR's commands on the frontends, run for the REST API as its user would: over ssh."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.model import Description
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.state import ssh_config, write

__all__ = ["SiteCommands"]

_TIMEOUT = 60.0  #: seconds; oarsub takes one, and half a minute while OAR is busy


class SiteCommands:
    """Runs commands on the frontends of a testbed, from within it. Thread-safe.

    :param directory: the testbed's state directory, with its names and the user's key.
    :param private: a directory for ssh's configuration.
    :param pid: of the init of a site's container, as the caller sees it.
    """

    def __init__(
        self, description: Description, directory: Path, private: Path, pid: Callable[[str], int]
    ) -> None:
        self._description = description
        self._directory = directory
        self._private = private
        self._pid = pid
        self._lock = threading.Lock()
        self._written: dict[str, int] = {}  # site → pid in its configuration

    def run(self, site: str, argv: Sequence[str]) -> tuple[int, str]:
        """Exit code and output (errors included) of ``argv`` on the frontend. Raises TestbedError."""
        try:
            config = self._ssh_config(site)
            done = subprocess.run(
                [
                    *("ssh", "-F", str(config), "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"),
                    *("--", self._description.site(site).fqdn, f"exec {shlex.join(argv)} 2>&1"),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": "/root", "LANG": "C.UTF-8"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TestbedError(f"the frontend of {site} does not answer ({error})") from error
        text = done.stdout.decode(errors="replace")
        if done.returncode == 255 and not text:
            reason = " ".join(done.stderr.decode(errors="replace").split()) or "ssh failed"
            raise TestbedError(f"the frontend of {site} does not answer ({reason})")
        return done.returncode, text

    def _ssh_config(self, site: str) -> Path:
        pid = self._pid(site)
        config = self._private / f"ssh-{site}"
        with self._lock:
            if self._written.get(site) != pid:
                start_time = ns.start_time(pid)
                if start_time is None:
                    raise TestbedError(f"the frontend of {site} is down", advice="start the testbed again")
                write(config, ssh_config(self._directory, pid, start_time))
                self._written[site] = pid
        return config
