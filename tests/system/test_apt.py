"""The host agent installs by the real apt-get and dpkg, straight and through a proxy, from a repository here.

In the node layer, whose `/` is thrown away: this machine's own packages are never touched.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import agent_copy
import inlayer
import pytest
from aptmaker import Repository, serving

from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.protocol import Answer

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        inlayer.INSIDE not in os.environ, reason="only where dpkg's own files are thrown away"
    ),
]

#: A service that Debian's usual script of a package starts, if it may.
SERVICE = (
    '#!/bin/sh\n### BEGIN INIT INFO\n# Provides: g5kserved\n### END INIT INFO\n[ "$1" != start ] || : > {0}\n'
)
POSTINST = "#!/bin/sh\nset -e\ninvoke-rc.d g5kserved start || exit $?\n"


class Lab:
    """A repository, and what apt is told of it."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.folder = repository.folder
        self.started = self.folder / "started"

    def service(self, name: str, *more: str) -> None:
        """Make a package with a program of its name and a service, which would start."""
        files = {
            f"usr/bin/{name}": "#!/bin/sh\n",
            "etc/init.d/g5kserved": SERVICE.format(self.started),
            "DEBIAN/postinst": POSTINST,
        }
        links = {"etc/rc2.d/S01g5kserved": "../init.d/g5kserved"}
        self.repository.package(name, *more, files=files, links=links)

    def ask(self, host: str, *programs: str, proxy: str | None = None) -> Answer:
        """Have the host agent install programs; apt knows no repository but this one, at ``host``."""
        etc = self.folder / "etc"
        for place in ("etc", "lists/partial", "cache/archives/partial"):
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        (etc / "sources.list").write_text(f"deb [trusted=yes] http://{host}/ ./\n")
        configuration = self.folder / "apt.conf"
        configuration.write_text(
            f'Dir::Etc "{etc}";\nDir::State::lists "{self.folder}/lists";\n'
            f'Dir::Cache "{self.folder}/cache";\nAcquire::Languages "none";\nAPT::Sandbox::User "root";\n'
        )
        request = protocol.packages({p: p for p in programs}, proxy=proxy, limit=100)
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        done = subprocess.run(
            agent_copy.argv(),
            input=protocol.document(request, home=str(self.folder / "home")),
            capture_output=True,
            env={**environment, "APT_CONFIG": str(configuration)},
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        (answer,) = protocol.parse(done.stdout)
        return answer


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with serving(tmp_path) as repository:
        yield Lab(repository)


def state(package: str) -> str:
    """What dpkg says of a package."""
    words = ["dpkg-query", "--show", "--showformat=${Status}", package]
    return subprocess.run(words, capture_output=True, text=True, timeout=30).stdout


def test_only_what_is_missing_comes_and_its_service_does_not_start(lab: Lab) -> None:
    repository = lab.repository
    lab.service("g5kserved", "Depends: g5kneeded", "Recommends: g5kwanted")
    for name in ("g5kneeded", "g5kwanted"):
        repository.package(name)
    repository.publish()
    policy = Path("/usr/sbin/policy-rc.d")
    policy.unlink(missing_ok=True)
    runlevel = Path("/sbin/runlevel")  # as on a machine that was booted
    runlevel.write_text("#!/bin/sh\necho N 2\n")
    runlevel.chmod(0o755)
    Path("/sbin/init").touch()
    own = f"127.0.0.1:{repository.port}"
    answer = lab.ask(own, "g5kserved", "sh")
    assert answer.ok, answer.reason
    assert answer.detail["installed"] == ["g5kserved"]
    assert [state(p) for p in ("g5kserved", "g5kneeded")] == ["install ok installed"] * 2
    assert "not-installed" in state("g5kwanted"), "what is only recommended stays away"
    assert not lab.started.exists(), "the service was started"
    assert not policy.exists()
    assert not any(word.startswith("http://") for word in repository.requested)
    asked = len(repository.requested)
    assert lab.ask(own, "g5kserved", "sh").unchanged
    assert len(repository.requested) == asked, "nothing is asked of anybody when nothing is missing"
    # the same script starts it where nobody forbids it
    subprocess.run(["invoke-rc.d", "g5kserved", "start"], check=True, timeout=30)
    assert lab.started.exists()

    # Through a proxy: the repository's own name means nothing to this machine.
    repository.package("g5klater")
    repository.publish()
    del repository.requested[:]
    through = f"http://127.0.0.1:{repository.port}"
    answer = lab.ask("packages.invalid", "g5klater", proxy=through)
    assert answer.ok, answer.reason
    assert state("g5klater") == "install ok installed"
    assert "http://packages.invalid/./g5klater.deb" in repository.requested
    assert all(word.startswith("http://packages.invalid/") for word in repository.requested)


def test_missing_package_has_a_reason(lab: Lab) -> None:
    lab.repository.publish()
    nowhere = lab.ask(f"127.0.0.1:{lab.repository.port}", "g5knothing")
    assert nowhere.reason == "Unable to locate package g5knothing"
    refused = lab.ask("packages.invalid", "g5knothing", proxy="http://127.0.0.1:9")
    assert refused.reason.startswith(
        "Unable to locate package g5knothing; its package lists are outdated: Failed to fetch "
    )
    assert "packages.invalid" in refused.reason
    assert "127.0.0.1:9" in refused.reason
