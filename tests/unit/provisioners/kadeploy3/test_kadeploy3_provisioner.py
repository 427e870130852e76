"""measure by Kadeploy3: how a machine becomes the server, what is said if it cannot, what is done once."""

from __future__ import annotations

import gzip
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kadeploymaker import vms
from kadeployserver import Kadeploy, serving

from g5kvirt.broadcast import chain
from g5kvirt.context import Context
from g5kvirt.errors import PhaseError, SpecError
from g5kvirt.hostagent import protocol
from g5kvirt.images import environments
from g5kvirt.inventory import GIB, VM, Facts, Host
from g5kvirt.netboot import services
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.planning.services import ServiceLayout, ServiceMachine
from g5kvirt.provisioners.base import DeploymentRequest
from g5kvirt.provisioners.kadeploy3 import logins, provisioner, server_machine, system
from g5kvirt.provisioners.kadeploy3.configuration import ETC, KEY
from g5kvirt.provisioners.readiness import identity_fields
from g5kvirt.remote import File, Result
from g5kvirt.run import directory
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.journal import Journal
from g5kvirt.spec.spec import Spec

SITES = ("nancy", "rennes")
HEADS = [Host(f"head.{s}.grid5000.fr", s, "h", 4, 8 * GIB, address=f"head-{s}") for s in SITES]
VMS = vms(6, hosts=3)
HOSTS = [
    Host(name, VMS[i].site, "h", 4, 8 * GIB, address=f"host-{i}")
    for i, name in enumerate(dict.fromkeys(vm.host for vm in VMS))
]
REPOSITORY = "deb [trusted=yes] http://packages.example/kadeploy ./"
PUBLIC = "ssh-ed25519 AAAA deploy@head"


class Machines:
    """All machines: files that were put there, what was run, what fails there."""

    keeps_connections = False

    def is_gone(self, host: str) -> bool:
        return False

    access = None

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {("head-nancy", f"{KEY}.pub"): PUBLIC.encode()}
        self.ran: list[tuple[str, list[str]]] = []
        self.fails: dict[str, str] = {"dpkg-query": ""}  # word of a command → what it says

    def put(self, hosts: Iterable[str], files: Sequence[File], **_: Any) -> dict[str, Result]:
        done = {}
        for host in hosts:
            for file in files:
                data = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
                self.files[host, file.target] = data
            done[host] = Result(host, True, 0, b"", b"", 1.0, 2.0)
        return done

    def run(self, hosts: Iterable[str], command: Sequence[str], *, stdin: Any = None, **_: Any) -> Any:
        return {host: self.one(host, list(command), stdin) for host in hosts}

    def one(self, host: str, words: list[str], stdin: Any) -> Result:
        text = " ".join(words)
        for word, said in self.fails.items():
            if word in text:
                return Result(host, False, 100, b"", said.encode(), 1.0, 2.0, reason="exit code 100")
        out = ""
        if tuple(words) == protocol.COMMAND:
            (order,) = json.loads(stdin[host])["requests"]
            assert order["op"] == "serve"
            self.ran.append((host, order["command"]))
            for file in order["files"]:
                self.files[host, file["path"]] = file["content"].encode()
            out = json.dumps(
                {"op": "serve", "subject": order["name"], "status": "ok", "t": 1.0, "detail": {}}
            )
        elif words[0] == "test" and words[-1].startswith(provisioner.IMAGES):
            there = (host, words[-1]) in self.files
            return Result(host, there, int(not there), b"", b"", 1.0, 2.0)
        elif "cat" in text and words[-1].startswith("/"):
            out = self.files.get((host, words[-1]), b"").decode()
        else:
            self.ran.append((host, words))
        return Result(host, True, 0, out.encode(), b"", 1.0, 2.0)

    def programs(self, host: str) -> list[str]:
        return [words[0] for at, words in self.ran if at == host]


@pytest.fixture
def image(tmp_path: Path) -> environments.Image:
    path = tmp_path / "image.tar"
    path.write_bytes(b"an archive")
    return environments.Image(environments.Environment("mini", str(path)), path, "ab" * 32, 10)


@pytest.fixture(autouse=True)
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment environment that cost nothing, and a cache of our own."""
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(name.encode())
    made = system.System(tmp_path / "kernel", tmp_path / "initrd", {"packages": {}})
    monkeypatch.setattr(system, "build", lambda **_: made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@contextmanager
def context(folder: Path, machines: Machines, **more: Any) -> Iterator[Context]:
    spec = Spec(sites={"nancy": 2, "rennes": 1}, vms=6, provisioner="kadeploy3", **more)
    run = directory.create(folder, "r", {"spec": spec.to_dict(), "testbed": "local"})
    (run.path / "ssh").mkdir(exist_ok=True)
    keys = {"id_ed25519": "secret", "check": "may look", "check.pub": "ssh-rsa CCCC check\n"}
    for name, text in {**keys, "id_ed25519.pub": "ssh-ed25519 BBBB run\n"}.items():
        (run.path / "ssh" / name).write_text(text)
    testbed: Any = SimpleNamespace(access=lambda _: None, package_proxy=None, real_cores=4, world=None)
    with closing(Journal.open(run.journal)) as journal:
        made = Context(spec, testbed, run, journal)
        made.__dict__["fanout"] = machines
        yield made


def stand() -> Any:
    layout = ServiceLayout(
        services.IPv4Network("10.144.0.0/14"),
        tuple(
            ServiceMachine(head, ("dhcp", "http"), {head.site: IPv4Address(f"10.14{4 + i}.0.1")})
            for i, head in enumerate(HEADS)
        ),
    )
    addresses = {host.name: IPv4Address(0x0A900100 + i) for i, host in enumerate(HOSTS)}
    facts = {host.name: Facts(4, 8 * GIB, False, 0.0) for host in (*HEADS, *HOSTS)}
    return SimpleNamespace(layout=layout, addresses=addresses, facts=facts, hosts=tuple(HOSTS))


@pytest.fixture
def kadeploy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kadeploy]:
    """The stand-in at the end of every tunnel."""
    made = Kadeploy([f"node-{i}.kadeploy" for i in range(1, len(VMS) + 1)])
    with serving(made) as url:

        class SSHTunnel:
            def __init__(self, _: object, host: str, port: int) -> None:
                assert (host, port) == ("head-nancy", 25300)

            def __enter__(self) -> str:
                return url

            def __exit__(self, *_: object) -> None:
                pass

            def reconnect(self) -> None:
                """A look: the server's time goes on."""
                made.now += 5.0

        monkeypatch.setattr(provisioner, "SSHTunnel", SSHTunnel)
        monkeypatch.setattr(provisioner.time, "sleep", lambda _: None)
        yield made


class Deployed:
    """In the place of `GuestCommands`: what VMs show to who logs in, as the request's operation left it."""

    roots: Mapping[str, str] = {}  #: VM → its root device, but for /dev/vda1
    kadeploy: Kadeploy

    def __init__(self, context: Context, vms: Sequence[VM]) -> None:
        self.key = context.check_key

    def give_up(self, reason: str) -> None:
        """Nothing runs."""

    def run(self, names: Sequence[str], argv: Sequence[str], *, key: Path, on_result: Any, **_: Any) -> None:
        assert key == self.key
        assert argv[-1].split()[0] == "cat"
        asked = [body for method, path, body in self.kadeploy.requests if path == "/deployment" and body][-1]
        (operation,) = asked["custom_operations"]["BroadcastEnv"]["send_key"]["post-ops"]
        with tempfile.TemporaryDirectory() as root:
            script = f"KADEPLOY_ENV_EXTRACTION_DIR={root} && {operation['command']}"
            subprocess.run(["sh", "-c", script], check=True, timeout=10)
            found = Path(f"{root}/etc/g5kvirt-environment").read_text()
        for name in names:
            text = f"{found}{self.roots.get(name, '/dev/vda1')} / ext4 rw 0 0\n"
            on_result(Result(name, True, 0, text.encode(), b"", 1.0, 2.0, via="host"))


@pytest.fixture(autouse=True)
def deployed(kadeploy: Kadeploy, monkeypatch: pytest.MonkeyPatch) -> type[Deployed]:
    made = type("OneDeployed", (Deployed,), {"kadeploy": kadeploy})
    monkeypatch.setattr(provisioner, "GuestCommands", made)
    return made


def prepared(
    made: Context, image: environments.Image, broadcast: chain.Kind = "chain"
) -> provisioner.Kadeploy3Installer:
    return provisioner.Kadeploy3Provisioner().prepare(made, stand(), VMS, image, broadcast)


def test_a_machine_is_made_the_server_once(
    tmp_path: Path, image: environments.Image, kadeploy: Kadeploy
) -> None:
    machines = Machines()
    with context(tmp_path, machines, kadeploy3={"repository": REPOSITORY}) as made:
        first = prepared(made, image)
        programs = machines.programs("head-nancy")
        assert programs[0] == "env", "packages first"
        assert programs[-1] == "runuser", "the server last"
        head = {path: data for (host, path), data in machines.files.items() if host == "head-nancy"}
        assert head["/etc/apt/sources.list.d/g5kvirt-kadeploy3.list"] == REPOSITORY.encode() + b"\n"
        assert (
            head[server_machine.AUTHORIZED]
            == (
                f"{PUBLIC}\nssh-ed25519 BBBB run\n"
                'restrict,command="exec cat /etc/g5kvirt-environment /proc/mounts" ssh-rsa CCCC check\n'
            ).encode()
        )
        folder = f"{services.WWW}/kadeploy3"
        assert head[f"{folder}/deploy-vmlinuz"] == b"kernel"
        assert head[f"{folder}/deploy-initrd"].startswith(b"initrd")
        # each VM's own script lies on its own server and leads to the one Kadeploy3
        for vm in VMS:
            script = machines.files[f"head-{vm.site}", services.vm_script_path(vm)].decode()
            assert "http://10.144.0.1/kadeploy3/profiles/" in script
        # the server is let in by every host, and reaches it in the VMs' own network
        assert {host for host, words in machines.ran if PUBLIC in words} == {h.address for h in HOSTS}
        table = json.loads(head[f"{ETC}/power.json"])["nodes"]
        assert {row[1] for row in table.values()} == {"10.144.1.0", "10.144.1.1", "10.144.1.2"}
        # an image that is not compressed was
        (path,) = [path for path in head if path.startswith(provisioner.IMAGES)]
        assert gzip.decompress(head[path]) == b"an archive"
        assert [e.subject for e in made.journal if e.step == "kadeploy3-image"] == [HEADS[0].name] * 2
        assert kadeploy.environments[0]["image"]["file"] == f"server://{path}"
        assert kadeploy.rights == {"root"}
        assert first.program == "3.3.1.stable"
        machines.ran.clear()
        assert prepared(made, image) == first
        assert len([e for e in made.journal if e.step == "kadeploy3-image"]) == 2, "it is there"
        assert machines.programs("head-nancy") == ["runuser"], "which the agent leaves alone if it runs"
        assert prepared(made, image, "tree").nodes.broadcast == ("Tree", "Chain")
        assert "chgrp" in machines.programs("head-nancy"), "another configuration is put there"
        steps = [e.step for e in made.journal if e.status == "ok"]
        assert steps[0].startswith("kadeploy3-packages")
        assert not any(event.kind == "vm" for event in made.journal)


@pytest.mark.parametrize(
    ("more", "advice"),
    [
        ({}, "Debian does not have Kadeploy3: give the line of sources.list"),
        ({"kadeploy3": {"repository": REPOSITORY}}, f"check that {REPOSITORY!r} is right"),
    ],
)
def test_packages_that_cannot_be_installed_raise_advice(
    tmp_path: Path, image: environments.Image, more: Mapping[str, Any], advice: str
) -> None:
    machines = Machines()
    machines.fails["install --yes"] = "Reading package lists...\nE: Unable to locate package kadeploy\n"
    with context(tmp_path, machines, **more) as made:
        with pytest.raises(PhaseError) as raising:
            prepared(made, image)
        said = str(raising.value)
        assert said.startswith("head.nancy.grid5000.fr cannot be set up as a Kadeploy3 server: ")
        assert "(E: Unable to locate package kadeploy)" in said
        assert advice in said
        assert "\n" not in said
        assert raising.value.step == "kadeploy3-packages"
        assert machines.programs("head-nancy") == ["env"], "apt-get update, and then no more"
        last = list(made.journal)[-1]
        assert (last.step, last.status) == ("kadeploy3-packages", "failed")


@pytest.mark.parametrize("word", ["systemctl", "ssh-keygen", "chgrp", "authorized_keys"])
def test_failed_setup_raises_before_anything_reboots(
    tmp_path: Path, image: environments.Image, word: str
) -> None:
    machines = Machines()
    machines.fails[word] = "it does not\n"
    with context(tmp_path, machines) as made:
        with pytest.raises(PhaseError) as raising:
            prepared(made, image)
        assert raising.value.phase == "measure"
        assert "runuser" not in machines.programs("head-nancy")
        assert not any(event.kind == "vm" for event in made.journal)


def test_installed_packages_are_not_installed_again(
    tmp_path: Path, image: environments.Image, kadeploy: Kadeploy
) -> None:
    machines = Machines()
    machines.fails = {"apt-get": "no network"}
    with context(tmp_path, machines) as made:
        prepared(made, image)
        assert "systemctl" in machines.programs("head-nancy")


def test_deployment_writes_the_events_common_to_all_provisioners(
    tmp_path: Path, image: environments.Image, kadeploy: Kadeploy
) -> None:
    machines = Machines()
    with context(tmp_path, machines) as made:
        installer = prepared(made, image)
        bad = installer.nodes.nodes[2]
        kadeploy.now = time.time()
        kadeploy.bad[bad.name, "SetDeploymentEnvUntrusted", "wait_reboot"] = [2, "Unreachable"]
        about = {"environment": "mini", "vms": [vm.name for vm in VMS], "provisioner": "kadeploy3"}
        outcomes = installer.deploy(DeploymentRequest("d1", VMS, about))
        assert {o.vm.name for o in outcomes if o.state == "failed"} == {bad.vm.name}
        body = next(
            body for method, path, body in kadeploy.requests if (method, path) == ("POST", "/deployment")
        )
        assert body["ssh_authorized_keys"] == f"server://{server_machine.AUTHORIZED}"
        assert body["pxe"]["profile"].startswith("#!ipxe\nsanboot")
        assert body["environment"]["version"] == installer.version
        tables = Measurements.of(made.journal)
        (row,) = tables.deployments.to_dict("records")
        assert (row["requested"], row["deployed"], row["failed"], row["unfinished"]) == (6, 5, 1, 0)
        start = next(e for e in made.journal if (e.step, e.kind) == ("deployment", "run"))
        assert start.detail["kadeploy3"] == {
            "server": "head.nancy.grid5000.fr",
            "version": "3.3.1.stable",
            "parts": 1,
        }
        assert kadeploy.workflows == {}, "the server may forget it"


def test_a_deployed_vm_runs_the_image_of_this_deployment_from_its_disk(
    tmp_path: Path,
    image: environments.Image,
    kadeploy: Kadeploy,
    deployed: type[Deployed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logins, "LIMIT", 0.0)
    image = replace(image, environment=replace(image.environment, name="it's $HOME"))
    deployed.roots = {VMS[1].name: "rootfs"}
    with context(tmp_path, Machines()) as made:
        installer = prepared(made, image)
        kadeploy.now = time.time()
        outcomes = installer.deploy(DeploymentRequest("d1", VMS[:3], {"vms": [vm.name for vm in VMS[:3]]}))
        assert [(o.state, o.step) for o in outcomes] == [
            ("deployed", "login"),
            ("failed", "login"),
            ("deployed", "login"),
        ]
        assert outcomes[1].reason == "its root is rootfs, not the disk"
        # the image that was registered is another one than that of this installer
        other = replace(installer, image=replace(image, sha256="cd" * 32))
        written = identity_fields(image, TaskId("d1", 1))
        monkeypatch.setattr(provisioner, "identity_fields", lambda *_: written)
        for name, one in (("d2", installer), ("d1", other)):
            (outcome,) = one.deploy(DeploymentRequest(name, VMS[:1], {"vms": [VMS[0].name]}))
            assert outcome.reason == "it runs another deployment, d1.1 of it's $HOME"


@pytest.mark.parametrize("reached", [0, 1])
def test_vms_that_are_all_unreachable_raise_the_question_of_ruby(
    tmp_path: Path,
    image: environments.Image,
    kadeploy: Kadeploy,
    caplog: pytest.LogCaptureFixture,
    reached: int,
) -> None:
    with context(tmp_path, Machines()) as made:
        installer = prepared(made, image)
        for node in installer.nodes.nodes[reached:]:
            place = (node.name, "SetDeploymentEnvUntrusted", "wait_reboot")
            kadeploy.bad[place] = [9, "Unreachable after the reboot"]
        outcomes = installer.deploy(DeploymentRequest("d1", VMS, {"vms": [vm.name for vm in VMS]}))
    assert sum(o.state == "failed" for o in outcomes) == len(VMS) - reached
    assert ("Ruby 3" in caplog.text) == (reached == 0)


def test_an_interrupt_ends_it_on_the_server_too(
    tmp_path: Path, image: environments.Image, kadeploy: Kadeploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with context(tmp_path, Machines()) as made:
        installer = prepared(made, image)
        asked = threading.Event()

        def sleep(_: float) -> None:
            if kadeploy.workflows:
                asked.set()
                raise KeyboardInterrupt

        monkeypatch.setattr(provisioner.time, "sleep", sleep)
        with pytest.raises(KeyboardInterrupt):
            installer.deploy(DeploymentRequest("d1", VMS[:2], {"vms": ["vm-1", "vm-2"]}))
        assert asked.is_set()
        deadline = time.monotonic() + 20
        while kadeploy.workflows:
            assert time.monotonic() < deadline, "it goes on there"
        ends = [e for e in made.journal if (e.step, e.kind) == ("deployment", "vm")]
        assert [(e.status, e.detail["reason"]) for e in ends] == [("failed", "interrupted")] * 2


def test_the_specification_reaches_the_configuration(tmp_path: Path) -> None:
    more = {
        "windows": {"reboot": 20, "reboot_sleep": 5},
        "timeouts": {"deployment_retries": 3, "set_deployment_env": 2000.5},
    }
    with context(tmp_path, Machines(), **more) as made:
        timing = provisioner.timing(made, 6, 6, 400.2)
        assert (timing.reboot_window, timing.reboot_sleep, timing.retries) == (20, 5, 3)
        assert (timing.reboot, timing.kexec, timing.macro) == (401, 401, 2001)
    with context(tmp_path / "other", Machines()) as made:
        timing = provisioner.timing(made, 6, 6, 10)
        assert (timing.reboot_window, timing.reboot_sleep, timing.reboot, timing.macro) == (80, 15, 350, 900)


@pytest.mark.parametrize(
    ("memory", "boot"),
    [(provisioner.KEXEC_MEMORY, "Kexec"), (provisioner.KEXEC_MEMORY - 1, "Classical")],
)
def test_kexec_is_tried_where_it_can_succeed(
    tmp_path: Path, image: environments.Image, kadeploy: Kadeploy, memory: int, boot: str
) -> None:
    with context(tmp_path, Machines(), vm={"memory": memory}) as made:
        assert prepared(made, image).nodes.boot == (boot, "HardReboot")


def test_unsupported_values_are_refused(image: environments.Image) -> None:
    check = provisioner.Kadeploy3Provisioner().check
    check(image.environment)
    with pytest.raises(SpecError, match="the kernel's path"):
        check(replace(image.environment, kernel="/boot/" + "k" * 255))
    with pytest.raises(SpecError, match="netboot"):
        Spec(sites={"nancy": 1}, vms=1, provisioner="kadeploy3", netboot="tftp")


@pytest.mark.parametrize("line", [REPOSITORY, "deb http://x/ bookworm main contrib", ""])
def test_a_line_for_sources_list_survives_the_round_trip(line: str) -> None:
    spec = Spec(sites={"nancy": 1}, vms=1, kadeploy3={"repository": line})
    assert Spec.from_dict(spec.to_dict()) == spec
    assert spec.kadeploy3.repository == line


@pytest.mark.parametrize("line", ["http://x/", "deb http://x/ ./\ndeb http://y/ ./", "deb", 3, None])
def test_invalid_line_for_sources_list_is_refused(line: Any) -> None:
    with pytest.raises(SpecError, match=r"kadeploy3\.repository"):
        Spec(sites={"nancy": 1}, vms=1, kadeploy3={"repository": line})
