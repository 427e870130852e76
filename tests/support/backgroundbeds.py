"""A testbed without machines, for steps in other processes; the second part of its name is its behaviour."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from g5kvirt.errors import CapacityError, TestbedError
from g5kvirt.inventory import GIB, Host, Reservation, SubNetwork
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.planning.preflight import Finding
from g5kvirt.testbeds import TESTBEDS
from g5kvirt.testbeds.base import Notify, ReservationRequest

HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, 8 * GIB) for i in range(1, 4)]


class Bed:
    """``how``: give, refuse, full, break or hang; a file in ``folder`` tells that hanging was cleaned up."""

    name = "bed"
    simulated = False
    guest = ""
    world = None
    network = ""
    real_cores = None
    netem: bool | None = None

    def __init__(self, how: str) -> None:
        self.how, _, folder = how.partition("@")
        self.folder = Path(folder)

    def connect(self) -> None:
        """It is there."""

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """Three hosts of one site."""
        return {"nancy": HOSTS}

    def inventory(self, sites: Collection[str]) -> tuple[Inventory | None, Sequence[Finding]]:
        """The three hosts; nothing else is known."""
        return Inventory(self.name, {"nancy": tuple(Machine(host) for host in HOSTS)}), []

    def find_environment(self, environment: str, sites: Sequence[str]) -> Sequence[Finding]:
        """Any environment will do."""
        return [Finding("environment", site, "ok", "ok", environment) for site in sites]

    def preflight(self, request: ReservationRequest) -> Sequence[Finding]:
        """Nothing is known."""
        return [Finding("start", "", "unknown", "no-answer", "not known")]

    def reserve(self, request: ReservationRequest, notify: Notify) -> Reservation:
        """See the class."""
        try:  # whoever hears of the job may interrupt at once
            notify("nancy", "submitted", {"job": 12})
            if self.how == "refuse":
                raise TestbedError("OAR at nancy refused the job: no")
            if self.how == "full":
                raise CapacityError("nancy has no room", requested=3, available=1)
            if self.how == "break":
                raise ZeroDivisionError("a bug")
            while self.how == "hang":
                time.sleep(3600)
        finally:
            if self.how == "hang":
                (self.folder / "cleaned").touch()
        network = SubNetwork("nancy", IPv4Network("10.144.4.0/22"))
        return Reservation({"nancy": 12}, tuple(HOSTS), (network,), 14, "nancy", time.time(), 3600.0)

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """Nothing is held."""


TESTBEDS["bed"] = Bed  # type: ignore[assignment]  # only what a reservation needs
