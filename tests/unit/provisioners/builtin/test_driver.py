"""Carrying out a deployment's orders: how many connections they cost, how many go at once."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from measuremaker import vms

from g5kvirt.context import Context
from g5kvirt.images.environments import Image
from g5kvirt.inventory import GIB, VM, Host
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.provisioners.builtin import driver
from g5kvirt.provisioners.builtin.driver import Deployer
from g5kvirt.provisioners.builtin.workflow import Check, Target, Task
from g5kvirt.remote import File, Result

AT_ONCE = 24
SERVER = Host("server.rennes.grid5000.fr", "rennes", "s", 4, GIB, address="server")
VARIANTS = {"BroadcastEnv": "http", "BootNewEnv": "kexec"}


class Machines:
    """Hosts that take files, and VMs that answer when ``AT_ONCE`` of them are asked at the same time."""

    def __init__(self, expected: int) -> None:
        self.expected = expected  # files
        self.all = threading.Event()
        self.puts: list[set[str]] = []
        self.busy = threading.Event()
        self.free = threading.Event()
        self.together = threading.Barrier(AT_ONCE)

    def put(self, hosts: Sequence[str], files: Sequence[File], *, timeout: float) -> dict[str, Result]:
        self.busy.set()
        assert self.free.wait(60)
        self.puts.append({Path(file.target).name for file in files})
        if sum(map(len, self.puts)) >= self.expected:
            self.all.set()
        return {host: _result(host) for host in hosts}

    def run(self, hosts: Iterable[str], command: Sequence[str], **_: object) -> Mapping[str, Result]:
        self.together.wait(60)
        return {host: _result(host) for host in hosts}

    def give_up(self, why: str) -> None:
        self.together.abort()


def _result(host: str) -> Result:
    return Result(host, True, 0, b"", b"", 0.0, 0.0, 1, "")


def _deployer(machines: Machines, known: Sequence[VM], monkeypatch: pytest.MonkeyPatch) -> Deployer:
    fake = cast(Any, SimpleNamespace)
    monkeypatch.setattr(driver, "vm_access", lambda *_: None)
    monkeypatch.setattr(driver, "Fanout", lambda *_, **__: machines)
    monkeypatch.setattr(driver.tasks, "task_for", lambda *_, **__: None)
    monkeypatch.setattr(driver.tasks, "render", lambda _: "a task")
    monkeypatch.setattr(driver.Transport, "url", lambda *_: "")
    monkeypatch.setattr(driver.Transport, "ready", lambda _, task: task)
    layout = fake(machines=(), server=lambda *_: fake(host=SERVER), address=lambda *_: "10.0.0.1")
    hosts = tuple(Host(name, "rennes", "p", 4, GIB) for name in dict.fromkeys(vm.host for vm in known))
    context = fake(fanout=machines, checks_at_once=AT_ONCE, spec=fake(timeouts=fake(command=60.0)))
    cluster = fake(layout=layout, hosts=hosts)
    image = cast(Image, fake(sha256="0", size=1))
    return Deployer(cast(Context, context), cast(ClusterState, cluster), "d1", known, image, "")


def test_tasks_that_wait_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    known = vms(500)
    machines = Machines(len(known))
    with _deployer(machines, known, monkeypatch) as deployer:
        for vm in known:
            deployer.carry_out(Task((Target(vm, 1),), "image", VARIANTS))
        assert machines.busy.wait(60)
        machines.free.set()
        assert machines.all.wait(60)
    assert set().union(*machines.puts) == {Path(driver.tasks.task_path(vm.name, "")).name for vm in known}
    assert sum(map(len, machines.puts)) == len(known)
    assert len(machines.puts) < len(known) / 2


def test_as_many_checks_go_at_once_as_their_window_lets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    machines, known = Machines(0), vms(AT_ONCE)
    with _deployer(machines, known, monkeypatch) as deployer:
        for vm in known:
            deployer.carry_out(Check((Target(vm, 1),), "ready"))
        words = []
        while len(words) < AT_ONCE:
            heard = list(deployer.hear(60.0))
            assert heard, "nobody answered"
            words += heard
    assert {word.subject for word in words} == {vm.name for vm in known}
    # each waited for all the others, and none for ever
    assert not any("Barrier" in word.reason for word in words)
