"""What an archive tells about its boot, without booting it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zstdmaker import stored

from g5kvirt.errors import SpecError
from g5kvirt.images import mini
from g5kvirt.images.descriptions import Environment
from g5kvirt.trial.archive import read_tree, unpack
from g5kvirt.trial.inspection import Finding, Tree, inspect

DEBIAN = Environment("mine", "/image", kernel="/vmlinuz", initrd="/initrd.img")

#: A Debian in small: path → its content, or ``-> target``.
FILES = {
    "vmlinuz": "-> boot/vmlinuz-6",
    "initrd.img": "-> boot/initrd.img-6",
    "boot/vmlinuz-6": "kernel",
    "boot/initrd.img-6": "initrd",
    "sbin": "-> usr/sbin",
    "usr/sbin/init": "-> ../lib/systemd/systemd",
    "usr/lib/systemd/systemd": "x",
    "usr/lib/systemd/systemd-networkd": "x",
    "usr/sbin/sshd": "x",
    "etc/fstab": "# nothing\n/dev/vda1 / auto defaults 0 1\n",
    "etc/systemd/system/multi-user.target.wants/ssh.service": "-> /lib/systemd/system/ssh.service",
    "etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "-> /lib/x",
    "etc/machine-id": "",
}


def tree(**changes: str | None) -> Tree:
    """`FILES` with other contents (``__`` for a slash is not needed: keys are paths); None: without it."""
    made = Tree()
    for path, text in {**FILES, **changes}.items():
        if text is None:
            continue
        if text.startswith("-> "):
            made.add(path, stat.S_IFLNK | 0o777, text.removeprefix("-> "))
        else:
            made.add(path, stat.S_IFREG | 0o644, size=len(text))
            made.texts[path] = text
    return made


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def test_a_debian_that_has_it_all_has_no_fault() -> None:
    found = inspect(tree(), DEBIAN)
    assert {finding.state for finding in found} == {"ok"}, found


@pytest.mark.parametrize(
    ("changes", "name", "state", "text"),
    [
        ({"boot/vmlinuz-6": None}, "kernel", "fail", "there is no /vmlinuz in the archive"),
        ({"vmlinuz": None}, "kernel", "fail", "boot.kernel in the description: there is /boot/vmlinuz-6"),
        ({"boot/initrd.img-6": ""}, "initrd", "fail", "there is no /initrd.img"),
        ({"usr/sbin/init": None, "usr/lib/systemd/systemd": None}, "init", "fail", "no /sbin/init"),
        ({"etc/fstab": "UUID=1234 / ext4 x 0 1\n"}, "root file system", "warn", "UUID=1234"),
        ({"usr/lib/systemd/systemd-networkd": None}, "DHCP client", "fail", "none was found"),
        (
            {"etc/systemd/system/multi-user.target.wants/systemd-networkd.service": None},
            "DHCP client",
            "fail",
            "not enabled",
        ),
        ({"usr/sbin/sshd": None}, "ssh server", "fail", "install openssh-server"),
        (
            {"etc/systemd/system/multi-user.target.wants/ssh.service": None},
            "ssh at boot",
            "warn",
            "systemctl enable ssh",
        ),
        ({"etc/ssh/ssh_host_rsa_key": "secret"}, "host keys", "warn", "all VMs would have the same"),
        ({"etc/machine-id": "0123456789"}, "machine-id", "warn", "all VMs would have the same"),
    ],
)
def test_each_fault_is_named_with_what_to_do(
    changes: dict[str, str | None], name: str, state: str, text: str
) -> None:
    finding = by_name(inspect(tree(**changes), DEBIAN))[name]
    assert finding.state == state
    assert text in f"{finding.found} {finding.advice}"
    assert finding.advice


def test_a_kernel_without_a_serial_console_is_a_warning() -> None:
    silent = Environment("mine", "/image", kernel="/vmlinuz", kernel_arguments="quiet console=tty0")
    assert by_name(inspect(tree(), silent))["serial console"].state == "warn"


def test_the_built_in_environment_passes() -> None:
    files = {path: b"x" for paths in mini.FILES.values() for path in paths}
    files |= {"boot/vmlinuz": b"kernel", "boot/initrd": b"initrd"}
    image = mini.image(files, mini.scripts())
    made = Tree()
    with tarfile.open(fileobj=io.BytesIO(image)) as archive:
        for member in archive:
            kind = stat.S_IFLNK if member.issym() else stat.S_IFDIR if member.isdir() else stat.S_IFREG
            made.add(member.name, kind | member.mode, member.linkname, member.size)
    described = Environment("mini", "/image", kernel="/boot/vmlinuz", initrd="/boot/initrd")
    assert not [finding for finding in inspect(made, described) if finding.state == "fail"]


PATHS = st.lists(st.sampled_from(["a", "b", "..", "c"]), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(PATHS, PATHS | PATHS.map(lambda p: f"/{p}"), max_size=6), PATHS)
def test_no_links_lead_astray(links: dict[str, str], path: str) -> None:
    made = Tree()
    for name, target in links.items():
        made.add(name, stat.S_IFLNK | 0o777, target)
    made.add("a/file", stat.S_IFREG | 0o644, size=1)
    found = made.resolve(path)
    assert found is None or ".." not in found.split("/")


# ---- archives ------------------------------------------------------------------------------------------


def packed() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path, text in FILES.items():
            entry = tarfile.TarInfo(f"./{path}")
            if text.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, text.removeprefix("-> ")
                tar.addfile(entry)
            else:
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
        hard = tarfile.TarInfo("./usr/sbin/second")
        hard.type, hard.linkname = tarfile.LNKTYPE, "./usr/sbin/sshd"
        tar.addfile(hard)
    return made.getvalue()


COMPRESSED = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": stored,
}


@pytest.mark.parametrize("compression", COMPRESSED)
def test_an_archive_is_read_in_any_compression(compression: str, tmp_path: Path) -> None:
    path, root = tmp_path / "image", tmp_path / "root"
    path.write_bytes(COMPRESSED[compression](packed()))
    found = read_tree(path, compression, tmp_path)
    assert found.texts == {"etc/fstab": FILES["etc/fstab"], "etc/machine-id": ""}
    assert found.resolve("/vmlinuz") == "boot/vmlinuz-6"
    assert found.has("/usr/sbin/second")
    assert {finding.state for finding in inspect(found, DEBIAN)} == {"ok"}
    root.mkdir()
    unpack(path, compression, root, tmp_path)
    assert (root / "boot/vmlinuz-6").read_text() == "kernel"


def test_what_is_no_archive_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(gzip.compress(b"no tar" * 1000))
    with pytest.raises(SpecError, match="is not a tar archive in gzip"):
        read_tree(path, "gzip", tmp_path)
