"""What does watching a run cost? ``python benchmarks/view.py``: 5,000 VMs, 2,000 transitions a second, 20 s.

A real kernel (ipykernel) runs the real widget as a notebook does; this process is its front end
and keeps the time at which each message arrives. A run that writes its events and otherwise sleeps is shown,
and once more the same run is not shown. Bounds: CPU of the view 10 % of a core, 1 s from a transition until
it is sent, 10 MiB more memory in the second half, 4 updates a second. The last lines are JSON, one a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import report
from jupyter_client.manager import start_new_kernel

#: Runs in the kernel. Prints one line of JSON: CPU seconds of the process, memory halfway and at the end.
RUN = """
import itertools, json, os, random, sys, time
sys.path.insert(0, {package!r})
from g5kvirt.run.events import Event
from g5kvirt.views import live

VMS, RATE, SECONDS, HOSTS = {vms}, {rate}, {seconds}, 355
STEPS = ("power-on", "dhcp", "script", "kernel", "initrd", "minimal-system")

class Journal:
    def __init__(self):
        self.events, self.base = [], 0
    def since(self, position):  # what was read is dropped: the memory of the journal is not the view's
        new, self.events = self.events[position - self.base:], []
        self.base = position + len(new)
        return new

def plan():
    rows = [dict(name=f"vm-{{i}}", host=f"gros-{{i % HOSTS}}.site{{i % HOSTS % 6}}.grid5000.fr",
                 site=f"site{{i % HOSTS % 6}}") for i in range(VMS)]
    return Event("place", "plan", "run", "r", "ok", time.time(), 1, dict(vms=rows))

def transitions():
    # every VM boots again and again, in no order; one in 50 is given up with a reason
    order = list(range(VMS))
    for attempt in itertools.count(1):
        random.shuffle(order)
        for step in STEPS:
            for i in order:
                yield Event("launch", step, "vm", f"vm-{{i}}", "ok", time.time(), attempt)
                if step == "kernel" and i % 50 == 0:
                    yield Event("launch", "launch", "vm", f"vm-{{i}}", "retry", time.time(), attempt,
                                dict(reason=f"nothing after kernel within {{attempt}} s"))

def memory():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def run(shown):
    journal = Journal()
    journal.events.append(plan())
    journal.events.append(Event("launch", "phase", "run", "r", "start", time.time()))
    with live.watch(journal, VMS, "benchmark", mode="widget" if shown else "none"):
        time.sleep(2.0)  # imports and the first picture are paid once a notebook
        source, begin, written, half = transitions(), time.time(), 0, 0
        spent = time.process_time()
        while (now := time.time()) - begin < SECONDS:
            due = int((now - begin) * RATE) - written
            fresh = list(itertools.islice(source, due))
            written += due
            if shown:
                journal.events += fresh
            if not half and now - begin > SECONDS / 2:
                half = memory()
            time.sleep(0.02)
        spent, end = time.process_time() - spent, memory()
    print(json.dumps(dict(cpu=spent, half=half, end=end, written=written)))
"""


Messages = list[tuple[float, dict[str, Any]]]


def _messages(client: Any, code: str, timeout: float) -> tuple[Messages, dict[str, Any]]:
    """Run a cell; returns its messages with their time of arrival, and the JSON that it printed."""
    parent = client.execute(code)
    deadline = time.monotonic() + timeout
    received: Messages = []
    printed = ""
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        kind, content = message["msg_type"], message["content"]
        received.append((time.time(), message))
        if kind == "error":
            raise SystemExit("\n".join(content["traceback"]))
        if kind == "stream" and content["name"] == "stdout":
            printed += content["text"]
        own = message["parent_header"].get("msg_id") == parent
        if own and kind == "status" and content["execution_state"] == "idle":
            return received, json.loads(printed) if printed else {}
    raise SystemExit(f"the kernel did not respond within {timeout:.0f} s")


def _lags(received: Messages) -> list[float]:
    """For each update: seconds from the oldest transition in it until its arrival."""
    lags = []
    for t, message in received:
        if message["msg_type"] != "comm_msg" or message["content"]["data"].get("method") != "custom":
            continue
        content = message["content"]["data"]["content"]
        records = bytes(message["buffers"][0])
        oldest = min(since for *_, since in struct.iter_unpack("<IBBHf", records))
        sent = message["header"]["date"].timestamp()
        lags.append(content["clock"] - oldest + max(0.0, t - sent))
    return lags


def main() -> int:
    """Measure and print; the exit code is 0 if all figures are within their bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    package = str(Path(__file__).parents[1])
    code = RUN.format(package=package, vms=arguments.vms, rate=arguments.rate, seconds=seconds)
    manager, client = start_new_kernel(env=dict(os.environ))
    try:
        _messages(client, code, 60)
        _, unseen = _messages(client, "run(False)", seconds + 60)
        received, seen = _messages(client, "run(True)", seconds + 60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    lags = _lags(received)
    print(
        f"{seen['written']} transitions, {len(lags)} updates; CPU {seen['cpu']:.2f} s shown,"
        f" {unseen['cpu']:.2f} s not shown; lag median {statistics.median(lags):.2f} s"
    )
    what = f"{arguments.vms:,} VMs, {arguments.rate:,.0f} transitions a second"
    kept = [
        report(f"live view, CPU: {what}", 100 * (seen["cpu"] - unseen["cpu"]) / seconds, "% of a core", 10),
        report(f"live view, longest lag: {what}", max(lags), "s", 1.0),
        report(
            f"live view, memory in the second half: {what}", (seen["end"] - seen["half"]) / 2**20, "MiB", 10
        ),
        report(f"live view, updates: {what}", len(lags) / seconds, "/s", 4.0),
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
