"""The driver of Grid'5000, written only against execo_g5k.

The local testbed is driven by this same code: it answers the same commands and the same API, and only
the `Settings` differ (where the API is, how ssh gets there, how often to poll).

execo keeps its configuration process-wide, so one process speaks to one testbed at a time; `connect`
says so rather than mixing two.
"""

from __future__ import annotations

import logging
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import Host, Reservation, SubNetwork
from g5kvirt.remote import Access
from g5kvirt.testbeds.base import Deployed, Notify, Request

__all__ = ["Grid5000", "Settings"]

T = TypeVar("T")
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
    polling_interval: float = 10.0  #: seconds between two looks at a job
    tiny_polling_interval: float = 2.0
    command_timeout: float = 120.0  #: seconds for one command on a frontend


class Grid5000:
    """A testbed with OAR, Kadeploy3, KaVLAN and the REST reference API on every site."""

    simulated = False
    guest = ""  # QEMU, with KVM or without: the hosts tell

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.name = self.settings.name
        self.real_cores = self.settings.real_cores

    # ---- reaching it ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Configure execo for this testbed and ask its API for a sign of life. Raises TestbedError."""
        s = self.settings
        where = s.api_uri or "grid5000"
        if _connected and _connected[0] != where:
            raise TestbedError(
                f"this process already speaks to the testbed at {_mask(_connected[0])}: execo knows one"
                " testbed a process, so start a new one (in a notebook: restart the kernel)"
            )
        if threading.current_thread() is not threading.main_thread() and not _connected:
            raise TestbedError("the first connection has to be made from the main thread: execo demands it")
        import execo
        import execo.log
        import execo_g5k
        from execo_g5k import api_utils

        if s.ssh_config is not None:
            # The two dicts of execo do not inherit from each other: both get the options.
            for params in (execo.default_connection_params, execo_g5k.default_frontend_connection_params):
                stock = tuple(execo.config.make_default_connection_params()["ssh_options"])
                params["ssh_options"] = ("-F", str(s.ssh_config), *stock)
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
        execo.log.logger.setLevel(logging.ERROR)  # what failed is said by our own errors
        _connected[:] = [where]
        self._api("")

    def access(self, key: str) -> Access:
        """Root on the deployed machines, with the private key file ``key``."""
        return Access(user="root", ssh_config=self.settings.ssh_config, key=Path(key))

    def _api(self, path: str) -> dict[str, Any]:
        from execo_g5k import api_utils

        try:
            answer: dict[str, Any] = api_utils.get_resource_attributes(path)
        except (api_utils.APIException, ValueError) as error:
            raise TestbedError(
                f"the API of the testbed {self.name!r} does not answer at /{path.lstrip('/')}"
                f" ({_mask(_short(error))}): is it up, and are you allowed to use it?"
            ) from error
        return answer

    # ---- what exists ------------------------------------------------------------------------------

    def hosts(self) -> Mapping[str, Sequence[Host]]:
        """Every machine of every site, in the order of cluster and number, from the reference API."""
        sites = [item["uid"] for item in self._api("sites")["items"]]
        return dict(zip(sites, _each(self._hosts_of, sites), strict=True))

    def _hosts_of(self, site: str) -> tuple[Host, ...]:
        found = []
        for cluster in self._api(f"sites/{site}/clusters")["items"]:
            for node in self._api(f"sites/{site}/clusters/{cluster['uid']}/nodes")["items"]:
                found.append(_host(site, cluster["uid"], node))
        return tuple(sorted(found, key=lambda h: (h.cluster, _number(h.name))))

    # ---- reserve ----------------------------------------------------------------------------------

    def reserve(self, request: Request, notify: Notify) -> Reservation:
        """Submit one OAR job a site, wait until all run, read what they were given."""
        sites = sorted(request.machines, key=lambda s: (s != request.vlan_site, s))
        known = {h.name: h for hosts in self.hosts().values() for h in hosts}
        jobs: dict[str, int] = {}
        try:
            _each(lambda site: self._submit(site, request, jobs, notify), sites)
            deadline = time.monotonic() + request.start_timeout
            _each(lambda site: self._wait(site, jobs[site], deadline, notify), sites)
            given = _each(lambda site: self._given(site, jobs[site], known, site == request.vlan_site), sites)
        except BaseException:
            # Also on Ctrl-C: a job that nobody remembers holds machines for its whole walltime.
            self.release(jobs.items(), request.job_name, [site for site in sites if site not in jobs])
            raise
        start = min(info.start for info in given)
        vlan = next((info.vlan for info in given if info.vlan is not None), None)
        return Reservation(
            jobs={site: jobs[site] for site in sites},
            hosts=tuple(h for info in given for h in info.hosts),
            subnetworks=tuple(info.subnetwork for info in given if info.subnetwork is not None),
            vlan=vlan,
            vlan_site=request.vlan_site or None,
            start=start,
            walltime=request.walltime,
        )

    def _submit(self, site: str, request: Request, jobs: dict[str, int], notify: Notify) -> None:
        from execo.exception import ProcessesFailed
        from execo_g5k import OarSubmission, oarsub

        submission = OarSubmission(
            resources=resources(request, site),
            walltime=int(request.walltime),
            job_type="deploy",
            name=request.job_name,
        )
        try:
            [(job, _)] = oarsub([(submission, site)], abort_on_error=True)
        except ProcessesFailed as error:
            raise TestbedError(f"OAR at {site} refused the job: {_said(error)}") from error
        jobs[site] = job
        notify(site, "submitted", {"job": job, "resources": "+".join(submission.resources)})

    def _wait(self, site: str, job: int, deadline: float, notify: Notify) -> None:
        from execo_g5k import wait_oar_job_start

        def predicted(t: float) -> None:
            notify(site, "predicted", {"job": job, "start": t})

        left = max(1.0, deadline - time.monotonic())
        if not wait_oar_job_start(job, site, timeout=left, prediction_callback=predicted):
            state = self._state(site, job) or "unknown"
            if _ended(state):
                raise TestbedError(f"job {job} at {site} ended before it ran ({state}): ask the site why")
            raise TestbedError(
                f"job {job} at {site} did not start within {left:.0f} s ({state}): its machines or its"
                " KaVLAN are taken; ask for fewer machines or another first site, or raise timeouts.reserve"
            )
        notify(site, "running", {"job": job})

    def _given(self, site: str, job: int, known: Mapping[str, Host], with_vlan: bool) -> _Given:
        from execo.exception import ProcessesFailed
        from execo_g5k import get_oar_job_info, get_oar_job_kavlan, get_oar_job_nodes, get_oar_job_subnets

        questions: list[Callable[[int, str], Any]] = [
            get_oar_job_nodes,
            get_oar_job_subnets,
            get_oar_job_info,
        ]
        if with_vlan:
            questions.append(get_oar_job_kavlan)
        try:
            nodes, (addresses, parameters), info, *more = _each(lambda ask: ask(job, site), questions)
        except ProcessesFailed as error:
            raise TestbedError(f"{site} does not say what job {job} was given: {_said(error)}") from error
        names = [node.address for node in nodes]
        vlans = more[0] if more else []
        start = float(info.get("start_date", time.time()))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise TestbedError(f"{site} gave {', '.join(unknown)}, which its reference API does not know")
        if with_vlan and not vlans:
            raise TestbedError(f"job {job} at {site} runs, but has no KaVLAN: ask the site, or try another")
        return _Given(
            tuple(sorted((known[n] for n in names), key=lambda h: (h.cluster, _number(h.name)))),
            _subnetwork(site, addresses, parameters),
            vlans[0] if vlans else None,
            start,
        )

    def alive(self, reservation: Reservation) -> bool:
        """True while all jobs run."""
        states = _each(lambda item: self._state(*item), list(reservation.jobs.items()))
        return all(state == "Running" for state in states)

    def release(self, jobs: Iterable[tuple[str, int]], job_name: str, sites: Sequence[str]) -> None:
        """Delete the jobs, and those called ``job_name`` on ``sites``; returns when they have ended.

        The run's public key goes from the frontends, too.
        Not only a killed process loses a job: while OAR's server is down oarsub prints an id, fails, and the
        job runs later all the same. execo's oardel reports nothing, so the jobs themselves are asked.
        """
        from execo.exception import ProcessesFailed
        from execo_g5k import get_current_oar_jobs, get_oar_job_info, oardel

        doomed = set(jobs)
        try:
            for job, site in get_current_oar_jobs(list(sites), abort_on_error=True) if sites else ():
                if get_oar_job_info(job, site).get("name") == job_name:
                    doomed.add((site, job))
        except ProcessesFailed as error:
            raise TestbedError(
                f"nobody says which jobs are left: {_said(error)}; call release() again"
            ) from error
        with ThreadPoolExecutor(max_workers=1) as pool:
            keys = pool.submit(self._remove_keys, frozenset(doomed))
            oardel([(job, site) for site, job in sorted(doomed)])
            deadline = time.monotonic() + self.settings.command_timeout
            while doomed := {(site, job) for site, job in doomed if not _ended(self._state(site, job))}:
                if time.monotonic() > deadline:
                    left = ", ".join(f"{job} at {site}" for site, job in sorted(doomed))
                    raise TestbedError(f"these jobs could not be deleted: {left}; call release() again")
                time.sleep(self.settings.tiny_polling_interval)
            keys.result()

    def _state(self, site: str, job: int) -> str:
        """OAR's word for the state of a job; empty if nobody answers."""
        from execo_g5k import get_oar_job_info

        info = get_oar_job_info(job, site, nolog_exit_code=True, nolog_timeout=True, nolog_error=True)
        return str(info.get("state", ""))

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
        from execo_g5k import deploy as kadeploy

        key_file = self._put_key(reservation, public_key)
        names = [host.name for host in reservation.hosts]
        deployment = Deployment(
            names, env_name=environment, vlan=reservation.vlan, other_options=f"-k {shlex.quote(key_file)}"
        )
        lines: list[str] = []
        done, _ = kadeploy(
            deployment,
            # Kadeploy's own word decides which to try again; `configure` finds out which are reachable.
            check_deployed_command=None,
            num_tries=tries,
            deploy_timeout=timeout,
            stdout_handlers=[_collector(lines)],
        )
        reached = {str(getattr(host, "address", host)) for host in done}
        for name in names:
            notify(name, "ok" if name in reached else "failed", {"environment": environment})
        said = " / ".join(lines[-3:])
        return Deployed(
            tuple(
                replace(h, address=_in_vlan(h.name, reservation.vlan))
                for h in reservation.hosts
                if h.name in reached
            ),
            {name: f"Kadeploy3 did not deploy it: {said}" for name in names if name not in reached},
        )

    def _put_key(self, reservation: Reservation, public_key: str) -> str:
        """Leave the run's public key on every frontend for ``kadeploy3 -k``; returns its name there."""
        from execo.exception import ProcessesFailed

        name = _key_file(*min(reservation.jobs.items()))
        command = f"umask 077; printf '%s\\n' {shlex.quote(public_key.strip())} > {shlex.quote(name)}"

        def put(site: str) -> None:
            process = self._on_frontend(site, command)
            if not process.ok:
                said = _said(ProcessesFailed([process]))
                raise TestbedError(f"the frontend of {site} did not take the run's public key: {said}")

        _each(put, list(reservation.jobs))
        return name

    def _remove_keys(self, jobs: Iterable[tuple[str, int]]) -> None:
        """Remove what `_put_key` left; what a frontend does not remove does no harm there."""
        known = sorted(set(jobs))
        command = "rm -f -- " + " ".join(shlex.quote(_key_file(site, job)) for site, job in known)
        _each(lambda site: self._on_frontend(site, command), sorted({site for site, _ in known}))

    def _on_frontend(self, site: str, command: str) -> Any:
        """Run a shell command on a frontend; execo's process, which has ended."""
        import execo
        from execo_g5k import default_frontend_connection_params
        from execo_g5k.utils import get_frontend_host

        process = execo.SshProcess(
            command,
            get_frontend_host(site),
            connection_params=default_frontend_connection_params,
            timeout=self.settings.command_timeout,
            nolog_error=True,
            nolog_timeout=True,
            nolog_exit_code=True,
        )
        process.run()
        return process


@dataclass(frozen=True)
class _Given:
    hosts: tuple[Host, ...]
    subnetwork: SubNetwork | None
    vlan: int | None
    start: float


def _key_file(site: str, job: int) -> str:
    """What a run's public key is called on the frontends; ``site`` and ``job``: the first of its jobs."""
    return f".g5kvirt-{site}-{job}.pub"


def _ended(state: str) -> bool:
    return state in ("Terminated", "Error", "Finishing")


def resources(request: Request, site: str) -> list[str]:
    """The parts of ``oarsub -l`` for one site: KaVLAN, sub-network, machines."""
    parts = []
    if site == request.vlan_site:
        parts.append("{type='kavlan-global'}/vlan=1")
    if site in request.subnetworks:
        parts.append(f"slash_{request.subnetworks[site]}=1")
    cluster = request.clusters.get(site)
    where = f"{{cluster='{cluster}'}}/" if cluster else ""
    parts.append(f"{where}nodes={request.machines[site]}")
    return parts


def _host(site: str, cluster: str, node: Mapping[str, Any]) -> Host:
    mounted = [a for a in node.get("network_adapters", ()) if a.get("mounted") and not a.get("management")]
    nic: Mapping[str, Any] = mounted[0] if mounted else {}
    return Host(
        name=nic.get("network_address") or f"{node['uid']}.{site}.grid5000.fr",
        site=site,
        cluster=cluster,
        cores=int(node["architecture"]["nb_cores"]),
        memory=int(node["main_memory"]["ram_size"]),
        nic_rate=float(nic.get("rate") or 1e9),
        switch=str(nic.get("switch") or ""),
    )


def _subnetwork(
    site: str, addresses: Sequence[tuple[str, str]], parameters: Mapping[str, str]
) -> SubNetwork | None:
    if "ip_prefix" in parameters:
        network = IPv4Network(parameters["ip_prefix"])
    elif addresses:
        numbers = [int(IPv4Address(ip)) for ip, _ in addresses]
        low, high = min(numbers), max(numbers)
        network = IPv4Network((low, 32)).supernet(new_prefix=32 - (low ^ high).bit_length())
    else:
        return None
    gateway = parameters.get("gateway")
    return SubNetwork(site, network, IPv4Address(gateway) if gateway else None)


def _in_vlan(name: str, vlan: int | None) -> str:
    if vlan is None:
        return name
    from execo_g5k import get_kavlan_host_name

    return str(get_kavlan_host_name(name, vlan))


def _number(name: str) -> int:
    found = re.match(r"\w+-(\d+)", name)
    return int(found[1]) if found else 0


def _collector(lines: list[str]) -> Any:
    from execo import ProcessOutputHandler

    class Collector(ProcessOutputHandler):  # type: ignore[misc]  # execo is not typed
        def read_line(self, process: Any, stream: Any, string: str) -> None:
            text = string.strip()
            if text:
                lines.append(text)

    return Collector()


def _each(do: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """``do`` for all items side by side; waits for all, then raises the first error if there was one."""
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(items)))) as pool:
        futures = [pool.submit(do, item) for item in items]
    return [future.result() for future in futures]


def _said(failed: Any) -> str:
    """The last words of the processes of an execo ProcessesFailed."""
    words = []
    for process in failed.processes:
        text = f"{process.stdout}\n{process.stderr}"
        # ssh's own good-bye is not what the program said.
        last = [w for line in text.splitlines() if (w := line.strip()) and not w.startswith("Connection to ")]
        words.append(last[-1] if last else f"exit code {process.exit_code}")
    return "; ".join(words) or "no answer"


def _short(error: Exception) -> str:
    cause = getattr(error, "exception", None) or error
    text = str(cause)
    return text if len(text) < 200 else text[:200] + "…"


def _mask(text: str) -> str:
    """Without the password of a URL."""
    return re.sub(r"//[^/@\s]*@", "//", text)
