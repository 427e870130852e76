"""OAR's jobs: submitted, found again, waited for and deleted, by commands on the frontends.

Over execo's connections, but not with execo_g5k's readers: those take every word or number that comes over a
connection for the answer, also what a login shell and its start-up files print.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.run.printable import short
from g5kvirt.spec.clock import oar_date
from g5kvirt.spec.job_options import JOB_TYPES
from g5kvirt.testbeds.base import Notify, ReservationRequest
from g5kvirt.testbeds.grid5000.answers import Answer, quoted, unreadable
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend
from g5kvirt.testbeds.grid5000.granted import Allocation, allocation
from g5kvirt.testbeds.grid5000.oar import (
    has_ended,
    is_about,
    is_usable,
    listed_jobs,
    oarstat_fields,
    oarstat_info,
    refusal_reason,
    submitted_job,
)
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
    "submission",
    "submit",
    "wait_until_running",
]

_LONGEST_PAUSE = 60.0  #: seconds between two polls of a job that starts much later
#: Connections to one frontend at once, at most: its sshd refuses some of more than ten that log in.
_AT_ONCE = 4
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
        job_type=["deploy", *request.job_types],
        name=request.job_name,
        queue=request.queue,
        project=request.project,
        reservation_date=start,
    )


def submit(site: str, request: ReservationRequest, start: float | None) -> int:
    """Submit the job for one site; its id. Raises TestbedError with OAR's reason if it is refused."""
    from execo_g5k.oar import get_oarsub_commandline

    # Remarks and reasons are distinguished by their wording, because they are on different streams.
    answer = run_on_frontend(site, f"{get_oarsub_commandline(submission(request, site, start))} 2>&1")
    job = submitted_job(answer.lines)
    if answer.ok and job is not None:
        return job
    of = f" (properties: {request.properties})" if request.properties else ""
    why = answer.failure
    if answer.code is not None:
        why = refusal_reason([line.strip() for line in answer.lines])
        why = why or (
            f"it gave no reason, only {quoted(answer.lines)}" if answer.lines else "it printed nothing"
        )
    raise TestbedError(f"OAR at {site} refused the job: {why}{of}")


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
    listing = run_on_frontend(site, "oarstat -u")
    known = listed_jobs(listing.lines) if listing.ok else None
    if known is None:
        raise not_listed(site, listing.failure or unreadable(listing))
    printed = for_each(lambda job: oarstat(site, job), known, _AT_ONCE)
    if silent := [answer.failure for answer in printed if not answer.ok]:
        raise not_listed(site, silent[0])
    names = [oarstat_fields(answer.text).get("name") for answer in printed]
    return [(site, job) for job, own in zip(known, names, strict=True) if own == name]


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
    for kind in JOB_TYPES:
        if kind in request.job_types:
            wanted.append(f" -t {kind} ")
        elif f" -t {kind} " in submitted:
            return False
    if not isinstance(request.start, str):
        wanted.append(f" -r {oar_date(request.start)} ")
    usable = is_usable(found.get("state", ""))
    return usable and found.get("name") == request.job_name and all(w in submitted for w in wanted)


def _hms(seconds: int) -> tuple[int, int, int]:
    """As execo writes a walltime: ``0:10:0``."""
    return seconds // 3600, seconds // 60 % 60, seconds % 60


def oarstat(site: str, job: int, timeout: float | None = None) -> Answer:
    """What ``oarstat -f`` prints about a job, nothing if there is none; not ok if that cannot be read."""
    answer = run_on_frontend(site, f"oarstat -fj {int(job)}", timeout)
    if answer.ok and not is_about(answer.text, job):
        return replace(answer, code=None, failure=unreadable(answer))
    return answer


def job_name(site: str, job: int, timeout: float) -> str | None:
    """The name of a job; "" if the site's OAR has no such job, None if the frontend does not answer."""
    answer = oarstat(site, job, timeout)
    return oarstat_fields(answer.text).get("name", "") if answer.ok else None


# ---- waiting ----------------------------------------------------------------------------------------


def info(site: str, job: int) -> Mapping[str, Any]:
    """What `oarstat_info` reads of ``oarstat``; only ``failure`` if there is no good answer in time."""
    answer = oarstat(site, job)
    return oarstat_info(answer.text) if answer.ok else {"failure": answer.failure}


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
            raise _late(site, job, found[site], predicted.get(site))
        starts = [predicted[site] for site in waiting if site in predicted]
        delay = polling_delay(starts if len(starts) == len(waiting) else [], now, often, seldom)
        time.sleep(max(0.05, min(delay if fixed else min(delay, seldom), deadline - now)))


def _late(site: str, job: int, found: Mapping[str, Any], predicted: float | None) -> TestbedError:
    state = found.get("state")
    if not state:
        failure = f" ({found['failure']})" if found.get("failure") else ""
        return TestbedError(
            f"whether job {job} at {site} has started is not known: neither its API nor its frontend"
            f" answers{failure}",
            advice="try again when the site is up, or request others",
        )
    when = "" if predicted is None else f", expected at {oar_date(predicted)} in Paris"
    return TestbedError(
        f"job {job} at {site} did not start in time ({short(str(state))}{when})",
        advice="its machines or its KaVLAN are in use; request fewer machines, put another site first, raise"
        ' timeouts.reserve, or use start="first"',
    )


# ---- deleting ---------------------------------------------------------------------------------------


#: Seconds after which the deletion of a job that is still there is sent again.
_DELETE_AGAIN = 5.0
#: Seconds that one deletion may take, so that a frontend that hangs does not delay the others.
_DELETE_LIMIT = 15.0
#: Seconds without any answer from a site about a job after which it is no longer waited for.
_SILENT_LIMIT = 30.0


def delete(jobs: Iterable[tuple[str, int]], timeout: float, often: float, job_info: JobInfo = info) -> None:
    """Delete the jobs (site, id), and wait until they have ended. Raises TestbedError if one is left.

    oardel may be lost on its way, and a frontend may be unreachable at that moment: so the jobs themselves
    are polled, by ``job_info`` as in `wait_until_running`, and finally by `info`, and those that are left are
    deleted again every `_DELETE_AGAIN` seconds. A site that does not answer at all is waited for only
    `_SILENT_LIMIT` seconds.
    """
    left = set(jobs)
    begun = time.monotonic()
    deadline, again = begun + timeout, begun
    last_answer = dict.fromkeys(left, begun)
    refused: Mapping[str, str] = {}
    while left:
        if time.monotonic() >= again:
            refused = _oardel(left, min(_DELETE_LIMIT, timeout))
            again = time.monotonic() + _DELETE_AGAIN
        infos = _infos(left, job_info)
        now = time.monotonic()
        last_answer |= {one: now for one, found in infos.items() if found.get("state")}
        left = _not_ended(infos)
        if left and (now > deadline or all(now - last_answer[one] > _SILENT_LIMIT for one in left)):
            if not (left := _not_ended(_infos(left, info))):
                return
            names = ", ".join(f"{job} at {site}" for site, job in sorted(left))
            reasons = [why for site, why in sorted(refused.items()) if why and site in dict(left)]
            why = f" ({reasons[0]})" if reasons else ""
            raise TestbedError(
                f"these jobs could not be deleted: {names}{why}", advice="call release() again"
            )
        if left:
            time.sleep(often)


def _oardel(jobs: Collection[tuple[str, int]], timeout: float) -> Mapping[str, str]:
    """Ask OAR to delete the jobs; site → why that failed. It also fails for a job that has just ended."""
    sites = sorted({site for site, _ in jobs})

    def ask(site: str) -> str:
        numbers = " ".join(str(int(job)) for where, job in sorted(jobs) if where == site)
        return run_on_frontend(site, f"oardel {numbers}", timeout).failure

    return dict(zip(sites, for_each(ask, sites), strict=True))


def _infos(jobs: Collection[tuple[str, int]], job_info: JobInfo) -> dict[tuple[str, int], Mapping[str, Any]]:
    """What is known of each job; no state for one whose site does not answer."""
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
