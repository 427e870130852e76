"""A Kadeploy3 server of one's own for the VMs of a run; `g5kvirt.phases.kadeploying` raises and drives it. ::

    nodes = nodes_of(vms)                                         # VMs as Kadeploy3's nodes
    cluster = Cluster(nodes, timing=tuned(len(nodes)))
    for work in server.plan(machine, cluster, addresses): …       # packages, database, key, configuration
    hostagent.serve…: server.service(machine)                     # the daemon
    with Tunnel(access, host, machine.port) as url:
        client = Client(url)
        client.grant()
        client.register(describe(environment, path))
        books = Books("d1", nodes)
        drive(client, books, parts, request, …)                   # events for the journal

The modules, each on top of those before it: `keys` (what its files may hold), `splitting` (what it costs
itself, and how large a deployment it is given), `configuration` (its files), `environment`, `server` (how a
machine becomes one), `system` (what nodes boot into to be deployed), `steps` (its steps in our words),
`records` (what it says), `client` (its REST API), `reach` (the way to it), `following` (what it says, as
events), `driving` (the loop).
"""

from g5kvirt.provision.kadeploy3.client import Client, RefusedError
from g5kvirt.provision.kadeploy3.configuration import (
    Cluster,
    Kernel,
    Netboot,
    Node,
    Server,
    Timing,
    longest,
    nodes_of,
    tuned,
)
from g5kvirt.provision.kadeploy3.driving import Part, drive
from g5kvirt.provision.kadeploy3.environment import LOCAL_BOOT, describe, version_of
from g5kvirt.provision.kadeploy3.following import Books
from g5kvirt.provision.kadeploy3.reach import Tunnel
from g5kvirt.provision.kadeploy3.splitting import parts_for, post_seconds, split

__all__ = [
    "LOCAL_BOOT",
    "Books",
    "Client",
    "Cluster",
    "Kernel",
    "Netboot",
    "Node",
    "Part",
    "RefusedError",
    "Server",
    "Timing",
    "Tunnel",
    "describe",
    "drive",
    "longest",
    "nodes_of",
    "parts_for",
    "post_seconds",
    "split",
    "tuned",
    "version_of",
]
