"""The REST API of a local testbed, without a socket: which function answers which path and method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from g5kvirt.testbeds.local import reference
from g5kvirt.testbeds.local.rest import jobs, status
from g5kvirt.testbeds.local.rest.deployments import Deployments
from g5kvirt.testbeds.local.rest.http import Answer, HttpError, Request
from g5kvirt.testbeds.local.rest.services import Services
from g5kvirt.testbeds.local.rest.vlans import Vlans
from g5kvirt.testbeds.local.rest.writes import JobWrites

__all__ = ["Api"]

_OAR_RESOURCES = ("resources.json", "resources/details.json")
Handler = Callable[..., Answer]
Methods = Mapping[str, Handler]


class Api:
    """Answers requests. Its only state are the documents, which never change, and the deployments."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._documents = reference.documents(services.description)
        self._writes = JobWrites(services)
        self._deployments = Deployments(services)
        self._vlans = Vlans(services)
        self._sites = {site.name: site for site in services.description.sites}

    def answer(self, method: str, path: str, request: Request) -> Answer:
        """The answer to a request; ``path``: without host, with or without ``/3.0``. Raises HttpError."""
        parts = _parts(path)
        methods: Methods | None = None
        if len(parts) >= 3 and parts[0] == "sites" and parts[1] in self._sites:
            methods = self._methods(parts[1], parts[2:])
        document = self._documents.get("/".join(parts))
        if document is not None:
            methods = {**(methods or {}), "GET": lambda _: Answer(document)}
        if methods is None:
            raise HttpError(HTTPStatus.NOT_FOUND, f"there is no document at {path}")
        if method not in methods:
            allowed = ", ".join(sorted(methods))
            raise HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{path} does not accept {method}, only {allowed}",
                {"Allow": allowed},
            )
        return methods[method](request)

    def _methods(self, site: str, rest: list[str]) -> Methods | None:
        """Method → what answers it, for a path below a site; None: there is nothing but documents."""
        writes, deployments = self._writes, self._deployments
        match rest:
            case ["jobs"]:
                return {"GET": partial(self._jobs, site), "POST": partial(writes.submit, site)}
            case ["jobs", job]:
                return {"GET": partial(self._job, site, job), "DELETE": partial(writes.delete, site, job)}
            case ["jobs", job, "walltime"]:
                return {
                    "GET": partial(writes.walltime, site, job),
                    "POST": partial(writes.change_walltime, site, job),
                }
            case ["deployments"]:
                return {"GET": partial(deployments.list, site), "POST": partial(deployments.create, site)}
            case ["deployments", uid]:
                return {
                    "GET": partial(deployments.get, site, uid),
                    "DELETE": partial(deployments.cancel, site, uid),
                }
            case ["status"]:
                return {"GET": partial(self._status, site, None)}
            case ["clusters", cluster, "status"] if cluster in self._sites[site].clusters:
                return {"GET": partial(self._status, site, cluster)}
            case ["internal", "oarapi", *listed] if "/".join(listed) in _OAR_RESOURCES:
                return {"GET": partial(self._resources, site, rest)}
            case ["vlans", _, *_] | ["vlansnodes", *_]:
                return self._vlan_methods(site, rest)
        return None

    def _vlan_methods(self, site: str, rest: list[str]) -> Methods | None:
        vlans = self._vlans
        match rest:
            case ["vlans", "nodes"] | ["vlansnodes"]:
                return {"GET": partial(vlans.all_nodes, site), "POST": partial(vlans.some_nodes, site)}
            case ["vlans", "nodes", name] | ["vlansnodes", name]:
                return {"GET": partial(vlans.one_node, site, name)}
            case ["vlans", "users"]:
                return {"GET": partial(vlans.all_users, site)}
            case ["vlans", vlan]:  # POST: as execo moves nodes
                return {"GET": partial(vlans.get, site, vlan), "POST": partial(vlans.move, site, vlan)}
            case ["vlans", vlan, "nodes"]:
                return {"GET": partial(vlans.nodes, site, vlan), "POST": partial(vlans.move, site, vlan)}
            case ["vlans", vlan, "users"]:
                return {"GET": partial(vlans.users, site, vlan)}
        return None

    def _jobs(self, site: str, request: Request) -> Answer:
        offset, limit = jobs.page_bounds(request.query)
        found, total = self._services.database(site).job_page(jobs.job_filter(request.query), offset, limit)
        resources = request.query.get("resources", "").lower() in ("yes", "true", "1")
        items = [jobs.document(site, job, resources=resources) for job in found]
        page = reference.collection(items, self._services.description.version, "sites", site, "jobs")
        return Answer(page | {"total": total, "offset": offset})

    def _job(self, site: str, job: str, request: Request) -> Answer:
        found = self._writes.find(site, job)
        document = jobs.document(site, found, resources=True)
        return Answer(document | {"events": self._services.database(site).events(found.id)})

    def _status(self, site: str, cluster: str | None, request: Request) -> Answer:
        database = self._services.database(site)
        known = database.jobs(status.STATES)
        nodes = status.nodes_status(site, database.resources(), known, cluster)
        if request.query.get("reservations") == "no":
            nodes = {
                name: {k: v for k, v in node.items() if k != "reservations"} for name, node in nodes.items()
            }
        path = ("sites", site) if cluster is None else ("sites", site, "clusters", cluster)
        links = [reference.link(*path, "status"), reference.link(*path, rel="parent")]
        return Answer({"uid": "status", "nodes": nodes, "links": links})

    def _resources(self, site: str, rest: list[str], request: Request) -> Answer:
        rows = [{"id": row["resource_id"], **row} for row in self._services.database(site).resources()]
        offset, limit = jobs.page_bounds(request.query, 1 << 30, 1 << 30)  # OAR's own API has no limit
        page: dict[str, Any] = reference.collection(
            rows[offset:][:limit], self._services.description.version, "sites", site, *rest
        )
        return Answer(page | {"total": len(rows), "offset": offset})


def _parts(path: str) -> list[str]:
    parts = [unquote(part) for part in path.split("/") if part]
    return parts[1:] if parts and parts[0] in (reference.ROOT.strip("/"), "stable") else parts
