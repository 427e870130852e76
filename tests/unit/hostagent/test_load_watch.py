"""Looks at the hosts' load: at the begin, now and then, at the end; and what the agent counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.hostagent import load_watch, protocol, watch
from g5kvirt.hostagent.load_watch import SHARE, LoadWatch, interval_for
from g5kvirt.hostagent.onhost.load import cpu_of, load
from g5kvirt.hostagent.onhost.processes import start_time
from g5kvirt.hostagent.watch import COST, affordable
from g5kvirt.inventory import GIB, Host
from g5kvirt.remote import Fanout, Result

HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, GIB, address=f"a-{i}") for i in range(3)]


def sample(busy: int) -> dict[str, Any]:
    """What an agent counts."""
    counted = {"busy": busy, "memory": 0, "received": 0, "sent": 0, "vms": 0}
    return {"t": 1.0, "machine": "boot-id", "cores": 4, **counted, "services": {}}


class Agents:
    """Host agents; the second call fails as a whole, one host is gone, one answers nothing."""

    keeps_connections = True

    def __init__(self) -> None:
        self.calls = 0

    def is_gone(self, host: str) -> bool:
        return host == "a-2"

    def call(self, program: Any, texts: Mapping[str, bytes], **_: Any) -> dict[str, Result]:
        self.calls += 1
        if self.calls == 2:
            raise OSError("no ssh for a moment")
        assert all(json.loads(text)["requests"] == [protocol.load()] for text in texts.values())
        line = {"op": "load", "subject": "h", "status": "ok", "t": 1.0, "detail": sample(self.calls)}
        out = {"a-0": json.dumps(line).encode() + b"\n"}
        return {host: Result(host, True, 0, out.get(host, b""), b"", 0.0, 0.0) for host in texts}


def looks(agents: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, fails: bool = False) -> list[Any]:
    monkeypatch.setattr(load_watch, "SHORTEST", 0.05)
    monkeypatch.setattr(load_watch, "PER_HOST", 0.0)
    found: list[Any] = []
    watch = LoadWatch(cast(Fanout, agents), HOSTS, lambda t, hosts, here, first: found.append((hosts, first)))
    try:
        with watch:
            time.sleep(seconds)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert "watch over the load" not in {thread.name for thread in threading.enumerate()}
    return found


def test_looks_come_first_in_between_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Agents()
    found = looks(agents, monkeypatch, 0.6)
    assert found[0] == ({"h-0.nancy.grid5000.fr": sample(1)}, True)
    assert len(found) >= 3, "one that failed is not the last"
    assert [first for _, first in found[1:]] == [False] * (len(found) - 1)
    assert found[-1][0]["h-0.nancy.grid5000.fr"]["busy"] == agents.calls, "the last is as the step ends"


def test_nobody_looks_after_an_interrupt_or_without_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = Agents()
    found = looks(agents, monkeypatch, 0.01, fails=True)
    assert len(found) <= 1
    agents.keeps_connections = False
    assert looks(agents, monkeypatch, 0.1) == []


@given(st.integers(1, 5000), st.none() | st.integers(1, 256))
def test_looks_cost_a_bounded_share_of_the_processors(hosts: int, cores: int | None) -> None:
    seconds = interval_for(hosts, cores)
    assert seconds >= 5
    assert COST / seconds <= SHARE, "of one core of a host"
    if cores is not None:
        assert hosts * COST / seconds <= SHARE * cores * 1.000001


@given(st.integers(1, 5000), st.none() | st.integers(1, 256))
def test_other_looks_are_rarer_only_where_hosts_share_processors(hosts: int, cores: int | None) -> None:
    seconds = affordable(25.0, hosts, cores)
    if cores is None:
        assert seconds == 25
    else:
        assert seconds == pytest.approx(max(25.0, hosts * COST / (watch.SHARE * cores)))


def test_agent_counts_vms_and_services_with_what_they_started(tmp_path: Path) -> None:
    burn = (
        "import time, subprocess, sys\nt = time.process_time()\nwhile time.process_time() - t < 0.3: pass\n"
    )
    tree = f"{burn}\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint('done', flush=True)\ninput()"
    process = subprocess.Popen(
        [sys.executable, "-c", tree], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        record = {"pid": process.pid, "born": start_time(process.pid)}
        for name in ("vms/vm-1.json", "services/nginx/state.json"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text(json.dumps(record))
        ((name, found),) = load({}, str(tmp_path))
        assert name == os.uname().nodename
        assert 0.55 <= found["vms"] < 5
        assert found["services"] == {"nginx": found["vms"]}
        assert found["cores"] == os.cpu_count()
        assert found["memory"] > 0
        ((_, later),) = load({}, str(tmp_path))
        assert later["busy"] >= found["busy"] > 0.5
        assert later["machine"] == found["machine"] != ""
    finally:
        process.kill()
        process.communicate()
    ((_, gone),) = load({}, str(tmp_path))
    assert gone["vms"] == 0


def test_processes_are_counted_once() -> None:
    parents, seconds = {10: 1, 11: 10, 12: 11, 20: 1}, {10: 1.0, 11: 2.0, 12: 4.0, 20: 8.0}
    assert cpu_of({10, 11}, parents, seconds) == 7.0
    assert cpu_of({0, 99}, parents, seconds) == 0.0
