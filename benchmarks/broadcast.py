"""One file to 8 hosts, the chain beside its peers, in one run: ``python benchmarks/broadcast.py`` as root.

A server and the hosts are network namespaces of our own on one bridge; htb limits each of their links, both
ways, to 100 Mb/s and to 1 Gb/s. The same file goes, one after the other, through

- the chain of relays; and again with one host killed half-way (its process; its link, silently),
- one TCP stream from the server to one host: what a link carries on this machine,
- plain HTTP: eight requests to one server,
- TakTuk's ``broadcast put``, and this project's own tree of TakTuk over ssh,
- udpcast's ``udp-sender``: one multicast stream, acknowledged,
- BitTorrent: aria2 with a tracker of ours.

Every copy is checked by its SHA-256. Programs that are not installed are taken from Debian's packages and
unpacked into a cache; nothing is installed, and one that cannot be had has its reason in the table. What has
a bound goes with the whole file (the median of several runs counts where a run takes less than 5 s), its
peers with what a link carries in `--peer-seconds`, half of it at the most.

Two shares are given: *of TCP* is relative to the data that a TCP stream can bring through a link of that rate
(1448 of each 1514 bytes that htb counts), *of rate* to the bare rate, which nothing can reach. Bounds are for
the former. *load* is the number of processes that wanted a processor in the last minute; what is measured
is of real time, as relays make themselves, but does not have the machine for itself. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import peers
from chainlab import PAYLOAD, Chain, Lab, until
from common import machine
from peers import Outcome, checked

Method = Callable[[Lab, Path, float], Outcome]

BOUND = 0.95  #: of what TCP can carry, for the chain
LOST = 0.90  #: the same with one host lost half-way
COLUMNS = ("method", "link", "MB", "seconds", "of_tcp", "of_rate", "right", "hosts", "load", "bound", "note")


@contextlib.contextmanager
def punctual() -> Iterator[None]:
    """Come before what is measured, for as long as it is watched."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def chain(lab: Lab, image: Path, limit: float, kill: str = "") -> Outcome:
    """The chain; ``kill``: "process" or "link" of the middle host, when it has half of the file."""
    with contextlib.ExitStack() as stack:
        stack.callback(lab.end)
        relays = Chain(lab, image)
        victim = (lab.hosts + 1) // 2
        hosts = [n for n in range(1, lab.hosts + 1) if not kill or n != victim]
        # half is half only if we are there in time to see it
        with punctual() if kill else contextlib.nullcontext():
            begun = relays.go()
            if kill:
                until(lambda: relays.have(victim) >= relays.size / 2, limit, "no half", 0.002)
            if kill == "process":
                relays.relays[victim].kill()
            elif kill:
                stack.callback(lab.rejoin, victim)
                lab.cut(victim)
        relays.wait(hosts, limit)
        if kill == "link" and relays.have(victim) == relays.size:
            raise RuntimeError("the link was cut too late: its host had the whole file")
        seconds = max(relays.arrival(n) for n in hosts) - begun
        check = max(float(relays.last(n)["t"]) for n in hosts) - begun
        cpu = sum(relays.last(n)["cpu"] for n in (0, *hosts))
        note = f"all sums checked after {check:.2f} s, {cpu:.1f} CPU s"
        moved = [relays.last(n) for n in hosts if len(relays.last(n)["took_from"]) > 1]
        if moved:
            longest = max(last["outage"] for last in moved)
            note += f"; {len(moved)} changed the source, without bytes for {longest:.3f} s"
        return checked([lab.folder / str(n) / relays.sha256 for n in hosts], image, seconds, note)
    raise AssertionError  # for the type checker: nothing above swallows an exception


def methods(cache: Path) -> Iterator[tuple[str, Method | str, float | None]]:
    """Name, what to call or why it cannot be, and the least share of what TCP can carry."""
    yield "chain", chain, BOUND
    yield "chain, a process killed", partial(chain, kill="process"), LOST
    yield "chain, a link cut silently", partial(chain, kill="link"), LOST
    yield "one TCP stream to one host", partial(peers.plain_http, hosts=1), None
    yield "plain HTTP, one server", peers.plain_http, None
    needing: tuple[tuple[str, Callable[..., Outcome], tuple[str, ...]], ...] = (
        ("udpcast", peers.udpcast, ("udp-sender",)),
        ("aria2, a tracker", peers.aria2, ("aria2c",)),
        ("taktuk broadcast put", peers.taktuk, ("taktuk",)),
        ("tree (TakTuk over ssh)", peers.tree, ("sshd", "taktuk")),
    )
    for name, function, needed in needing:
        try:
            places = [peers.programs(program, cache) for program in needed]
        except peers.MissingError as missing:
            yield name, str(missing), None
        else:

            def method(lab: Lab, image: Path, limit: float, f: Any = function, w: Any = places) -> Outcome:
                outcome: Outcome = f(lab, image, limit, *w)
                return outcome

            yield name, method, None


def measure(
    lab: Lab, name: str, method: Method | str, bound: float | None, image: Path, runs: int, limit: float
) -> dict[str, Any]:
    """One row of the table. A method that cannot run, or fails, has the reason as its note."""
    size = image.stat().st_size
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"method": name, "link": f"{lab.rate / 1e6:g} Mb/s"}
    row |= {
        "MB": size / 1e6,
        "bound": bound,
        "right": 0,
        "hosts": lab.hosts,
        "load": round(os.getloadavg()[0], 1),
    }
    if isinstance(method, str):
        return row | {"note": method}
    try:
        tried = [method(lab, image, limit) for _ in range(runs)]
    except (TimeoutError, subprocess.SubprocessError) as error:
        return row | {"note": f"{type(error).__name__}: {error}"}
    seconds = statistics.median_low(sorted(o.seconds for o in tried))
    worst = min(tried, key=lambda o: o.right / o.hosts)
    row |= {"right": worst.right, "hosts": worst.hosts, "seconds": round(seconds, 3)}
    row["note"] = next(o.note for o in tried if o.seconds == seconds)
    row["all_seconds"] = [round(o.seconds, 3) for o in tried]
    if worst.right == worst.hosts:
        row["of_rate"] = round(size * 8 / lab.rate / seconds, 4)
        row["of_tcp"] = round(size * 8 / lab.rate / PAYLOAD / seconds, 4)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in columns."""
    lines = [
        f"{'method':27} {'link':>10} {'MB':>5} {'seconds':>8} {'of TCP':>8} {'of rate':>8} {'bound':>6}"
        f" {'right':>5} {'load':>5}  note"
    ]
    for row in rows:
        of_tcp, of_rate = ("-" if row[k] is None else f"{100 * row[k]:.1f} %" for k in ("of_tcp", "of_rate"))
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.2f}"
        bound = "" if row["bound"] is None else f"{100 * row['bound']:.0f} %"
        lines.append(
            f"{row['method']:27} {row['link']:>10} {row['MB']:5.0f} {seconds:>8} {of_tcp:>8} {of_rate:>8}"
            f" {bound:>6} {row['right']:>3}/{row['hosts']} {row['load']:5.1f}  {row['note']}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bars: the share of what TCP can carry, one panel a rate; the same rows in a CSV file beside it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from g5kvirt.views.style import STYLE, TWO_COLUMNS

    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    links = list(dict.fromkeys(row["link"] for row in rows))
    names = list(dict.fromkeys(row["method"] for row in rows))
    with mpl.rc_context(STYLE):
        figure, panels = plt.subplots(
            1,
            len(links),
            figsize=(TWO_COLUMNS, 0.22 * len(names) + 0.7),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for panel, link in zip(panels[0], links, strict=True):
            for row in (row for row in rows if row["link"] == link):
                at, share = names.index(row["method"]), 100 * (row["of_tcp"] or 0.0)
                panel.barh(at, share, color="#0072b2" if row["method"].startswith("chain") else "#999999")
                text = f"{share:.1f} %" if row["of_tcp"] else "not measured"
                panel.text(max(share, 100 * (row["bound"] or 0.0)) + 2, at, text, va="center", fontsize=7)
                if row["bound"]:
                    panel.plot([100 * row["bound"]] * 2, [at - 0.4, at + 0.4], color="#d55e00", linewidth=1)
            load = statistics.mean(row["load"] for row in rows if row["link"] == link)
            title = f"{link} (load of the machine {load:.0f})"
            panel.set(title=title, xlabel="share of what TCP can carry (%)", xlim=(0, 125))
            panel.set_yticks(range(len(names)), names)
        panels[0][0].invert_yaxis()
        figure.savefig(path)
        plt.close(figure)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--size", type=int, default=200, help="megabytes (10^6 bytes)")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e8, 1e9], help="bits per second")
    parser.add_argument("--runs", type=int, default=3, help="runs of what has a bound")
    parser.add_argument("--peer-seconds", type=float, default=3.0, help="of a link, what peers send")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for one method")
    parser.add_argument("--figure", type=Path, default=Path("broadcast.png"), help="and a .csv beside it")
    cache = Path("~/.cache/g5kvirt/peers").expanduser()
    parser.add_argument("--cache", type=Path, default=cache, help="unpacked packages")
    return parser.parse_args()


def part_of(arguments: argparse.Namespace, rate: float) -> int:
    """Megabytes for what has no bound."""
    seconds: float = arguments.peer_seconds
    return max(1, min(int(arguments.size) // 2, int(rate / 8e6 * seconds)))


def main() -> int:
    """Measure, print; 1 if a bound is missed."""
    arguments = parsed()
    if os.geteuid():
        print("broadcast.py: needs root for network namespaces", file=sys.stderr)
        return 3
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, then end
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        images = {}
        for rate in arguments.rates:
            for mega in {arguments.size, part_of(arguments, rate)}:
                images[mega] = Path(folder) / f"image-{mega}"
                with images[mega].open("wb") as file:
                    for left in range(mega, 0, -10):
                        file.write(secrets.token_bytes(min(left, 10) * 10**6))
        for rate in arguments.rates:
            whole, part = arguments.size, part_of(arguments, rate)
            runs = arguments.runs if whole * 8e6 / rate < 5 else 1
            with Lab(arguments.hosts, rate) as lab:
                for name, method, bound in methods(arguments.cache):
                    if arguments.only in name:
                        image, times = (images[part], 1) if bound is None else (images[whole], runs)
                        rows.append(measure(lab, name, method, bound, image, times, arguments.limit))
                        print(table(rows[-1:]).splitlines()[1], flush=True)
    print(f"\n{table(rows)}")
    draw(rows, arguments.figure)
    ratios = [(row["of_tcp"] or 0.0) / row["bound"] for row in rows if row["bound"]]
    figure = {
        "name": "broadcast, the least share of a link over its bound",
        "value": round(min(ratios, default=0), 3),
    }
    figure |= {"unit": "×", "bound": 1.0, "machine": machine(), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps({**figure, "rows": rows}, ensure_ascii=False))
    return int(min(ratios, default=1.0) < 1.0)


if __name__ == "__main__":
    sys.exit(main())
