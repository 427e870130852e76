"""The disk of a trial boot: one partition with the image, prepared as a deployment prepares it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images.descriptions import Environment

__all__ = ["Disk", "make_disk", "partition_table"]

START = 1 << 20  #: bytes before the partition, as `guest/deploy` makes it
_SECTOR = 512
#: As in `guest/deploy`: extlinux reads neither 64bit nor checksummed ext4.
_FEATURES = {"ext3": "^64bit", "ext4": "^has_journal,^64bit,^metadata_csum", "ext2": "^64bit"}


@dataclass(frozen=True)
class Disk:
    """Files for QEMU."""

    image: Path
    kernel: Path
    initrd: Path | None


def make_disk(environment: Environment, root: Path, scratch: Path, public_key: str, identity: str) -> Disk:
    """Prepare the unpacked image ``root`` and make the disk of it in ``scratch``.

    ``identity``: content of ``/etc/g5kvirt-environment``. Raises SpecError if the image is not such that a
    deployment can write into it, MachineError if the disk cannot be made.
    """
    _write(root, "root/.ssh/authorized_keys", f"{public_key}\n", 0o600)
    (_inside(root, "root/.ssh")).chmod(0o700)
    _write(root, "etc/hostname", "trial\n")
    _write(root, "etc/g5kvirt-environment", identity)
    kernel = _copied(root, environment.kernel, scratch / "kernel")
    initrd = _copied(root, environment.initrd, scratch / "initrd") if environment.initrd else None
    used = sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))
    size = START + used + used // 4 + (96 << 20)
    image = scratch / "disk"
    with image.open("wb") as file:
        file.write(partition_table(size))
        file.truncate(size)
    program = shutil.which("mke2fs") or "/sbin/mke2fs"
    argv = [program, "-q", "-F", "-t", environment.filesystem, "-m", "0", "-d", str(root)]
    argv += ["-O", _FEATURES[environment.filesystem], "-E", f"offset={START}", str(image)]
    argv.append(f"{(size - START) // 1024}k")
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=600)
    except OSError as error:
        raise MachineError(f"{program}: {error.strerror}", advice="run apt-get install e2fsprogs") from error
    if done.returncode:
        raise MachineError(
            f"mke2fs failed ({(done.stderr.strip().splitlines() or ['no output'])[-1]})",
            advice="make room on the disk, then try again",
        )
    return Disk(image, kernel, initrd)


def partition_table(size: int) -> bytes:
    """The first sector of a disk of ``size`` bytes: one bootable Linux partition from `START` on.

    Source: the master boot record as UEFI's specification has it (5.2.1).
    """
    first, sectors = START // _SECTOR, (size - START) // _SECTOR
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", first, sectors)
    return entry.rjust(446 + 16, b"\0").ljust(510, b"\0") + b"\x55\xaa"


def _inside(root: Path, path: str) -> Path:
    """A path of the image, whose links are those of the image and not of this machine."""
    here = root
    for part in Path(path.lstrip("/")).parts:
        if part == "..":
            raise SpecError(f"the path {path} is outside the image", advice="correct it")
        here /= part
        for _ in range(40):
            if not here.is_symlink():
                break
            target = os.readlink(here)  # noqa: PTH115 - as it is written
            base = root if target.startswith("/") else here.parent
            here = Path(os.path.normpath(base / target.lstrip("/")))
            if not here.is_relative_to(root):
                raise SpecError(f"the link {path} of the image leads outside it", advice="correct the image")
    return here


def _write(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    file = _inside(root, path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
    except OSError as error:
        raise SpecError(
            f"/{path} cannot be written into the image ({error.strerror})", advice="correct the image"
        ) from error


def _copied(root: Path, path: str, target: Path) -> Path:
    source = _inside(root, path)
    if not source.is_file():
        raise SpecError(f"there is no {path} in the archive", advice="correct boot in the description")
    shutil.copyfile(source, target)
    return target
