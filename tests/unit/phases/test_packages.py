"""What machines lack is installed by apt, and only that: the real host agent, a made-up package manager."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import agent_copy
import pytest

from g5kvirt.errors import PhaseError
from g5kvirt.guests.registry import GUESTS
from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.onhost.packages import is_installed
from g5kvirt.hostagent.protocol import Answer
from g5kvirt.inventory import GIB, Host
from g5kvirt.phases import packages
from g5kvirt.remote import Result
from g5kvirt.spec.spec import Timeouts

#: ``apt-get``: writes down how it was called and whether services may start, then does as `how` says.
APT = """#!/bin/sh
{ echo "$DEBIAN_FRONTEND|$*"; } >> LAB/calls
case "$*" in
*update*) echo "E: The repository has gone"; exit "$(/bin/cat LAB/update)" ;;
esac
LAB/root/usr/sbin/policy-rc.d nginx start; echo "$?" >> LAB/policy
case "$(/bin/cat LAB/how)" in
slow) echo $$ > LAB/pid; exec /bin/sleep 60 ;;
locked) echo "E: Could not get lock"; exit 100 ;;
gone)
    echo "Err:1 http://deb/ nginx"
    echo "E: Failed to fetch http://deb/nginx.deb  Could not connect to proxy:3128"
    echo "E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?"
    exit 100 ;;
old)
    [ -e LAB/second ] || { : > LAB/second; echo "E: Unable to locate package nginx"; exit 100; } ;;
empty) exit 0 ;;
esac
for name; do
    case $name in
    nginx) : > LAB/bin/nginx; /bin/chmod +x LAB/bin/nginx ;;
    esac
done
"""


@dataclass
class Lab:
    """A machine whose programs are those in ``bin``."""

    keeps_connections = False

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir()
        for name, text in {"apt-get": APT, "dpkg": '#!/bin/sh\necho "dpkg|$*" >> LAB/calls\n'}.items():
            program = self.folder / "bin" / name
            program.write_text(text.replace("LAB", str(self.folder)))
            program.chmod(0o755)
        (self.folder / "update").write_text("0")

    def ask(self, how: str, programs: dict[str, str], **words: Any) -> Answer:
        (self.folder / "how").write_text(how)
        request = protocol.packages(programs, **words) | {"root": str(self.folder / "root")}
        # nothing but what is in the laboratory: no package manager of this machine's can be meant
        done = subprocess.run(
            agent_copy.argv(),
            input=protocol.document(request, home=str(self.folder / "home")),
            capture_output=True,
            timeout=60,
            env={"PATH": str(self.folder / "bin")},
        )
        assert done.returncode == 0, done.stderr
        (answer,) = protocol.parse(done.stdout)
        return answer

    def lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    @property
    def policy(self) -> Path:
        return self.folder / "root" / "usr" / "sbin" / "policy-rc.d"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


NGINX = {"nginx": "nginx"}


def test_missing_packages_are_installed_once_without_starting_services(lab: Lab) -> None:
    answer = lab.ask("well", NGINX | {"apt-get": "apt"}, proxy="http://proxy:3128")
    assert answer.ok, answer.reason
    assert (answer.detail["installed"], answer.detail["programs"]) == (["nginx"], ["nginx"])
    (call,) = lab.lines("calls")
    assert call.startswith("noninteractive|-q -y ")
    assert call.endswith(" --no-install-recommends install -- nginx")
    for word in ("Acquire::http::Proxy=http://proxy:3128", "DPkg::Lock::Timeout=60", "=--force-confold"):
        assert word in call
    assert lab.lines("policy") == ["101"]
    assert not lab.policy.exists()
    assert lab.ask("well", NGINX).unchanged
    assert len(lab.lines("calls")) == 1


def test_earlier_service_policy_is_restored(lab: Lab) -> None:
    lab.policy.parent.mkdir(parents=True)
    lab.policy.write_text("#!/bin/sh\nexit 104\n")
    lab.policy.chmod(0o750)
    assert lab.ask("well", NGINX).ok
    assert lab.lines("policy") == ["101"]
    assert lab.policy.read_text().endswith("exit 104\n")
    assert lab.policy.stat().st_mode & 0o777 == 0o750
    assert [p.name for p in lab.policy.parent.iterdir()] == ["policy-rc.d"]


def test_policy_of_a_killed_agent_is_removed_by_the_next_install(lab: Lab) -> None:
    lab.policy.parent.mkdir(parents=True)
    lab.policy.write_text("#!/bin/sh\nexit 104\n")
    (lab.folder / "how").write_text("slow")
    request = protocol.packages(NGINX) | {"root": str(lab.folder / "root")}
    argv = agent_copy.argv(protocol.document(request, home=str(lab.folder / "h")).decode())
    process = subprocess.Popen(argv, env={"PATH": str(lab.folder / "bin")}, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not lab.lines("pid") and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait(10)
        os.kill(int(lab.lines("pid")[0]), signal.SIGKILL)
    assert lab.policy.read_text().endswith("exit 101\n")
    assert lab.ask("well", NGINX).ok
    assert lab.policy.read_text().endswith("exit 104\n")


def test_old_lists_and_a_broken_dpkg_are_mended(lab: Lab) -> None:
    assert lab.ask("old", NGINX).detail["installed"] == ["nginx"]
    first, mend, update, second = lab.lines("calls")
    assert (mend, first) == ("dpkg|--configure -a", second)
    assert update.endswith("APT::Update::Error-Mode=any update")
    assert "Proxy" not in first, "without a proxy the host's own settings count"


@pytest.mark.parametrize(
    ("how", "update", "reason"),
    [
        ("gone", "0", "Failed to fetch http://deb/nginx.deb  Could not connect to proxy:3128"),
        ("locked", "100", "Could not get lock; its package lists are outdated: The repository has gone"),
        ("empty", "0", "nginx is installed, but does not provide nginx"),
    ],
)
def test_reason_is_the_last_error_of_apt(how: str, update: str, reason: str, lab: Lab) -> None:
    (lab.folder / "update").write_text(update)
    answer = lab.ask(how, NGINX)
    assert not answer.ok
    assert answer.reason == reason
    assert not lab.policy.exists()


def test_install_is_killed_completely_after_its_time_limit(lab: Lab) -> None:
    began = time.monotonic()
    answer = lab.ask("slow", NGINX, limit=1)
    assert answer.reason == "apt-get did not finish in time"
    assert time.monotonic() - began < 30
    assert not lab.policy.exists()
    assert not Path("/proc", lab.lines("pid")[0]).exists()


def test_machine_without_apt_is_reported(lab: Lab) -> None:
    (lab.folder / "bin" / "apt-get").unlink()
    assert lab.ask("well", NGINX).reason == "there is no apt-get"


# ------------------------------------------------------------------------------------- the phase's side
def test_each_role_has_its_programs_and_each_program_its_package() -> None:
    assert packages.needed("vm") == ["ip", "qemu-system-x86_64", "nft", "libssh.so.4"]
    assert packages.needed("light") == ["ip", "tar", "nft", "libssh.so.4"]
    assert packages.needed("vm", ("dhcp", "http")) == ["ip", "dnsmasq", "nginx"]
    every = [(guest, roles) for guest in GUESTS for roles in ((), ("dhcp", "http"))]
    assert {p for guest, roles in every for p in packages.needed(guest, roles, links=True)} == {
        *packages.PACKAGES
    }


HOSTS = [Host(f"h-{i}.nancy.grid5000.fr", "nancy", "h", 4, GIB, address=f"h-{i}-kavlan") for i in range(3)]


class Run:
    """A context whose machines answer as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **fates: str) -> None:
        self.fates = fates
        self.events: list[tuple[str, str, str, str, dict[str, Any]]] = []
        self.requested: dict[str, Any] = {}
        journal = SimpleNamespace(append=self.append)
        testbed = SimpleNamespace(package_proxy="http://proxy:3128")
        spec = SimpleNamespace(timeouts=replace(Timeouts(), deploy=50))
        self.context: Any = SimpleNamespace(journal=journal, testbed=testbed, spec=spec, fanout=None)
        monkeypatch.setattr(calls, "call_agents", self.answer)

    def append(
        self, phase: str, step: str, kind: str, name: str, status: str, t: float = 0, **detail: Any
    ) -> None:
        self.events.append((phase, step, name, status, detail))

    def answer(self, _: object, documents: dict[Host, bytes], timeout: float) -> list[calls.AgentReply]:
        assert timeout > 50
        heard = []
        for host, text in documents.items():
            self.requested[host.name] = json.loads(text)["requests"]
            reason = self.fates.get(host.uid.replace("-", ""), "")
            result = Result(host.address, reason != "lost", None, b"", b"", 1.0, 2.0)
            answer = Answer(
                "packages", host.name, not reason, 1.5, {"reason": reason, "installed": ["nginx"]}
            )
            answers = () if reason == "lost" else (answer,)
            why = f"packages of {host.name}: {reason}" if reason else ""
            heard.append(calls.AgentReply(host, result, answers, why))
        return heard


def test_machines_without_missing_packages_are_not_contacted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    assert packages.install(run.context, {}) == {}
    assert (run.events, run.requested) == ([], {})


def test_each_machine_gets_its_missing_packages_and_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    heard = packages.install(run.context, {HOSTS[0]: NGINX, HOSTS[1]: {"dnsmasq": "dnsmasq-base"}})
    assert list(heard) == [HOSTS[0].name, HOSTS[1].name]
    order, facts = run.requested[HOSTS[1].name]
    assert (order["programs"], order["proxy"], order["limit"]) == (
        {"dnsmasq": "dnsmasq-base"},
        "http://proxy:3128",
        50,
    )
    assert (facts["op"], facts["programs"]) == ("facts", ["dnsmasq"])
    assert [e[1:4] for e in run.events] == [
        ("packages", h.name, status) for h in HOSTS[:2] for status in ("start", "ok")
    ]
    assert run.events[2][4] == {"packages": ["dnsmasq-base"]}
    assert run.events[3][4] == {"installed": ["nginx"]}


def test_error_names_the_host_the_packages_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, h1="Could not connect to proxy:3128", h2="lost")
    with pytest.raises(PhaseError) as raised:
        packages.install(run.context, dict.fromkeys(HOSTS, NGINX))
    said = str(raised.value)
    assert said.startswith(
        "h-1.nancy.grid5000.fr (and 1 more machine) lacks nginx, which could not be installed from the"
    )
    assert (
        "package proxy http://proxy:3128: Could not connect to proxy:3128: choose a host_environment" in said
    )
    assert "\n" not in said
    assert [e[3] for e in run.events] == ["start", "ok", "start", "failed", "start", "failed"]
    assert run.events[3][4] == {"reason": "Could not connect to proxy:3128"}


def test_a_library_is_found_where_the_system_keeps_them() -> None:
    assert is_installed("libc.so.6")
    assert not is_installed("libnowhere.so.1")
    assert is_installed("sh")
    assert not is_installed("no-such-program")
