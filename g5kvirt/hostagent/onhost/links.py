"""Links between VMs: what arrives at a VM from others gets a rate, a latency and a loss, on its tap.

nftables gives each packet on its way to a VM the class of its source address (one look-up in a map of
ranges, whatever the number of VMs), and htb on the VM's tap has the classes: one for each link, below it one
for each cell of source addresses, below that netem, or a queue of bytes. What has no class passes as before.

What was requested is kept in ``links.json``: a tap that is made later gets its classes from there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket

from .processes import run, run_checked
from .records import load_record, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .records import Record, Results

TABLE = "bridge g5kvirt_links"
#: Taps and links of VMs are called ``v`` and the MAC address, whose first half is ours.
TAPS = "v5254*"
#: The classes of links are numbered from here on, those of cells from 1.
FIRST_LINK = 0x8000
#: Bits per second where a link has no rate.
UNLIMITED = 100e9
#: Seconds of traffic that wait at a link, as in a router; and the bytes that wait at least and at most: a
#: packet is up to 64 KiB until a network card has divided it.
QUEUE = 0.1
QUEUE_BYTES = (128 << 10, 64 << 20)
#: Packets that netem keeps at least: as many as its own default.
LEAST_PACKETS = 1000
#: Seconds for a call of nft or tc: 65,536 ranges of addresses took nft 12 s on a busy machine, 4,552 one.
LIMIT = 90.0
PROBE = "g5kvirt-netem"


def links(request: Record, home: str) -> Results:
    """Set the links of this host; those that it had are gone then. Nothing changes if they are as requested.

    ``ranges``: [first address, last address, cell]; ``classes``: cell → what arrives there, each with
    ``rate`` (bits per second), ``latency`` (seconds), ``loss`` (0 to 1), any of them None, and ``from``
    (cells); ``vms``: MAC address → cell.
    """
    wanted = {key: request[key] for key in ("ranges", "classes", "vms")}
    before = load_record(f"{home}/links.json")
    subject = os.uname().nodename
    classes = [one for own in wanted["classes"].values() for one in own]
    if any(one["latency"] is not None or one["loss"] is not None for one in classes):
        check_netem()
    if before.get("wanted") == wanted and not waiting_taps(before):
        yield subject, {"unchanged": True, "taps": len(before["applied"])}
        return
    if not wanted["vms"]:
        remove(home)
        yield subject, {"unchanged": not before, "taps": 0}
        return
    clear_taps(before)
    write_text(f"{home}/links.json", json.dumps({"wanted": wanted, "applied": {}}))
    run_checked(["nft", "-f", "-"], classifier(wanted["ranges"]), LIMIT)
    yield subject, {"taps": restore(home)}


def restore(home: str) -> int:
    """Give taps that have been made since their classes; returns the number of all that have them."""
    record = load_record(f"{home}/links.json")
    if not record:
        return 0
    lines: list[str] = []
    waiting = waiting_taps(record)
    for tap, (index, cell) in waiting.items():
        lines += tap_commands(tap, record["wanted"]["classes"][str(cell)])
        record["applied"][tap] = index
    if lines:
        # what an interrupted call may have left
        clear = "".join(f"qdisc del dev {tap} root\n" for tap in waiting)
        run(["tc", "-force", "-batch", "-"], clear, LIMIT)
        run_checked(["tc", "-batch", "-"], "\n".join(lines) + "\n", LIMIT)
        write_text(f"{home}/links.json", json.dumps(record))
    return len(record["applied"])


def remove(home: str) -> None:
    """The host as it was before. Raises OSError."""
    record = load_record(f"{home}/links.json")
    if not record:
        return
    clear_taps(record)
    if shutil.which("nft"):
        run_checked(["nft", "-f", "-"], f"add table {TABLE}\ndelete table {TABLE}\n")
    os.remove(f"{home}/links.json")


def check_netem() -> None:
    """Raises OSError if this kernel has no netem; tried on a link of its own, which is gone afterwards."""
    run(["ip", "link", "del", PROBE])
    run_checked(["ip", "link", "add", PROBE, "type", "veth", "peer", "name", f"{PROBE}2"])
    try:
        code, out = run(["tc", "qdisc", "add", "dev", PROBE, "root", "netem", "delay", "1us"])
    finally:
        run_checked(["ip", "link", "del", PROBE])
    if code:
        raise OSError(f"this kernel has no netem, so links can have a rate only ({out[-200:]})")


# ---- what is there ---------------------------------------------------------------------------------------


def waiting_taps(record: Record) -> dict[str, tuple[int, int]]:
    """Tap → (its number, its cell), of those that are there and lack their classes."""
    waiting = {}
    for mac, cell in record["wanted"]["vms"].items():
        tap = "v" + mac.replace(":", "")
        index = interface_number(tap)
        if index and record["applied"].get(tap) != index:
            waiting[tap] = (index, cell)
    return waiting


def clear_taps(record: Record) -> None:
    """Take the classes from all taps that have them and are still the same."""
    applied = record.get("applied", {})
    lines = [f"qdisc del dev {tap} root" for tap, index in applied.items() if interface_number(tap) == index]
    if lines:
        run(["tc", "-force", "-batch", "-"], "\n".join(lines) + "\n", LIMIT)


def interface_number(name: str) -> int:
    """The number of an interface, which a new one of the same name does not have; 0 if there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


# ---- what is written ---------------------------------------------------------------------------------------


def classifier(ranges: Iterable[Any]) -> str:
    """nftables' commands: a packet to a VM gets the class of its source address as its priority."""
    elements = ", ".join(
        f"{first if first == last else f'{first}-{last}'} : 1:{cell:x}" for first, last, cell in ranges
    )
    return f"""
add table {TABLE}
delete table {TABLE}
add table {TABLE}
add map {TABLE} cells {{ typeof ip saddr : meta priority; flags interval; }}
add element {TABLE} cells {{ {elements} }}
add chain {TABLE} to_vms {{ type filter hook forward priority 0; policy accept; }}
add rule {TABLE} to_vms oifname "{TAPS}" meta priority set ip saddr map @cells
"""


def tap_commands(tap: str, classes: Iterable[Record]) -> list[str]:
    """tc's commands for one tap: htb, a class for each link, below it one for each of its cells."""
    lines = [f"qdisc replace dev {tap} root handle 1: htb default 0"]
    for number, link in enumerate(classes, start=FIRST_LINK):
        rate = link["rate"] or UNLIMITED
        lines.append(f"class add dev {tap} parent 1: classid 1:{number:x} {htb(rate, rate)}")
        for cell in link["from"]:
            share = max(8000.0, rate / len(link["from"]))
            lines.append(f"class add dev {tap} parent 1:{number:x} classid 1:{cell:x} {htb(share, rate)}")
            if queue := leaf(link):
                lines.append(f"qdisc add dev {tap} parent 1:{cell:x} {queue}")
    return lines


def htb(rate: float, ceil: float) -> str:
    """The parameters of a class. Bursts of 20 ms, for a host that is busy: with 4 ms, 60
    Mbit/s came to 53 on a machine with six times as much to do as cores. The cells of a link take
    turns by a quantum of bytes, which tc would choose too large for high rates."""
    burst = int(ceil / 8 * 0.02) + 1600
    return f"htb rate {rate:.0f}bit ceil {ceil:.0f}bit burst {burst} cburst {burst} quantum 15000"


def leaf(link: Record) -> str:
    """The queue of a cell; empty if it needs none of its own."""
    rate, latency, loss = link["rate"], link["latency"], link["loss"]
    if latency is None and loss is None:
        least, most = QUEUE_BYTES
        return f"bfifo limit {int(min(max(rate / 8 * QUEUE, least), most))}"
    packets = LEAST_PACKETS + int((rate or UNLIMITED / 10) / 8 / 1500 * (QUEUE + (latency or 0.0)))
    delay = "" if latency is None else f" delay {latency * 1e6:.0f}us"
    lost = "" if loss is None else f" loss {100 * loss:.6g}%"
    return f"netem limit {packets}{delay}{lost}"
