"""Fakes of the two parts behind the REST API and the commands of the frontends: OAR and the machines."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.described.model import NodeDescription
from g5kvirt.testbeds.local.oardb import AssignedResources, Job, JobFilter


def job(
    number: int,
    *nodes: str,
    user: str = "g5k",
    state: str = "Running",
    types: tuple[str, ...] = ("deploy",),
    vlans: tuple[int, ...] = (),
    subnets: tuple[str, ...] = (),
    start: int = 1_700_000_000,
) -> Job:
    """A job with nodes (two cores each), vlans and subnets."""
    return Job(
        id=number,
        user=user,
        name=f"job{number}",
        project="default",
        queue="default",
        state=state,
        types=types,
        mode="PASSIVE",
        command="sleep 1",
        properties="",
        directory="/home/g5k",
        message="",
        submitted=start - 5,
        start=start if state not in ("Waiting", "Hold") else 0,
        scheduled=start,
        stop=0,
        walltime=3600,
        assigned=AssignedResources(
            tuple(f"{node}/{core}" for node in nodes for core in range(2)),
            vlans,
            tuple(map(IPv4Network, subnets)),
        ),
    )


@dataclass
class FakeDatabase:
    """The OAR database of a site."""

    known: list[Job] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    down: bool = False

    def jobs(self, states: Iterable[str], user: str | None = None) -> list[Job]:
        if self.down:
            raise TestbedError("OAR's database does not respond")
        lower = {state.lower() for state in states}
        return [job for job in self.known if job.state.lower() in lower and user in (None, job.user)]

    def job(self, job: int) -> Job | None:
        if self.down:
            raise TestbedError("OAR's database does not respond")
        return next((known for known in self.known if known.id == job), None)

    def job_page(self, chosen: JobFilter, offset: int, limit: int) -> tuple[list[Job], int]:
        if self.down:
            raise TestbedError("OAR's database does not respond")
        states = None if chosen.states is None else {state.lower() for state in chosen.states}
        found = [
            job
            for job in sorted(self.known, key=lambda job: -job.id)
            if (states is None or job.state.lower() in states)
            and all(
                getattr(chosen, key) in (None, getattr(job, key))
                for key in ("user", "name", "queue", "project")
            )
        ]
        return found[offset:][:limit], len(found)

    def events(self, job: int) -> list[dict[str, Any]]:
        return [{"uid": 1, "type": "FRAG_JOB_REQUEST", "created_at": 5, "description": f"of {job}"}]

    def resources(self) -> list[dict[str, Any]]:
        return self.rows


@dataclass
class FakeMachines:
    """Machines that only record operations; operations on those in ``broken`` fail."""

    broken: set[str] = field(default_factory=set)
    deployed: dict[str, tuple[str, int | None, str]] = field(default_factory=dict)
    vlans: dict[str, int | None] = field(default_factory=dict)
    dhcp: dict[tuple[str, int], bool] = field(default_factory=dict)
    #: every deployment waits until this many run, which shows that they run in parallel
    together: threading.Barrier | None = None

    def deploy(self, node: NodeDescription, environment: str, vlan: int | None, authorized_keys: str) -> None:
        if self.together is not None:
            self.together.wait(10)
        if node.uid in self.broken:
            raise TestbedError(f"{node.uid} does not\ncome up")
        self.deployed[node.uid] = (environment, vlan, authorized_keys)

    def set_vlan(self, node: NodeDescription, vlan: int | None) -> None:
        if node.uid in self.broken:
            raise OSError("no such device")
        self.vlans[node.uid] = vlan

    def set_dhcp(self, site: str, vlan: int, on: bool) -> None:
        self.dhcp[site, vlan] = on

    def vlan_of(self, node: NodeDescription) -> int | None:
        return self.vlans.get(node.uid)
