"""Hosts without python3 get it by sh and apt alone: the real script, a made-up package manager."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.hostagent import bundle, calls
from g5kvirt.hostagent.python3 import install_python
from g5kvirt.inventory import Host
from g5kvirt.phases import packages
from g5kvirt.remote import Result

#: ``apt-get`` of a host without python3: writes down how it was called, then does as ``how`` says.
APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND $LC_ALL|$*" >> LAB/calls
read how < LAB/how
case "$how $*" in
well* | minimal*) echo '#!/bin/sh' > LAB/bin/python3; /bin/chmod +x LAB/bin/python3; exit 0 ;;
old*update) echo well > LAB/how; exit 0 ;;
unreachable*update) echo "E: Failed to fetch http://deb/ Could not connect to proxy:3128"; exit 100 ;;
*update) exit 0 ;;
slow*) exec /bin/sleep 60 ;;
esac
echo "E: Unable to locate package python3 ($how)"
exit 100
"""


def without_json(program: Path) -> None:
    """Our own Python for its options ``-I -S -c``, which finds no module json."""
    blocked = "import sys; sys.modules['json'] = None; exec(sys.argv.pop(1))"
    program.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} -I -S -c "{blocked}" "$@"\n')
    program.chmod(0o755)


class Hosts:
    """A fan-out whose hosts are folders with the programs that they have; root's shell is sh."""

    keeps_connections = False

    def __init__(self, folder: Path, **fates: str) -> None:
        self.folder = folder
        self.hosts = [Host(f"{uid}.nancy", "nancy", "h", 1, 1, address=uid) for uid in fates]
        for uid, fate in fates.items():
            (folder / uid / "bin").mkdir(parents=True)
            (folder / uid / "how").write_text(f"{fate}\n")
            for name, text in {"apt-get": APT, "dpkg": "#!/bin/sh\n"}.items():
                self.program(uid, name, text.replace("LAB", str(folder / uid)))
            if fate == "has":
                self.program(uid, "python3", "#!/bin/sh\n")
            elif fate == "minimal":
                without_json(folder / uid / "bin" / "python3")

    def program(self, uid: str, name: str, text: str) -> None:
        file = self.folder / uid / "bin" / name
        file.write_text(text)
        file.chmod(0o755)

    def calls(self, uid: str) -> list[str]:
        file = self.folder / uid / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def run(
        self,
        hosts: Iterable[str],
        command: Sequence[str],
        *,
        timeout: float,
        idempotent: bool,
        stdin: bytes = b"",
    ) -> dict[str, Result]:
        assert idempotent
        words = ["timeout", str(timeout), "env"]
        results = {}
        for uid in hosts:
            path = f"PATH={self.folder / uid / 'bin'}"
            program = f"/bin/{command[0]}"
            done = subprocess.run([*words, path, program, *command[1:]], input=stdin, capture_output=True)
            reason = (
                "timed out: ended after 1 s" if done.returncode == 124 else f"exit code {done.returncode}"
            )
            ok = done.returncode == 0
            results[uid] = Result(
                uid, ok, done.returncode, done.stdout, done.stderr, 1.0, 2.0, 1, "" if ok else reason, True
            )
        return results


def install(hosts: Hosts, proxy: str | None = "http://proxy:3128", limit: float = 30.0) -> dict[str, str]:
    replies = install_python(hosts, hosts.hosts, proxy=proxy, limit=limit)  # type: ignore[arg-type]
    assert [reply.host for reply in replies] == hosts.hosts
    return {reply.host.address: reply.reason for reply in replies}


def test_python_is_installed_through_the_proxy(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, one="well", two="has")
    assert install(hosts) == {"one": "", "two": ""}
    (call,) = hosts.calls("one")
    assert call.startswith("noninteractive C|-q -y ")
    assert call.endswith("--no-install-recommends install -- python3")
    assert "Acquire::http::Proxy=http://proxy:3128" in call
    assert hosts.calls("two") == [], "it is there already"


def test_python_without_its_modules_is_made_whole(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, one="minimal")
    assert install(hosts) == {"one": ""}
    assert len(hosts.calls("one")) == 1
    assert install(hosts) == {"one": ""}
    assert len(hosts.calls("one")) == 1


def test_lists_are_fetched_where_they_are_missing(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, one="old")
    assert install(hosts, proxy=None) == {"one": ""}
    first, update, second = hosts.calls("one")
    assert first == second
    assert update.endswith(" update")
    assert "Proxy" not in first


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("gone", "Unable to locate package python3 (gone)"),
        (
            "unreachable",
            "Unable to locate package python3 (unreachable); its package lists are outdated: "
            "Failed to fetch http://deb/ Could not connect to proxy:3128",
        ),
    ],
)
def test_reason_is_that_of_apt(tmp_path: Path, fate: str, reason: str) -> None:
    found = install(Hosts(tmp_path, one=fate))
    start = "it has no python3, which could not be installed from the package proxy http://proxy:3128: "
    assert found == {"one": start + reason}


def test_it_is_ended_after_its_time_limit(tmp_path: Path) -> None:
    assert install(Hosts(tmp_path, one="slow"), limit=1)["one"].endswith(": timed out: ended after 1 s")


def test_host_without_apt_is_reported(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, one="well")
    (tmp_path / "one" / "bin" / "apt-get").unlink()
    assert install(hosts)["one"].endswith(": there is no apt-get")


@pytest.mark.parametrize("python", ["none", "minimal"])
def test_session_says_that_python_is_missing(tmp_path: Path, python: str) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    if python == "minimal":
        without_json(tmp_path / "python3")
    words = ["/bin/sh", "-c", bundle.SESSION.command]
    done = subprocess.run(words, env={"PATH": str(tmp_path)}, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (127, b"")
    assert calls.python_is_missing(Result("h", False, 127, b"", done.stderr, 1.0, 2.0))


def test_agent_follows_python_and_a_host_that_gets_none_is_told_apart(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path, one="well", two="gone", three="has")
    for uid in ("one", "two", "three"):
        hosts.program(uid, "cat", "#!/bin/sh\nexec /bin/cat\n")
    events: list[tuple[str, str, str]] = []

    def append(_: str, step: str, __: str, name: str, status: str, **___: Any) -> None:
        events.append((step, name, status))

    context: Any = SimpleNamespace(
        fanout=hosts,
        journal=SimpleNamespace(append=append),
        testbed=SimpleNamespace(package_proxy=None),
        spec=SimpleNamespace(timeouts=SimpleNamespace(deploy=30.0)),
    )
    replies = packages.with_agent(context, hosts.hosts, timeout=30.0)
    found: Mapping[str, str] = {reply.host.address: reply.reason for reply in replies}
    assert (found["one"], found["three"]) == ("", "")
    assert found["two"].startswith("it has no python3, which could not be installed from the network: Unable")
    assert events == [
        ("python3", "one.nancy", "start"),
        ("python3", "one.nancy", "ok"),
        ("python3", "two.nancy", "start"),
        ("python3", "two.nancy", "failed"),
    ]
