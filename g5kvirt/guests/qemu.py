"""Virtual machines: a QEMU process each, with KVM where the host has it, emulated where not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost import libssh
from g5kvirt.images import minimal
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.inventory import MIB, VM, Facts
from g5kvirt.planning.windows import interleave
from g5kvirt.spec.spec import Spec

__all__ = ["ISO", "Qemu"]

#: Where the iPXE image is on hosts whose VMs boot from it.
ISO = "/var/lib/g5kvirt/ipxe.iso"


class Qemu:
    """A `g5kvirt.guests.base.Guest`."""

    words: Mapping[str, str] = {
        "vm": "virtual machines (QEMU)",
        "kvm": "virtual machines (QEMU, KVM)",
        "tcg": "virtual machines (QEMU, emulated)",
    }
    programs: tuple[str, ...] = ("ip", "qemu-system-x86_64", "nft", libssh.FILE)
    root = "/dev/vd"
    has_kernel = True
    boot_bytes = 15.4e6  # Debian's kernel, 14.2 MB, and our initrd
    absent_steps: frozenset[str] = frozenset()

    def label(self, hosts: Collection[Facts]) -> str:
        """``kvm`` if all hosts have it, else ``tcg``."""
        return "kvm" if all(facts.kvm for facts in hosts) else "tcg"

    def start_order(self, vms: Sequence[VM]) -> list[VM]:
        """Site by site and host by host in turn: a boot takes the cores of its host."""
        return interleave(vms)

    def minimal_system(self, progress: ProgressCallback) -> minimal.MinimalSystem:
        """Debian's kernel and an initramfs with the agent."""
        return minimal.build(progress=progress)

    def start_request(
        self, spec: Spec, host: str, facts: Facts, vms: Iterable[VM], dhcp_servers: Iterable[IPv4Address] = ()
    ) -> protocol.Request:
        """Memory, disk and cores are those of ``Spec.vm``, unless the VM's group has others."""
        secured = spec.vm.port_security
        return protocol.start(
            [protocol.vm(vm.name, vm.mac, **_settings(spec, vm)) for vm in vms],
            memory=spec.vm.memory * MIB,
            disk=spec.vm.disk * MIB,
            cores=spec.vm.cores,
            kvm=facts.kvm,
            boot=spec.boot,
            iso=ISO if spec.boot == "iso" else None,
            dhcp_servers=map(str, dhcp_servers) if secured else (),
        )


def _settings(spec: Spec, vm: VM) -> dict[str, str | int]:
    """What a VM has of its own: its address if its host holds it to that, and the size of its group."""
    address: dict[str, str | int] = {"ip": str(vm.ip)} if spec.vm.port_security else {}
    if not vm.group:
        return address
    size = spec.size_of(vm.group)
    return {**address, "memory": size.memory * MIB, "disk": size.disk * MIB, "cores": size.cores}
