"""KaVLANs over the REST API: which nodes are in one, who may use it, and moving nodes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from g5kvirt.testbeds.described.model import NodeDescription
from g5kvirt.testbeds.local import reference
from g5kvirt.testbeds.local.permissions import RequestRefusedError, deployable, find_node, move, target_vlan
from g5kvirt.testbeds.local.rest.http import Answer, HttpError, Request
from g5kvirt.testbeds.local.rest.services import Services, required

__all__ = ["Vlans"]

_DEFAULT = "DEFAULT"  #: the production network


class Vlans:
    """Requests on the KaVLANs of a site."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def move(self, site: str, vlan: str, request: Request) -> Answer:
        """Move nodes of the user's running deploy jobs; ``{"nodes": […]}`` or the list. Raises HttpError."""
        names = request.body.get("nodes") if isinstance(request.body, dict) else request.body
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise HttpError(HTTPStatus.BAD_REQUEST, 'the body must be {"nodes": [names of interfaces]}')
        machines = required(self._services.machines)
        description = self._services.description
        try:
            target = target_vlan(description, site, vlan, request.user, self._services.database)
        except RequestRefusedError as error:
            raise HttpError(HTTPStatus.FORBIDDEN, str(error)) from error
        allowed = deployable(self._services.database(site), request.user)
        results = move(description, site, names, target, allowed, machines)
        if all(results.values()):  # every node failed
            raise HttpError(HTTPStatus.FORBIDDEN, "; ".join(str(reason) for reason in results.values()))
        return Answer(
            {
                name: {"status": "failure", "message": reason}
                if reason
                else {"status": "success", "message": f"{name} is now in vlan {vlan}"}
                for name, reason in results.items()
            }
        )

    def get(self, site: str, vlan: str, request: Request) -> Answer:
        """The production network, which is not among the documents of the KaVLANs. Raises HttpError."""
        uid = self._name(site, vlan)
        links = [reference.link("sites", site, "vlans", uid), reference.link("sites", site, rel="parent")]
        return Answer({"uid": uid, "type": "default", "links": links})

    def all_nodes(self, site: str, request: Request) -> Answer:
        """All nodes of a site, each with its vlan."""
        nodes = self._services.description.site(site).nodes
        return self._collection(site, [self._node(node) for node in nodes], "vlans", "nodes")

    def some_nodes(self, site: str, request: Request) -> Answer:
        """The vlans of the nodes in the body, a list of names. Raises HttpError."""
        names = request.body.get("nodes") if isinstance(request.body, dict) else request.body
        if not isinstance(names, list):
            raise HttpError(HTTPStatus.BAD_REQUEST, "the body must be a list of names of nodes")
        nodes = [self._node(self._find(site, name)) for name in names]
        return self._collection(site, nodes, "vlans", "nodes")

    def one_node(self, site: str, name: str, request: Request) -> Answer:
        """A node with its vlan. Raises HttpError."""
        return Answer(self._node(self._find(site, name)))

    def nodes(self, site: str, vlan: str, request: Request) -> Answer:
        """The nodes of a site that are in a vlan. Raises HttpError."""
        name = self._name(site, vlan)
        nodes = [self._node(node) for node in self._services.description.site(site).nodes]
        return self._collection(site, [n for n in nodes if n["vlan"] == name], "vlans", vlan, "nodes")

    def users(self, site: str, vlan: str, request: Request) -> Answer:
        """Who may use a vlan: those who have it in a running job. Raises HttpError."""
        name = self._name(site, vlan)
        users = [{"uid": user} for user, vlans in self._users(site).items() if name in vlans]
        return self._collection(site, users, "vlans", vlan, "users")

    def all_users(self, site: str, request: Request) -> Answer:
        """All who may use vlans of a site, each with those."""
        users = [{"uid": user, "vlans": vlans} for user, vlans in self._users(site).items()]
        return self._collection(site, users, "vlans", "users")

    def _users(self, site: str) -> dict[str, list[str]]:
        """User → the vlans of the user's running jobs, of this site or global."""
        found: dict[str, list[str]] = {}
        owners = {vlan.site for vlan in self._services.description.vlans_of(site)}
        valid = {vlan.id for vlan in self._services.description.vlans_of(site)}
        for owner in sorted(owners):
            for job in self._services.database(owner).jobs(("Running",)):
                own = [str(vlan) for vlan in job.assigned.vlans if vlan in valid]
                if own:
                    found.setdefault(job.user, []).extend(own)
        return found

    def _name(self, site: str, vlan: str) -> str:
        if vlan.upper() == _DEFAULT:
            return _DEFAULT
        try:
            return str(self._services.description.vlan(site, int(vlan)).id)
        except (KeyError, ValueError):
            raise HttpError(HTTPStatus.NOT_FOUND, f"{site} has no vlan {vlan}") from None

    def _find(self, site: str, name: Any) -> NodeDescription:
        try:
            return find_node(self._services.description, site, str(name))
        except KeyError:
            raise HttpError(HTTPStatus.NOT_FOUND, f"{site} has no node {name}") from None

    def _node(self, node: NodeDescription) -> dict[str, Any]:
        vlan = required(self._services.machines).vlan_of(node)
        uid = f"{node.uid}-eth0{node.fqdn.removeprefix(node.uid)}"
        links = [
            reference.link("sites", node.site, "vlans", "nodes", uid),
            reference.link("sites", node.site, rel="parent"),
        ]
        return {"uid": uid, "vlan": _DEFAULT if vlan is None else str(vlan), "links": links}

    def _collection(self, site: str, items: list[dict[str, Any]], *path: str) -> Answer:
        version = self._services.description.version
        return Answer(reference.collection(items, version, "sites", site, *path))
