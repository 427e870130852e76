"""What a boot shows about an image, and the disk and command line that it has."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt import cli
from g5kvirt.cli.images import image_of
from g5kvirt.errors import SpecError
from g5kvirt.images.descriptions import Environment
from g5kvirt.trial import check
from g5kvirt.trial.boot import Observation, Trial, findings, guest_arguments, qemu_argv
from g5kvirt.trial.disk import START, Disk, make_disk, partition_table
from g5kvirt.trial.inspection import Finding
from g5kvirt.trial.traffic import dhcp_messages

RUNS = "[    1.0] Linux version 6.1\n[    3.0] systemd[1]: Reached target basic.target.\n"
ACK = ("discover", "offer", "request", "ack")
READY = "name=mine\nsha256=aa\n/dev/vda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\neth0\n"


def judged(**more: object) -> dict[str, Finding]:
    seen = Observation(**{"console": RUNS, "dhcp": ACK, "limit": 300.0, "seconds": 60.0, **more})  # type: ignore[arg-type]
    return {finding.name: finding for finding in findings(seen)}


def test_an_image_that_lets_root_in_is_right() -> None:
    found = judged(output=READY)
    assert [finding.state for finding in found.values()] == ["ok"] * 4
    assert found["ssh"].found == "root could log in after 60 s (emulated)"


@pytest.mark.parametrize(
    ("seen", "name", "text"),
    [
        ({"console": "", "dhcp": ()}, "boot", "no sign of the kernel"),
        (
            {"console": f"{RUNS}Kernel panic - not syncing: VFS", "dhcp": (), "ended": True},
            "boot",
            "virtio disk",
        ),
        ({"console": f"{RUNS}(initramfs) ", "dhcp": ()}, "boot", "the root /dev/vda1"),
        ({"dhcp": ()}, "address", "it does not request one, not within 300 s"),
        ({"dhcp": ("discover", "offer")}, "address", "does not accept the offered"),
        ({"ssh": "ssh: connect to host: Connection refused"}, "ssh", "nothing answers on port 22"),
        ({"ssh": "root@127.0.0.1: Permission denied (publickey)."}, "ssh", "PermitRootLogin"),
        ({"output": READY.replace("/dev/vda1", "rootfs")}, "root", "its root is rootfs, not the disk"),
    ],
)
def test_the_first_thing_that_is_missing_is_named(seen: dict[str, object], name: str, text: str) -> None:
    *before, last = judged(**seen).values()
    assert [finding.state for finding in before] == ["ok"] * len(before)
    assert (last.name, last.state) == (name, "fail")
    assert text in f"{last.found} {last.advice}"


# ---- the network ---------------------------------------------------------------------------------------


def frame(kind: int, ports: tuple[int, int] = (68, 67)) -> bytes:
    options = bytes([0, 53, 1, kind, 55, 2, 1, 3, 255])
    bootp = bytes(236) + b"\x63\x82\x53\x63" + options
    udp = struct.pack(">HHHH", *ports, 8 + len(bootp), 0) + bootp
    ip = bytes([0x45]) + bytes(8) + bytes([17]) + bytes(10)
    return bytes(12) + b"\x08\x00" + ip + udp


def capture(*frames: bytes) -> bytes:
    head = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return head + b"".join(struct.pack("<IIII", 1, 2, len(f), len(f)) + f for f in frames)


def test_dhcp_is_read_from_what_qemu_wrote() -> None:
    data = capture(frame(1), b"\xff" * 60, frame(2, (67, 68)), frame(3, (80, 81)), frame(5))
    assert dhcp_messages(data) == ["discover", "offer", "ack"]
    assert dhcp_messages(data[:-3]) == ["discover", "offer"], "the last one is being written"


@given(st.binary(max_size=400))
def test_any_bytes_are_a_capture(data: bytes) -> None:
    assert isinstance(dhcp_messages(data), list)
    assert isinstance(dhcp_messages(capture(data)), list)


# ---- the disk ------------------------------------------------------------------------------------------


def test_the_disk_has_one_bootable_partition() -> None:
    table = partition_table(64 << 20)
    assert len(table) == 512
    assert table[-2:] == b"\x55\xaa"
    status, kind = table[446], table[450]
    first, sectors = struct.unpack_from("<II", table, 454)
    assert (status, kind, first * 512, (first + sectors) * 512) == (0x80, 0x83, START, 64 << 20)


def environment(**more: str) -> Environment:
    return Environment("mine", "/image", **{"kernel": "/vmlinuz", "initrd": "/initrd", **more})  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "boot").mkdir(parents=True)
    (made / "boot/vmlinuz-6").write_text("kernel")
    (made / "vmlinuz").symlink_to("/boot/vmlinuz-6")
    (made / "initrd").write_text("initrd")
    return made


def test_a_disk_is_made_of_an_image(root: Path, tmp_path: Path) -> None:
    if not (shutil.which("mke2fs") or Path("/sbin/mke2fs").exists()):
        pytest.skip("needs mke2fs")
    disk = make_disk(environment(), root, tmp_path, "ssh-ed25519 AAAA", "name=mine\n")
    assert (disk.kernel.read_text(), disk.initrd and disk.initrd.read_text()) == ("kernel", "initrd")
    assert (root / "root/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    listed = subprocess.run(
        ["/sbin/debugfs", "-R", "cat /etc/g5kvirt-environment", f"{disk.image}?offset={START}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout == "name=mine\n"


@pytest.mark.parametrize("target", ["../../outside", "/../../outside"])
def test_no_link_of_an_image_leads_out_of_it(target: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "root").symlink_to(target)
    with pytest.raises(SpecError, match="leads outside it"):
        make_disk(environment(), root, tmp_path, "key", "")
    assert not list((tmp_path / "outside").iterdir())


def test_the_guest_is_told_its_root_and_is_not_silent() -> None:
    assert guest_arguments("quiet ro console=ttyS0 panic=1") == "root=/dev/vda1 rw ro console=ttyS0 panic=1"
    assert guest_arguments("") == "root=/dev/vda1 rw console=ttyS0"
    trial = Trial(Disk(Path("disk"), Path("kernel"), None), Path(), Path("key"), "quiet", 256, 9.0)
    argv = qemu_argv(trial, 2222)
    assert "-initrd" not in argv
    assert "restrict=on" in argv[argv.index("-netdev") + 1]


# ---- the command ---------------------------------------------------------------------------------------


def test_an_archive_is_checked_as_it_would_be_described(tmp_path: Path) -> None:
    subprocess.run(["tar", "-c", "-z", "-f", tmp_path / "a.tgz", "-C", "/etc", "passwd"], check=True)
    image = image_of(str(tmp_path / "a.tgz"), None, "none")
    assert (image.environment.compression, image.environment.kernel) == ("gzip", "/vmlinuz")
    assert image.environment.initrd == ""
    with pytest.raises(SpecError, match="apply to an archive"):
        image_of("mini", "/vmlinuz", None)
    (tmp_path / "b.tar.zst").write_text("no")
    with pytest.raises(SpecError, match="not a tar archive in zstd"):
        image_of(str(tmp_path / "b.tar.zst"), None, None)


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_the_exit_code_tells_whether_it_can_be_deployed(
    state: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Finding("ssh", state, "so it is", "do this")]  # type: ignore[arg-type]
    monkeypatch.setattr(check, "check_image", lambda *_, **__: found)
    subprocess.run(["tar", "-c", "-f", tmp_path / "a.tar", "-C", "/etc", "passwd"], check=True)
    assert cli.main(["image", "check", str(tmp_path / "a.tar")]) == code
    out = capsys.readouterr().out
    assert "so it is" in out
    assert "→ do this" in out


def test_numbers_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["image", "check", "--memory", "1", "x.tar"]) == 2
    assert "--memory must be 64 MiB or more" in capsys.readouterr().err
