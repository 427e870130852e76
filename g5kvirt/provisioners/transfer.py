"""Where the image comes from, and the least time that its way to the hosts takes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from g5kvirt.broadcast import chain
from g5kvirt.images.environments import Image
from g5kvirt.inventory import VM
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceMachine

__all__ = ["image_servers", "transfer_bound"]


def image_servers(machines: Sequence[ServiceMachine]) -> dict[str, ServiceMachine]:
    """Site → the service machine there that has the image, for every site that has one; the first is the
    head of the whole broadcast. Of several HTTP servers of a site it is one: its hosts make a chain."""
    found: dict[str, ServiceMachine] = {}
    for machine in machines:
        if "http" in machine.roles and machine.host.site in machine.addresses:
            found.setdefault(machine.host.site, machine)
    return found


def transfer_bound(cluster: ClusterState, vms: Sequence[VM], image: Image, broadcast: chain.Kind) -> float:
    """Seconds that the transfer of the image takes at the least, by the link rates in the inventory.

    It crosses the link of each site's head and of every host of these VMs once, by plain HTTP a head's link
    once for each host that takes from it: bytes × 8 / (bits per second) of the link that takes longest.
    """
    heads = image_servers(cluster.layout.machines)
    first = next(iter(heads.values()))
    used = {vm.host for vm in vms}
    hosts = [h for h in cluster.hosts if h.name in used]
    served = Counter(heads.get(h.site, first).host for h in hosts)
    times = {head: number if broadcast == "http" else 1 for head, number in served.items()}
    return max(times.get(m, 1) / m.nic_rate for m in (*hosts, *times)) * image.size * 8
