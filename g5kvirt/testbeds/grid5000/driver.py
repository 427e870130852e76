"""The driver of Grid'5000, written only against execo_g5k.

The local testbed is driven by this same code: it answers the same commands and the same API, and only
the `Settings` differ (where the API is, how ssh gets there, how often to poll).

execo keeps its configuration process-wide, so one process speaks to one testbed at a time; `connect`
says so rather than mixing two.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import Host, Reservation
from g5kvirt.planning.availability import Agenda
from g5kvirt.planning.inventories import Machine, in_order, machine_of
from g5kvirt.remote import Access, jumps
from g5kvirt.testbeds.base import Deployed, Notify, Request
from g5kvirt.testbeds.grid5000 import calendar as slots
from g5kvirt.testbeds.grid5000 import jobs, kadeploy, scheduling
from g5kvirt.testbeds.grid5000.ending import how_it_ended
from g5kvirt.testbeds.grid5000.frontends import each, frontend, mask, said, short

__all__ = ["Grid5000", "Settings"]

log = logging.getLogger(__name__)

_RACES = 3  #: how often the first slot is asked for, where somebody else was faster
_ANSWER = 60.0  #: seconds to wait for a site to say how its job is
_connected: list[str] = []  # the API this process speaks to; execo has room for one


@dataclass(frozen=True)
class Settings:
    """How execo_g5k reaches a testbed. The defaults are those of the real one, from inside it."""

    name: str = "grid5000"
    real_cores: int | None = None  #: where all hosts share one machine: its cores
    api_uri: str | None = None  #: None: execo's own (https://api.grid5000.fr/3.0/)
    cache: Path | None = None  #: None: execo's own; must differ for every testbed
    user: str | None = None  #: login on the frontends
    ssh_config: Path | None = None
    #: ssh servers on the way in, as ``ssh -J`` takes them: "" for none, None: see `g5kvirt.remote.jumps`
    jump: str | None = None
    package_proxy: str | None = None  #: through which machines get packages: ``"http://proxy:3128"``
    polling_interval: float = 10.0  #: seconds between two looks at a job
    tiny_polling_interval: float = 2.0
    command_timeout: float = 120.0  #: seconds for one command on a frontend
    charter: bool = True  #: refuse jobs that would break the usage charter


class Grid5000:
    """A testbed with OAR, Kadeploy3, KaVLAN and the REST reference API on every site."""

    simulated = False
    guest = ""  # QEMU, with KVM or without: the hosts tell

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.name = self.settings.name
        self.real_cores = self.settings.real_cores
        self.polling_interval = self.settings.polling_interval
        self.package_proxy = self.settings.package_proxy

    # ---- reaching it ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Configure execo for this testbed and ask its API for a sign of life. Raises TestbedError."""
        s = self.settings
        where = s.api_uri or "grid5000"
        if _connected and _connected[0] != where:
            raise TestbedError(
                f"this process already speaks to the testbed at {mask(_connected[0])}: execo knows one"
                " testbed a process, so start a new one (in a notebook: restart the kernel)"
            )
        if threading.current_thread() is not threading.main_thread() and not _connected:
            raise TestbedError("the first connection has to be made from the main thread: execo demands it")
        import execo
        import execo.log
        import execo_g5k
        from execo_g5k import api_utils

        way = ["-F", str(s.ssh_config)] if s.ssh_config is not None else []
        way += ["-J", self.jump] if self.jump else []
        # The two dicts of execo do not inherit from each other: both get the options.
        for params in (execo.default_connection_params, execo_g5k.default_frontend_connection_params):
            if way:
                stock = tuple(execo.config.make_default_connection_params()["ssh_options"])
                params["ssh_options"] = (*way, *stock)
        if s.user is not None:
            execo_g5k.default_frontend_connection_params["user"] = s.user
        configuration = execo_g5k.config.g5k_configuration
        configuration["polling_interval"] = s.polling_interval
        configuration["tiny_polling_interval"] = s.tiny_polling_interval
        configuration["default_timeout"] = s.command_timeout
        configuration["kadeploy3_options"] = "-d"  # the key is the run's own, given with each deployment
        if s.api_uri is not None:
            configuration["api_uri"] = s.api_uri
        if s.cache is not None:
            # execo's cache does not know which API it came from and would serve another testbed's answers;
            # its place is a default argument, fixed when the module was imported.
            api_utils.get_api_data.__defaults__ = (f"{s.cache}/",)
        # What failed is said by our own errors; execo's tell it by whole processes, with their outputs.
        execo.log.logger.setLevel(logging.CRITICAL)
        _connected[:] = [where]
        self._api("")

    def access(self, key: str) -> Access:
        """Root on the deployed machines, with the private key file ``key``."""
        s = self.settings
        return Access(user="root", ssh_config=s.ssh_config, key=Path(key), jump=self.jump, login=s.user)

    @cached_property
    def jump(self) -> str:
        """The ssh servers between here and the testbed's inside, as ``ssh -J`` takes them; "" for none."""
        s = self.settings
        return jumps.detect(s.ssh_config, s.user) if s.jump is None else jumps.check_jump(s.jump)

    def _api(self, path: str) -> dict[str, Any]:
        from execo_g5k import api_utils

        try:
            answer: dict[str, Any] = api_utils.get_resource_attributes(path)
        except (api_utils.APIException, ValueError) as error:
            raise TestbedError(
                f"the API of the testbed {self.name!r} does not answer at /{path.lstrip('/')}"
                f" ({mask(short(error))}): is it up, and are you allowed to use it?"
            ) from error
        return answer

    # ---- what exists ------------------------------------------------------------------------------

    def machines(self) -> Mapping[str, Sequence[Machine]]:
        """Every machine of every site, in the order of cluster and number, from the reference API."""
        sites = [item["uid"] for item in self._api("sites")["items"]]
        return dict(zip(sites, each(self._machines_of, sites), strict=True))

    def _machines_of(self, site: str) -> tuple[Machine, ...]:
        found = []
        for cluster in self._api(f"sites/{site}/clusters")["items"]:
            for node in self._api(f"sites/{site}/clusters/{cluster['uid']}/nodes")["items"]:
                found.append(machine_of(site, cluster["uid"], node))
        return tuple(sorted(found, key=lambda machine: in_order(machine.host)))

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """The same as hosts."""
        return {site: tuple(machine.host for machine in own) for site, own in self.machines().items()}

    def select(self, properties: str, sites: Sequence[str]) -> Mapping[str, Collection[str]]:
        """The machines that meet a condition on OAR's properties, by the REST API's copy of them."""
        return slots.matching(list(sites), properties)

    def calendar(self, sites: Sequence[str], queue: str | None = None) -> Agenda:
        """Machines, KaVLANs and sub-networks with the jobs that hold them, for four weeks from now on."""
        return slots.calendar(list(sites), queue)

    # ---- reserve ----------------------------------------------------------------------------------

    def reserve(self, request: Request, notify: Notify) -> Reservation:
        """Submit one OAR job a site, wait until all run, read what they were given."""
        sites = sorted(request.machines, key=lambda s: (s != request.vlan_site, s))
        known = {h.name: h for hosts in self.hosts().values() for h in hosts}
        held = self._found_again(request, sites, notify)
        try:
            start = self._due(request, held) if held else self._submit(request, sites, held, notify)
            deadline = max(time.time(), start or 0.0) + request.start_timeout
            seldom, often = self.settings.polling_interval, self.settings.tiny_polling_interval
            fixed = request.start != "now" and start is not None
            began = jobs.wait(held, deadline, seldom, often, notify, fixed=fixed, look=self._look)
            given = each(lambda site: jobs.given(site, held[site], site == request.vlan_site), sites)
            hosts = [_known(known, site, info.names) for site, info in zip(sites, given, strict=True)]
        except BaseException as error:
            # Also on Ctrl-C: a job that nobody remembers holds machines for its whole walltime.
            try:
                self.release(held.items(), request.job_name, [site for site in sites if site not in held])
            except TestbedError as left:
                if isinstance(error, TestbedError):
                    raise TestbedError(f"{error}; and {left}") from error
                raise
            raise
        return Reservation(
            jobs={site: held[site] for site in sites},
            hosts=tuple(h for own in hosts for h in own),
            subnetworks=tuple(info.subnetwork for info in given if info.subnetwork is not None),
            vlan=next((info.vlan for info in given if info.vlan is not None), None),
            vlan_site=request.vlan_site or None,
            start=min(began.values()),
            walltime=request.walltime,
        )

    def first_start(self, request: Request) -> float | None:
        """The first slot of the sites' calendars that holds the request and keeps to the charter."""
        return scheduling.first_start(self, request)

    def judge(self, request: Request, since: float, until: float) -> Callable[[float], str]:
        """Why jobs that start at a time between the two would break the charter; empty if they do not."""
        return scheduling.judge(self, request, since, until)

    def _submit(
        self, request: Request, sites: Sequence[str], held: dict[str, int], notify: Notify
    ) -> float | None:
        """Ask all sites at once; ``held`` gets the jobs. When they are to start, where that is fixed."""
        for left in reversed(range(_RACES)):
            start = scheduling.start_of(self, request)
            if start is not None:
                notify(request.vlan_site or sites[0], "slot", {"start": start})

            def ask(site: str, start: float | None = start) -> None:
                held[site] = jobs.submit(site, request, start)
                detail = {"job": held[site], "resources": "+".join(jobs.resources(request, site))}
                notify(site, "submitted", detail if start is None else {**detail, "start": start})

            try:
                each(ask, sites)
                return start
            except TestbedError:
                if request.start != "first" or not left:
                    raise
                # Somebody else was faster: what was free is taken now, and the calendar knows it.
                self.release(held.items(), request.job_name, [site for site in sites if site not in held])
                held.clear()
        raise AssertionError("the last try returns or raises")

    def _found_again(self, request: Request, sites: Sequence[str], notify: Notify) -> dict[str, int]:
        """The jobs of an earlier try, if there is one that fits on every site; others are given back."""
        if request.earlier is None:
            return {}
        there = jobs.find(sites, request.job_name)
        timeout = self.settings.command_timeout
        printed = each(lambda one: jobs.describe(*one, timeout), there)
        held: dict[str, int] = {}
        for (site, job), text in zip(there, printed, strict=True):
            if site not in held and jobs.fits(text, request, site):
                held[site] = job
        if len(held) < len(sites):
            held = {}
        others = {*there, *request.earlier} - set(held.items())
        self.release(others, request.job_name, [])
        for site, job in held.items():
            if (site, job) not in request.earlier:  # submitted, but it could not be written down any more
                notify(site, "submitted", {"job": job})
            notify(site, "found-again", {"job": job})
        return held

    def _due(self, request: Request, held: Mapping[str, int]) -> float | None:
        """When jobs that are there already are to start; None: as soon as it goes."""
        if request.start == "now":
            return None
        starts = [jobs.info(site, job).get("start_date") for site, job in held.items()]
        return max((float(start) for start in starts if start is not None), default=None)

    def ended(self, reservation: Reservation) -> str:
        """Which of the jobs has ended, when and why, as the sites' OAR says it; empty while none has.

        This is asked again and again while VMs are timed, so the API comes first: a login and oarstat cost
        a site a hundred times as much. Only of what it does not call running, the frontends are asked.
        """
        jobs_of = list(reservation.jobs.items())
        runs = each(lambda one: self._runs(*one), jobs_of)
        held = [one for one, fine in zip(jobs_of, runs, strict=True) if not fine]
        told = each(lambda one: jobs.describe(*one, min(_ANSWER, self.settings.command_timeout)), held)
        for (site, job), text in zip(held, told, strict=True):
            if why := how_it_ended(site, job, text):
                return why
        silent = [site for (site, _), text in zip(held, told, strict=True) if not text]
        if silent:
            raise TestbedError(f"{', '.join(silent)} does not say how the jobs are: is the frontend up?")
        return ""

    def _runs(self, site: str, job: int) -> bool:
        """Whether the API says so; False if it says nothing."""
        return self._heard(site, job).get("state") in ("launching", "running")

    def _look(self, site: str, job: int) -> Mapping[str, Any]:
        """What `jobs.info` says of a job, from the API while that knows it alive."""
        heard = self._heard(site, job)
        if heard.get("state") not in ("waiting", "launching", "running"):
            return jobs.info(site, job)
        start = heard.get("started_at") or heard.get("scheduled_at")
        return {"state": heard["state"].capitalize(), **({"start_date": float(start)} if start else {})}

    def _heard(self, site: str, job: int) -> Mapping[str, Any]:
        """What the API has on a job; nothing if it does not answer."""
        try:
            return self._api(f"sites/{site}/jobs/{job}")
        except TestbedError as error:
            log.debug("%s", error)
            return {}

    def release(self, held: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """Delete the jobs, and those called ``job_name`` on ``sites``; returns when they have ended.

        The run's public key goes from the frontends, too.
        Not only a killed process loses a job: while OAR's server is down oarsub prints an id, fails, and the
        job runs later all the same.
        """
        known, silent = sorted(set(held)), None
        timeout = self.settings.command_timeout
        # A local testbed that was raised anew counts its jobs from 1 again: an id may be another's.
        names = each(lambda one: self._heard(*one).get("name") or jobs.name_of(*one, timeout), known)
        doomed = {one for one, name in zip(known, names, strict=True) if name in (None, job_name)}
        try:
            doomed |= set(jobs.find(sites, job_name))
        except TestbedError as error:  # what is known is given back all the same
            silent = error
        with ThreadPoolExecutor(max_workers=1) as pool:
            keys = pool.submit(jobs.remove_keys, doomed, timeout)
            jobs.withdraw(doomed, timeout, self.settings.tiny_polling_interval, self._look)
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
        from execo_g5k import Deployment

        key_file = jobs.key_file(*min(reservation.jobs.items()))
        closed = self._put_key(reservation, public_key, key_file)
        nodes: dict[str, list[str]] = {}
        for host in reservation.hosts:
            nodes.setdefault(host.site, []).append(host.name)

        def make(names: Sequence[str]) -> Any:
            options = f"-k {shlex.quote(key_file)}"
            return Deployment(names, env_name=environment, vlan=reservation.vlan, other_options=options)

        # Kadeploy's own word decides which to try again; `configure` finds out which are reachable.
        reachable = {site: names for site, names in nodes.items() if site not in closed}
        failed = kadeploy.deploy(reachable, make, tries=tries, timeout=timeout)
        failed |= {name: why for site, why in closed.items() for name in nodes.get(site, ())}
        for host in reservation.hosts:
            detail = {"environment": environment}
            if why := failed.get(host.name):
                notify(host.name, "failed", {**detail, "reason": why})
            else:
                notify(host.name, "ok", detail)
        return Deployed(
            tuple(
                replace(h, address=_in_vlan(h.name, reservation.vlan))
                for h in reservation.hosts
                if h.name not in failed
            ),
            failed,
        )

    def _put_key(self, reservation: Reservation, public_key: str, name: str) -> dict[str, str]:
        """Leave the run's public key on every frontend for ``kadeploy3 -k``; the sites that refuse."""
        from execo.exception import ProcessesFailed

        command = f"umask 077; printf '%s\\n' {shlex.quote(public_key.strip())} > {shlex.quote(name)}"
        closed = {}

        def put(site: str) -> None:
            process = frontend(site, command, self.settings.command_timeout)
            if not process.ok:
                why = said(ProcessesFailed([process]))
                closed[site] = f"the frontend of {site} did not take the run's public key ({why})"

        each(put, list(reservation.jobs))
        return closed


def _known(known: Mapping[str, Host], site: str, names: Sequence[str]) -> tuple[Host, ...]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TestbedError(f"{site} gave {', '.join(unknown)}, which its reference API does not know")
    return tuple(sorted((known[n] for n in names), key=in_order))


def _in_vlan(name: str, vlan: int | None) -> str:
    if vlan is None:
        return name
    from execo_g5k import get_kavlan_host_name

    return str(get_kavlan_host_name(name, vlan))
