"""What is rendered for service machines, the initramfs and the ISO."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import MachineError
from g5kvirt.images import cpio, iso, minimal
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot import services as nb
from g5kvirt.planning.services import ServiceLayout, ServiceMachine

NETWORK = IPv4Network("10.128.0.0/9")
PARTS = {"nancy": IPv4Network("10.144.0.0/22"), "rennes": IPv4Network("10.156.0.0/22")}


def host(name: str, site: str) -> Host:
    return Host(f"{name}.{site}.grid5000.fr", site, "c", 4, 8 << 30)


def address(site: str, number: int) -> IPv4Address:
    return PARTS[site].network_address + number


def netboot(vms: int = 8) -> nb.Netboot:
    """nancy: one machine for DHCP, two for HTTP; rennes: one for both."""
    machines = (
        ServiceMachine(host("a-1", "nancy"), ("dhcp",), {"nancy": address("nancy", 1)}),
        ServiceMachine(host("a-2", "nancy"), ("http",), {"nancy": address("nancy", 2)}),
        ServiceMachine(host("a-3", "nancy"), ("http",), {"nancy": address("nancy", 3)}),
        ServiceMachine(host("b-1", "rennes"), ("dhcp", "http"), {"rennes": address("rennes", 1)}),
    )
    sites = ["nancy", "nancy", "rennes"]
    made = tuple(
        VM(i, f"vm-{i}", "h", sites[i % 3], address(sites[i % 3], 20 + i), f"02:00:00:00:00:{i:02x}")
        for i in range(1, vms + 1)
    )
    return nb.Netboot(ServiceLayout(NETWORK, machines), made, parts=tuple(PARTS.items()))


def test_every_vm_has_one_dhcp_server_and_that_one_is_of_its_site() -> None:
    plan = netboot(30)
    lines = {
        m.host.site: nb.dhcp_hosts(plan, m).splitlines() for m in plan.layout.machines if "dhcp" in m.roles
    }
    for vm in plan.vms:
        where = [site for site, entries in lines.items() for e in entries if e.startswith(vm.mac)]
        assert where == [vm.site]
    assert sum(map(len, lines.values())) == 30


def test_vms_are_dealt_to_the_http_servers_of_their_site() -> None:
    plan = netboot(30)
    entries = nb.dhcp_hosts(plan, plan.layout.machines[0]).splitlines()
    tags = [re.findall(r"set:(http-\S+?),", entry)[0] for entry in entries]
    assert set(tags) == {"http-10-144-0-2", "http-10-144-0-3"}
    conf = nb.dnsmasq_conf(plan, plan.layout.machines[0])
    for tag, server in (("http-10-144-0-2", "10.144.0.2"), ("http-10-144-0-3", "10.144.0.3")):
        assert f"dhcp-boot=tag:ipxe,tag:{tag},http://{server}/boot/${{net0/mac:hexhyp}}\n" in conf
    assert "10.156" not in conf.replace("10.156.0.0/22", "")


def test_only_a_lonely_dhcp_server_is_authoritative() -> None:
    plan = netboot()
    assert "dhcp-authoritative" not in nb.dnsmasq_conf(plan, plan.layout.machines[0])
    alone = dataclasses.replace(
        plan,
        layout=ServiceLayout(NETWORK, plan.layout.machines[3:]),
        vms=tuple(v for v in plan.vms if v.site == "rennes"),
    )
    assert "dhcp-authoritative" in nb.dnsmasq_conf(alone, alone.layout.machines[0])


def test_dhcp_stops_at_its_time_and_http_continues() -> None:
    plan = dataclasses.replace(netboot(), until=1e9)
    orders = [order for machine in plan.layout.machines for order in nb.services(plan, machine)]
    assert {(o["name"], o["until"]) for o in orders} == {("dnsmasq", 1e9), ("dns", None), ("nginx", None)}


def test_dhcp_has_no_names_to_keep_and_dns_no_leases() -> None:
    plan = netboot()
    machine = plan.layout.machines[0]
    assert "port=0" in nb.dnsmasq_conf(plan, machine).splitlines()
    names = nb.dns_conf(plan, machine).splitlines()
    assert not [line for line in names if line.startswith(("dhcp", "port", "enable-"))]
    assert "addn-hosts=/var/lib/g5kvirt/dns-hosts" in names


def test_only_firmware_that_waits_for_an_ipv6_router_gets_one() -> None:
    """Its advertisements reach every host and guest, which then give themselves addresses."""
    plan = netboot()
    machine = plan.layout.machines[0]
    assert "enable-ra" in nb.dnsmasq_conf(plan, machine).splitlines()
    without = dataclasses.replace(plan, ipv6_router=False)
    conf = nb.dnsmasq_conf(without, machine)
    assert "ra-" not in conf
    assert nb.PREFIX6 not in conf
    assert [a for a in nb.extra_addresses(plan, machine) if ":" not in a] == nb.extra_addresses(
        without, machine
    )


def test_dhcp_answers_vms_only() -> None:
    plan = netboot()
    for machine in (plan.layout.machines[0], plan.layout.machines[3]):
        assert "dhcp-ignore=tag:!known" in nb.dnsmasq_conf(plan, machine).splitlines()


def test_dhcp_reaches_vms_from_every_address_of_their_servers_and_no_other() -> None:
    plan = netboot()
    servers = [m for m in plan.layout.machines if "dhcp" in m.roles]
    plan = dataclasses.replace(
        plan, hosts={m.host.name: IPv4Address(f"10.9.0.{i}") for i, m in enumerate(servers)}
    )
    found = nb.dhcp_servers(plan)
    assert len(found) == len(set(found))
    assert set(found) == {*plan.hosts.values(), *(a for m in servers for a in m.addresses.values())}
    others = {a for m in plan.layout.machines if m not in servers for a in m.addresses.values()}
    assert others
    assert others.isdisjoint(found)


def test_dns_knows_vms_hosts_and_services() -> None:
    plan = dataclasses.replace(netboot(2), hosts={"h-1.nancy.grid5000.fr": IPv4Address("10.9.0.1")})
    text = nb.dns_hosts(plan, plan.layout.machines[0])
    assert "10.9.0.1 h-1.nancy.grid5000.fr h-1\n" in text
    assert "10.156.0.22 vm-2.rennes.g5kvirt vm-2\n" in text
    assert "10.156.0.1 dns.rennes.g5kvirt http.rennes.g5kvirt\n" in text


def test_each_dns_server_names_the_services_of_its_own_sites_as_the_nearest() -> None:
    plan = netboot(2)
    nearest = {}
    for server in (plan.layout.machines[0], plan.layout.machines[3]):
        lines = [line.split() for line in nb.dns_hosts(plan, server).splitlines()]
        found = {
            name: {line[0] for line in lines if name in line} for name in ("http.g5kvirt", "dns.g5kvirt")
        }
        nearest[server.host.site] = found
    assert nearest == {
        "nancy": {"http.g5kvirt": {"10.144.0.2", "10.144.0.3"}, "dns.g5kvirt": {"10.144.0.1"}},
        "rennes": {"http.g5kvirt": {"10.156.0.1"}, "dns.g5kvirt": {"10.156.0.1"}},
    }


def test_nginx_listens_on_its_own_addresses_only() -> None:
    plan = netboot()
    conf = nb.nginx_conf(plan, plan.layout.machines[1])
    assert re.findall(r"listen (\S+)", conf) == ["10.144.0.2:80"]
    assert conf.count("{") == conf.count("}")


def files_of(plan: nb.Netboot, machine: ServiceMachine) -> dict[str, str]:
    """What is written on a service machine: name → content."""
    orders = nb.services(plan, machine)
    return {f["path"].rpartition("/")[2]: f["content"] for order in orders for f in order["files"]}


@pytest.mark.parametrize(
    ("protocol", "machine", "name", "base"),
    [
        ("http", 1, "boot-10.144.0.2.ipxe", "http://10.144.0.2"),
        ("tftp", 0, "boot-http-10-144-0-2.ipxe", "tftp://10.144.0.1"),  # dnsmasq's machine, not nginx's
    ],
)
def test_script_fetches_by_the_protocol_and_tries_again(
    protocol: str, machine: int, name: str, base: str
) -> None:
    plan = dataclasses.replace(netboot(), protocol=protocol)  # type: ignore[arg-type]
    script = files_of(plan, plan.layout.machines[machine])[name]
    assert script.startswith("#!ipxe\n")
    assert f"kernel {base}/kernel initrd=initrd console=ttyS0" in script
    assert "g5kvirt.server=http://10.144.0.2 " in script  # reports always go by HTTP
    labels, jumps = set(re.findall(r"(?m)^:(\w+)", script)), set(re.findall(r"goto (\w+)", script))
    assert jumps <= labels
    assert "reboot" in script
    conf = nb.dnsmasq_conf(plan, plan.layout.machines[0])
    assert ("enable-tftp" in conf) == (protocol == "tftp")
    assert ("boot-http-10-144-0-2.ipxe,,10.144.0.1\n" in conf) == (protocol == "tftp")
    assert plan.files_role in plan.layout.machines[machine].roles


def test_new_vms_do_not_restart_dnsmasq() -> None:
    before, after = netboot(0), netboot(3000)
    for one, two in zip(before.layout.machines, after.layout.machines, strict=True):
        old, new = nb.services(before, one), nb.services(after, two)
        changed = {
            f["change"] for a, b in zip(old, new, strict=True) for f in b["files"] if f not in a["files"]
        }
        assert changed <= {"reload"}


def test_another_port_is_in_every_address() -> None:
    plan = dataclasses.replace(netboot(), port=8080)
    assert ",http://10.144.0.2:8080/boot/${net0" in nb.dnsmasq_conf(plan, plan.layout.machines[0])
    assert "kernel http://10.144.0.2:8080/kernel" in nb.ipxe_script(plan, IPv4Address("10.144.0.2"))


def test_vm_with_its_own_profile() -> None:
    plan = netboot()
    assert nb.vm_script_path(plan.vms[0]) == "/var/lib/g5kvirt/www/vm/02-00-00-00-00-01.ipxe"
    assert "sanboot" in nb.ipxe_script(plan, IPv4Address("10.144.0.2"), profile="disk")


def test_services_follow_the_roles_and_fit_into_json() -> None:
    plan = netboot()
    names = [[order["name"] for order in nb.services(plan, m)] for m in plan.layout.machines]
    assert names == [["dnsmasq", "dns"], ["nginx"], ["nginx"], ["dnsmasq", "dns", "nginx"]]
    for machine in plan.layout.machines:
        orders = nb.services(plan, machine)
        assert json.loads(json.dumps(orders)) == orders
        assert all(order["check"] for order in orders)


def test_service_machines_do_not_share_an_ipv6_address() -> None:
    plan = netboot()
    found = [nb.extra_addresses(plan, m) for m in plan.layout.machines]
    assert found[0] == ["10.144.0.1/9", "fd67:356b::a90:1/64"]
    assert found[1] == ["10.144.0.2/9"]  # no DHCP, no router advertisements
    assert found[3] == ["10.156.0.1/9", "fd67:356b::a9c:1/64"]


# ---------------------------------------------------------------------------------------------- initramfs
def read_archive(data: bytes) -> dict[str, tuple[int, bytes]]:
    """The other side of `cpio.archive`, written from the kernel's description of the format."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, length = numbers[1], numbers[6], numbers[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        body = -(-(at + 110 + length) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[body : body + size])
        at = -(-(body + size) // 4) * 4


@given(
    st.dictionaries(
        st.text("abcdefgh/", min_size=1, max_size=12),
        st.tuples(st.binary(max_size=40), st.integers(0, 0o777)),
    )
)
def test_archives_hold_what_was_put_in(files: dict[str, tuple[bytes, int]]) -> None:
    data = cpio.archive([cpio.regular(name, content, mode) for name, (content, mode) in files.items()])
    assert read_archive(data) == {n: (0o100000 | mode, content) for n, (content, mode) in files.items()}
    assert len(data) % 4 == 0


def test_initramfs_loads_drivers_in_their_order() -> None:
    modules = {"virtio_ring.ko": b"r", "virtio.ko": b"v"}
    recipes = {"init": "#!/bin/sh\n", "address": "a", "agent": "g"}
    data = minimal.initramfs(b"busybox", modules, recipes)
    files = read_archive(data)
    assert sorted(n for n in files if n.startswith("lib/modules/")) == [
        "lib/modules/00-virtio_ring.ko",
        "lib/modules/01-virtio.ko",
    ]
    assert files["init"] == (0o100755, b"#!/bin/sh\n")
    assert files["bin/sh"][1] == b"busybox"
    assert data == minimal.initramfs(b"busybox", modules, recipes)  # the same every time
    paths = list(files)
    assert all(parent in paths[:i] for i, p in enumerate(paths) if (parent := p.rpartition("/")[0]))


def test_scripts_call_only_what_the_initramfs_has() -> None:
    recipes = minimal._recipes()
    files = read_archive(minimal.initramfs(b"", {}, recipes))
    have = {name.removeprefix("bin/") for name in files if name.startswith("bin/")}
    words = r"(?m)(?:^|[;|(!]|\bdo|\buntil|\bif|\bthen|\belse|\|\|)\s*([a-z]+)(?= )"
    builtin = {
        "for",
        "do",
        "done",
        "while",
        "until",
        "if",
        "then",
        "else",
        "case",
        "exec",
        "export",
        "read",
        "report",
    }
    for name in ("init", "address", "agent"):
        code = re.sub(r"(?m)#.*$", "", recipes[name])
        assert set(re.findall(words, code)) - builtin <= have | {"bound"}


# ---------------------------------------------------------------------------------------------------- ISO
def small_iso(names: tuple[bytes, ...]) -> bytes:
    """An ISO 9660 image with files of one sector each in its root directory, both ends' numbers filled in."""
    image = bytearray(2048 * (20 + len(names)))
    image[16 * 2048 : 16 * 2048 + 7] = b"\x01CD001\x01"
    struct.pack_into("<I", image, 16 * 2048 + 158, 19)
    struct.pack_into("<I", image, 16 * 2048 + 166, 2048)
    at = 19 * 2048
    for number, name in enumerate(names):
        size = 33 + len(name) + (33 + len(name)) % 2
        struct.pack_into("<BxI4xI", image, at, size, 20 + number, 100)
        image[at + 32] = len(name)
        image[at + 33 : at + 33 + len(name)] = name
        at += size
    return bytes(image)


def test_iso_runs_our_script() -> None:
    names = (b"EFI.IMG;1", b"IPXE.KRN;1", b"ISOLINUX.CFG;1")
    before = small_iso(names)
    after = iso.with_script(before, "#!ipxe\nautoboot\n")
    files = {name: rest for name, *rest in iso._records(after)}
    _, sector, size = files[b"EFI.IMG;1"]
    assert after[sector * 2048 : sector * 2048 + size] == b"#!ipxe\nautoboot\n"
    _, sector, size = files[b"ISOLINUX.CFG;1"]
    assert b"INITRD efi.img" in after[sector * 2048 : sector * 2048 + size]
    assert len(after) == len(before)


@pytest.mark.parametrize(
    ("image", "script"),
    [
        (b"", ""),
        (small_iso((b"A;1",)), ""),
        (small_iso((b"EFI.IMG;1", b"IPXE.KRN;1", b"ISOLINUX.CFG;1")), "x" * 3000),
    ],
)
def test_an_unexpected_iso_is_refused(image: bytes, script: str) -> None:
    with pytest.raises(MachineError):
        iso.with_script(image, script)
