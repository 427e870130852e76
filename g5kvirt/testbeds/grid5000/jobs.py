"""OAR's jobs, by execo_g5k: submitted, found again, waited for, read and deleted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import SubNetwork
from g5kvirt.spec.clock import oar_date
from g5kvirt.testbeds.base import Notify, ReservationRequest
from g5kvirt.testbeds.grid5000.frontends import (
    failure_reason,
    output_lines,
    process_failure,
    run_on_frontend,
    ssh_failure,
)
from g5kvirt.testbeds.grid5000.oar import has_ended, is_usable, oarstat_fields, refusal_reason
from g5kvirt.testbeds.parallel import for_each

__all__ = [
    "Allocation",
    "allocation",
    "delete",
    "find",
    "info",
    "job_name",
    "key_file",
    "matches_request",
    "not_listed",
    "oarstat",
    "remove_keys",
    "resources",
    "submit",
    "wait_until_running",
]

_LONGEST_PAUSE = 60.0  #: seconds between two polls of a job that starts much later
_CLOSE = 90.0  #: seconds before its start from which on a job is polled often


# ---- submitting -------------------------------------------------------------------------------------


def resources(request: ReservationRequest, site: str) -> list[str]:
    """The parts of ``oarsub -l`` for one site: KaVLAN, sub-network, machines."""
    parts = []
    if site == request.vlan_site:
        parts.append("{type='kavlan-global'}/vlan=1")
    if site in request.subnetworks:
        parts.append(f"slash_{request.subnetworks[site]}=1")
    conditions = []
    if cluster := request.clusters.get(site):
        conditions.append(f"cluster='{cluster}'")
    if request.properties:
        conditions.append(f"({request.properties})")
    where = f"{{{' AND '.join(conditions)}}}/" if conditions else ""
    parts.append(f"{where}nodes={request.machines[site]}")
    return parts


def submission(request: ReservationRequest, site: str, start: float | None) -> Any:
    """execo's description of the job for one site; ``start``: of an advance reservation."""
    from execo_g5k import OarSubmission

    return OarSubmission(
        resources=resources(request, site),
        walltime=int(request.walltime),
        job_type="deploy",
        name=request.job_name,
        queue=request.queue,
        project=request.project,
        reservation_date=start,
    )


def submit(site: str, request: ReservationRequest, start: float | None) -> int:
    """Submit the job for one site; its id. Raises TestbedError with OAR's reason if it is refused."""
    from execo.exception import ProcessesFailed
    from execo_g5k import oarsub

    try:
        [(job, _)] = oarsub([(submission(request, site, start), site)], abort_on_error=True)
    except ProcessesFailed as error:
        of = f" (properties: {request.properties})" if request.properties else ""
        raise TestbedError(f"OAR at {site} refused the job: {_refusals(error)}{of}") from error
    return int(job)


def _refusals(failed: Any) -> str:
    """Why oarsub refused, from the processes of an execo ProcessesFailed."""
    reasons = [
        ssh_failure(process) or refusal_reason(output_lines(process)) or process_failure(process)
        for process in failed.processes
    ]
    return "; ".join(dict.fromkeys(reasons)) or "no answer"


# ---- finding again ----------------------------------------------------------------------------------


def find(sites: Collection[str], name: str) -> list[tuple[str, int]]:
    """(site, id) of the jobs called ``name`` on ``sites`` that have not ended. Raises TestbedError."""
    return [one for own in for_each(lambda site: _find_at(site, name), list(sites)) for one in own]


def not_listed(site: str, reason: str) -> TestbedError:
    """The error for a site whose jobs are not known."""
    return TestbedError(
        f"the jobs that are left at {site} cannot be listed ({reason})",
        advice="try again when its frontend and OAR answer",
    )


def _find_at(site: str, name: str) -> list[tuple[str, int]]:
    from execo.exception import ProcessesFailed
    from execo_g5k import get_current_oar_jobs, get_oar_job_info

    try:
        known = [(site, job) for job, _ in get_current_oar_jobs([site], abort_on_error=True)]
        names = for_each(lambda one: get_oar_job_info(one[1], one[0]).get("name"), known)
    except ProcessesFailed as error:
        raise not_listed(site, failure_reason(error)) from error
    return [one for one, own in zip(known, names, strict=True) if own == name]


def matches_request(printed: str, request: ReservationRequest, site: str) -> bool:
    """Whether a job, as ``oarstat -f`` prints it, is what the request would submit, and is usable. Pure.

    OAR keeps the command line with which a job was submitted. A job without one does not match.
    """
    found = oarstat_fields(printed)
    submitted = f"{found.get('initial_request', '')} "
    walltime = "{}:{}:{}".format(*_hms(int(request.walltime)))
    wanted = [f" -l {'+'.join(resources(request, site))},walltime={walltime} "]
    for option, value in (("-q", request.queue), ("--project", request.project)):
        if value is not None:
            wanted.append(f" {option} {value} ")
        elif f" {option} " in submitted:
            return False
    if not isinstance(request.start, str):
        wanted.append(f" -r {oar_date(request.start)} ")
    usable = is_usable(found.get("state", ""))
    return usable and found.get("name") == request.job_name and all(w in submitted for w in wanted)


def _hms(seconds: int) -> tuple[int, int, int]:
    """As execo writes a walltime: ``0:10:0``."""
    return seconds // 3600, seconds // 60 % 60, seconds % 60


def oarstat(site: str, job: int, timeout: float) -> str | None:
    """What ``oarstat -f`` prints about a job, "" if there is none; None if the frontend does not answer."""
    process = run_on_frontend(site, f"oarstat -fj {int(job)}", timeout)
    return str(process.stdout) if process.ok else None


def job_name(site: str, job: int, timeout: float) -> str | None:
    """The name of a job; "" if the site's OAR has no such job, None if the frontend does not answer."""
    printed = oarstat(site, job, timeout)
    return None if printed is None else oarstat_fields(printed).get("name", "")


# ---- waiting ----------------------------------------------------------------------------------------


def info(site: str, job: int) -> Mapping[str, Any]:
    """What execo reads of ``oarstat``; empty if the frontend does not answer in time."""
    from execo_g5k import get_oar_job_info

    found: dict[str, Any] = get_oar_job_info(
        job, site, nolog_exit_code=True, nolog_timeout=True, nolog_error=True
    )
    return found


JobInfo = Callable[[str, int], Mapping[str, Any]]  #: (site, job) → what `info` gives


def polling_delay(starts: Iterable[float], now: float, often: float, seldom: float) -> float:
    """Seconds until the next poll of jobs that are to start at these times. Pure.

    Long while all starts are far away, and in time for the first; a job that is due or has no time yet is
    polled every ``often`` seconds.
    """
    ahead = [start - now for start in starts]
    if not ahead or min(ahead) <= 0:
        return often
    nearest = min(ahead)
    if nearest > _CLOSE:
        return min(_LONGEST_PAUSE, nearest - _CLOSE + seldom)
    return min(seldom, max(often, nearest))


def wait_until_running(
    jobs: Mapping[str, int],
    deadline: float,
    seldom: float,
    often: float,
    notify: Notify,
    *,
    fixed: bool,
    job_info: JobInfo = info,
) -> dict[str, float]:
    """Wait until all jobs (site → id) run; returns when each has started. Each predicted start is notified.

    ``fixed``: they are advance reservations, which do not start earlier than predicted, and are polled less.
    ``deadline`` is in seconds since the epoch. Raises TestbedError if a job ends or does not start in time.

    execo's own wait uses all the time that is left as the time-out of one request, hours for a start
    tomorrow, and polls one job only: another that was deleted meanwhile would go unnoticed.
    """
    waiting = dict(jobs)
    predicted: dict[str, float] = {}
    began: dict[str, float] = {}
    while True:
        infos = for_each(lambda site: job_info(site, waiting[site]), list(waiting))
        found = dict(zip(waiting, infos, strict=True))
        for site, job_now in found.items():
            job, state = waiting[site], str(job_now.get("state", ""))
            start = job_now.get("start_date", job_now.get("scheduled_start"))
            if state == "Running":
                del waiting[site]
                began[site] = time.time() if start is None else float(start)
                notify(site, "running", {"job": job})
            elif has_ended(state):
                raise TestbedError(
                    f"job {job} at {site} ended before it ran (state {state})", advice="ask the site why"
                )
            elif start is not None and start != predicted.get(site):
                predicted[site] = float(start)
                notify(site, "predicted", {"job": job, "start": float(start)})
        if not waiting:
            return began
        now = time.time()
        if now >= deadline:
            site, job = next(iter(waiting.items()))
            raise _late(site, job, str(found[site].get("state", "")), predicted.get(site))
        starts = [predicted[site] for site in waiting if site in predicted]
        delay = polling_delay(starts if len(starts) == len(waiting) else [], now, often, seldom)
        time.sleep(max(0.05, min(delay if fixed else min(delay, seldom), deadline - now)))


def _late(site: str, job: int, state: str, predicted: float | None) -> TestbedError:
    if not state:
        return TestbedError(
            f"whether job {job} at {site} has started is not known: neither its API nor its frontend answers",
            advice="try again when the site is up, or request others",
        )
    when = "" if predicted is None else f", expected at {oar_date(predicted)} in Paris"
    return TestbedError(
        f"job {job} at {site} did not start in time ({state}{when})",
        advice="its machines or its KaVLAN are in use; request fewer machines, put another site first, raise"
        ' timeouts.reserve, or use start="first"',
    )


# ---- what a job was given ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Allocation:
    """What a job was given."""

    names: tuple[str, ...]  #: of the machines
    subnetwork: SubNetwork | None
    vlan: int | None


def allocation(site: str, job: int, with_vlan: bool) -> Allocation:
    """What a running job was given. Raises TestbedError if that cannot be read, or has no KaVLAN."""
    from execo.exception import ProcessesFailed
    from execo_g5k import get_oar_job_kavlan, get_oar_job_nodes, get_oar_job_subnets

    readers: list[Callable[[int, str], Any]] = [get_oar_job_nodes, get_oar_job_subnets]
    if with_vlan:
        readers.append(get_oar_job_kavlan)
    try:
        nodes, (addresses, parameters), *more = for_each(lambda read: read(job, site), readers)
    except ProcessesFailed as error:
        raise TestbedError(
            f"what job {job} at {site} was given cannot be read ({failure_reason(error)})",
            advice="call reserve() again",
        ) from error
    vlans = more[0] if more else []
    if with_vlan and not vlans:
        raise TestbedError(
            f"job {job} at {site} runs, but has no KaVLAN", advice="ask the site, or put another one first"
        )
    return Allocation(
        tuple(node.address for node in nodes),
        subnetwork(site, addresses, parameters),
        vlans[0] if vlans else None,
    )


def subnetwork(
    site: str, addresses: Sequence[tuple[str, str]], parameters: Mapping[str, str]
) -> SubNetwork | None:
    """A job's sub-network, from the output of ``g5k-subnets``."""
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


# ---- deleting ---------------------------------------------------------------------------------------


#: Seconds after which the deletion of a job that is still there is sent again.
_DELETE_AGAIN = 5.0
#: Seconds that one deletion may take: a frontend that hangs keeps the others from being told again.
_DELETE_LIMIT = 15.0
#: Seconds in which a site must have said anything about a job, for it to be waited for any longer.
_SILENT_LIMIT = 30.0


def delete(jobs: Iterable[tuple[str, int]], timeout: float, often: float, job_info: JobInfo = info) -> None:
    """Delete the jobs (site, id), and wait until they have ended. Raises TestbedError if one is left.

    execo's oardel reports nothing, and a frontend may be unreachable at that moment: so the jobs themselves
    are polled, by ``job_info`` as in `wait_until_running`, and finally by `info`, and those that are left are
    deleted again every `_DELETE_AGAIN` seconds. A site that does not answer at all is waited for only
    `_SILENT_LIMIT` seconds.
    """
    from execo_g5k import oardel

    left = set(jobs)
    begun = time.monotonic()
    deadline, again = begun + timeout, begun
    last_answer = dict.fromkeys(left, begun)
    while left:
        if time.monotonic() >= again:
            oardel([(job, site) for site, job in sorted(left)], timeout=min(_DELETE_LIMIT, timeout))
            again = time.monotonic() + _DELETE_AGAIN
        infos = _infos(left, job_info)
        now = time.monotonic()
        last_answer |= {one: now for one, found in infos.items() if found}
        left = _not_ended(infos)
        if left and (now > deadline or all(now - last_answer[one] > _SILENT_LIMIT for one in left)):
            if not (left := _not_ended(_infos(left, info))):
                return
            names = ", ".join(f"{job} at {site}" for site, job in sorted(left))
            raise TestbedError(f"these jobs could not be deleted: {names}", advice="call release() again")
        if left:
            time.sleep(often)


def _infos(jobs: Collection[tuple[str, int]], job_info: JobInfo) -> dict[tuple[str, int], Mapping[str, Any]]:
    """What is known of each job; empty for one whose site does not answer."""
    ordered = sorted(jobs)
    return dict(zip(ordered, for_each(lambda one: job_info(*one), ordered), strict=True))


def _not_ended(infos: Mapping[tuple[str, int], Mapping[str, Any]]) -> set[tuple[str, int]]:
    """Those that have not ended, as far as known."""
    return {one for one, found in infos.items() if not has_ended(str(found.get("state", "")))}


def key_file(site: str, job: int) -> str:
    """File name of a run's public key on the frontends; ``site`` and ``job``: the first of its jobs."""
    return f".g5kvirt-{site}-{job}.pub"


def remove_keys(jobs: Iterable[tuple[str, int]], timeout: float) -> None:
    """Remove the public keys of these jobs from the frontends; a key that stays there does no harm."""
    known = sorted(set(jobs))
    command = "rm -f -- " + " ".join(shlex.quote(key_file(site, job)) for site, job in known)
    for_each(lambda site: run_on_frontend(site, command, timeout), sorted({site for site, _ in known}))
