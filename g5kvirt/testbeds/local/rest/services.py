"""What the REST API needs of the rest of the testbed; tests use fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

from g5kvirt.testbeds.described.model import Description
from g5kvirt.testbeds.local.oardb import Job, JobFilter
from g5kvirt.testbeds.local.permissions import JobReader, NodeControl
from g5kvirt.testbeds.local.rest.http import HttpError

__all__ = ["Commands", "Frontends", "OarReader", "Services", "required"]

T = TypeVar("T")


class OarReader(JobReader, Protocol):
    """Queries of the API on the database of a site, see `g5kvirt.testbeds.local.oardb.Database`."""

    def resources(self) -> list[dict[str, Any]]:
        """All resources with all their properties."""

    def job_page(self, chosen: JobFilter, offset: int, limit: int) -> tuple[list[Job], int]:
        """At most ``limit`` of the jobs that ``chosen`` admits, newest first; and how many those are."""

    def events(self, job: int) -> list[dict[str, Any]]:
        """The events of a job: ``uid``, ``type``, ``created_at``, ``description``."""


class Commands(Protocol):
    """Runs commands on the frontends, see `g5kvirt.testbeds.local.site_commands`."""

    def run(self, site: str, argv: Sequence[str]) -> tuple[int, str]:
        """Exit code and output of ``argv``, run as the testbed's user. Raises TestbedError."""


class Frontends(Protocol):
    """A site's Kadeploy, see `g5kvirt.testbeds.local.frontend.Frontend`."""

    def handle(self, user: str, request: Mapping[str, Any], out: Callable[[str], None]) -> dict[str, Any]:
        """Execute a command of a frontend."""


@dataclass(frozen=True)
class Services:
    """The parts of a testbed behind its REST API; without an optional one, requests that need it fail."""

    description: Description
    database: Callable[[str], OarReader]  #: of a site
    machines: NodeControl | None = None
    commands: Commands | None = None
    frontends: Callable[[str], Frontends] | None = None


def required(part: T | None) -> T:
    """``part``; raises HttpError if the testbed does not have it."""
    if part is None:
        raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "this testbed can only be read")
    return part
