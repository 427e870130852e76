"""Debian's own python3 for a host that has none: through an HTTP proxy, into a Debian made for it.

The host is a minimal Debian 12 in a directory, with Debian's dpkg and apt, no python3 and no package lists;
it resolves no name, so all that it gets came through the proxy. Kernel and network are this machine's. Only
with ``-m slow``: a minute or more.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from httpproxy import proxying
from indebian import argv
from localbed import MARKS

from g5kvirt.hostagent import calls, protocol
from g5kvirt.images import debian_system, repository
from g5kvirt.inventory import Host
from g5kvirt.phases import packages
from g5kvirt.remote import Result

pytestmark = [*MARKS, pytest.mark.slow, pytest.mark.timeout(1800)]

RELEASE = repository.RELEASES[12]
#: Before each command: no name is resolved, whatever this machine's files say.
ALONE = ': > /etc/resolv.conf; echo 127.0.0.1 localhost > /etc/hosts; cd /; exec "$@"'


class Machine:
    """A fan-out with one host: a directory with a Debian."""

    keeps_connections = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def is_gone(self, host: str) -> bool:
        return False

    def run(
        self, hosts: Iterable[str], command: Sequence[str], *, stdin: Any = None, timeout: float, **_: Any
    ) -> dict[str, Result]:
        (host,) = hosts
        given = stdin[host] if isinstance(stdin, dict) else stdin
        words = argv(self.root, ["sh", "-c", ALONE, "sh", *command])
        begun = time.time()
        done = subprocess.run(words, input=given or b"", capture_output=True, timeout=timeout, check=False)
        reason = "" if done.returncode == 0 else f"exit code {done.returncode}"
        return {
            host: Result(
                host,
                not reason,
                done.returncode,
                done.stdout,
                done.stderr,
                begun,
                time.time(),
                1,
                reason,
                True,
            )
        }


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A minimal Debian without python3, without lists of packages, and without a way to the network."""
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    scratch.mkdir()
    command = [
        *(debian_system.program(scratch), "--mode=root", "--variant=minbase", "--format=directory"),
        *('--aptopt=APT::Sandbox::User "root"', RELEASE, str(root), *repository.sources(RELEASE)),
    ]
    subprocess.run(command, check=True, timeout=900, capture_output=True)
    shutil.rmtree(root / "var/lib/apt/lists")
    shutil.rmtree(root / "var/cache/apt")
    for folder in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (root / folder).mkdir(parents=True)
    yield Machine(root)
    shutil.rmtree(root)


def configured(machine: Machine, proxy: str | None) -> tuple[calls.AgentReply, list[tuple[str, str]]]:
    """What `configure` does first on a host, with its events."""
    events: list[tuple[str, str]] = []

    def append(_: str, step: str, __: str, name: str, status: str, **___: Any) -> None:
        events.append((step, status))

    context: Any = SimpleNamespace(
        fanout=machine,
        journal=SimpleNamespace(append=append),
        testbed=SimpleNamespace(package_proxy=proxy),
        spec=SimpleNamespace(timeouts=SimpleNamespace(deploy=900.0)),
    )
    (reply,) = packages.with_agent(context, [HOST], timeout=120.0)
    return reply, events


HOST = Host("bare-1.nancy.grid5000.fr", "nancy", "bare", 1, 1, address="bare-1")


def test_debians_python3_comes_through_the_proxy_and_runs_the_agent(machine: Machine) -> None:
    assert not list(machine.root.glob("usr/bin/python3*"))
    alone, events = configured(machine, None)
    assert alone.reason.startswith("it has no python3, which could not be installed from the network: ")
    assert "python3" in alone.reason
    assert events == [("python3", "start"), ("python3", "failed")]
    with proxying() as (url, requested):
        reply, events = configured(machine, url)
    assert (reply.reason, events) == ("", [("python3", "start"), ("python3", "ok")])
    packages_got = {path.rpartition("/")[2].partition("_")[0] for path in requested if path.endswith(".deb")}
    assert {"python3", "python3-minimal", "libpython3-stdlib"} <= packages_got
    assert any(path.endswith("InRelease") for path in requested)
    # dpkg's own word, and our agent under that interpreter
    shown = machine.run(["bare-1"], ["dpkg-query", "-W", "-f", "${db:Status-Status}", "python3"], timeout=60)
    assert shown["bare-1"].text == "installed"
    document = protocol.document(protocol.facts())
    (answered,) = calls.call_agents(machine, {HOST: document}, timeout=120)  # type: ignore[arg-type]
    assert answered.ok, answered.reason
    (facts,) = answered.answers
    assert facts.detail["python"].startswith("3.11.")
    print(json.dumps({"packages": len(packages_got), "requests": len(requested)}))
