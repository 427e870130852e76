"""When machines, KaVLANs and sub-networks are in use: the sites' calendars, read with execo_g5k.planning.

`calendar` gives plain data, on which `g5kvirt.planning.availability` decides. Of execo's planning only
``get_planning`` is used, for machines, and always over REST. The rest of it has these faults, as of 2.8.2,
shown by tests/contract/test_execo_faults.py:

- its SQL way ignores ``api_uri`` and is taken as soon as psycopg2 can be imported;
- a site that does not answer, a job that ends while it is being read and a KaVLAN that no router lists make
  the whole site vanish from the result, with only a warning in the log;
- all jobs are requested at once, with a thread and a connection each, and no more than 500 are seen;
- sub-networks are missing; KaVLANs are the routers', not those that the site's OAR gives;
- ``free`` is wrong where one of two jobs on a machine lies within the other;
- ``compute_slots`` counts routed KaVLANs, not global ones, as soon as there is one site only;
- ``find_first_slot`` looks for any machine and not for a number; ``find_free_slot`` accepts a site that is
  not in the planning; ``get_jobs_specs`` leaves a trailing ``+`` behind a KaVLAN.
"""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.planning.availability import Calendar, SiteCalendar
from g5kvirt.planning.inventories import SMALLEST
from g5kvirt.planning.periods import closed_times, is_working
from g5kvirt.planning.properties import matching_machines
from g5kvirt.testbeds.grid5000 import api, documents
from g5kvirt.testbeds.grid5000.job_lists import job_pages, resources_known
from g5kvirt.testbeds.grid5000.resources import RESOURCES, Resources, parse_resources
from g5kvirt.testbeds.parallel import for_each

__all__ = ["HORIZON", "Reader", "busy_times", "calendar", "machines_with_properties"]

HORIZON = 28 * 86400.0  #: seconds to look ahead, as far as OAR's users plan
_MAX_REQUESTS = 16  #: at a time
_GRACE = 121  #: seconds that execo adds to the end of each job for OAR's own cleanup
_lock = threading.Lock()  # execo's planning has its reader in a module's variable

#: execo's request for a site's jobs, of which the API would answer only a part.
_RESOURCES = RESOURCES.partition("{}")[2]
_JOB_LIST = re.compile(r"/sites/(?P<site>[\w-]+)/jobs\?limit=\d+&state=(?P<states>[\w,]+)")

#: What execo's planning needs of a resource and of a job. The API leaves out what is null or 0, and execo
#: then the job, or the whole site.
_ROW = {"type": "default", "network_address": "", "state": "unknown", "maintenance": "NO"}
_JOB = {"queue": "", "started_at": 0, "scheduled_at": 0, "assigned_nodes": [], "resources_by_type": {}}

Intervals = list[tuple[float, float]]  #: from, to


class Reader:
    """Reads from the REST API as execo does: each path once, and few at a time.

    A job that no longer exists is an empty document, so that execo's planning skips it.
    """

    def __init__(self, get: Any) -> None:
        self._get = get
        self._documents: dict[str, Any] = {}
        self.problems: dict[str, Exception] = {}  #: path → why what is there could not be read
        self._free = threading.Semaphore(_MAX_REQUESTS)

    def __call__(self, path: str) -> Any:
        """The document at ``path``; raises what execo raises."""
        if path not in self._documents:
            with self._free:
                try:
                    self._documents[path] = self._request(path)
                except Exception as error:
                    self.problems[path] = error  # execo's planning keeps it to itself
                    raise
        return self._documents[path]

    def _request(self, path: str) -> Any:
        from execo_g5k.api_utils import APIException

        if listed := _JOB_LIST.fullmatch(path):
            return self._list(listed["site"], listed["states"])
        try:
            found = self._get(path)
            if _is_job(path):
                return _complete(_JOB, documents.check_job(found))
            if path.endswith(_RESOURCES):
                return {"items": [_complete(_ROW, row) for row in documents.items(found)]}
            return found
        except APIException as error:
            if _is_job(path) and error.response is not None and error.response.status_code == 404:
                return {}
            raise

    def _list(self, site: str, states: str) -> dict[str, Any]:
        """All jobs of a site in these states; what the list says of a job is not requested once more."""
        items: list[dict[str, Any]] = []
        for page in job_pages(self._get, site, {"state": states}):
            for job in page:
                path = f"/sites/{site}/jobs/{job['uid']}"
                own = {"links": [{"rel": "self", "href": f"/3.0{path}"}]}
                items.append({**_complete(_JOB, job), **own})
                if resources_known(job):
                    self._documents.setdefault(path, items[-1])
        return {"items": items}

    def resources(self, site: str) -> list[dict[str, Any]]:
        """All resources of the site's OAR."""
        return documents.items(self(RESOURCES.format(site)))

    def jobs(self, site: str) -> Iterator[dict[str, Any]]:
        """The site's jobs that have been read."""
        for path, document in list(self._documents.items()):
            if _is_job(path) and f"/sites/{site}/jobs/" in path and document:
                yield document


def _complete(absent: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    return {**absent, **{key: value for key, value in document.items() if value is not None}}


def _is_job(path: str) -> bool:
    head, _, last = path.rstrip("/").rpartition("/")
    return head.endswith("/jobs") and last.isdecimal()


@contextmanager
def _patched_planning() -> Iterator[Reader]:
    """execo's planning, made to read through a `Reader` and over REST."""
    from execo_g5k import planning

    with _lock:
        get, method = planning.get_resource_attributes, planning._retrieve_method
        reader = Reader(get)
        hook = threading.excepthook
        planning.get_resource_attributes, planning._retrieve_method = reader, "API"
        threading.excepthook = _without_execo(hook, reader)
        try:
            yield reader
        finally:
            planning.get_resource_attributes, planning._retrieve_method = get, method
            threading.excepthook = hook


def _without_execo(hook: Callable[[Any], object], reader: Reader) -> Callable[[Any], object]:
    """``hook``, but for the threads in which execo reads the API: ``reader`` keeps why one has failed."""

    def quiet(failed: Any) -> None:
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(failed.exc_traceback)]
        if any("execo_g5k" in Path(file).parts for file in files):
            reader.problems.setdefault("", failed.exc_value)
        else:
            hook(failed)

    return quiet


def calendar(
    sites: Sequence[str],
    queue: str | None = None,
    job_types: Collection[str] = (),
    *,
    start: float | None = None,
    horizon: float = HORIZON,
) -> Calendar:
    """The calendars of ``sites`` from ``start`` (default: now) on.

    Machines that OAR does not give to our jobs are not in it: dead, suspected, in maintenance, absent, not
    for deployment, and exotic ones unless the jobs are of that type (``job_types``, besides ``deploy``).
    It is closed when jobs of the types ``day`` or ``night`` may not run. Raises TestbedError if a site does
    not answer.
    """
    from execo_g5k import planning

    begin = time.time() if start is None else start
    end = begin + horizon
    with _patched_planning() as reader:
        try:
            found = planning.get_planning(
                list(sites), starttime=int(begin), endtime=int(end), queues=queue or "default"
            )
            missing = [site for site in sites if site not in found]
            if missing:
                why = _why(reader, ValueError("execo cannot read its resources or jobs"))
                raise TestbedError(
                    f"the calendar of {missing[0]} cannot be read ({why})",
                    advice="check that its API is up, try again, or leave the site out",
                )
            calendars = dict(
                zip(
                    sites,
                    for_each(lambda s: _site(reader, s, found[s], begin, job_types), sites),
                    strict=True,
                )
            )
        except TestbedError:
            raise
        except Exception as error:  # execo passes on whatever a malformed answer makes it raise
            raise TestbedError(
                f"the sites' calendars cannot be read ({_why(reader, error)})",
                advice="check that the API is up, and try again",
            ) from error
    # a job that begins at the end may go on as long as we look ahead
    closed = closed_times(job_types, begin, end + HORIZON, is_working) if job_types else ()
    return Calendar(begin, end, calendars, closed)


def _why(reader: Reader, error: Exception) -> str:
    """The first thing that could not be read, which is the cause of ``error``; else that itself."""
    return api.error_summary(next(iter(reader.problems.values()), error))


def _site(
    reader: Reader, site: str, found: Mapping[str, Any], now: float, job_types: Collection[str]
) -> SiteCalendar:
    """A site's calendar, from execo's planning of its machines and OAR's resources."""
    resources = parse_resources(reader.resources(site), now, job_types)
    vlans, subnets = busy_times(resources, list(reader.jobs(site)))
    hosts = {
        str(name): [(float(a), float(b)) for a, b in times["busy"]]
        for machines in found.values()
        for name, times in machines.items()
        if name in resources.usable
    }
    return SiteCalendar(hosts, vlans, subnets)


def busy_times(
    resources: Resources, jobs: Sequence[Mapping[str, Any]]
) -> tuple[dict[int, Intervals], dict[IPv4Network, Intervals]]:
    """When a site's global KaVLANs and smallest sub-networks are in use. Pure.

    ``jobs``: the site's jobs, as the REST API describes each.
    """
    vlans: dict[int, Intervals] = {vlan: [] for vlan in resources.vlans}
    subnets: dict[IPv4Network, Intervals] = {network: [] for network in sorted(resources.subnets)}
    for job in jobs:
        begin = job.get("started_at") or job.get("scheduled_at")
        held = job.get("resources_by_type") or {}
        if not begin or not job.get("walltime"):
            continue
        interval = (float(begin), float(begin) + float(job["walltime"]) + _GRACE)
        for vlan in held.get("vlans", ()):
            if int(vlan) in vlans:
                vlans[int(vlan)].append(interval)
        for address in held.get("subnets", ()):
            network = IPv4Network(address if "/" in str(address) else f"{address}/{SMALLEST}")
            for own in subnets:
                if own.overlaps(network):
                    subnets[own].append(interval)
    return vlans, subnets


def machines_with_properties(sites: Sequence[str], condition: str) -> dict[str, set[str]]:
    """Site → names of its machines that meet a condition on OAR's properties, as they are now.

    Raises SpecError if the condition cannot be evaluated, TestbedError if a site does not answer.
    """
    from execo_g5k.api_utils import APIException, get_resource_attributes

    def of(site: str) -> set[str]:
        try:
            rows = Reader(get_resource_attributes).resources(site)
        except (APIException, ValueError, OSError, RecursionError) as error:
            raise TestbedError(
                f"the properties of the machines at {site} cannot be read ({api.error_summary(error)})",
                advice="check that its API is up, and try again",
            ) from error
        return matching_machines(rows, condition, site)

    return dict(zip(sites, for_each(of, sites), strict=True))
