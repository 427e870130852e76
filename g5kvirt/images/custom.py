"""Custom images: Debian with packages of the user's choice, as an environment that boots in VMs.

Built once and kept in the cache like any build, by what it is made of; then the image and its description go
into a folder where `Experiment.measure` finds them by name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from g5kvirt import paths
from g5kvirt.errors import MachineError, SpecError
from g5kvirt.images import cache as build_cache
from g5kvirt.images import debian_system
from g5kvirt.images.archives import sha256_of
from g5kvirt.images.cache import ProgressCallback, no_progress
from g5kvirt.images.debian_system import AFTER, BEFORE, INCLUDE, SystemRecipe
from g5kvirt.images.descriptions import NAME, Environment, load
from g5kvirt.images.environments import BUILT_IN
from g5kvirt.images.kexec import least_memory
from g5kvirt.images.repository import RELEASES
from g5kvirt.inventory import MIB
from g5kvirt.netboot.services import KERNEL_ARGUMENTS
from g5kvirt.spec.fields import check_fields, checked_by, choice, show, text, whole, wrong

__all__ = ["COMPRESSIONS", "ImageRequest", "build", "build_image", "package_names"]

#: How an image may be compressed; ending of its file.
COMPRESSIONS = {"gzip": ".tar.gz", "xz": ".tar.xz", "zstd": ".tar.zst", "none": ".tar"}

#: Not silent, so that a console shows how far a boot is.
ARGUMENTS = " ".join(word for word in KERNEL_ARGUMENTS.split() if word != "quiet")

#: What an image of one's own has besides: links between VMs are measured with it (`guests.link_probe`).
TOOLS = ("busybox",)
#: Its initrd does without, as that of any image: it has to fit into a VM's memory twice.
_BEFORE = {**BEFORE, "etc/initramfs-tools/conf.d/busybox": "BUSYBOX=n\n"}

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = 2  #: raised when the same request would give another image


def package_names(given: str | Iterable[str]) -> tuple[str, ...]:
    """Names of Debian packages, separated by commas or blanks. Raises SpecError for what cannot be one."""
    words = re.split(r"[\s,]+", given) if isinstance(given, str) else list(given)
    names = tuple(dict.fromkeys(word for word in words if word))
    for name in names:
        if not isinstance(name, str) or not _PACKAGE.fullmatch(name):
            raise SpecError(
                f"packages must be names of Debian packages such as python3, not {show(name)}",
                advice="separate them by commas: python3,iperf3",
            )
    return names


def _packages(name: str, value: object) -> tuple[str, ...]:
    return package_names(value)  # type: ignore[arg-type]


def _script(name: str, value: object) -> Path | None:
    if value is not None and not isinstance(value, Path):
        wrong(name, "the path of a file", value)
    return value


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """What `build` is to make. Raises SpecError for a value that cannot be right."""

    name: str = field(metadata=checked_by(text, *NAME))
    packages: tuple[str, ...] = field(default=(), metadata=checked_by(_packages))
    #: 12 or 13
    debian: int = field(default=12, metadata=checked_by(whole, 0, 1000))
    #: a program that is run as root in the new system, when all packages are installed
    script: Path | None = field(default=None, metadata=checked_by(_script))
    compression: str = field(default="gzip", metadata=checked_by(choice, tuple(COMPRESSIONS)))

    def __post_init__(self) -> None:
        check_fields(self, "image")
        if self.debian not in RELEASES:
            known = " or ".join(map(str, RELEASES))
            raise SpecError(f"debian must be {known}, not {self.debian}")
        if self.name in BUILT_IN:
            raise SpecError(f"{self.name} is a built-in environment", advice="use another name")

    def script_text(self) -> bytes:
        """The script; empty without one. Raises SpecError if it cannot be read or run."""
        if self.script is None:
            return b""
        try:
            if self.script.exists() and not self.script.is_file():  # a device might never end
                raise SpecError(f"the script {self.script} is not a file", advice="name a file")
            data = self.script.read_bytes()
        except OSError as error:
            raise SpecError(
                f"the script {self.script} cannot be read ({error.strerror})", advice="name a file"
            ) from error
        if not data.startswith(b"#!/"):
            raise SpecError(
                f"the script {self.script} has no interpreter line",
                advice="start it with #!/bin/sh or another interpreter that is in the image",
            )
        return data


def build_image(
    name: str,
    packages: str | Iterable[str] = (),
    *,
    debian: int = 12,
    script: str | Path | None = None,
    compression: str = "gzip",
    folder: str | Path = "environments",
    refresh: bool = False,
    progress: ProgressCallback | None = None,
) -> Path:
    """Build Debian with ``packages`` as an environment, and return its description, for `Experiment.measure`.

    As ``g5kvirt image build``: ``packages`` may be one text, separated by commas; ``script`` is a program
    that is run as root in the new system; the second time the image is taken from the cache, unless
    ``refresh`` asks for newer packages. Needs root and some minutes. ``progress`` is called with sentences,
    which are printed if it is not given.

    Raises SpecError for what cannot be built, MachineError if it cannot be built here.
    """
    progress = progress or partial(print, flush=True)
    request = ImageRequest(
        name=name,
        packages=package_names(packages),
        debian=debian,
        script=None if script is None else Path(script),
        compression=compression,
    )
    start = time.monotonic()
    made = build(request, Path(folder), progress, refresh=refresh)
    path = Path(folder) / f"{name}.yaml"
    packed = Path(made.image).stat().st_size
    sizes = f"{packed / MIB:.1f} MiB, unpacked {made.unpacked / MIB:.1f} MiB"
    progress(f"{path}: {sizes}, in {time.monotonic() - start:.0f} s")
    memory = f"vm.memory of at least {least_memory(made.loaded)} and " if made.loaded else ""
    disk = f"vm.disk of at least {_least_disk(made.unpacked)} MiB"
    progress(f"deploy it with {memory}{disk}: --environment {name}")
    return path


def _least_disk(unpacked: int) -> int:
    """MiB of a disk that holds so many bytes: the file system's tables come on top, and room to run."""
    return -(-(unpacked + unpacked // 4 + (32 << 20)) // (1 << 20))


def build(
    request: ImageRequest, folder: Path, progress: ProgressCallback = no_progress, *, refresh: bool = False
) -> Environment:
    """Build the image and put it and its description into ``folder``, which is made if it is missing.

    The second time the image is taken from the cache, unless ``refresh`` asks for newer packages. Raises
    SpecError for what cannot be built, MachineError if it cannot be built here.
    """
    script = request.script_text()
    base = (*INCLUDE, *TOOLS)
    recipe = SystemRecipe(
        RELEASES[request.debian],
        f"image {request.name}",
        include=(*base, *(name for name in request.packages if name not in base)),
        before=_BEFORE,
        compression=request.compression,
        script=script,
    )
    made_of = [_VERSION, recipe.release, recipe.include, _BEFORE, dict(AFTER), request.compression]
    key = json.dumps([*made_of, script.decode("utf-8", "surrogateescape")])
    # not by its name: the same request under another name is the same image
    directory = build_cache.build_directory("environments", key, f"debian{request.debian}")

    def write(work: Path) -> dict[str, Any]:
        made = debian_system.write(recipe, work, progress)
        digest = sha256_of(work / "image", request.name)
        sizes = {"unpacked": made.unpacked, "loaded": made.loaded}
        return {"packages": dict(made.packages), "sha256": digest, **sizes}

    build_cache.build(directory, write, refresh=refresh)
    return _publish(request, directory, folder, progress)


def _publish(request: ImageRequest, directory: Path, folder: Path, progress: ProgressCallback) -> Environment:
    """The image and its description in ``folder``; the description last, so that it always has its image."""
    manifest = build_cache.manifest(directory)
    file = folder / f"{request.name}{COMPRESSIONS[request.compression]}"
    description = {
        "name": request.name,
        "description": f"Debian {request.debian}: {', '.join(request.packages) or 'nothing added'}",
        "image": {
            "file": file.name,
            "kind": "tar",
            "compression": request.compression,
            "sha256": manifest["sha256"],
            "unpacked": manifest["unpacked"],
        },
        "boot": {
            "kernel": "/vmlinuz",
            "initrd": "/initrd.img",
            "kernel_params": ARGUMENTS,
            "loaded": manifest["loaded"],
        },
        "filesystem": "ext4",
    }
    path = folder / f"{request.name}.yaml"
    progress(f"image {request.name}: writing {file}")
    try:
        with paths.readable_by_all():
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_name(f".{file.name}.part")
            part.unlink(missing_ok=True)
            try:
                os.link(directory / "image", part)  # the same file, where that is possible
            except OSError:
                shutil.copyfile(directory / "image", part)
            part.replace(file)
            part.unlink(missing_ok=True)  # it stays where both were the same file already
            path.write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise MachineError(
            f"{folder} cannot be written ({error.strerror or error})",
            advice="make room there, or name another folder with --output",
        ) from error
    return load(path)
