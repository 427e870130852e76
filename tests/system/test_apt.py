"""The host agent installs by the real apt-get and dpkg, straight and through a proxy, from a repository here.

In the node layer, whose `/` is thrown away: this machine's own packages are never touched.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import agent_copy
import inlayer
import pytest

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


class Server(SimpleHTTPRequestHandler):
    """Serves a directory, to who asks for it or, as a proxy does, for any address."""

    def do_GET(self) -> None:
        """The path alone says which file."""
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("http://"):
            self.path = "/" + self.path.split("/", 3)[3]
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@dataclass
class Repository:
    """Packages of our own, and what apt is told of them."""

    folder: Path
    port: int
    requested: list[str]
    started: Path = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.folder / "started"

    def package(self, name: str, *more: str, service: bool = False) -> None:
        """Make a package with a program of its name."""
        tree = self.folder / "tree" / name
        files = {f"usr/bin/{name}": "#!/bin/sh\n"}
        control = [
            f"Package: {name}",
            "Version: 1",
            "Architecture: all",
            "Maintainer: nobody <n@example.org>",
        ]
        files["DEBIAN/control"] = "\n".join([*control, "Description: made for a test", *more, ""])
        if service:
            files["etc/init.d/g5kserved"] = SERVICE.format(self.started)
            files["DEBIAN/postinst"] = POSTINST
        for path, text in files.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o644 if path.endswith("control") else 0o755)
        if service:
            (tree / "etc" / "rc2.d").mkdir()
            (tree / "etc" / "rc2.d" / "S01g5kserved").symlink_to("../init.d/g5kserved")
        deb = self.folder / "www" / f"{name}.deb"
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", str(tree), str(deb)], check=True, timeout=30
        )

    def publish(self) -> None:
        """Write the repository's list."""
        www = self.folder / "www"
        blocks = []
        for deb in sorted(www.glob("*.deb")):
            about = subprocess.check_output(["dpkg-deb", "--field", str(deb)], text=True, timeout=30)
            digest = subprocess.check_output(["sha256sum", str(deb)], text=True, timeout=30).split()[0]
            blocks.append(f"{about}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
        (www / "Packages").write_text("\n".join(blocks))

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
def repository(tmp_path: Path) -> Iterator[Repository]:
    (tmp_path / "www").mkdir()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0),
        lambda *a: Server(*a, directory=str(tmp_path / "www")),  # type: ignore[arg-type]
    )
    server.requested = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield Repository(tmp_path, server.server_port, server.requested)  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def state(package: str) -> str:
    """What dpkg says of a package."""
    words = ["dpkg-query", "--show", "--showformat=${Status}", package]
    return subprocess.run(words, capture_output=True, text=True, timeout=30).stdout


def test_only_what_is_missing_comes_and_its_service_does_not_start(repository: Repository) -> None:
    repository.package("g5kserved", "Depends: g5kneeded", "Recommends: g5kwanted", service=True)
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
    answer = repository.ask(own, "g5kserved", "sh")
    assert answer.ok, answer.reason
    assert answer.detail["installed"] == ["g5kserved"]
    assert [state(p) for p in ("g5kserved", "g5kneeded")] == ["install ok installed"] * 2
    assert "not-installed" in state("g5kwanted"), "what is only recommended stays away"
    assert not repository.started.exists(), "the service was started"
    assert not policy.exists()
    assert not any(word.startswith("http://") for word in repository.requested)
    asked = len(repository.requested)
    assert repository.ask(own, "g5kserved", "sh").unchanged
    assert len(repository.requested) == asked, "nothing is asked of anybody when nothing is missing"
    # the same script starts it where nobody forbids it
    subprocess.run(["invoke-rc.d", "g5kserved", "start"], check=True, timeout=30)
    assert repository.started.exists()

    # Through a proxy: the repository's own name means nothing to this machine.
    repository.package("g5klater")
    repository.publish()
    del repository.requested[:]
    through = f"http://127.0.0.1:{repository.port}"
    answer = repository.ask("packages.invalid", "g5klater", proxy=through)
    assert answer.ok, answer.reason
    assert state("g5klater") == "install ok installed"
    assert "http://packages.invalid/./g5klater.deb" in repository.requested
    assert all(word.startswith("http://packages.invalid/") for word in repository.requested)


def test_missing_package_has_a_reason(repository: Repository) -> None:
    repository.publish()
    nowhere = repository.ask(f"127.0.0.1:{repository.port}", "g5knothing")
    assert nowhere.reason == "Unable to locate package g5knothing"
    refused = repository.ask("packages.invalid", "g5knothing", proxy="http://127.0.0.1:9")
    assert refused.reason.startswith(
        "Unable to locate package g5knothing; its lists are old: Failed to fetch "
    )
    assert "packages.invalid" in refused.reason
    assert "127.0.0.1:9" in refused.reason
