"""The local testbed for experiments: the driver of Grid'5000 with other settings."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import Reservation
from g5kvirt.planning.inventories import Inventory
from g5kvirt.planning.preflight import Finding
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings
from g5kvirt.testbeds.local.shared_limits import LIMITS, SharedLimits, too_small
from g5kvirt.testbeds.local.state import SSH_OPTIONS, State

__all__ = ["Local", "local", "table_finding"]


class Local(Grid5000):
    """Grid'5000's driver; all its hosts share the tables of this machine's kernel.

    Unlike Grid'5000, it may be stopped under an experiment (``g5kvirt local down``), with all that ran on it.
    """

    def __init__(self, settings: Settings, state: State) -> None:
        super().__init__(settings)
        self._state = state
        self.network = "managed switch" if state.description.switch == "managed" else ""

    @property
    def _stopped(self) -> str:
        """Why nothing on it answers any more; empty while it is up."""
        return "" if self._state.alive else f"the local testbed {self._state.name!r} was stopped"

    def ended(self, reservation: Reservation) -> str:
        """As on Grid'5000; with the testbed, its jobs have ended too."""
        return self._stopped or super().ended(reservation) or self._stopped

    def release(self, held: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """As on Grid'5000; nothing is left to release of a testbed that was stopped."""
        if not self._stopped:
            super().release(held, job_name, sites)

    def _job_info(self, site: str, job: int) -> Mapping[str, Any]:
        if self._stopped:
            raise TestbedError(self._stopped, advice="start it again: g5kvirt local up")
        return super()._job_info(site, job)

    def inventory(self, sites: Collection[str]) -> tuple[Inventory | None, Sequence[Finding]]:
        """As that of Grid'5000, and whether these tables are large enough."""
        found, findings = super().inventory(sites)
        limits = SharedLimits()
        return found, [*findings, table_finding(limits.current(), limits.overflows())]


def table_finding(current: Mapping[str, int], overflows: Mapping[str, int]) -> Finding:
    """Whether the shared tables have the size they need, and whether one has been full."""
    what = "kernel tables"
    small = too_small(current)
    if small:
        key, value = next(iter(small.items()))
        message = f"{key} is {value:,} here, and could not be increased to {LIMITS[key]:,}"
        return Finding(
            what, "", "warning", "small-tables", message, "increase it as root outside the container"
        )
    if overflows:
        message = "; ".join(f"{what}: {times:,}" for what, times in overflows.items())
        advice = "the machine is overloaded: start fewer VMs at once (windows)"
        return Finding(what, "", "warning", "overflows", f"since the testbed was started, {message}", advice)
    return Finding(what, "", "ok", "ok", "large enough; no overflow since the testbed was started")


def local(name: str | None = None) -> Local:
    """The local testbed ``name`` (default: the user's own). Raises TestbedError if it is not up."""
    state = State.running(name or None)
    _no_proxy(urlsplit(state.api_uri).hostname or "")
    return Local(
        Settings(
            name="local",
            netem=state.netem,
            real_cores=len(os.sched_getaffinity(0)),
            api_uri=state.authenticated_uri,
            cache=state.directory / "execo-cache",  # removed with the testbed that it describes
            ssh_config=state.ssh_config,
            ssh_options=SSH_OPTIONS,
            jump="",
            charter=False,  # there is only one user, and no day or night
            polling_interval=0.5,
            tiny_polling_interval=0.25,
        ),
        state,
    )


def _no_proxy(host: str) -> None:
    """Bypass a proxy of the user's environment, which would apply even to addresses of this machine."""
    for variable in ("NO_PROXY", "no_proxy"):
        hosts = [name for name in os.environ.get(variable, "").split(",") if name]
        if host not in hosts:
            os.environ[variable] = ",".join([*hosts, host])
