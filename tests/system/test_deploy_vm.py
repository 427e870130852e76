"""An environment onto the disk of a real VM, by the minimal system's own agent, and ssh to what came up."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netboot_lab import HOME, Lab, missing

from g5kvirt.errors import MachineError
from g5kvirt.hostagent import protocol
from g5kvirt.images import environments, minimal, tools
from g5kvirt.netboot import services as nb
from g5kvirt.netboot.bootlog import BootLog, Milestone
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.provisioners import readiness
from g5kvirt.provisioners.builtin import tasks

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

#: Seconds for a deployment on a machine that has other things to do as well.
PATIENCE = 240.0
SERVER = "http://10.144.0.1"
MEMORY = 160 << 20
DISK = 64 << 20


@dataclasses.dataclass
class Bench:
    """The lab with an environment to deploy and a key to look whether it came up."""

    lab: Lab
    image: environments.Image
    key: Path

    def start(self) -> None:
        """Power on all VMs."""
        own = [protocol.vm(v.name, v.mac) for v in self.lab.vms]
        answers = self.lab.hosts[0].agent(protocol.start(own, memory=MEMORY, disk=DISK))
        assert [a.reason for a in answers if not a.ok] == []

    def deploy(self, vm: str, deployment: str, **changes: object) -> tasks.TaskFile:
        """Hand the task to one VM."""
        task = tasks.task_file(
            self.image,
            task_id=TaskId(deployment, 1),
            url=f"{SERVER}/{self.image.sha256}",
            server=SERVER,
            authorized_keys=[self.key.with_suffix(".pub").read_text(encoding="ascii").strip()],
        )
        task = dataclasses.replace(task, **changes)  # type: ignore[arg-type]
        self.lab.service.write(tasks.task_path(vm, nb.WWW), tasks.render(task).encode())
        return task

    def reports(self, vm: str, deployment: str) -> dict[str, Milestone]:
        """Step → what a VM reported of a deployment so far, from the whole log."""
        log = BootLog(self.lab.vms)
        seen = (log.read(line) for line in self.lab.service.read(nb.ACCESS_LOG).splitlines())
        return {m.step: m for m in seen if m and m.vm == vm and m.task == TaskId(deployment, 1)}

    def until(self, vm: str, deployment: str, step: str) -> dict[str, Milestone]:
        """The reports when ``step`` is there, or one that failed."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            seen = self.reports(vm, deployment)
            if step in seen or any(m.status == "failed" for m in seen.values()):
                return seen
            time.sleep(0.25)
        raise AssertionError(
            f"{vm} {deployment}: no {step} but {list(seen)}\n"
            f"{self.lab.hosts[0].read(f'{HOME}/consoles/{vm}.serial')}"
        )

    def ssh(self, vm: str, command: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
        address = next(v.ip for v in self.lab.vms if v.name == vm)
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "ConnectTimeout=5",
        ]
        argv = [
            "ssh",
            "-q",
            "-F",
            "none",
            "-i",
            str(key or self.key),
            *(w for o in options for w in ("-o", o)),
        ]
        return subprocess.run(
            self.lab.service.argv(*argv, f"root@{address}", command),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ready(self, vm: str) -> readiness.Identity:
        """What the VM says of itself by ssh, asked until it answers."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            done = self.ssh(vm, readiness.READY_COMMAND)
            if done.returncode == 0:
                identity = readiness.read_ready(done.stdout)
                assert identity is not None, done.stdout
                return identity
            time.sleep(0.5)
        raise AssertionError(f"{vm}: no ssh\n{self.lab.hosts[0].read(f'{HOME}/consoles/{vm}.serial')}")

    def profile(self, vm: str, profile: str) -> None:
        """Which way the VM takes when it netboots next."""
        machine = next(v for v in self.lab.vms if v.name == vm)
        path = nb.vm_script_path(machine)
        if profile == "disk":
            text = nb.ipxe_script(self.lab.netboot, self.lab.netboot.layout.network[1], profile="disk")
            self.lab.service.write(path, text.encode())
        else:
            self.lab.service.run("rm", "-f", path)


@pytest.fixture(scope="module")
def built() -> tuple[minimal.MinimalSystem, tools.Tools, environments.Image]:
    try:
        return minimal.build(), tools.build(), environments.obtain("mini")
    except MachineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bench(
    built: tuple[minimal.MinimalSystem, tools.Tools, environments.Image],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    """One VM in its minimal system, for all tests: a boot is what takes longest. Each may deploy on it."""
    system, kit, image = built
    key = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=30)
    lab = Lab(system)
    try:
        assert [a.reason for a in lab.prepare() if not a.ok] == []
        lab.service.write(f"{nb.WWW}/tools", kit.archive.read_bytes())
        lab.service.write(f"{nb.WWW}/{image.sha256}", image.path.read_bytes())
        made = Bench(lab, image, key)
        made.start()
        assert "minimal-system" in lab.milestones(PATIENCE)["vm-1"]
        yield made
    finally:
        lab.close()


def too_large() -> bytes:
    """A gzipped tar of one file that is larger than the disk."""
    buffer = io.BytesIO()
    entry = tarfile.TarInfo("zeros")
    entry.size = DISK + 1
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    return buffer.getvalue()


def test_failed_deployment_reports_why_and_can_be_repeated(bench: Bench) -> None:
    bench.deploy("vm-1", "small", least_disk=DISK + 1)
    seen = bench.until("vm-1", "small", "environment")
    assert list(seen) == ["partition"]
    assert seen["partition"].reason == "the disk is too small: it has 64 MB, mini needs 65 MB"
    assert seen["partition"].permanent

    data = too_large()
    sha256 = hashlib.sha256(data).hexdigest()
    bench.lab.service.write(f"{nb.WWW}/large", data)
    bench.deploy("vm-1", "large", image=f"{SERVER}/large", sha256=sha256, compression="gzip")
    seen = bench.until("vm-1", "large", "environment")
    assert [m.status for m in seen.values()] == ["ok", "ok", "failed"]
    assert "No space left on device" in seen["image"].reason
    assert seen["image"].permanent

    bench.deploy("vm-1", "absent", image=f"{SERVER}/absent")
    seen = bench.until("vm-1", "absent", "environment")
    assert "404" in seen["image"].reason
    assert not seen["image"].permanent

    bench.deploy("vm-1", "corrupt", image=f"{SERVER}/tools", sha256="0" * 64, compression="gzip")
    seen = bench.until("vm-1", "corrupt", "environment")
    assert seen["image"].status == "failed"
    assert seen["image"].reason.endswith(f", not {'0' * 64}")
    assert seen["image"].permanent
    assert set(seen) == {"partition", "format", "image"}


@pytest.mark.slow  # a whole deployment more
def test_an_image_in_zstd_is_deployed(bench: Bench) -> None:
    """With the tools of an earlier deployment there already: the program for zstd is fetched by itself."""
    if shutil.which("zstd") is None:
        pytest.skip("zstd is missing: install it")
    lab = bench.lab
    plain = bench.image.path.read_bytes()
    if bench.image.environment.compression == "gzip":
        plain = gzip.decompress(plain)
    argv = ["zstd", "-19", "-c", "-q"]
    packed = subprocess.run(argv, input=plain, capture_output=True, check=True, timeout=120).stdout
    sha256 = hashlib.sha256(packed).hexdigest()
    lab.service.write(f"{nb.WWW}/tools-zstd", tools.build_zstd().archive.read_bytes())
    lab.service.write(f"{nb.WWW}/{sha256}", packed)
    bench.deploy("vm-1", "z", image=f"{SERVER}/{sha256}", sha256=sha256, compression="zstd")
    seen = bench.until("vm-1", "z", "environment")
    assert [m.reason for m in seen.values() if m.status != "ok"] == []
    assert bench.ready("vm-1") == readiness.Identity("mini", sha256, TaskId("z", 1), "/dev/vda1")
    lab.hosts[0].agent(protocol.power("reset"))  # back to the minimal system, for the next test


def test_by_kexec_then_again_by_reboot(bench: Bench) -> None:
    lab = bench.lab
    before, began = lab.cpu()["vm-1"], time.time()
    bench.deploy("vm-1", "1")
    seen = bench.until("vm-1", "1", "environment")
    assert [m.reason for m in seen.values() if m.status != "ok"] == []
    assert list(seen) == [*tasks.STEPS, "environment"]
    identity = bench.ready("vm-1")
    print(f"kexec: {time.time() - began:.1f} s, {lab.cpu()['vm-1'] - before:.1f} CPU s")
    print({step: round(m.t - began, 1) for step, m in seen.items()})
    assert identity == readiness.Identity("mini", bench.image.sha256, TaskId("1", 1), "/dev/vda1")
    assert bench.ssh("vm-1", "cat /etc/hostname").stdout == "vm-1\n"
    bench.key.with_name("other").write_text("no key\n", encoding="ascii")
    assert bench.ssh("vm-1", "true", key=bench.key.with_name("other")).returncode == 255
    assert bench.ssh("vm-1", "echo old > /root/left-behind; sync").returncode == 0

    # once more on the same VM: back to the minimal system, and this time the firmware boots the disk
    before, began = lab.cpu()["vm-1"], time.time()
    bench.deploy("vm-1", "2", boot="reboot")
    lab.hosts[0].agent(protocol.power("reset"))
    bench.until("vm-1", "2", "partition")
    bench.profile("vm-1", "disk")
    seen = bench.until("vm-1", "2", "environment")
    assert list(seen) == [*tasks.STEPS, "environment"]
    assert bench.ready("vm-1").task == TaskId("2", 1)
    print(f"reset and reboot: {time.time() - began:.1f} s, {lab.cpu()['vm-1'] - before:.1f} CPU s")
    print({step: round(m.t - began, 1) for step, m in seen.items()})
    assert bench.ssh("vm-1", "ls /root").stdout == ""
