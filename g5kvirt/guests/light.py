"""Light guests: network namespaces that boot, deploy and answer ssh, without a kernel of their own.

They put the load of thousands of machines on the services and links of a testbed where no memory would hold
so many VMs. What they do is in `g5kvirt.hostagent.onhost.light`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost import libssh
from g5kvirt.images import stand_in
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.images.minimal import MinimalSystem
from g5kvirt.inventory import VM, Facts
from g5kvirt.planning.windows import by_host
from g5kvirt.spec.spec import Spec

__all__ = ["Light"]


class Light:
    """A `g5kvirt.guests.base.Guest`."""

    words: Mapping[str, str] = {"light": "light guests: network namespaces, no kernel of their own"}
    programs: tuple[str, ...] = ("ip", "tar", "nft", libssh.FILE)
    root = "overlay"
    has_kernel = False
    boot_bytes = float(sum(stand_in.SIZES.values()))
    absent_steps = frozenset({"partition", "format", "bootloader", "sync"})

    def label(self, hosts: Collection[Facts]) -> str:
        """Always ``light``."""
        return "light"

    def start_order(self, vms: Sequence[VM]) -> list[VM]:
        """All of a host in a row: a boot takes next to nothing of it, a request to it takes a connection."""
        return by_host(vms)

    def minimal_system(self, progress: ProgressCallback) -> MinimalSystem:
        """Stand-ins for kernel and initrd: nothing runs them."""
        return stand_in.build()

    def start_request(
        self, spec: Spec, host: str, facts: Facts, vms: Iterable[VM], dhcp_servers: Iterable[IPv4Address] = ()
    ) -> protocol.Request:
        """Sizes do not matter: it takes what it needs. Broadcasts, such as a refusal by DHCP, reach none."""
        vms = list(vms)
        secured = [{"ip": str(vm.ip)} if spec.vm.port_security else {} for vm in vms]
        known = [protocol.vm(vm.name, vm.mac, **one) for vm, one in zip(vms, secured, strict=True)]
        return protocol.start_light(known, host)
