"""What OAR knows, read from a site's database: jobs, what they hold, resources. Read only.

`Database` asks; turning rows into `Job` is pure (`parse_jobs`). Connections are short-lived or kept idle
for the next question; one that has died is replaced, once, unnoticed.
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

__all__ = ["ACTIVE", "LIVE", "Database", "Holding", "Job", "connector", "parse_jobs"]

TIMEOUT = 10.0  #: seconds to wait for the database, for each answer of it
_IDLE = 4  #: connections kept for the next question

#: States of jobs that have not ended. OAR's own words.
LIVE = (
    "Waiting",
    "Hold",
    "toLaunch",
    "toAckReservation",
    "Launching",
    "Running",
    "Suspended",
    "Resuming",
    "Finishing",
)
#: States in which a job has its resources.
ACTIVE = ("toLaunch", "Launching", "Running", "Suspended", "Resuming", "Finishing")


@dataclass(frozen=True)
class Holding:
    """What a job holds, or is going to hold."""

    cores: tuple[str, ...] = ()  #: the node's name, once for each core
    vlans: tuple[int, ...] = ()
    subnets: tuple[IPv4Network, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, sorted."""
        return tuple(sorted(set(self.cores)))


@dataclass(frozen=True)
class Job:
    """A job of OAR. Times in seconds since the epoch, 0 where there is none yet."""

    id: int
    user: str
    name: str
    project: str
    queue: str
    state: str  #: OAR's word: "Running", "toLaunch"…
    types: tuple[str, ...]
    mode: str  #: "PASSIVE" or "INTERACTIVE"
    command: str
    properties: str
    directory: str
    message: str
    reservation: str  #: "None", "toSchedule", "Scheduled": asked for a start time or not
    submitted: int
    start: int  #: real start; of a waiting reservation the time it asked for
    scheduled: int  #: predicted start
    stop: int
    walltime: int
    held: Holding

    @property
    def deploy(self) -> bool:
        """Whether its nodes may be deployed."""
        return any(kind == "deploy" or kind.startswith("deploy=") for kind in self.types)


# One line for each way a job may be run ("moldable"); `_best` takes the one that is or will be.
_JOBS = """
SELECT j.job_id, j.job_user, j.job_name, j.project, j.queue_name, j.state, j.job_type, j.command,
       j.properties, j.launching_directory, j.message, j.reservation, j.submission_time, j.start_time,
       j.stop_time, j.assigned_moldable_job, m.moldable_id, m.moldable_walltime, g.start_time AS scheduled,
       ARRAY(SELECT t.type FROM job_types t WHERE t.job_id = j.job_id ORDER BY t.job_type_id) AS types
FROM jobs j
JOIN moldable_job_descriptions m ON m.moldable_job_id = j.job_id
LEFT JOIN gantt_jobs_predictions g ON g.moldable_job_id = m.moldable_id
"""
_HELD = """
SELECT a.moldable_job_id, r.resource_id, r.type, r.network_address, r.vlan, r.subnet_address, r.subnet_prefix
FROM (SELECT moldable_job_id, resource_id FROM assigned_resources
      WHERE moldable_job_id = ANY(CAST(:ids AS integer[]))
      UNION
      SELECT moldable_job_id, resource_id FROM gantt_jobs_resources
      WHERE moldable_job_id = ANY(CAST(:ids AS integer[]))) a
JOIN resources r ON r.resource_id = a.resource_id
ORDER BY r.resource_id
"""

Row = Mapping[str, Any]

#: A connection that has died under pg8000 shows as its own errors, the socket's, or a torn message.
_BROKEN = (pg8000.exceptions.Error, OSError, EOFError, struct.error, AttributeError)


def _best(rows: Sequence[Row]) -> Row:
    """Of the ways a job may be run: the one it was given, else the one that is planned, else the first."""
    return min(
        rows,
        key=lambda r: (
            r["moldable_id"] != r["assigned_moldable_job"],
            r["scheduled"] is None,
            r["moldable_id"],
        ),
    )


def _by(rows: Iterable[Row], column: str) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row[column], []).append(row)
    return found


def _chosen(rows: Iterable[Row]) -> list[Row]:
    return [_best(group) for _, group in sorted(_by(rows, "job_id").items())]


def _holding(rows: Iterable[Row]) -> Holding:
    cores: list[str] = []
    vlans: list[int] = []
    subnets: list[IPv4Network] = []
    for row in rows:
        if row["type"] == "default":
            cores.append(row["network_address"])
        elif row["type"].startswith("kavlan"):
            vlans.append(int(row["vlan"]))
        elif row["type"] == "subnet":
            subnets.append(IPv4Network(f"{row['subnet_address']}/{row['subnet_prefix']}"))
    return Holding(tuple(cores), tuple(sorted(vlans)), tuple(sorted(subnets)))


def parse_jobs(rows: Iterable[Row], held: Iterable[Row]) -> list[Job]:
    """Make jobs, by rising id, of the database's lines about them and about what they hold. Pure."""
    holding = _by(held, "moldable_job_id")
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
            reservation=row["reservation"],
            submitted=row["submission_time"],
            start=row["start_time"],
            scheduled=row["scheduled"] or row["start_time"],
            stop=row["stop_time"],
            walltime=row["moldable_walltime"],
            held=_holding(holding.get(row["moldable_id"], ())),
        )
        for row in _chosen(rows)
    ]


def connector(
    socket: Path | str, user: str = "oar_ro", name: str = "oar", password: str | None = None
) -> Callable[[], Any]:
    """How to connect to the database behind a unix socket, for `Database`."""

    def connect() -> Any:
        return pg8000.native.Connection(
            user, unix_sock=str(socket), database=name, password=password, timeout=TIMEOUT
        )

    return connect


class Database:
    """A site's OAR database. May be used from several threads.

    ``connect`` makes a `pg8000.native.Connection` (see `connector`).
    Every method raises `TestbedError` if the database does not answer.
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

    # --- questions ---

    def jobs(self, states: Iterable[str] | None = LIVE, user: str | None = None) -> list[Job]:
        """Jobs in these states (of any letter case; None for all), of ``user`` or of all, by rising id."""
        where, values = [], {}
        if states is not None:
            where.append("lower(j.state) = ANY(CAST(:states AS varchar[]))")
            values["states"] = [state.lower() for state in states]
        if user is not None:
            where.append("j.job_user = :user")
            values["user"] = user  # type: ignore[assignment]
        return self._jobs(" AND ".join(where), values)

    def job(self, job: int) -> Job | None:
        """The job with this id."""
        if not 0 < job < 2**31:
            return None
        found = self._jobs("j.job_id = :id", {"id": job})
        return found[0] if found else None

    def active_jobs(self) -> list[Job]:
        """Jobs that have their resources now; a node in none of them is nobody's."""
        return self.jobs(ACTIVE)

    def reservation_starts(self) -> tuple[float, ...]:
        """When the advance reservations that still wait begin, the next one first."""
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

    # --- how they are asked ---

    def _jobs(self, where: str, values: Mapping[str, Any]) -> list[Job]:
        rows = self._rows(_JOBS + (f"WHERE {where}" if where else ""), **values)
        ids = [row["moldable_id"] for row in _chosen(rows)]
        return parse_jobs(rows, self._rows(_HELD, ids=ids) if ids else ())

    def _rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._ask(connection, sql, values)
            except _BROKEN:
                _close(connection)
        try:
            connection = self._connect()
            return self._ask(connection, sql, values)
        except _BROKEN as error:
            if connection is not None:
                _close(connection)
            raise TestbedError(f"OAR's database does not answer ({error}); is the site still up?") from error

    def _ask(self, connection: Any, sql: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
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
    with contextlib.suppress(*_BROKEN):
        connection.close()
