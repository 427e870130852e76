"""Journals of synthetic runs, for tests of everything that reads one."""

from __future__ import annotations

import random

from g5kvirt.run.events import Event
from g5kvirt.run.vocabulary import Kind, Status

T0 = 1_700_000_000.0


def run_events(vms: int, *, lost: int = 0, window: int = 50, seed: int = 1, hosts: int = 0) -> list[Event]:
    """A whole run up to launch: ``vms`` VMs powered on in windows, ``lost`` of them given up."""
    rng = random.Random(seed)
    hosts = hosts or max(1, vms // 12)
    events: list[Event] = []

    def add(
        t: float, phase: str, step: str, status: Status, kind: Kind = "run", subject: str = "r", **d: object
    ) -> None:
        events.append(Event(phase, step, kind, subject, status, T0 + t, 1, d))

    names = [f"paradent-{h + 1}.rennes.grid5000.fr" for h in range(hosts)]
    add(0.0, "reserve", "phase", "start")
    for site, at in (("nancy", 0.4), ("rennes", 0.6)):
        add(at, "reserve", "submitted", "ok", "site", site, job=7)
        add(at + 1.2, "reserve", "started", "ok", "site", site)
    add(2.1, "reserve", "phase", "ok")
    add(2.1, "deploy", "phase", "start")
    add(2.2, "deploy", "kadeploy3", "start", "site", "nancy")
    add(5.0, "deploy", "kadeploy3", "ok", "site", "nancy")
    add(5.1, "deploy", "phase", "ok")
    add(5.1, "configure", "phase", "start")
    for number, name in enumerate(names[:40]):
        add(5.2, "configure", "prepare", "start", "host", name)
        add(6.0 + number / 100, "configure", "prepare", "ok", "host", name)
    for service in ("dnsmasq", "nginx"):
        add(6.4, "configure", service, "start", "service", service)
        add(7.9, "configure", service, "ok", "service", service)
    add(8.0, "configure", "phase", "ok")
    add(8.0, "place", "phase", "start")
    plan = [
        {
            "index": i + 1,
            "name": f"vm-{i + 1}",
            "host": names[i % hosts],
            "site": "rennes",
            "ip": f"10.158.{i // 250}.{i % 250 + 1}",
            "mac": f"52:54:00:00:{i // 256:02x}:{i % 256:02x}",
        }
        for i in range(vms)
    ]
    add(8.02, "place", "plan", "ok", vms=plan)
    add(8.03, "place", "phase", "ok")
    add(8.1, "launch", "phase", "start")
    last = 8.1
    for i in range(vms):
        name = f"vm-{i + 1}"
        t = 8.2 + (i // window) * 3.0 + rng.random() * 0.3
        add(t, "launch", "power-on", "start", "vm", name)
        t += 0.2 + rng.random() * 0.3
        add(t, "launch", "power-on", "ok", "vm", name)
        stops = (
            rng.randrange(1, 5)
            if i % max(1, vms // max(1, lost)) == 0 and i // max(1, vms // max(1, lost)) < lost
            else 9
        )
        for number, (step, mean) in enumerate(
            (("dhcp", 3.0), ("script", 0.3), ("kernel", 1.5), ("initrd", 0.8), ("minimal-system", 6.0))
        ):
            if number >= stops:
                t += 30
                add(t, "launch", "launch", "failed", "vm", name, at=step, reason="no answer within 30 s")
                break
            t += mean * (0.5 + rng.gammavariate(3.0, 0.25))
            add(t, "launch", step, "ok", "vm", name)
        last = max(last, t)
    add(last + 0.1, "launch", "phase", "ok")
    return sorted(events, key=lambda e: e.t)
