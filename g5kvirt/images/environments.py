"""Environments: what can be deployed, described in YAML the way Kadeploy3 describes one.

::

    name: mine
    description: Debian with my software
    image: {file: mine.tar.gz, kind: tar, compression: gzip, sha256: 1f2e…}
    boot: {kernel: /vmlinuz, initrd: /initrd.img, kernel_params: console=ttyS0}
    filesystem: ext4

``image.file`` is a path (from the description's own directory on) or an ``http(s)://`` URL, for which
``sha256`` must be given; of a file it is checked if given, else worked out. ``image.unpacked`` (bytes) lets a
disk that is too small be found before anything is written; it is worked out where that is cheap. ``mini`` and
``debian12-min`` are built here. Descriptions are looked for in `directory` and where the caller says besides.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import urllib.request
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml

from g5kvirt.errors import SpecError
from g5kvirt.images import debian, mini
from g5kvirt.images.minimal import Progress, cache_directory
from g5kvirt.images.tools import keep
from g5kvirt.provisioners.builtin.tasks import COMPRESSIONS, FILESYSTEMS
from g5kvirt.spec.fields import near
from g5kvirt.spec.yaml_files import load_yaml

__all__ = ["Environment", "Image", "Known", "check", "directory", "known", "load", "look_up", "obtain"]

_BUILDERS: Mapping[str, ModuleType] = {"mini": mini, "debian12-min": debian}

#: Kadeploy3's keys that say nothing about how to deploy here; anything else must be understood.
_WITHOUT_EFFECT = {"alias", "arch", "author", "destructive", "os", "partition_type", "version", "visibility"}
_KEYS = {"name", "description", "image", "boot", "filesystem", *_WITHOUT_EFFECT}
_IMAGE_KEYS = {"file", "kind", "compression", "sha256", "unpacked"}
_MODES: Mapping[str, Literal["r:", "r:gz", "r:bz2", "r:xz"]]
_MODES = {"none": "r:", "gzip": "r:gz", "bzip2": "r:bz2", "xz": "r:xz"}
_BOOT_KEYS = {"kernel", "initrd", "kernel_params"}


@dataclass(frozen=True)
class Environment:
    """A description, checked."""

    name: str
    image: str  #: an absolute path or an http(s) URL
    sha256: str = ""  #: of the image as it is fetched; empty if the description leaves it out
    description: str = ""
    kind: Literal["tar"] = "tar"
    compression: str = "none"
    filesystem: str = "ext4"
    kernel: str = "/boot/vmlinuz"
    initrd: str = ""
    kernel_arguments: str = "console=ttyS0"
    unpacked: int = 0  #: bytes on the disk; 0 if not known

    @property
    def remote(self) -> bool:
        """Whether the image has to be fetched."""
        return self.image.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Known:
    """An environment by name: what it is, where it comes from, whether a deployment can begin at once."""

    name: str
    description: str
    source: str  #: the description's path, or ``built by g5kvirt``
    ready: bool


@dataclass(frozen=True)
class Image:
    """An environment with its image at hand: a file whose SHA-256 is right."""

    environment: Environment
    path: Path
    sha256: str
    size: int  #: bytes


def directory() -> Path:
    """Where users' own are: ``$XDG_CONFIG_HOME/g5kvirt/environments``, by default in ``~/.config``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "g5kvirt" / "environments"


def _cache() -> Path:
    return cache_directory().parent / "environments"


# -------------------------------------------------------------------------------------------- descriptions
def load(path: Path) -> Environment:
    """The environment that a YAML file describes. Raises SpecError for the first mistake."""
    return _environment(load_yaml(path), path)


def _environment(data: Any, path: Path) -> Environment:
    fields = _mapping(data, path, "the description", _KEYS)
    name = _text(fields, "name", path, r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
    image = _mapping(fields.get("image"), path, "image", _IMAGE_KEYS)
    boot = _mapping(fields.get("boot", {}), path, "boot", _BOOT_KEYS)
    kind = image.get("kind", "tar")
    if kind != "tar":
        raise SpecError(f"{path}: images of kind {kind!r} cannot be deployed: make it a tar archive")
    compression = image.get("compression", "none") or "none"
    if compression not in COMPRESSIONS:
        raise SpecError(
            f"{path}: the guest cannot unpack {compression!r}: choose from {', '.join(COMPRESSIONS)}"
        )
    filesystem = fields.get("filesystem", "ext4")
    if filesystem not in FILESYSTEMS:
        raise SpecError(
            f"{path}: the guest cannot make the file system {filesystem!r}: "
            f"choose from {', '.join(FILESYSTEMS)}"
        )
    unpacked = image.get("unpacked", 0)
    if not isinstance(unpacked, int) or isinstance(unpacked, bool) or unpacked < 0:
        raise SpecError(f"{path}: image.unpacked is {unpacked!r}: give bytes as a whole number")
    file = _text(image, "file", path, r"[^\x00-\x1f]+", "image.")
    remote = re.match(r"https?://[\x21-\x7e]+\Z", file) is not None
    if "://" in file and not remote:
        raise SpecError(f"{path}: the image {file} cannot be fetched: give a path or an http(s) address")
    sha256 = str(image.get("sha256") or "").lower()
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise SpecError(f"{path}: image.sha256 must be 64 hexadecimal digits, as sha256sum prints them")
    if remote and not sha256:
        raise SpecError(
            f"{path}: an image from a URL needs image.sha256, so that what arrives can be checked"
        )
    file_name = r"(/[A-Za-z0-9._+-]+)+"
    return Environment(
        name=name,
        image=file if remote else str((path.parent / os.path.expanduser(file)).absolute()),  # noqa: PTH111  Path's raises
        sha256=sha256,
        description=str(fields.get("description") or ""),
        compression=compression,
        filesystem=filesystem,
        kernel=_text({"kernel": "/boot/vmlinuz", **boot}, "kernel", path, file_name, "boot."),
        initrd=_text({"initrd": "", **boot}, "initrd", path, f"({file_name})?", "boot."),
        kernel_arguments=_text(
            {"kernel_params": "console=ttyS0", **boot}, "kernel_params", path, r"[\x20-\x7e]{0,1500}", "boot."
        ),
        unpacked=unpacked,
    )


def _mapping(value: Any, path: Path, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SpecError(f"{path}: {what} is missing or no mapping: it has the keys {', '.join(sorted(keys))}")
    unknown = sorted(str(key) for key in value if key not in keys)
    if unknown:
        raise SpecError(f"{path}: {what} has {unknown[0]!r}, which is not understood: leave it out")
    return value


def _text(fields: Mapping[str, Any], key: str, path: Path, pattern: str, prefix: str = "") -> str:
    value = fields.get(key)
    value = "" if value is None else value
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise SpecError(f"{path}: {prefix}{key} is {str(value)[:80]!r}: it must match {pattern}")
    return value


# --------------------------------------------------------------------------------------------------- known
def _found(folders: Iterable[Path]) -> dict[str, Environment | SpecError]:
    """Descriptions by name; a file that cannot be read stands under its own name with what is wrong."""
    found: dict[str, Environment | SpecError] = {}
    for folder in (directory(), *folders):
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            try:
                environment = load(path)
            except SpecError as error:
                found.setdefault(path.stem, error)
            else:
                found[environment.name] = environment
    return found


def known(folders: Iterable[Path] = ()) -> list[Known]:
    """All environments, built ones first; a description with a mistake is listed with it, and not ready."""
    listed = [
        Known(name, builder.DESCRIPTION, "built by g5kvirt", (_home(name) / "manifest.json").exists())
        for name, builder in _BUILDERS.items()
    ]
    for name, found in sorted(_found(folders).items()):
        if isinstance(found, SpecError):
            listed.append(Known(name, str(found), "", ready=False))
        else:
            at_hand = _stored(found).exists()
            listed.append(Known(name, found.description, found.image, at_hand))
    return listed


def _home(name: str) -> Path:
    """Where a built environment is kept: another recipe, another place."""
    builder = _BUILDERS[name]
    key = json.dumps([builder.RECIPE, builder.scripts(), builder.fields()], sort_keys=True)
    return _cache() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _stored(environment: Environment) -> Path:
    """The image's file: its own, or where a fetched one is kept."""
    if environment.remote:
        return _cache() / "fetched" / environment.sha256 / "image"
    return Path(environment.image)


# --------------------------------------------------------------------------------------------------- images
def obtain(
    name: str, folders: Iterable[Path] = (), progress: Progress = lambda _: None, *, refresh: bool = False
) -> Image:
    """The environment called ``name`` (or described by that YAML file) with its image, built or fetched.

    ``folders`` are searched besides `directory`; ``refresh`` builds a built one anew. Raises SpecError if it
    is not known, described wrongly, or its image is missing or corrupt; MachineError if it cannot be built.
    """
    environment = _described(name, folders) or _built(name, progress, refresh=refresh)
    return _checked(environment, progress)


def check(name: str, folders: Iterable[Path] = ()) -> None:
    """Raises SpecError for what `obtain` would refuse at once: unknown, described wrongly, no image there."""
    environment = _described(name, folders)
    if environment is not None and not environment.remote:
        _about(environment)
        _look_into(environment)


def look_up(name: str, folders: Iterable[Path] = ()) -> tuple[Environment | None, Image | None]:
    """What `obtain` would give, as far as that takes neither building nor fetching.

    The description (None: it is built here) and the image (None: it has to be built or fetched first).
    Raises SpecError as `obtain`.
    """
    environment = _described(name, folders)
    if environment is None or (environment.remote and not _stored(environment).exists()):
        return environment, None
    return environment, _checked(environment, lambda _: None)


def _described(name: str, folders: Iterable[Path]) -> Environment | None:
    """The environment of that name or file; None if it is to be built here. Raises SpecError."""
    if name.endswith((".yaml", ".yml")):
        return load(Path(name))
    found = _found(folders)
    if name in found:
        described = found[name]
        if isinstance(described, SpecError):
            raise described
        return described
    if name not in _BUILDERS:
        names = [*_BUILDERS, *sorted(found)]
        others = f"choose from {', '.join(names)}, or describe it in {directory()}/{name}.yaml"
        close = near(name, names)
        raise SpecError(
            f"there is no environment {name!r}: {close if close.startswith('did you mean') else others}"
        )
    return None


def _built(name: str, progress: Progress, *, refresh: bool) -> Environment:
    home, builder = _home(name), _BUILDERS[name]
    if refresh or not (home / "manifest.json").exists():

        def into(work: Path) -> None:
            versions = builder.write(work, progress)
            image, fields = work / "image", builder.fields()
            compression = fields.get("compression", "none")
            about = {"file": "image", "kind": "tar", "compression": compression, "sha256": _sum(image)}
            about["unpacked"] = _unpacked(image, str(compression))
            text = yaml.safe_dump({**{k: v for k, v in fields.items() if k != "compression"}, "image": about})
            (work / "environment.yaml").write_text(text, encoding="utf-8")
            (work / "manifest.json").write_text(
                json.dumps({"packages": versions}, indent=1), encoding="utf-8"
            )

        keep(home, into, refresh=refresh)
    return load(home / "environment.yaml")


def _checked(environment: Environment, progress: Progress) -> Image:
    """The image's file, fetched if need be, with its SHA-256 worked out and compared."""
    path = _stored(environment)
    if environment.remote and not path.exists():
        progress(f"environment {environment.name}: fetching {environment.image}")
        _fetch(environment, path)
    size = _about(environment)
    try:
        found = _sum(path)
    except OSError as error:
        raise _unreadable(environment, error) from error
    if environment.sha256 and found != environment.sha256:
        raise SpecError(
            f"the image of {environment.name} is corrupt ({path} has the SHA-256 {found}, "
            f"not {environment.sha256}): fetch it anew or correct its description"
        )
    _look_into(environment)
    if not environment.unpacked:
        environment = replace(environment, unpacked=_unpacked(path, environment.compression))
    return Image(replace(environment, sha256=found), path, found, size)


def _about(environment: Environment) -> int:
    """The bytes of the image's file. Raises SpecError if it is not there, empty, or no file."""
    path = _stored(environment)
    try:
        about = path.stat()
    except OSError as error:
        raise _unreadable(environment, error) from error
    if not stat.S_ISREG(about.st_mode):  # a pipe or a device might never end
        raise SpecError(f"the image of {environment.name} is no file ({path}): name a tar archive")
    if not about.st_size:
        raise SpecError(f"the image of {environment.name} is empty ({path}): make the archive anew")
    return about.st_size


def _look_into(environment: Environment) -> None:
    """Read the head of the archive's first file: at an image that is none, VMs would fail one by one.

    Raises SpecError.
    """
    path = _stored(environment)
    try:
        with tarfile.open(path, _MODES[environment.compression]) as archive:
            if archive.next() is None:
                raise tarfile.ReadError("there is no file in it")
    except PermissionError as error:
        raise _unreadable(environment, error) from error
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        words = "tar archive" if environment.compression == "none" else f"tar in {environment.compression}"
        raise SpecError(
            f"the image of {environment.name} is no {words} ({path}: {error}): correct image.compression in"
            " its description, or make the archive anew"
        ) from error


def _unreadable(environment: Environment, error: OSError) -> SpecError:
    where = f"{_stored(environment)}: {error.strerror}"
    return SpecError(f"the image of {environment.name} cannot be read ({where}): put it there")


def _fetch(environment: Environment, path: Path) -> None:
    part = path.with_name(f"image.{os.getpid()}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(environment.image, timeout=60) as answer, part.open("wb") as file:  # noqa: S310
            shutil.copyfileobj(answer, file, 1 << 20)
        if _sum(part) != environment.sha256:
            raise SpecError(
                f"what {environment.image} sent does not have the SHA-256 of {environment.name}: "
                "correct the description or have the file mended"
            )
        part.rename(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SpecError(
            f"the image of {environment.name} cannot be fetched from {environment.image}: {error}"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpacked(path: Path, compression: str) -> int:
    """Bytes of the archive inside; 0 if finding out would mean unpacking it."""
    if compression == "none":
        return path.stat().st_size
    if compression == "gzip" and path.stat().st_size < 1 << 30:
        try:
            with gzip.open(path) as file:
                return sum(len(block) for block in iter(lambda: file.read(1 << 20), b""))
        except (OSError, EOFError, zlib.error) as error:
            raise SpecError(f"the image {path} is corrupt: gzip cannot read it ({error})") from error
    return 0
