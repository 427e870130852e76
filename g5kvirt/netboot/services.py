"""What the service machines need so that VMs netboot: pure rendering, nothing is touched here.

`services` gives the orders for the host agent of one service machine: dnsmasq (DHCP with one host entry
per VM, TFTP on request), another dnsmasq (DNS) and nginx (iPXE scripts, kernel, initrd, tasks, reports). Each
VM is pointed at its own server by a tag on its host entry. Kernel and initrd go to `WWW` beside what is
rendered.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

import jinja2

from g5kvirt.hostagent import protocol as hostagent
from g5kvirt.inventory import VM
from g5kvirt.planning.services import ServiceLayout, ServiceMachine
from g5kvirt.spec.spec import MAX_VMS

__all__ = [
    "ACCESS_LOG",
    "KERNEL_ARGUMENTS",
    "PREFIX6",
    "ROOT",
    "WWW",
    "Netboot",
    "dhcp_hosts",
    "dhcp_servers",
    "dns_conf",
    "dns_hosts",
    "dnsmasq_conf",
    "extra_addresses",
    "ipxe_script",
    "nginx_conf",
    "services",
    "vm_script_path",
]

#: Directory of all files on a service machine; readable by the services' own users.
ROOT = "/var/lib/g5kvirt"
WWW = f"{ROOT}/www"
ACCESS_LOG = f"{ROOT}/access.log"

#: TFTP transfers at once by one dnsmasq: each takes a socket. A VM above the limit tries again.
TFTP_MAX = 1000

#: A made-up IPv6 prefix, only so that router advertisements answer iPXE at once.
PREFIX6 = "fd67:356b::"

#: Measured with the Debian cloud kernel under emulation: self-tests of the cryptographic functions and the
#: mitigations against speculative execution cost a third of the whole boot. noreplace-smp: a kernel with one
#: processor would take thousands of lock prefixes out of its code, and flush the TLB twice for each (36,800
#: flushes a boot against 2,100).
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet no_timer_check noreplace-smp cryptomgr.notests mitigations=off panic=10"
)


@dataclass(frozen=True)
class Netboot:
    """All that decides how the VMs of a run boot."""

    layout: ServiceLayout
    vms: tuple[VM, ...]
    hosts: Mapping[str, IPv4Address] = field(default_factory=dict)  #: names to publish besides the VMs'
    parts: tuple[tuple[str, IPv4Network], ...] = ()  #: (site, its sub-network): the VMs' DNS domains
    protocol: Literal["http", "tftp"] = "http"
    domain: str = "g5kvirt"
    interface: str = "br0"
    router: IPv4Address | None = None
    port: int = 80
    kernel_arguments: str = KERNEL_ARGUMENTS
    attempts: int = 8  #: to fetch kernel and initrd, before the firmware starts over
    poll: int = 2  #: seconds between two looks of an idle VM for its task
    www: str = WWW
    ipv6_router: bool = True  #: whether the VMs' firmware waits for one (iPXE does)
    #: when DHCP and router advertisements end by themselves, before the KaVLAN may go that keeps them in
    until: float | None = None

    @property
    def files_role(self) -> str:
        """The role of the machines from whose `www` the VMs fetch kernel and initrd."""
        return "http" if self.protocol == "http" else "dhcp"

    def url(self, server: IPv4Address) -> str:
        """Where the HTTP server at this address is reached."""
        return f"http://{server}" if self.port == 80 else f"http://{server}:{self.port}"

    def vms_of(self, role: str, machine: ServiceMachine) -> list[VM]:
        """The VMs for which ``machine`` plays ``role``."""
        return [vm for vm in self.vms if self.layout.server(role, vm.site, vm.index).host == machine.host]


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("g5kvirt.netboot", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  configuration files, not HTML
    )


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


def _server_tag(address: IPv4Address) -> str:
    """dnsmasq's name for "boots from this server"."""
    return f"http-{str(address).replace('.', '-')}"


def _http_servers(netboot: Netboot, machine: ServiceMachine) -> dict[IPv4Address, IPv4Address]:
    """HTTP servers of the VMs that ``machine`` is the DHCP server of → its own address at their site.

    That is also where these VMs fetch by TFTP, which is dnsmasq's.
    """
    return {
        server.addresses[site]: own
        for site, own in machine.addresses.items()
        for server in netboot.layout.servers("http", site)
    }


def dhcp_hosts(netboot: Netboot, machine: ServiceMachine) -> str:
    """One line per VM of this DHCP server: MAC, tags of its site and of its HTTP server, address, name."""
    lines = []
    for vm in netboot.vms_of("dhcp", machine):
        tag = _server_tag(netboot.layout.address("http", vm.site, vm.index))
        lines.append(f"{vm.mac},set:{vm.site},set:{tag},{vm.ip},{vm.name}\n")
    return "".join(lines)


def dhcp_servers(netboot: Netboot) -> list[IPv4Address]:
    """The addresses from which VMs are answered by DHCP: a machine's own too, from which it broadcasts."""
    found: list[IPv4Address] = []
    for machine in netboot.layout.machines:
        if "dhcp" in machine.roles:
            own = netboot.hosts.get(machine.host.name)
            found += [*machine.addresses.values(), *([] if own is None else [own])]
    return list(dict.fromkeys(found))


def dns_hosts(netboot: Netboot, machine: ServiceMachine) -> str:
    """Addresses and names of all hosts, service machines and VMs; every DNS server knows them all.

    ``http.SITE.DOMAIN`` and ``dns.SITE.DOMAIN`` are the services of that site; ``http.DOMAIN`` and
    ``dns.DOMAIN`` are the nearest ones: each DNS server gives those of its own sites.
    """
    lines = [f"{address} {name} {name.partition('.')[0]}\n" for name, address in netboot.hosts.items()]
    for other in netboot.layout.machines:
        for site, address in other.addresses.items():
            words = ["dns" if role == "dhcp" else role for role in other.roles]
            names = [f"{word}.{site}.{netboot.domain}" for word in words]
            names += [f"{word}.{netboot.domain}" for word in words if site in machine.addresses]
            lines.append(f"{address} {' '.join(names)}\n")
    lines += [f"{vm.ip} {vm.name}.{vm.site}.{netboot.domain} {vm.name}\n" for vm in netboot.vms]
    return "".join(lines)


def dnsmasq_conf(netboot: Netboot, machine: ServiceMachine) -> str:
    """dnsmasq's configuration for DHCP and TFTP on one machine with the role ``dhcp``.

    It does not depend on the VMs: these are in a file of their own, which dnsmasq reads again while it runs.
    """
    layout = netboot.layout
    return _render(
        "dnsmasq.conf.j2",
        machine=machine.host.name,
        sites=machine.sites,
        interface=netboot.interface,
        network=layout.network,
        only=sum("dhcp" in m.roles for m in layout.machines) == 1,
        lease_max=MAX_VMS,
        tftp_max=TFTP_MAX,
        root=ROOT,
        router=netboot.router,
        resolvers=machine.addresses,
        parts=netboot.parts,
        domain=netboot.domain,
        servers={_server_tag(a): (netboot.url(a), own) for a, own in _http_servers(netboot, machine).items()},
        protocol=netboot.protocol,
        prefix6=PREFIX6 if netboot.ipv6_router else "",
        www=netboot.www,
    )


def dns_conf(netboot: Netboot, machine: ServiceMachine) -> str:
    """That of the dnsmasq beside it, which only answers names from the file of `dns_hosts`."""
    return _render(
        "dns.conf.j2",
        machine=machine.host.name,
        sites=machine.sites,
        interface=netboot.interface,
        root=ROOT,
        domain=netboot.domain,
    )


def nginx_conf(netboot: Netboot, machine: ServiceMachine) -> str:
    """nginx's configuration on one machine with the role ``http``; it listens on its own addresses only."""
    return _render(
        "nginx.conf.j2",
        machine=machine.host.name,
        sites=machine.sites,
        addresses=list(machine.addresses.values()),
        port=netboot.port,
        workers=2 if machine.host.cores > 2 else 1,
        root=ROOT,
        www=netboot.www,
        access_log=ACCESS_LOG,
    )


def ipxe_script(
    netboot: Netboot,
    server: IPv4Address,
    profile: Literal["minimal", "disk"] = "minimal",
    arguments: str = "",
    tftp: IPv4Address | None = None,
) -> str:
    """The iPXE script of VMs with the HTTP server ``server``: into the minimal system, or from their disk.

    ``tftp``: where they fetch kernel and initrd instead, if they do that by TFTP.
    """
    if profile == "disk":
        return _render("disk.ipxe.j2")
    http = netboot.url(server)
    words = [netboot.kernel_arguments, f"g5kvirt.server={http}", f"g5kvirt.poll={netboot.poll}", arguments]
    base = http if tftp is None else f"tftp://{tftp}"
    return _render(
        "boot.ipxe.j2", base=base, arguments=" ".join(w for w in words if w), tries=netboot.attempts
    )


def vm_script_path(vm: VM, www: str = WWW) -> str:
    """Where a script of the VM's own goes; without one it boots as all do."""
    return posixpath.join(www, "vm", vm.mac.replace(":", "-") + ".ipxe")


def extra_addresses(netboot: Netboot, machine: ServiceMachine) -> list[str]:
    """The addresses that ``prepare`` must add to the machine's bridge, with their prefix lengths."""
    length = netboot.layout.network.prefixlen
    own = [f"{address}/{length}" for address in machine.addresses.values()]
    if "dhcp" not in machine.roles or not netboot.ipv6_router:
        return own
    first = int(next(iter(machine.addresses.values())))
    return [*own, f"{PREFIX6}{first >> 16:x}:{first & 0xFFFF:x}/64"]  # the router that answers iPXE


def _tftp_scripts(netboot: Netboot, machine: ServiceMachine) -> list[dict[str, Any]]:
    """One script for each HTTP server: dnsmasq selects a VM's by its tag."""
    if netboot.protocol != "tftp":
        return []
    return [
        hostagent.file(
            f"{netboot.www}/boot-{_server_tag(http)}.ipxe",
            ipxe_script(netboot, http, tftp=own),
            change="none",
        )
        for http, own in _http_servers(netboot, machine).items()
    ]


def _dnsmasq(
    name: str, configuration: str, files: list[dict[str, Any]], www: str, until: float | None = None
) -> dict[str, Any]:
    """The ``serve`` request for one dnsmasq; ``until``: when it ends by itself."""
    path = f"{ROOT}/{name}.conf"
    return hostagent.serve(
        name,
        command=["dnsmasq", "-C", path],
        check=[["dnsmasq", "--test", "-C", path]],
        files=[hostagent.file(path, configuration), *files],
        directories=[ROOT, www],
        ready_log="started",
        until=until,
    )


def services(netboot: Netboot, machine: ServiceMachine) -> list[dict[str, Any]]:
    """The ``serve`` requests for the host agent of one service machine."""
    orders: list[dict[str, Any]] = []
    if "dhcp" in machine.roles:
        # VMs are registered before any has a lease: dnsmasq (2.86 to 2.90 at least) crashes if it has to
        # read hosts with tags again after it has served some. Its supervisor has it back in 0.1 s, with them.
        hosts = hostagent.file(f"{ROOT}/dhcp-hosts", dhcp_hosts(netboot, machine), change="reload")
        files = [hosts, *_tftp_scripts(netboot, machine)]
        orders.append(_dnsmasq("dnsmasq", dnsmasq_conf(netboot, machine), files, netboot.www, netboot.until))
        names = hostagent.file(f"{ROOT}/dns-hosts", dns_hosts(netboot, machine), change="reload")
        orders.append(_dnsmasq("dns", dns_conf(netboot, machine), [names], netboot.www))
    if "http" in machine.roles:
        conf = f"{ROOT}/nginx.conf"
        scripts = [
            hostagent.file(f"{netboot.www}/boot-{a}.ipxe", ipxe_script(netboot, a), change="none")
            for a in machine.addresses.values()
        ]
        orders.append(
            hostagent.serve(
                "nginx",
                command=["nginx", "-c", conf],
                check=[["nginx", "-t", "-q", "-c", conf]],
                files=[hostagent.file(conf, nginx_conf(netboot, machine), change="reload"), *scripts],
                directories=[ROOT, netboot.www, f"{netboot.www}/vm", f"{netboot.www}/task", f"{ROOT}/tmp"],
                rotated=[ACCESS_LOG],
                ready_tcp=(str(next(iter(machine.addresses.values()))), netboot.port),
            )
        )
    return orders
