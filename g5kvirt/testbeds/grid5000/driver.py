"""The driver of Grid'5000: its API and its frontends' commands, over execo's connections.

The local testbed is driven by this same code: it answers the same commands and the same API, and only
the `Settings` differ (where the API is, how ssh gets there, how often to poll).
"""

from __future__ import annotations

import getpass
import logging
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.inventory import Host, Reservation
from g5kvirt.planning.availability import Calendar
from g5kvirt.planning.inventories import Inventory, Machine, natural_order, read_machines
from g5kvirt.planning.preflight import Finding
from g5kvirt.remote import Access, jumps
from g5kvirt.testbeds.base import Deployed, Notify, ReservationRequest
from g5kvirt.testbeds.grid5000 import (
    api,
    calendar,
    connection,
    documents,
    jobs,
    kadeploy,
    preflight,
    scheduling,
    walltime,
)
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend
from g5kvirt.testbeds.grid5000.oar import end_of_job, is_usable
from g5kvirt.testbeds.grid5000.settings import Settings, load_settings
from g5kvirt.testbeds.parallel import collect, for_each

__all__ = ["Grid5000", "Settings", "open_grid5000"]

log = logging.getLogger(__name__)

_SLOT_TRIES = 3  #: how often the first slot is requested, if another user was faster
_STATE_TIMEOUT = 60.0  #: seconds to wait for a site to answer with the state of its job


class Grid5000:
    """A testbed with OAR, Kadeploy3, KaVLAN and the REST reference API on every site."""

    simulated = False
    world = None
    network = ""
    guest = ""  # QEMU; whether with KVM is found out on each host

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.name = self.settings.name
        self.real_cores = self.settings.real_cores
        self.netem = self.settings.netem
        self.polling_interval = self.settings.polling_interval
        self.package_proxy = self.settings.package_proxy

    # ---- reaching it ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Configure execo for this testbed and check that its API answers. Raises TestbedError."""
        connection.configure(self.settings, self.jump)
        api.get("")

    def access(self, key: str) -> Access:
        """Root on the deployed machines, with the private key file ``key``."""
        s = self.settings
        return Access(
            user="root",
            ssh_config=s.ssh_config,
            key=Path(key),
            options=s.ssh_options,
            jump=self.jump,
            login=s.user,
        )

    @cached_property
    def jump(self) -> str:
        """The ssh servers between here and the testbed's inside, as ``ssh -J`` takes them; "" for none."""
        s = self.settings
        return jumps.detect(s.ssh_config, s.user) if s.jump is None else jumps.check_jump(s.jump)

    # ---- what exists ------------------------------------------------------------------------------

    def machines(self) -> Mapping[str, Sequence[Machine]]:
        """Every machine of every site, in the order of cluster and number, from the reference API."""
        sites = api.uids("sites")
        return dict(zip(sites, for_each(self._machines_of, sites), strict=True))

    def _machines_of(self, site: str) -> tuple[Machine, ...]:
        clusters = api.uids(f"sites/{site}/clusters")
        nodes = {name: api.items(f"sites/{site}/clusters/{name}/nodes") for name in clusters}
        machines, unreadable = read_machines(site, nodes)
        for why in unreadable:
            log.warning("%s at %s is left out: %s", *why, site)
        return machines

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """The same machines as hosts."""
        return {site: tuple(machine.host for machine in own) for site, own in self.machines().items()}

    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, Collection[str]]:
        """The machines that meet a condition on OAR's properties, by the REST API's copy of them."""
        return calendar.machines_with_properties(list(sites), properties)

    def calendar(
        self, sites: Sequence[str], queue: str | None = None, job_types: Collection[str] = ()
    ) -> Calendar:
        """Machines, KaVLANs and sub-networks with the jobs that hold them, for four weeks from now on."""
        return calendar.calendar(list(sites), queue, job_types)

    # ---- before anything is reserved ----------------------------------------------------------------

    def inventory(self, sites: Collection[str]) -> tuple[Inventory | None, Sequence[Finding]]:
        """What exists on ``sites``, by the REST API, which may be silent: the frontends may still answer."""
        connection.configure(self.settings, self.jump)
        return preflight.inventory(self.name, sites)

    def find_environment(self, environment: str, sites: Sequence[str]) -> Sequence[Finding]:
        """Whether the sites' frontends can be reached, and their Kadeploy3 has ``environment``."""
        return preflight.find_environment(environment, sites)

    def preflight(self, request: ReservationRequest) -> Sequence[Finding]:
        """Whether the usage charter allows the request, and when it can start."""
        return preflight.preflight(self, request, self._charter_user)

    def first_start(self, request: ReservationRequest) -> float | None:
        """The first slot of the sites' calendars that fits the request and the usage charter."""
        return scheduling.first_start(self, request, self._charter_user)

    @property
    def _charter_user(self) -> str | None:
        """The login whose jobs count for the usage charter; None: there is no charter."""
        if not self.settings.charter:
            return None
        from execo_g5k.config import g5k_configuration

        return str(self.settings.user or g5k_configuration.get("api_username") or getpass.getuser())

    # ---- reserve ----------------------------------------------------------------------------------

    def reserve(self, request: ReservationRequest, notify: Notify) -> Reservation:
        """Submit one OAR job per site, wait until all run, read what they were given."""
        sites = sorted(request.machines, key=lambda s: (s != request.vlan_site, s))
        known = {h.name: h for hosts in self.hosts().values() for h in hosts}
        held = self._recover_jobs(request, sites, notify)
        try:
            start = self._start_of(request, held) if held else self._submit(request, sites, held, notify)
            deadline = max(time.time(), start or 0.0) + request.start_timeout
            seldom, often = self.settings.polling_interval, self.settings.tiny_polling_interval
            fixed = request.start != "now" and start is not None
            began = jobs.wait_until_running(
                held, deadline, seldom, often, notify, fixed=fixed, job_info=self._job_info
            )
            given = for_each(lambda s: jobs.allocation(s, held[s], s == request.vlan_site), sites)
            hosts = [_hosts_of(known, site, own.names) for site, own in zip(sites, given, strict=True)]
        except BaseException as error:
            # Also on Ctrl-C: a job that is not recorded would hold its machines for its whole walltime.
            try:
                self.release(held.items(), request.job_name, [site for site in sites if site not in held])
            except TestbedError as left:
                if isinstance(error, TestbedError):
                    raise TestbedError(f"{error}; also, {left.message}", advice=left.advice) from error
                raise
            raise
        return Reservation(
            jobs={site: held[site] for site in sites},
            hosts=tuple(h for own in hosts for h in own),
            subnetworks=tuple(own.subnetwork for own in given if own.subnetwork is not None),
            vlan=next((own.vlan for own in given if own.vlan is not None), None),
            vlan_site=request.vlan_site or None,
            start=min(began.values()),
            walltime=request.walltime,
        )

    def _submit(
        self, request: ReservationRequest, sites: Sequence[str], held: dict[str, int], notify: Notify
    ) -> float | None:
        """Submit on all sites at once; ``held`` gets the jobs. Their start, where that is fixed."""
        for left in reversed(range(_SLOT_TRIES)):
            start = scheduling.reservation_date(self, request, self._charter_user)
            if start is not None:
                notify(request.vlan_site or sites[0], "slot", {"start": start})

            def submit(site: str, start: float | None = start) -> None:
                held[site] = jobs.submit(site, request, start)
                detail = {"job": held[site], "resources": "+".join(jobs.resources(request, site))}
                notify(site, "submitted", detail if start is None else {**detail, "start": start})

            try:
                for_each(submit, sites)
                return start
            except TestbedError:
                if request.start != "first" or not left:
                    raise
                # Somebody else was faster: what was free is in use now, and the calendar has it.
                self.release(held.items(), request.job_name, [site for site in sites if site not in held])
                held.clear()
        raise AssertionError("the last try returns or raises")

    def _recover_jobs(
        self, request: ReservationRequest, sites: Sequence[str], notify: Notify
    ) -> dict[str, int]:
        """The jobs of an earlier try, if there is a matching one on every site; others are deleted."""
        if request.earlier is None:
            return {}
        there = jobs.find(sites, request.job_name)
        timeout = self.settings.command_timeout
        printed = for_each(lambda one: jobs.oarstat(*one, timeout), there)
        held: dict[str, int] = {}
        for (site, job), answer in zip(there, printed, strict=True):
            if site not in held and jobs.matches_request(answer.text, request, site):
                held[site] = job
        if len(held) < len(sites):
            held = {}
        others = {*there, *request.earlier} - set(held.items())
        self.release(others, request.job_name, [])
        for site, job in held.items():
            if (site, job) not in request.earlier:  # submitted, but not recorded any more
                notify(site, "submitted", {"job": job})
            notify(site, "found-again", {"job": job})
        return held

    def _start_of(self, request: ReservationRequest, held: Mapping[str, int]) -> float | None:
        """When jobs that exist already are to start; None: as soon as possible."""
        if request.start == "now":
            return None
        starts = [jobs.info(site, job).get("start_date") for site, job in held.items()]
        return max((float(start) for start in starts if start is not None), default=None)

    def ended(self, reservation: Reservation) -> str:
        """Which of the jobs has ended, when and why, by the sites' OAR; empty while none has.

        This is called again and again while VMs are timed, so the API comes first: a login and oarstat cost
        a site a hundred times as much. The frontends are used only for jobs that the API does not call alive.
        """
        held = list(reservation.jobs.items())
        alive = for_each(lambda one: _is_alive(self._api_job(*one)), held)
        doubtful = [one for one, fine in zip(held, alive, strict=True) if not fine]
        timeout = min(_STATE_TIMEOUT, self.settings.command_timeout)
        printed = for_each(lambda one: jobs.oarstat(*one, timeout), doubtful)
        for (site, job), answer in zip(doubtful, printed, strict=True):
            if end := end_of_job(site, job, answer.text if answer.ok else ""):
                return end
        silent = {s: a for (s, _), a in zip(doubtful, printed, strict=True) if not (a.ok and a.lines)}
        if silent:
            why = next((f" ({answer.failure})" for answer in silent.values() if answer.failure), "")
            raise TestbedError(
                f"the state of the jobs at {', '.join(silent)} is not known{why}",
                advice="check that the frontend and the API are up",
            )
        return ""

    def extend(self, reservation: Reservation, seconds: int) -> None:
        """By ``oarwalltime`` on the frontends, unless it would break the usage charter."""
        scheduling.check_extension(self, reservation, seconds, self._charter_user)
        walltime.extend(reservation.jobs, seconds, self.settings)

    def _job_info(self, site: str, job: int) -> Mapping[str, Any]:
        """What `jobs.info` gives, but from the API while that calls the job alive."""
        document = self._api_job(site, job)
        if not _is_alive(document):
            return jobs.info(site, job)
        start = document.get("started_at") or document.get("scheduled_at")
        state = {"state": document["state"].capitalize()}
        return {**state, "start_date": float(start)} if start else state

    def _api_job(self, site: str, job: int) -> Mapping[str, Any]:
        """The API's document of a job; empty if it does not answer."""
        path = f"sites/{site}/jobs/{job}"
        try:
            document = api.get(path)
            return api.read(path, lambda: documents.check_job(document))
        except TestbedError as error:
            log.debug("%s", error)
            return {}

    def release(self, held: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """Delete the jobs, and those called ``job_name`` on ``sites``; returns when they have ended.

        Also removes the run's public key from the frontends.
        A job can be unknown not only to a killed process: while OAR's server is down, oarsub prints an id and
        fails, and the job runs later.
        """
        known = sorted(set(held))
        silent: TestbedError | None = None
        timeout = self.settings.command_timeout
        # A local testbed that was created again counts its jobs from 1: an id may be another run's.
        names = for_each(lambda one: self._api_job(*one).get("name") or jobs.job_name(*one, timeout), known)
        doomed = {one for one, name in zip(known, names, strict=True) if name in (None, job_name)}
        # a site that does not answer keeps nobody from deleting what is known, or found at others
        # (two commands, each with that time-out)
        listed = collect(lambda site: jobs.find([site], job_name), list(sites), 2 * timeout + 10)
        for site, found in listed.items():
            if isinstance(found, TestbedError):
                silent = silent or found
            elif isinstance(found, Exception):
                silent = silent or jobs.not_listed(site, str(found))
            else:
                doomed |= set(found)
        with ThreadPoolExecutor(max_workers=1) as pool:
            keys = pool.submit(jobs.remove_keys, doomed, timeout)
            jobs.delete(doomed, timeout, self.settings.tiny_polling_interval, self._job_info)
            keys.result()
        if silent is not None:
            raise silent

    # ---- deploy -----------------------------------------------------------------------------------

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
        """Deploy with each site's Kadeploy3, all sites at once; the failed ones once more."""
        deadline = time.monotonic() + timeout
        key_file = jobs.key_file(*min(reservation.jobs.items()))
        refused = self._put_key(reservation, public_key, key_file, timeout)
        nodes: dict[str, list[str]] = {}
        for host in reservation.hosts:
            nodes.setdefault(host.site, []).append(host.name)

        def command(names: Sequence[str]) -> str:
            return kadeploy.command_line(names, environment, reservation.vlan, key_file)

        # Kadeploy's own result decides which to try again; `configure` finds out which are reachable.
        reachable = {site: names for site, names in nodes.items() if site not in refused}
        rest = max(1.0, deadline - time.monotonic())
        failed = kadeploy.deploy(reachable, command, tries=tries, timeout=rest)
        failed |= {name: why for site, why in refused.items() for name in nodes.get(site, ())}
        for host in reservation.hosts:
            detail = {"environment": environment}
            if why := failed.get(host.name):
                notify(host.name, "failed", {**detail, "reason": why})
            else:
                notify(host.name, "ok", detail)
        return Deployed(
            tuple(
                replace(h, address=kadeploy.name_in_vlan(h.name, reservation.vlan))
                for h in reservation.hosts
                if h.name not in failed
            ),
            failed,
        )

    def _put_key(
        self, reservation: Reservation, public_key: str, name: str, timeout: float
    ) -> dict[str, str]:
        """Put the run's public key on every frontend for ``kadeploy3 -k``; site → why that failed."""
        command = f"umask 077; printf '%s\\n' {shlex.quote(public_key.strip())} > {shlex.quote(name)}"
        refused = {}

        def put(site: str) -> None:
            answer = run_on_frontend(site, command, min(timeout, self.settings.command_timeout))
            if not answer.ok:
                why = answer.failure
                refused[site] = f"the run's public key could not be copied to the frontend of {site} ({why})"

        for_each(put, list(reservation.jobs))
        return refused


def _is_alive(document: Mapping[str, Any]) -> bool:
    """Whether the API's document of a job calls it alive; it writes OAR's states in lower case."""
    return is_usable(str(document.get("state", "")).capitalize())


def _hosts_of(known: Mapping[str, Host], site: str, names: Sequence[str]) -> tuple[Host, ...]:
    if unknown := [name for name in names if name not in known]:
        raise TestbedError(
            f"OAR at {site} gave {', '.join(unknown)}, which the reference API does not list",
            advice="report it to the site, and exclude these machines by properties",
        )
    return tuple(sorted((known[n] for n in names), key=natural_order))


def open_grid5000(name: str) -> Grid5000:
    """The real Grid'5000, with the settings of the person. Raises SpecError if ``name`` is not empty."""
    if name:
        raise SpecError(f"there is only one Grid'5000, and none called {name!r}", advice='use "grid5000"')
    return Grid5000(load_settings())
