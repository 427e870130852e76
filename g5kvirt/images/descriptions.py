"""Environments as YAML describes them, in the words of Kadeploy3.

::

    name: mine
    description: Debian with my software
    image: {file: mine.tar.zst, kind: tar, compression: zstd, sha256: 1f2e…}
    boot: {kernel: /vmlinuz, initrd: /initrd.img, kernel_params: console=ttyS0}
    filesystem: ext4

``image.file`` is a path, relative to the description's own directory, or an ``http(s)://`` URL, which needs
``sha256``. A file's SHA-256 is computed, and compared if one is given. ``image.unpacked`` (bytes) lets a disk
that is too small be found before anything is written; it is computed where that is cheap. ``boot.loaded``
(bytes of the unpacked kernel and the initrd) says likewise whether a VM's memory suffices for kexec. Keys of
Kadeploy3's that change nothing here are accepted; one that would have to change something is refused by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from g5kvirt.errors import SpecError
from g5kvirt.spec.fields import choice, keys, text, whole
from g5kvirt.spec.yaml_files import load_yaml

__all__ = ["ARGUMENTS", "COMPRESSIONS", "FILE", "FILESYSTEMS", "NAME", "SHA256", "Environment", "load"]

#: What the minimal system can unpack, and the file systems that it can make and boot from (`guest/deploy`).
COMPRESSIONS = ("none", "gzip", "bzip2", "xz", "zstd")
FILESYSTEMS = ("ext4", "ext3", "ext2")

#: Keys of Kadeploy3 without effect on a deployment here; any other key must be one of ours.
_IGNORED = {"alias", "author", "destructive", "os", "partition_type", "version", "visibility"}
#: Keys of Kadeploy3 that are honoured only if they demand nothing: key → why not otherwise, and what to do.
_REFUSED = {
    "preinstall": ("VMs run no preinstall", "leave the key out; the disk of a VM is prepared here"),
    "postinstalls": (
        "VMs run no postinstalls, which set up a site's physical machines",
        "leave the key out, and put what the image needs of them into the image",
    ),
    "multipart": (
        "the disk of a VM has one partition",
        "make one archive with everything, and leave out multipart",
    ),
}
_ARCHITECTURES = ("x86_64",)
_KEYS = {"name", "description", "image", "boot", "filesystem", "arch", *_IGNORED, *_REFUSED}
_IMAGE_KEYS = {"file", "kind", "compression", "sha256", "unpacked"}
_HYPERVISOR = ("hypervisor", "hypervisor_params")
_BOOT_KEYS = {"kernel", "initrd", "kernel_params", "loaded", *_HYPERVISOR}

#: Pattern, description of what it allows, and the longest text: the arguments of `g5kvirt.spec.fields.text`.
NAME = (r"[A-Za-z0-9][A-Za-z0-9._+-]*", "at most 100 letters, digits and . _ + -", 100)
SHA256 = (r"[0-9a-f]{64}", "64 hexadecimal digits, as sha256sum prints them", 64)
FILE = (r"(/[A-Za-z0-9._+-]+)+", "an absolute path in the image, of letters, digits and / . _ + -", 500)
ARGUMENTS = (r"[\x20-\x7e]*", "at most 1500 printable ASCII characters on one line", 1500)

_URL = re.compile(r"https?://[\x21-\x7e]+")


@dataclass(frozen=True)
class Environment:
    """A description, checked."""

    name: str
    image: str  #: an absolute path or an http(s) URL
    sha256: str = ""  #: of the image file as it is stored or fetched; empty if the description has none
    description: str = ""
    kind: Literal["tar"] = "tar"
    compression: str = "none"
    filesystem: str = "ext4"
    kernel: str = "/boot/vmlinuz"
    initrd: str = ""
    kernel_arguments: str = "console=ttyS0"
    unpacked: int = 0  #: bytes on the disk; 0 if not known
    loaded: int = 0  #: bytes that kexec loads, see `g5kvirt.images.kexec`; 0 if not known

    @property
    def remote(self) -> bool:
        """Whether the image has to be fetched."""
        return _URL.fullmatch(self.image) is not None


def load(path: Path) -> Environment:
    """The environment that a YAML file describes. Raises SpecError for the first mistake."""
    data = load_yaml(path)
    try:
        return _environment(data, path.parent)
    except SpecError as error:
        raise SpecError(f"{path}: {error.message}", advice=error.advice) from error


def _environment(data: object, folder: Path) -> Environment:
    fields = keys(data, _KEYS, "the description")
    image = _section(fields, "image", _IMAGE_KEYS)
    boot = {"kernel": "/boot/vmlinuz", "kernel_params": "console=ttyS0"} | _section(
        fields, "boot", _BOOT_KEYS
    )
    choice("image.kind", image.get("kind", "tar"), ("tar",))
    choice("arch", fields.get("arch") or _ARCHITECTURES[0], _ARCHITECTURES)
    for key, (why, advice) in _REFUSED.items():
        if fields.get(key):
            raise SpecError(f"{key} is not supported: {why}", advice=advice)
    if any(boot.get(key) for key in _HYPERVISOR):
        raise SpecError(
            "boot.hypervisor is not supported: VMs boot a Linux kernel",
            advice="deploy one without a hypervisor",
        )
    sha256 = str(image.get("sha256") or "").lower()
    initrd, arguments = boot.get("initrd"), boot["kernel_params"]
    return Environment(
        name=text("name", fields.get("name"), *NAME),
        image=_location(image.get("file"), sha256, folder),
        sha256=text("image.sha256", sha256, *SHA256) if sha256 else "",
        description=text("description", fields.get("description") or "", r"[^\x00]*", "a text"),
        compression=choice("image.compression", image.get("compression") or "none", COMPRESSIONS),
        filesystem=choice("filesystem", fields.get("filesystem", "ext4"), FILESYSTEMS),
        kernel=text("boot.kernel", boot["kernel"], *FILE),
        initrd=text("boot.initrd", initrd, *FILE) if initrd else "",
        kernel_arguments=text("boot.kernel_params", "" if arguments is None else arguments, *ARGUMENTS),
        unpacked=whole("image.unpacked", image.get("unpacked", 0), 0, 1 << 60, "bytes"),
        loaded=whole("boot.loaded", boot.get("loaded", 0), 0, 1 << 60, "bytes"),
    )


def _section(fields: Mapping[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    value = fields.get(name)
    return {} if value is None else dict(keys(value, known, name))


def _location(value: object, sha256: str, folder: Path) -> str:
    """The absolute path or URL of the image."""
    file = text("image.file", value, r"[^\x00-\x1f]+", "a path or an http(s) URL", longest=4000)
    if _URL.fullmatch(file):
        if not sha256:
            raise SpecError(
                "image.sha256 is required for an image from a URL",
                advice="add it: the download is verified against it",
            )
        return file
    if "://" in file:
        raise SpecError(f"image.file must be a path or an http(s) URL, not {file[:200]!r}")
    # unlike Path.expanduser, this leaves the ~ of an unknown user as it is
    return str((folder / os.path.expanduser(file)).absolute())  # noqa: PTH111
