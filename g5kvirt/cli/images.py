"""``g5kvirt image build`` and ``check``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from g5kvirt.cli.options import command_parser, print_help
from g5kvirt.errors import SpecError

if TYPE_CHECKING:
    from g5kvirt.images.environments import Image

__all__ = ["add_image", "image_of"]

#: How an archive's name ends → its compression.
_ENDINGS = {
    ".tar": "none",
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.bz2": "bzip2",
    ".tar.xz": "xz",
    ".txz": "xz",
    ".tar.zst": "zstd",
    ".tar.zstd": "zstd",
}


def add_image(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``image build|check``."""
    image = command_parser(
        sub,
        "image",
        "build your own images, and check whether an image can be deployed",
        "examples:\n"
        "  g5kvirt image build --packages python3,iperf3 mine\n"
        "  g5kvirt image check environments/mine.yaml",
    )
    image.set_defaults(do=partial(print_help, image))
    verbs = image.add_subparsers(metavar="VERB", title="verbs")
    _add_build(verbs)
    _add_check(verbs)


def _add_check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = command_parser(
        verbs,
        "check",
        "boot an image once, in about a minute, and report what is missing",
        "FILE is the description of an environment (NAME.yaml), an archive (kernel /vmlinuz, initrd "
        "/initrd.img and console=ttyS0 are assumed), or the name of an environment. Reads the archive and "
        "boots it in an emulated VM with the same devices as on a testbed, but needs no testbed. Checks "
        "whether the kernel starts, the system gets an address, root can log in by ssh, and the root file "
        "system is on the disk. Requires root, unless --no-boot is given.\n\n"
        "  ✓ ok   ! may be wrong   ✗ wrong: it cannot be deployed like this\n\n"
        "Exit code 0: it boots; 1: something is wrong.\n\n"
        "examples:\n"
        "  g5kvirt image check environments/mine.yaml\n"
        "  g5kvirt image check --kernel /boot/vmlinuz --initrd none rootfs.tar.zst",
    )
    check.add_argument("file", metavar="FILE", help="description, archive, or name of an environment")
    check.add_argument(
        "--kernel", metavar="PATH", help="path of the kernel in an archive (default: /vmlinuz)"
    )
    check.add_argument(
        "--initrd", metavar="PATH", help="path of the initrd in an archive, or none (default: /initrd.img)"
    )
    check.add_argument(
        "--memory", type=int, default=512, metavar="MIB", help="memory of the VM (default: 512)"
    )
    check.add_argument(
        "--limit", type=float, default=900, metavar="SECONDS", help="time limit of the boot (default: 900)"
    )
    check.add_argument("--no-boot", action="store_true", help="only read the archive")
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.set_defaults(do=_check)


def _check(arguments: argparse.Namespace) -> int:
    """Check an image; 1 if something is wrong with it."""
    from rich.console import Console

    from g5kvirt.cli.doctor import ProbeResult
    from g5kvirt.cli.findings import findings_table
    from g5kvirt.trial.check import check_image

    if not 64 <= arguments.memory <= 1 << 20 or not 1 <= arguments.limit <= 86400:
        raise SpecError("--memory must be 64 MiB or more, and --limit from 1 to 86400 seconds")
    image = image_of(arguments.file, arguments.kernel, arguments.initrd)
    progress = partial(print, file=sys.stderr, flush=True)
    found = check_image(
        image, progress, memory=arguments.memory, limit=arguments.limit, boots=not arguments.no_boot
    )
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        rows = [ProbeResult(f.name, f.state, f.found, f.advice) for f in found]
        Console(highlight=False, soft_wrap=True).print(findings_table(rows))
    return int(any(finding.state == "fail" for finding in found))


def image_of(file: str, kernel: str | None, initrd: str | None) -> Image:
    """The image that the user names: a description, an archive, or an environment known by its name.

    Raises SpecError.
    """
    from g5kvirt.images import environments  # a quarter of a second, which other commands need not wait
    from g5kvirt.images.archives import check_archive, file_size, sha256_of
    from g5kvirt.images.descriptions import FILE
    from g5kvirt.spec.fields import text

    path = Path(file)
    ending = next((e for e in _ENDINGS if file.endswith(e)), "")
    if not ending:
        if kernel is not None or initrd is not None:
            raise SpecError("--kernel and --initrd apply to an archive; a description names its own")
        return environments.obtain(file, [Path("environments")], partial(print, file=sys.stderr))
    described = environments.Environment(
        name="archive",
        image=str(path.absolute()),
        compression=_ENDINGS[ending],
        kernel=text("--kernel", kernel or "/vmlinuz", *FILE),
        initrd="" if initrd == "none" else text("--initrd", initrd or "/initrd.img", *FILE),
    )
    size = file_size(path, file)
    check_archive(path, file, described.compression)
    return environments.Image(described, path, sha256_of(path, file), size)


def _add_build(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    build = command_parser(
        verbs,
        "build",
        "build an environment from Debian and packages of your choice",
        "Requires root and takes a few minutes. Writes NAME.yaml and the image to --output, where "
        'measure(environment="NAME") and g5kvirt run --environment NAME find them. The image contains a '
        "kernel, systemd, a DHCP client for any network card, and an ssh server that generates its host key "
        "at the first boot. An identical request takes the image from the cache.\n\n"
        "examples:\n"
        "  g5kvirt image build --packages python3,iperf3 mine\n"
        "  g5kvirt image build --debian 13 --script setup.sh --compression zstd db",
    )
    build.add_argument("name", metavar="NAME", help="name of the environment")
    build.add_argument("--packages", default="", metavar="NAME,…", help="Debian packages to install")
    build.add_argument("--debian", type=int, default=12, metavar="N", help="Debian 12 (default) or 13")
    build.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="program to run as root in the new system after the packages",
    )
    build.add_argument(
        "--compression", default="gzip", metavar="KIND", help="gzip (default), xz, zstd or none"
    )
    build.add_argument(
        "--output",
        type=Path,
        default=Path("environments"),
        metavar="DIR",
        help="where to write it (default: environments)",
    )
    build.add_argument("--refresh", action="store_true", help="rebuild it with newer packages")
    build.set_defaults(do=_build)


def _build(arguments: argparse.Namespace) -> int:
    """Build an image and say where it is."""
    from g5kvirt.images.custom import build_image

    build_image(
        arguments.name,
        arguments.packages,
        debian=arguments.debian,
        script=arguments.script,
        compression=arguments.compression,
        folder=arguments.output,
        refresh=arguments.refresh,
    )
    return 0
