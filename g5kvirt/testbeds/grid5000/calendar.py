"""When what is asked is free: the testbed's calendar, read with execo_g5k.planning, and OAR's own properties.

`calendar` gives plain data, on which `g5kvirt.planning.availability` decides. Of execo's planning only
``get_planning`` is used, for machines, and always over REST; what is wrong with the rest, as of 2.8.2, is
shown by tests/contract/test_execo_faults.py:

- its SQL way ignores ``api_uri`` and is taken as soon as psycopg2 can be imported;
- a site that does not answer, a job that ends while it is asked for and a KaVLAN that no router lists make
  the whole site vanish from the answer, with a warning in the log;
- all jobs are asked for at once, a thread and a connection each;
- sub-networks are not in the answer; KaVLANs are the routers', not those that the site's OAR gives;
- ``free`` is wrong where one of two jobs on a machine lies within the other;
- ``compute_slots`` counts routed KaVLANs, not global ones, as soon as there is one site only;
- ``find_first_slot`` looks for any machine and not for a number; ``find_free_slot`` lets a site pass that is
  not there; ``get_jobs_specs`` leaves a trailing ``+`` behind a KaVLAN.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from ipaddress import IPv4Network
from typing import Any

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.planning.availability import Agenda, SiteAgenda
from g5kvirt.testbeds.grid5000.frontends import each, mask, short

__all__ = ["HORIZON", "RESOURCES", "Reader", "calendar", "matching", "satisfying", "state_of", "typed"]

HORIZON = 28 * 86400.0  #: seconds that are looked ahead, as far as OAR's users plan
RESOURCES = (
    "/sites/{}/internal/oarapi/resources/details.json?limit=1073741824"  #: of all that a site's OAR has
)
_AT_ONCE = 16  #: requests
_GRACE = 121  #: seconds that execo adds to the end of each job: OAR's own cleaning up
_SMALLEST = 22  #: prefix length of the sub-networks that OAR deals in
_lock = threading.Lock()  # execo's planning has its reader in a module's variable


class Reader:
    """Reads from the REST API as execo does: each path once, not too many at a time.

    A job that is gone when it is asked for is an empty document, on which execo's planning goes on with the
    next one.
    """

    def __init__(self, get: Any) -> None:
        self._get = get
        self._documents: dict[str, Any] = {}
        self._free = threading.Semaphore(_AT_ONCE)

    def __call__(self, path: str) -> Any:
        """The document at ``path``; raises what execo raises."""
        if path not in self._documents:
            with self._free:
                self._documents[path] = self._ask(path)
        return self._documents[path]

    def _ask(self, path: str) -> Any:
        from execo_g5k.api_utils import APIException

        try:
            return self._get(path)
        except APIException as error:
            if _is_job(path) and error.response is not None and error.response.status_code == 404:
                return {}
            raise

    def resources(self, site: str) -> list[dict[str, Any]]:
        """All that the site's OAR has."""
        return list(self(RESOURCES.format(site))["items"])

    def jobs(self, site: str) -> Iterator[dict[str, Any]]:
        """The site's jobs that have been read."""
        for path, document in list(self._documents.items()):
            if _is_job(path) and f"/sites/{site}/jobs/" in path and document:
                yield document


def _is_job(path: str) -> bool:
    head, _, last = path.rstrip("/").rpartition("/")
    return head.endswith("/jobs") and last.isdecimal()


@contextmanager
def _reading() -> Iterator[Reader]:
    """execo's planning, made to read through a `Reader` and over REST."""
    from execo_g5k import planning

    with _lock:
        get, method = planning.get_resource_attributes, planning._retrieve_method
        reader = Reader(get)
        planning.get_resource_attributes, planning._retrieve_method = reader, "API"
        try:
            yield reader
        finally:
            planning.get_resource_attributes, planning._retrieve_method = get, method


def calendar(
    sites: Sequence[str], queue: str | None = None, start: float | None = None, horizon: float = HORIZON
) -> Agenda:
    """What ``sites`` have and when it is taken, from ``start`` (default: now) on.

    Machines that OAR does not use (dead, suspected, in maintenance, away for good) are not in it. Raises
    TestbedError if a site does not answer.
    """
    from execo_g5k import planning

    begin = time.time() if start is None else start
    end = begin + horizon
    with _reading() as reader:
        try:
            found = planning.get_planning(
                list(sites), starttime=int(begin), endtime=int(end), queues=queue or "default"
            )
            missing = [site for site in sites if site not in found]
            if missing:
                raise TestbedError(
                    f"{missing[0]} does not say which machines are free when: is its API up? Ask again, or"
                    " leave it out"
                )
            known = each(lambda site: typed(reader.resources(site), list(reader.jobs(site)), begin), sites)
        except TestbedError:
            raise
        except Exception as error:  # execo lets through whatever a strange answer makes it stumble over
            raise TestbedError(
                f"nobody says which machines are free when ({mask(short(error))}): is the API up?"
            ) from error
    agendas = {}
    for site, (usable, vlans, subnets) in zip(sites, known, strict=True):
        hosts = {
            str(name): [(float(a), float(b)) for a, b in times["busy"]]
            for cluster, own in found[site].items()
            for name, times in own.items()
            if name in usable
        }
        agendas[site] = SiteAgenda(hosts, vlans, subnets)
    return Agenda(begin, end, agendas)


def typed(
    rows: Iterable[Mapping[str, Any]], jobs: Sequence[Mapping[str, Any]], now: float
) -> tuple[set[str], dict[int, list[tuple[float, float]]], dict[IPv4Network, list[tuple[float, float]]]]:
    """Of OAR's resources: machines it may give, global KaVLANs and sub-networks with when they are taken.

    ``rows``: the resources; ``jobs``: the site's jobs, as the REST API describes each. Pure.
    """
    usable: dict[str, bool] = {}
    vlans: dict[int, list[tuple[float, float]]] = {}
    subnets: dict[IPv4Network, list[tuple[float, float]]] = {}
    for row in rows:
        if row["type"] == "default":
            name = str(row["network_address"])
            usable[name] = usable.get(name, True) and _usable(row, now)
        elif row["type"] == "kavlan-global" and _usable(row, now):
            vlans[int(row["vlan"])] = []
        elif row["type"] == "subnet" and _usable(row, now):
            subnets[IPv4Network(f"{row['subnet_address']}/{row.get('subnet_prefix') or _SMALLEST}")] = []
    for job in jobs:
        begin = job.get("started_at") or job.get("scheduled_at")
        held = job.get("resources_by_type") or {}
        if not begin or not job.get("walltime"):
            continue
        taken = (float(begin), float(begin) + float(job["walltime"]) + _GRACE)
        for vlan in held.get("vlans", ()):
            if int(vlan) in vlans:
                vlans[int(vlan)].append(taken)
        for word in held.get("subnets", ()):
            network = IPv4Network(word if "/" in str(word) else f"{word}/{_SMALLEST}")
            for own in subnets:
                if own.overlaps(network):
                    subnets[own].append(taken)
    return {name for name, good in usable.items() if good}, vlans, subnets


def state_of(row: Mapping[str, Any], now: float) -> str:
    """OAR's state of a resource, of which it gives to jobs what is "Alive"; "in maintenance" is one, too.

    What is switched off to save energy is Absent, and until when it may be woken stands beside it: it comes
    back for a job, and so counts as alive.
    """
    if str(row.get("maintenance") or "NO").upper() == "YES":
        return "in maintenance"
    state, until = str(row.get("state") or "unknown"), str(row.get("available_upto") or "0")
    return "Alive" if state == "Absent" and until.isdecimal() and int(until) > now else state


def _usable(row: Mapping[str, Any], now: float) -> bool:
    return state_of(row, now) == "Alive"


def matching(sites: Sequence[str], condition: str) -> dict[str, set[str]]:
    """Site → names of its machines that have the properties, by what its OAR says of them now.

    Raises SpecError if the condition cannot be judged here, TestbedError if a site does not answer.
    """
    from execo_g5k.api_utils import APIException, get_resource_attributes

    def of(site: str) -> set[str]:
        try:
            rows = Reader(get_resource_attributes).resources(site)
        except (APIException, ValueError, KeyError) as error:
            raise TestbedError(
                f"{site} does not say what its machines are like ({mask(short(error))}): is its API up?"
            ) from error
        return satisfying(rows, condition, site)

    return dict(zip(sites, each(of, sites), strict=True))


def satisfying(rows: Sequence[Mapping[str, Any]], condition: str, site: str = "") -> set[str]:
    """Names of the machines among OAR's resources (``rows``) that meet an SQL ``condition``. Pure.

    The REST API does not take conditions, and OAR's own are PostgreSQL's: SQLite judges them alike as far as
    columns, numbers, words and the usual operators go. Raises SpecError where it cannot.
    """
    hosts = [row for row in rows if row.get("type") == "default"]
    names = sorted({str(name) for row in hosts for name in row})
    if not names:
        return set()
    columns = ", ".join(f'"{name}" {_kind([row.get(name) for row in hosts])}' for name in names)
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA case_sensitive_like = ON")
        database.execute(f"CREATE TABLE resources ({columns})")
        marks = ", ".join("?" * len(names))
        database.executemany(
            f"INSERT INTO resources VALUES ({marks})",  # noqa: S608 - question marks only
            [[_plain(row.get(name)) for name in names] for row in hosts],
        )
        database.set_authorizer(_only_reading)
        try:
            found = database.execute(
                f"SELECT DISTINCT network_address FROM resources WHERE ({condition})"  # noqa: S608 - see above
            ).fetchall()
        except sqlite3.Error as error:
            of = f" of {site}" if site else ""
            raise SpecError(
                f"the properties {condition!r} cannot be judged by what OAR says of the machines{of}"
                f" ({error}): correct them, or name the sites yourself and leave it to OAR"
            ) from error
    return {str(name) for (name,) in found}


def _kind(values: Iterable[Any]) -> str:
    words = [str(value) for value in values if value is not None]
    return "INTEGER" if words and all(w.lstrip("-").isdecimal() for w in words) else "TEXT"


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _only_reading(action: int, *_: object) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
