"""A testbed that only predicts: machines from an inventory, durations from a calibration, a virtual clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from g5kvirt.errors import CapacityError, SpecError, TestbedError
from g5kvirt.inventory import GIB, MIB, Host, Reservation, SubNetwork
from g5kvirt.planning.availability import Calendar, SiteCalendar
from g5kvirt.planning.inventories import TABLES, Inventory, Machine
from g5kvirt.planning.preflight import Finding
from g5kvirt.planning.properties import matching_machines
from g5kvirt.remote import Access
from g5kvirt.simulation import calibration as calibrations
from g5kvirt.simulation.calibration import Calibration
from g5kvirt.simulation.world import Faults, World
from g5kvirt.testbeds.base import Deployed, Notify, ReservationRequest
from g5kvirt.testbeds.simulated.sources import Source, is_source, source

__all__ = ["Simulated", "simulated", "with_calibration"]

#: Any number: there is one KaVLAN.
_VLAN = 14
_SITES_NETWORK = 10 << 24  #: 10.0.0.0, of which each site has a /16


class Simulated:
    """A `g5kvirt.testbeds.base.Testbed` without machines. ``name``: what comes after ``simulated:``.

    ``real_cores``: cores behind all machines together, as on a local testbed; None: each has its own.
    The same ``seed`` gives the same run. ``sampled``: how many hosts each of these stands for.
    """

    simulated = True
    network = ""
    guest = "simulated"
    polling_interval = 60.0
    package_proxy = None

    def __init__(
        self,
        inventory: Inventory,
        calibration: Calibration,
        *,
        name: str = "simulated",
        real_cores: int | None = None,
        faults: Faults = Faults(),  # noqa: B008  frozen
        seed: int = 0,
        sampled: float = 1.0,
    ) -> None:
        self.name = name
        self.real_cores = real_cores
        self.netem: bool | None = None  # it has no links between VMs: boots and deployments do not use them
        self._inventory = inventory
        hosts = [machine.host for own in inventory.machines.values() for machine in own]
        self.world = World(calibration, hosts, real_cores, faults, seed, sampled, inventory.uplinks)

    def sample(self, inventory: Inventory, sampled: float) -> Simulated:
        """The same testbed with only some of its machines, each of which stands for so many."""
        world = self.world
        return Simulated(
            replace(inventory, uplinks=world.uplinks),
            world.calibration,
            name=self.name,
            faults=world.faults,
            seed=world.seed,
            sampled=sampled,
        )

    @property
    def machines_name(self) -> str:
        """Where its machines are from, such as ``Grid'5000 of 2013``."""
        return self._inventory.name

    def connect(self) -> None:
        """There is nothing to connect to."""

    # ---- what exists ------------------------------------------------------------------------------

    def machines(self) -> Mapping[str, Sequence[Machine]]:
        """Those of the inventory."""
        return self._inventory.machines

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """The same machines as hosts."""
        return {site: [machine.host for machine in own] for site, own in self.machines().items()}

    def inventory(self, sites: Collection[str]) -> tuple[Inventory | None, Sequence[Finding]]:
        """The inventory, and that nothing is real."""
        message = f"{self._inventory.name}; a prediction, no machine is used"
        return self._inventory, [Finding("inventory", "", "ok", "ok", message)]

    def find_environment(self, environment: str, sites: Sequence[str]) -> Sequence[Finding]:
        """A model has every environment."""
        return [Finding("environment", site, "ok", "ok", "not looked for: a prediction") for site in sites]

    def preflight(self, request: ReservationRequest) -> Sequence[Finding]:
        """Everything is free."""
        return [Finding("start", "", "ok", "ok", "at once: in a prediction everything is free")]

    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, Collection[str]]:
        """By what the inventory knows of the machines' properties."""
        return {
            site: matching_machines([one.resource for one in self.machines()[site]], properties, site)
            for site in sites
        }

    def calendar(
        self, sites: Sequence[str], queue: str | None = None, job_types: Collection[str] = ()
    ) -> Calendar:
        """Nothing is in use."""
        now, machines = self.world.now(), self.machines()
        own = {
            site: SiteCalendar(
                {
                    machine.host.name: ()
                    for machine in machines[site]
                    if "exotic" in job_types or not machine.exotic
                },
                {_VLAN: ()},
                {IPv4Network((_SITES_NETWORK, 16)): ()},
            )
            for site in sites
        }
        return Calendar(now, now + 28 * 86400, own)

    def first_start(self, request: ReservationRequest) -> float | None:
        """Now."""
        return self.world.now()

    # ---- the phases -------------------------------------------------------------------------------

    def reserve(self, request: ReservationRequest, notify: Notify) -> Reservation:
        """The largest machines that can be deployed, in KaVLAN ``_VLAN``. Raises SpecError, TestbedError."""
        hosts: list[Host] = []
        allowed = self.select(request.properties, list(request.machines)) if request.properties else {}
        for site, number in request.machines.items():
            found = [
                machine.host
                for machine in self.machines().get(site, ())
                if _usable(machine, request)
                and request.clusters.get(site) in (None, machine.host.cluster)
                and (not allowed or machine.host.name in allowed[site])
            ]
            if len(found) < number:
                raise TestbedError(
                    f"{site} has {len(found)} machines that can be deployed, and {number} are needed",
                    advice="request fewer there, or other sites",
                )
            hosts += sorted(found, key=_size)[-number:]  # the first ones will be service machines
            notify(site, "submitted", {"job": 1, "resources": f"nodes={number}"})
        self.world.machines_pass("reserve", len(hosts))
        for site in request.machines:
            notify(site, "running", {"job": 1})
        return Reservation(
            jobs=dict.fromkeys(request.machines, 1),
            hosts=tuple(hosts),
            subnetworks=_subnetworks(request.subnetworks),
            vlan=_VLAN if request.vlan_site else None,
            vlan_site=request.vlan_site or None,
            start=self.world.now(),
            walltime=request.walltime,
        )

    def deploy(
        self,
        reservation: Reservation,
        environment: str,
        public_key: str,
        notify: Notify,
        *,
        tries: int = 2,
        timeout: float = 900.0,
    ) -> Deployed:
        """All of them, in the time of the calibration."""
        self.world.machines_pass("deploy", len(reservation.hosts))
        for host in reservation.hosts:
            notify(host.name, "ok", {})
        return Deployed(reservation.hosts, {})

    def ended(self, reservation: Reservation) -> str:
        """Never."""
        return ""

    def extend(self, reservation: Reservation, seconds: int) -> None:
        """Raises SpecError: nothing is reserved."""
        raise SpecError(
            "a prediction has reserved nothing: there is nothing to extend",
            advice="predict with a longer walltime instead",
        )

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """There is nothing to release."""

    def access(self, key: str) -> Access:
        """Raises TestbedError: there is no machine to reach."""
        raise TestbedError(
            "a simulated testbed has no machines to log in to: its runs are predictions",
            advice='use testbed "local" or "grid5000"',
        )


def _usable(machine: Machine, request: ReservationRequest) -> bool:
    known = (machine.deploy, machine.kavlan, machine.x86, machine.virtual)
    open_to = machine.queues is None or (request.queue or "default") in machine.queues
    exotic = machine.exotic and "exotic" not in request.job_types
    return False not in known and not exotic and open_to


def _size(host: Host) -> tuple[int, int, int]:
    """Larger for machines that carry more VMs, by the rule of 2013 and its VMs of 914 MiB."""
    room = min(16, 2 * host.cores, (host.memory - GIB) // (914 * MIB))
    return room, host.cores, host.memory


def _subnetworks(prefixes: Mapping[str, int]) -> tuple[SubNetwork, ...]:
    """A sub-network for each site; those of all are within one."""
    if len(prefixes) > 256:
        raise CapacityError("a prediction has at most 256 sites", requested=len(prefixes), available=256)
    return tuple(
        SubNetwork(site, IPv4Network((_SITES_NETWORK + (number << 16), max(16, prefix))))
        for number, (site, prefix) in enumerate(prefixes.items())
    )


def simulated(name: str) -> Simulated:
    """``simulated:2013``, ``simulated:2026``, ``simulated:FILE`` or ``simulated:RUN`` (see `source`).

    With a calibration of one's own: ``simulated:2013/FILE``, ``simulated:RUN//FILE``. The name of the testbed
    has both as absolute paths, so that another process finds them from anywhere. Raises SpecError for another
    name, and for a calibration that does not exist.
    """
    found, calibration = _parts(name or "2013")
    durations = calibrations.load(calibration or found.calibration)
    if calibration and calibration not in calibrations.SHIPPED:  # to be found from any directory
        calibration = str(Path(calibration).absolute())
    full = f"simulated:{with_calibration(found.name, calibration)}"
    return Simulated(found.inventory, durations, name=full, real_cores=found.real_cores)


def with_calibration(machines: str, calibration: str | None) -> str:
    """The argument of `simulated` for machines and, if given, a user's calibration."""
    return f"{machines}{'/' if machines in TABLES else '//'}{calibration}" if calibration else machines


def _parts(name: str) -> tuple[Source, str]:
    year, _, calibration = name.partition("/")
    if year in TABLES:
        return source(year), calibration
    parts = name.split("//")
    for number in range(1, len(parts)):  # a path may have two slashes where one would do
        machines = "//".join(parts[:number])
        if is_source(machines):
            return source(machines), "//".join(parts[number:])
    return source(name), ""
