"""What light guests send and read: DHCP, iPXE scripts, task files. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.hostagent.onhost.light import dhcp, http
from g5kvirt.hostagent.onhost.light.boot_script import argument, read_script
from g5kvirt.hostagent.onhost.light.guest import quote
from g5kvirt.hostagent.onhost.light.task import read_task
from g5kvirt.images.environments import Environment
from g5kvirt.inventory import GIB, Host, SubNetwork
from g5kvirt.netboot import services
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.planning.services import service_layout
from g5kvirt.provisioners.builtin import tasks

MAC = bytes.fromhex("020000000001")
HEAD = Host("h-1.nancy.grid5000.fr", "nancy", "h", 4, GIB)
LAYOUT = service_layout([HEAD], {"nancy": 1}, [SubNetwork("nancy", IPv4Network("10.144.0.0/22"))])
SERVER = LAYOUT.address("http", "nancy", 0)


def test_dhcp_frame_has_right_lengths_and_checksum() -> None:
    frame = dhcp.frame(MAC, 7, dhcp.DISCOVER, b"")
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x00"
    words = struct.unpack("!10H", frame[14:34])
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert words[1] == len(frame) - 14
    assert struct.unpack("!HHH", frame[34:40]) == (68, 67, len(frame) - 34)


def answer(kind: int, xid: int = 7, mac: bytes = MAC, extra: bytes = b"") -> bytes:
    """A server's answer, made from a request with the ports exchanged."""
    frame = bytearray(dhcp.frame(mac, xid, kind, b"\x01\x04\xff\xff\xf0\x00\x36\x04\x0a\x90\x00\x01" + extra))
    frame[34:38] = b"\0\x43\0\x44"
    frame[42 + 16 : 42 + 20] = IPv4Address("10.144.1.2").packed
    return bytes(frame)


def test_dhcp_answer_is_read() -> None:
    found = dhcp.parse(answer(dhcp.ACK, extra=b"\x43\x05/boot\x0c\x04vm-2"), MAC, 7)
    assert found is not None
    kind, lease = found
    assert (kind, lease.address, lease.netmask) == (dhcp.ACK, "10.144.1.2", "255.255.240.0")
    assert (lease.file, lease.name, lease.server) == ("/boot", "vm-2", bytes([10, 144, 0, 1]))


def test_dhcp_answer_names_the_dns_servers() -> None:
    for option, servers in (
        (b"\x06\x08\x0a\x90\x00\x01\x0a\x9c\x00\x01", ("10.144.0.1", "10.156.0.1")),
        (b"\x06\x05\x0a\x90\x00\x01\x0a", ("10.144.0.1",)),
        (b"", ()),
    ):
        found = dhcp.parse(answer(dhcp.ACK, extra=option), MAC, 7)
        assert found is not None
        assert found[1].dns == servers


def test_dhcp_answers_to_others_are_ignored() -> None:
    good = answer(dhcp.OFFER)
    assert dhcp.parse(good, MAC, 8) is None
    assert dhcp.parse(good, b"\x02" * 6, 7) is None
    assert dhcp.parse(dhcp.frame(MAC, 7, dhcp.OFFER, b""), MAC, 7) is None, "from a client"


@given(st.binary(max_size=700))
def test_dhcp_survives_any_packet(data: bytes) -> None:
    dhcp.parse(data, MAC, 7)
    dhcp.parse(answer(dhcp.ACK)[:282] + data, MAC, 7)


@pytest.mark.parametrize(
    ("file", "tftp", "base"),
    [("http", None, f"http://{SERVER}"), ("tftp", IPv4Address("10.9.9.9"), "tftp://10.9.9.9")],
)
def test_the_scripts_of_the_netboot_services_are_read(file: str, tftp: IPv4Address | None, base: str) -> None:
    plan = services.Netboot(LAYOUT, (), poll=7, attempts=3)
    script = read_script(services.ipxe_script(plan, SERVER, tftp=tftp))
    assert (script.kernel, script.initrd) == (f"{base}/kernel", f"{base}/initrd")
    assert not script.from_disk
    assert script.tries == 3
    assert argument(script.arguments, "g5kvirt.server") == f"http://{SERVER}"
    assert argument(script.arguments, "g5kvirt.poll") == "7"
    assert argument(script.arguments, "nothing", "x") == "x"
    assert read_script(services.ipxe_script(plan, SERVER, profile="disk")).from_disk


@pytest.mark.parametrize("text", ["", "<html>", "#!ipxe\nkernel http://10.0.0.1/kernel\n"])
def test_what_is_no_boot_script_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="script"):
        read_script(text)


def test_task_files_are_read_as_a_shell_does() -> None:
    environment = Environment("it's mine", "/x", compression="gzip")
    keys = ["ssh-ed25519 AAAA it's $(me)", 'ssh-ed25519 BBBB "two"']
    task = tasks.TaskFile(
        id=TaskId("d1", 2),
        environment="mini",
        image="http://10.144.0.9:8080/abc",
        sha256="0" * 64,
        authorized_keys=tuple(keys),
        server="http://10.144.0.1",
        compression=environment.compression,
    )
    values = read_task(tasks.render(task))
    assert values["authorized_keys"].splitlines() == keys
    assert (values["image"], values["sha256"]) == (task.image, task.sha256)
    assert (values["deployment"], values["compression"]) == (str(task.id), "gzip")
    with pytest.raises(ValueError, match="the task lacks compression"):
        read_task("# d1\ndeployment=d1\nenvironment=e\nimage=i\nsha256=s\nserver=x\n")


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1/x", "http://example.org/x", "http://10.0.0.1", "http://10.0.0.1:x/y", "x"]
)
def test_urls_without_a_numeric_address_are_refused(url: str) -> None:
    with pytest.raises(http.TransferError, match="is not http://ADDRESS:PORT/PATH"):
        http.split(url)


def test_url_is_split() -> None:
    assert http.split("http://10.0.0.1:8080/a/b?c=d") == ("10.0.0.1", 8080, "/a/b?c=d")


@given(st.text())
def test_quoting_is_that_of_urllib(text: str) -> None:
    from urllib.parse import quote as expected

    encodable = text.encode("utf-8", "ignore").decode()
    assert quote(encodable) == expected(encodable, safe="")
