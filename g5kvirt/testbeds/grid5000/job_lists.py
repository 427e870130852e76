"""Lists of jobs from the REST API, which gives at most 500 at a time, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from g5kvirt.testbeds.grid5000 import documents

__all__ = ["PAGE", "cores_by_host", "job_pages", "resources_known"]

PAGE = 500  #: jobs in one answer, whatever a larger limit says
#: Jobs of a page that the next one repeats: one that has ended meanwhile moves all older ones up.
_OVERLAP = 25

Document = Mapping[str, Any]


def job_pages(
    get: Callable[[str], Document], site: str, conditions: Mapping[str, str]
) -> Iterator[list[dict[str, Any]]]:
    """The site's jobs that meet ``conditions`` (``state``, ``user`` …), page after page; each job once.

    Asks for their resources too (see `resources_known`); ``get`` reads a document and may raise. Raises
    ValueError for what is no list of jobs.
    """
    seen: set[str] = set()
    offset = 0
    while True:
        query = urlencode({"limit": PAGE, "offset": offset, "resources": "yes", **conditions}, safe=",")
        answer = get(f"/sites/{site}/jobs?{query}")
        items = [documents.check_job(item) for item in documents.items(answer)]
        for item in items:
            documents.number(item.get("uid"), "uid")
        new = []
        for item in items:  # also one that stands twice on a page: the quota would count it twice
            if str(item["uid"]) not in seen:
                seen.add(str(item["uid"]))
                new.append(item)
        if not new:  # the end; or the API ignores the offset
            return
        yield new
        total = answer.get("total")
        if isinstance(total, int) and offset + len(items) >= total:
            return
        offset += max(1, len(items) - _OVERLAP)


def resources_known(job: Document) -> bool:
    """Whether a job of a list has its resources; else they are in its own document."""
    return "resources_by_type" in job and "assigned_nodes" in job


def cores_by_host(job: Document, cores: Mapping[str, int]) -> dict[str, int]:
    """Host → how many of its cores a job has.

    The API names a core ``HOST/CPUSET``, and used to name only its host. Without a list of cores, the job has
    all cores of its nodes, as many as ``cores`` says.
    """
    found: dict[str, int] = {}
    named: Sequence[str] = (job.get("resources_by_type") or {}).get("cores") or ()
    for core in named:
        host = str(core).partition("/")[0]
        found[host] = found.get(host, 0) + 1
    if not named:
        found = {str(name): cores[name] for name in job.get("assigned_nodes") or () if name in cores}
    return found
