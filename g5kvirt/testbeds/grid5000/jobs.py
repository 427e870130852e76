"""OAR's jobs, by execo_g5k: how they are asked for, found again, waited for and given back."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import SubNetwork
from g5kvirt.spec.clock import oar_date
from g5kvirt.testbeds.base import Notify, Request
from g5kvirt.testbeds.grid5000.frontends import each, frontend, refusal, said

__all__ = ["Given", "ended", "find", "fits", "given", "info", "resources", "submit", "wait", "withdraw"]

_NAP = 60.0  #: seconds between two looks at a job that starts much later
_CLOSE = 90.0  #: seconds before its start from which on a job is looked at often


# ---- asking -----------------------------------------------------------------------------------------


def resources(request: Request, site: str) -> list[str]:
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


def submission(request: Request, site: str, start: float | None) -> Any:
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


def submit(site: str, request: Request, start: float | None) -> int:
    """Submit the job for one site; its id. Raises TestbedError with OAR's reason if it is refused."""
    from execo.exception import ProcessesFailed
    from execo_g5k import oarsub

    try:
        [(job, _)] = oarsub([(submission(request, site, start), site)], abort_on_error=True)
    except ProcessesFailed as error:
        of = f" (asked for {request.properties!r})" if request.properties else ""
        raise TestbedError(f"OAR at {site} refused the job: {refusal(error)}{of}") from error
    return int(job)


# ---- finding again ----------------------------------------------------------------------------------


def find(sites: Collection[str], name: str) -> list[tuple[str, int]]:
    """(site, id) of the jobs called ``name`` on ``sites`` that have not ended. Raises TestbedError."""
    from execo.exception import ProcessesFailed
    from execo_g5k import get_current_oar_jobs, get_oar_job_info

    if not sites:
        return []
    try:
        known = [(site, job) for job, site in get_current_oar_jobs(list(sites), abort_on_error=True)]
        names = each(lambda one: get_oar_job_info(one[1], one[0]).get("name"), known)
    except ProcessesFailed as error:
        raise TestbedError(
            f"nobody says which jobs are left at {', '.join(sites)} ({said(error)}): call release() again"
        ) from error
    return [one for one, own in zip(known, names, strict=True) if own == name]


def fits(printed: str, request: Request, site: str) -> bool:
    """Whether a job, as ``oarstat -f`` prints it, is what would be asked for now, and has not ended. Pure.

    OAR keeps the words with which a job was asked for. A job whose words are not told does not fit.
    """
    found = _fields(printed)
    asked = f"{found.get('initial_request', '')} "
    walltime = "{}:{}:{}".format(*_hms(int(request.walltime)))
    wanted = [f" -l {'+'.join(resources(request, site))},walltime={walltime} "]
    for option, value in (("-q", request.queue), ("--project", request.project)):
        if value is not None:
            wanted.append(f" {option} {value} ")
        elif f" {option} " in asked:
            return False
    if not isinstance(request.start, str):
        wanted.append(f" -r {oar_date(request.start)} ")
    alive = found.get("state", "") in ("Waiting", "toLaunch", "Launching", "Running", "toAckReservation")
    return alive and found.get("name") == request.job_name and all(words in asked for words in wanted)


def _hms(seconds: int) -> tuple[int, int, int]:
    """As execo writes a walltime: ``0:10:0``."""
    return seconds // 3600, seconds // 60 % 60, seconds % 60


def describe(site: str, job: int, timeout: float) -> str:
    """What ``oarstat -f`` prints about a job; empty if nobody answers."""
    return _oarstat(site, job, timeout) or ""


def name_of(site: str, job: int, timeout: float) -> str | None:
    """What a job is called; "" if the site's OAR has no such job, None if nobody answers."""
    printed = _oarstat(site, job, timeout)
    return None if printed is None else _fields(printed).get("name", "")


def _oarstat(site: str, job: int, timeout: float) -> str | None:
    """What is printed about a job, nothing if there is none; None if nobody answers."""
    process = frontend(site, f"oarstat -fj {int(job)}", timeout)
    return str(process.stdout) if process.ok else None


def _fields(printed: str) -> dict[str, str]:
    """What ``oarstat -f`` printed, by its names."""
    return dict(re.findall(r"^ *(\w+) = (.*?)\s*$", printed, re.MULTILINE))


# ---- waiting ----------------------------------------------------------------------------------------


def ended(state: str) -> bool:
    """Whether a job in this state has no machines any more, nor will have."""
    return state in ("Terminated", "Error", "Finishing")


def info(site: str, job: int) -> Mapping[str, Any]:
    """What execo reads of ``oarstat``; empty if nobody answers in time."""
    from execo_g5k import get_oar_job_info

    found: dict[str, Any] = get_oar_job_info(
        job, site, nolog_exit_code=True, nolog_timeout=True, nolog_error=True
    )
    return found


Look = Callable[[str, int], Mapping[str, Any]]  #: how a job at a site is, in the words of `info`


def pause(starts: Iterable[float], now: float, often: float, seldom: float) -> float:
    """How long to wait until the next look at jobs that are to start at these times. Pure.

    Seldom while all starts are far away, and in time for the first; a job that is due or has no time yet is
    looked at as often as is polite.
    """
    ahead = [start - now for start in starts]
    if not ahead or min(ahead) <= 0:
        return often
    nearest = min(ahead)
    if nearest > _CLOSE:
        return min(_NAP, nearest - _CLOSE + seldom)
    return min(seldom, max(often, nearest))


def wait(
    jobs: Mapping[str, int],
    deadline: float,
    seldom: float,
    often: float,
    notify: Notify,
    *,
    fixed: bool,
    look: Look = info,
) -> dict[str, float]:
    """Until all jobs run; each prediction of a start is told when it changes. Returns when each has started.

    ``fixed``: they are advance reservations, which do not start earlier than said, and are looked at less.
    ``look`` says of a site and a job what `info` does.

    execo's own wait asks with all the time that is left as the bound of one question, hours for a start
    tomorrow, and looks at one job only: another that was deleted meanwhile would go unnoticed. ``deadline``
    is in seconds since the epoch. Raises TestbedError if a job ends or does not start in time.
    """
    waiting = dict(jobs)
    predicted: dict[str, float] = {}
    began: dict[str, float] = {}
    while True:
        found = dict(zip(waiting, each(lambda site: look(site, waiting[site]), list(waiting)), strict=True))
        for site, heard in found.items():
            job, state = waiting[site], str(heard.get("state", ""))
            start = heard.get("start_date", heard.get("scheduled_start"))
            if state == "Running":
                del waiting[site]
                began[site] = time.time() if start is None else float(start)
                notify(site, "running", {"job": job})
            elif ended(state):
                raise TestbedError(f"job {job} at {site} ended before it ran ({state}): ask the site why")
            elif start is not None and start != predicted.get(site):
                predicted[site] = float(start)
                notify(site, "predicted", {"job": job, "start": float(start)})
        if not waiting:
            return began
        now = time.time()
        if now >= deadline:
            site, job = next(iter(waiting.items()))
            state = str(found[site].get("state", "")) or "nobody answers"
            when = f", expected at {oar_date(predicted[site])} in Paris" if site in predicted else ""
            raise TestbedError(
                f"job {job} at {site} did not start in time ({state}{when}): its machines or its KaVLAN are"
                " taken; ask for fewer machines or another first site, raise timeouts.reserve, or say"
                ' start="first"'
            )
        starts = [predicted[site] for site in waiting if site in predicted]
        nap = pause(starts if len(starts) == len(waiting) else [], now, often, seldom)
        time.sleep(max(0.05, min(nap if fixed else min(nap, seldom), deadline - now)))


# ---- what they got ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What a job was given."""

    names: tuple[str, ...]  #: of the machines
    subnetwork: SubNetwork | None
    vlan: int | None


def given(site: str, job: int, with_vlan: bool) -> Given:
    """What a running job was given. Raises TestbedError if the site does not say, or gave no KaVLAN."""
    from execo.exception import ProcessesFailed
    from execo_g5k import get_oar_job_kavlan, get_oar_job_nodes, get_oar_job_subnets

    questions: list[Callable[[int, str], Any]] = [get_oar_job_nodes, get_oar_job_subnets]
    if with_vlan:
        questions.append(get_oar_job_kavlan)
    try:
        nodes, (addresses, parameters), *more = each(lambda ask: ask(job, site), questions)
    except ProcessesFailed as error:
        raise TestbedError(f"{site} does not say what job {job} was given: {said(error)}") from error
    vlans = more[0] if more else []
    if with_vlan and not vlans:
        raise TestbedError(f"job {job} at {site} runs, but has no KaVLAN: ask the site, or try another")
    return Given(
        tuple(node.address for node in nodes),
        subnetwork(site, addresses, parameters),
        vlans[0] if vlans else None,
    )


def subnetwork(
    site: str, addresses: Sequence[tuple[str, str]], parameters: Mapping[str, str]
) -> SubNetwork | None:
    """A job's sub-network, from what ``g5k-subnets`` says of it."""
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


# ---- giving back ------------------------------------------------------------------------------------


def withdraw(jobs: Iterable[tuple[str, int]], timeout: float, often: float, look: Look = info) -> None:
    """Delete the jobs (site, id), and wait until they have ended. Raises TestbedError if one is still there.

    execo's oardel reports nothing, so the jobs themselves are asked: by ``look``, as in `wait`, and when time
    is up by `info`.
    """
    from execo_g5k import oardel

    doomed = set(jobs)
    oardel([(job, site) for site, job in sorted(doomed)])
    deadline = time.monotonic() + timeout
    while doomed := _alive(doomed, look):
        if time.monotonic() > deadline:
            if not (doomed := _alive(doomed, info)):
                return
            names = ", ".join(f"{job} at {site}" for site, job in sorted(doomed))
            raise TestbedError(f"these jobs could not be deleted: {names}; call release() again")
        time.sleep(often)


def _alive(jobs: Collection[tuple[str, int]], look: Look) -> set[tuple[str, int]]:
    """Those that have not ended, as far as anybody says."""
    asked = sorted(jobs)
    heard = each(lambda one: look(*one), asked)
    return {one for one, how in zip(asked, heard, strict=True) if not ended(str(how.get("state", "")))}


def key_file(site: str, job: int) -> str:
    """What a run's public key is called on the frontends; ``site`` and ``job``: the first of its jobs."""
    return f".g5kvirt-{site}-{job}.pub"


def remove_keys(jobs: Iterable[tuple[str, int]], timeout: float) -> None:
    """Remove the public keys of these jobs; what a frontend does not remove does no harm there."""
    known = sorted(set(jobs))
    command = "rm -f -- " + " ".join(shlex.quote(key_file(site, job)) for site, job in known)
    each(lambda site: frontend(site, command, timeout), sorted({site for site, _ in known}))
