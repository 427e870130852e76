"""Read-only access to the OAR database of a site: jobs, their resources, all resources.

`Database` runs the queries; turning rows into `Job` is pure (`parse_jobs`). Idle connections are kept for the
next query; a broken one is transparently replaced, once.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pg8000.exceptions
import pg8000.native

from g5kvirt.errors import TestbedError

__all__ = ["ACTIVE", "AssignedResources", "Database", "Job", "JobFilter", "connector", "parse_jobs"]

TIMEOUT = 10.0  #: seconds to wait for a connection, and for the result of a query
_IDLE = 4  #: idle connections kept for later queries

#: States in which a job has its resources.
ACTIVE = ("toLaunch", "Launching", "Running", "Suspended", "Resuming", "Finishing")


@dataclass(frozen=True)
class AssignedResources:
    """The resources that a job has, or will have."""

    cores: tuple[str, ...] = ()  #: ``NODE/CPUSET`` of each core, in the order of OAR's resources
    vlans: tuple[int, ...] = ()
    subnets: tuple[IPv4Network, ...] = ()
    disks: tuple[str, ...] = ()  #: ``DISK.NODE`` of each reserved disk

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, in the order of OAR's resources: the head node is the first."""
        return tuple(dict.fromkeys(core.partition("/")[0] for core in self.cores))


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; None: any."""

    states: tuple[str, ...] | None = None  #: OAR's, in any letter case
    user: str | None = None
    name: str | None = None
    queue: str | None = None
    project: str | None = None

    def conditions(self) -> dict[str, tuple[str, object]]:
        """Parameter of a query → its SQL condition on ``jobs j``, and its value."""
        columns = {"user": "job_user", "name": "job_name", "queue": "queue_name", "project": "project"}
        found: dict[str, tuple[str, object]] = {}
        for key, column in columns.items():
            if (value := getattr(self, key)) is not None:
                found[key] = (f"j.{column} = :{key}", value)
        if self.states is not None:
            states = [state.lower() for state in self.states]
            found["states"] = ("lower(j.state) = ANY(CAST(:states AS varchar[]))", states)
        return found


@dataclass(frozen=True)
class Job:
    """A job of OAR. Times in seconds since the epoch, 0 if not known yet."""

    id: int
    user: str
    name: str
    project: str
    queue: str
    state: str  #: "Running", "toLaunch"…
    types: tuple[str, ...]
    mode: str  #: "PASSIVE" or "INTERACTIVE"
    command: str
    properties: str
    directory: str
    message: str
    submitted: int
    start: int  #: real start; of a waiting reservation the requested one
    scheduled: int  #: predicted start
    stop: int
    walltime: int
    assigned: AssignedResources
    exit_code: int | None = None  #: of its command, as wait(2) reports it; None: not known yet

    @property
    def deploy(self) -> bool:
        """Whether its nodes may be deployed."""
        return any(kind == "deploy" or kind.startswith("deploy=") for kind in self.types)


# One row for each moldable description of a job; `_select_moldable` takes the one that runs or will run.
_JOBS = """
SELECT j.job_id, j.job_user, j.job_name, j.project, j.queue_name, j.state, j.job_type, j.command,
       j.properties, j.launching_directory, j.message, j.exit_code, j.submission_time,
       j.start_time, j.stop_time, j.assigned_moldable_job, m.moldable_id, m.moldable_walltime,
       g.start_time AS scheduled,
       ARRAY(SELECT t.type FROM job_types t WHERE t.job_id = j.job_id ORDER BY t.job_type_id) AS types
FROM jobs j
JOIN moldable_job_descriptions m ON m.moldable_job_id = j.job_id
LEFT JOIN gantt_jobs_predictions g ON g.moldable_job_id = m.moldable_id
"""
_ASSIGNED = """
SELECT a.moldable_job_id, r.type, r.network_address, r.cpuset, r.vlan, r.subnet_address, r.subnet_prefix,
       CASE r.type WHEN 'disk' THEN to_jsonb(r)->>'disk' END AS disk,
       CASE r.type WHEN 'disk' THEN to_jsonb(r)->>'host' END AS host
FROM (SELECT moldable_job_id, resource_id FROM assigned_resources
      WHERE moldable_job_id = ANY(CAST(:ids AS integer[]))
      UNION
      SELECT moldable_job_id, resource_id FROM gantt_jobs_resources
      WHERE moldable_job_id = ANY(CAST(:ids AS integer[]))) a
JOIN resources r ON r.resource_id = a.resource_id
ORDER BY r.resource_id
"""

# Both tables have an index on the moldable description; a union below the join would be read as a whole.
_ACTIVE_NODES = " UNION ".join(
    f"""SELECT r.network_address AS node, j.job_id AS job
FROM jobs j
JOIN moldable_job_descriptions m ON m.moldable_job_id = j.job_id
JOIN {table} a ON a.moldable_job_id = m.moldable_id
JOIN resources r ON r.resource_id = a.resource_id
WHERE j.state = ANY(CAST(:states AS varchar[])) AND r.type = 'default'"""  # noqa: S608 - our own words
    for table in ("assigned_resources", "gantt_jobs_resources")
)
_ACTIVE_NODES += " ORDER BY job"  # a node in two jobs is the later one's: the other is about to end

Row = Mapping[str, Any]

#: Exceptions of pg8000 for a broken connection: its own, those of the socket, or of a truncated message.
_CONNECTION_ERRORS = (pg8000.exceptions.Error, OSError, EOFError, struct.error, AttributeError)


def _select_moldable(rows: Sequence[Row]) -> Row:
    """Of the moldable descriptions of a job: the assigned one, else the planned one, else the first."""
    return min(
        rows,
        key=lambda r: (
            r["moldable_id"] != r["assigned_moldable_job"],
            r["scheduled"] is None,
            r["moldable_id"],
        ),
    )


def _group_by(rows: Iterable[Row], column: str) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return groups


def _select_rows(rows: Iterable[Row]) -> list[Row]:
    return [_select_moldable(group) for _, group in sorted(_group_by(rows, "job_id").items())]


def _assigned(rows: Iterable[Row]) -> AssignedResources:
    cores: list[str] = []
    vlans: list[int] = []
    subnets: list[IPv4Network] = []
    disks: list[str] = []
    for row in rows:
        if row["type"] == "default":
            cores.append(f"{row['network_address']}/{row['cpuset']}")
        elif row["type"].startswith("kavlan"):
            vlans.append(int(row["vlan"]))
        elif row["type"] == "subnet":
            subnets.append(IPv4Network(f"{row['subnet_address']}/{row['subnet_prefix']}"))
        elif row["type"] == "disk":  # "sda.gros-1" of the host gros-1.nancy.grid5000.fr
            disks.append(f"{str(row['disk']).partition('.')[0]}.{row['host']}")
    return AssignedResources(tuple(cores), tuple(sorted(vlans)), tuple(sorted(subnets)), tuple(disks))


def parse_jobs(rows: Iterable[Row], assigned: Iterable[Row]) -> list[Job]:
    """Make jobs, ordered by id, from the rows of the jobs and of their resources. Pure."""
    resources = _group_by(assigned, "moldable_job_id")
    return [
        Job(
            id=row["job_id"],
            user=row["job_user"],
            name=row["job_name"] or "",
            project=row["project"],
            queue=row["queue_name"],
            state=row["state"],
            types=tuple(row["types"] or ()),
            mode=row["job_type"],
            command=row["command"] or "",
            properties=row["properties"] or "",
            directory=row["launching_directory"],
            message=row["message"],
            submitted=row["submission_time"],
            start=row["start_time"],
            scheduled=row["scheduled"] or row["start_time"],
            stop=row["stop_time"],
            walltime=row["moldable_walltime"],
            assigned=_assigned(resources.get(row["moldable_id"], ())),
            exit_code=row["exit_code"],
        )
        for row in _select_rows(rows)
    ]


def connector(socket: Path | str, user: str = "oar_ro") -> Callable[[], Any]:
    """A function that connects to the OAR database at a unix socket, for `Database`."""

    def connect() -> Any:
        return pg8000.native.Connection(user, unix_sock=str(socket), database="oar", timeout=TIMEOUT)

    return connect


class Database:
    """The OAR database of a site. Thread-safe.

    ``connect`` opens a `pg8000.native.Connection` (see `connector`).
    Every method raises `TestbedError` if the database does not respond.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)

    # --- queries ---

    def jobs(self, states: Iterable[str], user: str | None = None) -> list[Job]:
        """Jobs in these states (in any letter case), of ``user`` or of all users, ordered by id."""
        found = JobFilter(states=tuple(states), user=user).conditions()
        where = " AND ".join(condition for condition, _ in found.values())
        return self._jobs(where, {key: value for key, (_, value) in found.items()})

    def job_page(self, chosen: JobFilter, offset: int, limit: int) -> tuple[list[Job], int]:
        """At most ``limit`` of the jobs that ``chosen`` admits, newest first; and how many those are."""
        found = chosen.conditions()
        where = " AND ".join(["true", *(condition for condition, _ in found.values())])
        values = {key: value for key, (_, value) in found.items()}
        (total,) = self._rows(f"SELECT count(*) AS jobs FROM jobs j WHERE {where}", **values)  # noqa: S608
        page = f"SELECT j.job_id FROM jobs j WHERE {where} ORDER BY j.job_id DESC"  # noqa: S608 - see above
        ids = [
            row["job_id"]
            for row in self._rows(f"{page} LIMIT :limit OFFSET :offset", **values, limit=limit, offset=offset)
        ]
        jobs = self._jobs("j.job_id = ANY(CAST(:ids AS integer[]))", {"ids": ids}) if ids else []
        return jobs[::-1], int(total["jobs"])

    def job(self, job: int) -> Job | None:
        """The job with this id; None if there is none."""
        if not 0 < job < 2**31:
            return None
        jobs = self._jobs("j.job_id = :id", {"id": job})
        return jobs[0] if jobs else None

    def events(self, job: int) -> list[dict[str, Any]]:
        """What happened to a job, oldest first: ``uid``, ``type``, ``created_at``, ``description``."""
        return self._rows(
            """SELECT event_id AS uid, type, date AS created_at, description FROM event_logs
               WHERE job_id = :id ORDER BY date, event_id""",
            id=job,
        )

    def active_nodes(self) -> dict[str, int]:
        """Node → job that has it now; any other is free."""
        return {row["node"]: row["job"] for row in self._rows(_ACTIVE_NODES, states=list(ACTIVE))}

    def reservation_starts(self) -> tuple[float, ...]:
        """Start times of the waiting advance reservations, in ascending order."""
        rows = self._rows(
            """SELECT min(g.start_time) AS start FROM jobs j
               JOIN moldable_job_descriptions m ON m.moldable_job_id = j.job_id
               JOIN gantt_jobs_predictions g ON g.moldable_job_id = m.moldable_id
               WHERE j.reservation = 'Scheduled' AND j.state = 'Waiting' GROUP BY j.job_id ORDER BY 1"""
        )
        return tuple(float(row["start"]) for row in rows)

    def resources(self) -> list[dict[str, Any]]:
        """All resources with all their properties."""
        return self._rows("SELECT * FROM resources ORDER BY resource_id")

    # --- execution ---

    def _jobs(self, where: str, values: Mapping[str, Any]) -> list[Job]:
        rows = self._rows(f"{_JOBS}WHERE {where}", **values)
        ids = [row["moldable_id"] for row in _select_rows(rows)]
        return parse_jobs(rows, self._rows(_ASSIGNED, ids=ids) if ids else ())

    def _rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._execute(connection, sql, values)
            except _CONNECTION_ERRORS:
                _close(connection)
        try:
            connection = self._connect()
            return self._execute(connection, sql, values)
        except _CONNECTION_ERRORS as error:
            if connection is not None:
                _close(connection)
            raise TestbedError(
                f"OAR's database does not respond ({error})", advice="check that the site is up"
            ) from error

    def _execute(self, connection: Any, sql: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        rows = connection.run(sql, **values)
        names = [column["name"] for column in connection.columns]
        with self._lock:
            keep = len(self._idle) < _IDLE
            if keep:
                self._idle.append(connection)
        if not keep:
            _close(connection)
        return [dict(zip(names, row, strict=True)) for row in rows]


def _close(connection: Any) -> None:
    with contextlib.suppress(*_CONNECTION_ERRORS):
        connection.close()
