"""The deployment script of a guest, run step by step on this machine: its reports, and what is permanent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from importlib import resources
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from zstdmaker import stored

from g5kvirt.inventory import VM
from g5kvirt.netboot.bootlog import BootLog, Milestone
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.provisioners.builtin.tasks import STEPS

VM_1 = VM(1, "vm-1", "h-1", "nancy", IPv4Address("10.144.0.9"), "02:00:90:00:00:09")
#: The functions of the script; its last paragraph, which is left out, calls them in turn.
FUNCTIONS = resources.files("g5kvirt.images").joinpath("guest", "deploy").read_text().rpartition("\n\n")[0]
#: Programs of the guest, and steps that would change this machine.
STUBS = """
report() { printf '/report?step=%s&name=vm-1&%s\\n' "$1" "$2" >> "$reports"; }
busybox() { "$@"; }
umount() { :; }
mount() { :; }
fdisk() { :; }
sleep() { :; }
make_filesystem() { echo formatted >> "$formats"; }
"""
WGET = '#!/bin/sh\necho "wget: $FAULT" >&2\n[ -z "$FAULT" ] || exit 1\ncat "$IMAGE"\n'
TAR = '#!/bin/sh\ncat > /dev/null\necho "tar: $TAR_FAULT" >&2\nexit 1\n'


class Guest:
    """Runs functions of the script with its directories below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = folder / "target"
        for name in ("work", "target", "bin"):
            (folder / name).mkdir()
        self.program("wget", WGET)
        with tarfile.open(folder / "image.tar", "w") as tar:
            for name, data in (("boot/vmlinuz", b"kernel"), ("boot/initrd.img", b"initrd")):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        self.image = (folder / "image.tar").read_bytes()
        self.task = {
            "deployment": "d1.1",
            "environment": "mini",
            "image": "http://10.144.0.1/mini.tar",
            "sha256": hashlib.sha256(self.image).hexdigest(),
            "compression": "none",
            "least_disk": "1",
            "kernel": "/boot/vmlinuz",
            "initrd": "/boot/initrd.img",
            "authorized_keys": "ssh-ed25519 AAAA",
            "disk": "/nowhere",
            "patience": "10",
            "server": "10.144.0.1",
            "name": "vm-1",
        }

    def program(self, name: str, text: str) -> None:
        """Put a program in front of those of this machine."""
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def run(self, call: str, **environment: str) -> Milestone:
        """The last report of ``call``, as read from the log of the server."""
        task = "".join(f"{name}='{value}'\n" for name, value in self.task.items())
        places = f"work={self.folder}/work said={self.folder}/work/said target={self.target}\n"
        logs = f"reports={self.folder}/reports formats={self.folder}/formats\n"
        subprocess.run(
            ["sh", "-c", f"{task}{FUNCTIONS}\n{STUBS}{places}{logs}{call}"],
            env={
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "IMAGE": str(self.folder / "image.tar"),
                "FAULT": "",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
        uri = (self.folder / "reports").read_text().splitlines()[-1]
        line = {"t": 1.0, "took": 0.0, "status": 200, "bytes": 0, "from": str(VM_1.ip), "uri": uri}
        milestone = BootLog([VM_1]).read(json.dumps(line))
        assert milestone is not None
        assert milestone.task == TaskId("d1", 1)
        return milestone


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_reason_of_a_failure_arrives_unchanged(guest: Guest) -> None:
    text = 'tar: "a b" & c=d; 100% <#1> \\ + it\'s'
    shell = text.replace("'", "'\\''")
    report = guest.run(f"step=format; failed '{shell}'")
    assert (report.step, report.status, report.reason) == ("format", "failed", text)
    assert not report.permanent


def test_missing_disk_is_permanent(guest: Guest) -> None:
    report = guest.run("make_partition")
    assert (report.step, report.status) == ("partition", "failed")
    assert report.reason == "the VM has no disk /nowhere"
    assert report.permanent


def test_small_disk_is_permanent(guest: Guest) -> None:
    disks = [
        path for path in Path("/sys/class/block").iterdir() if (Path("/dev") / path.name).is_block_device()
    ]
    if not disks:
        pytest.skip("needs a block device")  # which is not touched
    guest.task |= {"disk": f"/dev/{disks[0].name}", "least_disk": str(1 << 60)}
    report = guest.run("make_partition")
    assert report.reason.startswith("the disk is too small")
    assert report.permanent


def test_image_is_unpacked(guest: Guest) -> None:
    report = guest.run("install_image")
    assert (report.step, report.status, report.detail["tries"]) == ("image", "ok", "1")
    assert (guest.target / "boot/vmlinuz").read_bytes() == b"kernel"


@pytest.mark.skipif(not Path("/usr/bin/zstd").exists(), reason="needs Debian's zstd")
def test_image_in_zstd_is_unpacked(guest: Guest) -> None:
    packed = stored(guest.image)
    (guest.folder / "image.tar").write_bytes(packed)
    guest.task |= {"compression": "zstd", "sha256": hashlib.sha256(packed).hexdigest()}
    assert guest.run("install_image").status == "ok"
    assert (guest.target / "boot/vmlinuz").read_bytes() == b"kernel"
    (guest.folder / "image.tar").write_bytes(packed[:-9])
    guest.task["sha256"] = hashlib.sha256(packed[:-9]).hexdigest()
    assert guest.run("install_image").reason.startswith("zstd: ")


def test_wrong_checksum_is_permanent(guest: Guest) -> None:
    guest.task["sha256"] = "0" * 64
    report = guest.run("install_image")
    assert report.reason.startswith("the image's SHA-256 is ")
    assert report.permanent


def test_download_is_retried_and_its_failure_is_not_permanent(guest: Guest) -> None:
    report = guest.run("install_image", FAULT="connection reset")
    assert report.reason.endswith("could not be fetched in 4 attempts: wget: connection reset")
    assert not report.permanent
    assert len((guest.folder / "formats").read_text().splitlines()) == 3, "each retry starts on an empty disk"


@pytest.mark.parametrize(("fault", "permanent"), [("No space left on device", True), ("short read", False)])
def test_only_a_full_disk_is_permanent_when_unpacking_fails(
    guest: Guest, fault: str, permanent: bool
) -> None:
    guest.program("tar", TAR)
    report = guest.run("install_image", TAR_FAULT=fault)
    assert (report.reason, report.permanent) == (f"tar: {fault}", permanent)


@pytest.mark.parametrize("missing", ["kernel", "initrd"])
def test_image_without_kernel_or_initrd_is_permanent(guest: Guest, missing: str) -> None:
    guest.run("install_image")
    guest.task[missing] = "/boot/other"
    report = guest.run("postinstall")
    assert (report.step, report.reason) == ("postinstall", f"the image has no {missing} /boot/other")
    assert report.permanent


def test_postinstall_writes_key_name_and_identity(guest: Guest) -> None:
    guest.run("install_image")
    assert guest.run("postinstall").status == "ok"
    assert (guest.target / "root/.ssh/authorized_keys").read_text() == "ssh-ed25519 AAAA\n"
    assert (guest.target / "etc/hostname").read_text() == "vm-1\n"
    assert "deployment=d1.1\n" in (guest.target / "etc/g5kvirt-environment").read_text()


def test_each_step_is_reported_with_only_the_variables_of_a_task(guest: Guest) -> None:
    (guest.target / "boot/extlinux").mkdir(parents=True)
    guest.task |= {"boot": "reboot", "arguments": "quiet", "filesystem": "ext4"}
    last = guest.run("set -u; install_image; postinstall; try() { :; }; bootloader; leave")
    reported = re.findall(r"step=(\w+).*status=(\w+)", (guest.folder / "reports").read_text())
    assert reported == [*((step, "ok") for step in STEPS[STEPS.index("image") :]), ("boot", "failed")]
    assert last.reason == "reboot did not happen"
    assert "APPEND root=/nowhere1 rw quiet" in (guest.target / "boot/extlinux/extlinux.conf").read_text()


def test_success_is_never_permanent() -> None:
    assert not Milestone("vm-1", "image", 1.0, {"status": "ok", "permanent": "1"}).permanent


@pytest.mark.parametrize("key", ["permanent", "hopeless"])
def test_permanent_failure_is_read_under_its_old_name_too(key: str) -> None:
    assert Milestone("vm-1", "image", 1.0, {"status": "failed", key: "1"}).permanent
    assert not Milestone("vm-1", "image", 1.0, {"status": "failed", key: "0"}).permanent
