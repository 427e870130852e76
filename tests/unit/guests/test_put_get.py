"""Files onto VMs and from them, with hosts and VMs that only pretend."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from measuremaker import vms

from g5kvirt.broadcast.reports import Progress
from g5kvirt.errors import RunError, SpecError
from g5kvirt.guests import get as getting
from g5kvirt.guests import put as putting
from g5kvirt.guests.commands import HostFiles
from g5kvirt.inventory import GIB, Host
from g5kvirt.remote import Result

KNOWN = vms(4, hosts=2)
HOSTS = tuple(
    Host(name, "rennes", "p", 4, GIB, address=f"{name}-vlan")
    for name in dict.fromkeys(vm.host for vm in KNOWN)
)
HEAD = Host("service", "rennes", "p", 4, GIB, address="service-vlan")


class World:
    """A run's machines: what was called, in order. ``saved`` is what the service machine answers."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.saved = Result("service-vlan", True, 0, b"", b"", 0.0, 1.0)
        self.lost: dict[str, str] = {}  #: host → why it did not get the files
        self.interrupt = False
        state = SimpleNamespace(
            placed_vms=KNOWN, deployed_vms=[vm.name for vm in KNOWN], released=False, deployed_hosts=HOSTS
        )
        self.context: Any = SimpleNamespace(
            run=SimpleNamespace(path=folder, name="one"),
            journal=SimpleNamespace(state=state),
            testbed=SimpleNamespace(real_cores=None),
            spec=None,
            fanout=self,
            access=None,
        )

    def run(self, hosts: Sequence[str], argv: Sequence[str], **_: object) -> dict[str, Result]:
        self.calls.append((argv[0], *hosts))
        return dict.fromkeys(hosts, self.saved)

    def is_gone(self, _: str) -> bool:
        return False


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    head = SimpleNamespace(roles=("http",), host=HEAD, addresses={"rennes": "10.0.0.1"})
    cluster = SimpleNamespace(layout=SimpleNamespace(machines=[head]), hosts=HOSTS)
    monkeypatch.setattr(putting, "cluster_state", lambda *_: cluster)

    def start(_: object, plan: Any) -> dict[str, str]:
        made.calls.append(("start", *(stop.host.name for stop in plan.stops)))
        return {}

    def collect(_: object, plan: Any, **__: object) -> dict[str, Progress]:
        names = [stop.host.name for stop in plan.stops]
        return {
            name: Progress(name, "failed" if name in made.lost else "ok", reason=made.lost.get(name, ""))
            for name in names
        }

    def stop(_: object, plan: Any, **__: object) -> None:
        made.calls.append(("stop", *(stop.host.name for stop in plan.stops)))

    relays = SimpleNamespace(start=start, collect=collect, stop=stop)
    monkeypatch.setattr(putting, "relays", relays)

    class Commands:
        def __init__(self, *_: object) -> None:
            pass

        def run(self, names: Sequence[str], argv: Sequence[str], files: HostFiles, **_: object) -> Any:
            made.calls.append(("vms", *names))
            if made.interrupt:
                raise KeyboardInterrupt
            assert files.here is not None
            with tarfile.open(files.here) as tar:
                assert tar.getnames() == ["there"]
            assert argv[-1] == "/root"
            bad = Result("vm-1", False, 2, b"", b"tar: full", 0.0, 1.0, reason="exit code 2 (tar: full)")
            return {
                name: bad if name == "vm-1" else Result(name, True, 0, b"", b"", 0.0, 2.0) for name in names
            }

    monkeypatch.setattr(putting, "GuestCommands", Commands)
    (tmp_path / "file").write_text("content")
    return made


def test_put_sends_once_to_each_and_cleans_up(world: World, tmp_path: Path) -> None:
    rows = putting.put(world.context, tmp_path / "file", "/root/there", None, 60.0)
    hosts, names = [host.name for host in HOSTS], [vm.name for vm in KNOWN]
    assert world.calls == [
        ("sh", "service-vlan"),
        ("start", *hosts),
        ("vms", *names),
        ("stop", *hosts),
        ("rm", "service-vlan"),
    ]
    assert [(row["vm"], row["ok"]) for row in rows] == [(name, name != "vm-1") for name in names]
    assert rows[0]["reason"] == "exit code 2 (tar: full)"


def test_host_without_the_files_is_the_reason_of_its_vms_alone(world: World, tmp_path: Path) -> None:
    world.lost = {HOSTS[1].name: "cannot write to the disk"}
    rows = putting.put(world.context, tmp_path / "file", "/root/there", None, 60.0)
    for row, vm in zip(rows, KNOWN, strict=True):
        if vm.host == HOSTS[1].name:
            assert row["reason"] == f"its host {vm.host}: cannot write to the disk"
    world.saved = Result("service-vlan", False, None, b"", b"", 0.0, 1.0, reason="unreachable: no response")
    rows = putting.put(world.context, tmp_path / "file", "/root/there", ["vm-2"], 60.0)
    assert len(rows) == 1
    assert "the service machine service could not store the files: unreachable" in str(rows[0]["reason"])


def test_interrupted_put_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    world.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        putting.put(world.context, tmp_path / "file", "/root/there", None, 60.0)
    assert [call[0] for call in world.calls] == ["sh", "start", "vms", "stop", "rm"]
    world.interrupt = False
    assert putting.put(world.context, tmp_path / "file", "/root/there", ["vm-2"], 60.0)[0]["ok"]


def test_second_put_at_once_is_refused(world: World, tmp_path: Path) -> None:
    with (
        putting._alone(world.context),
        pytest.raises(RunError, match=r"another put\(\) of run 'one' is under way"),
    ):
        putting.put(world.context, tmp_path / "file", "/root/there", None, 60.0)
    assert world.calls == []


def archive(content: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_get_sorts_what_comes_by_vm(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vm-1 has no such file, vm-2's archive is torn, vm-3 comes straight from the VM, vm-4's is fine."""
    whole = archive({"out": b"result"})

    class Commands:
        def __init__(self, *_: object) -> None:
            pass

        def run(self, names: Sequence[str], argv: Sequence[str], files: HostFiles, **_: object) -> Any:
            assert argv[-4:] == ["-C", "/root", "--", "out"]
            assert files.output is not None
            missing = Result(
                "vm-1", False, 1, b"", b"tar: out: No such file\nbye\n", 0, 1, reason="exit code 1"
            )
            found = {name: Result(name, True, 0, b"", b"", 0, 1, via="host") for name in names}
            return found | {"vm-1": missing, "vm-3": Result("vm-3", True, 0, whole, b"", 0, 1, via="ssh")}

    def download(_: object, commands: Mapping[str, object], read: Any, **__: object) -> dict[str, Any]:
        torn = archive({"out": b"x" * 90_000})[:2000]
        sent = archive({"./vm-1": torn, "./vm-2": torn, "./vm-4": whole, "./../vm-9": whole})
        stream: IO[bytes] = io.BytesIO(sent)
        results = {host: Result(host, True, 0, b"", b"", 0, 1) for host in commands}
        return {host: (result, read(host, stream)) for host, result in results.items()}

    monkeypatch.setattr(getting, "GuestCommands", Commands)
    monkeypatch.setattr(getting, "download", download)
    monkeypatch.setattr(
        world.context.journal.state,
        "deployed_hosts",
        [Host(h.name, "r", "p", 4, GIB, address="one") for h in HOSTS],
    )
    rows = getting.get(world.context, "/root/out", tmp_path / "got", None, 60.0)
    found = {row["vm"]: row for row in rows}
    assert [found[name]["ok"] for name in ("vm-1", "vm-2", "vm-3", "vm-4")] == [False, False, True, True]
    assert found["vm-1"]["reason"] == "exit code 1 (tar: out: No such file)"
    assert "the received archive is incomplete" in str(found["vm-2"]["reason"])
    for name in ("vm-3", "vm-4"):
        assert Path(str(found[name]["path"])).read_bytes() == b"result"
        assert found[name]["bytes"] == 6
    assert {path.name for path in (tmp_path / "got").iterdir()} == {"vm-2", "vm-3", "vm-4"}
    assert world.calls[-1][0] == "rm"


def test_bad_arguments_touch_nothing(world: World, tmp_path: Path) -> None:
    for bad in (
        lambda: putting.put(world.context, tmp_path / "none", "/x", None, 60.0),
        lambda: putting.put(world.context, tmp_path / "file", "/x", ["vm-9"], 60.0),
        lambda: putting.put(world.context, tmp_path / "file", "/x", None, 0),
        lambda: getting.get(world.context, "/", tmp_path, None, 60.0),
        lambda: getting.get(world.context, "/root/..", tmp_path, None, 60.0),
        lambda: getting.get(world.context, "/x", 3, None, 60.0),
        lambda: getting.get(world.context, "/x", tmp_path / "file", None, 60.0),
    ):
        with pytest.raises(SpecError):
            bad()
    assert world.calls == []
    assert putting.put(world.context, tmp_path / "file", "/x", [], 60.0) == []
