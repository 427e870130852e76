"""Environments by name: which there are, and how one comes to be an image file that can be deployed.

``mini``, ``light`` and ``debian12-min`` are built here, others are described in YAML files (`descriptions`).
These are looked for in `user_directory` and in the folders that the caller gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from g5kvirt import paths
from g5kvirt.errors import SpecError
from g5kvirt.images import cache as build_cache
from g5kvirt.images import debian, light, mini
from g5kvirt.images.archives import check_archive, file_size, sha256_of, unpacked_size
from g5kvirt.images.cache import ProgressCallback, no_progress
from g5kvirt.images.descriptions import NAME, Environment, load
from g5kvirt.images.download import Download, fetch
from g5kvirt.images.kexec import loaded_bytes
from g5kvirt.spec.fields import show, suggest

__all__ = [
    "BUILT_IN",
    "WITHOUT_KERNEL",
    "Environment",
    "EnvironmentSummary",
    "Image",
    "check",
    "known",
    "load",
    "look_up",
    "obtain",
    "user_directory",
]

_BUILDERS: Mapping[str, ModuleType] = {"mini": mini, "light": light, "debian12-min": debian}
BUILT_IN = frozenset(_BUILDERS)  #: names of environments that are built here
#: Built environments that only guests without a kernel of their own can run.
WITHOUT_KERNEL = frozenset({"light"})

_KIND = "environments"  #: of what is built, in the cache


@dataclass(frozen=True)
class EnvironmentSummary:
    """An environment by name: what it is, where it comes from, whether a deployment can start at once."""

    name: str
    description: str
    source: str  #: the image's path or URL, or ``built by g5kvirt``
    ready: bool


@dataclass(frozen=True)
class Image:
    """An environment with its image: a file whose SHA-256 is right."""

    environment: Environment
    path: Path
    sha256: str
    size: int  #: bytes


def user_directory() -> Path:
    """Where users keep their descriptions: by default ``~/.config/g5kvirt/environments``."""
    return paths.config() / "environments"


# ------------------------------------------------------------------------------------------------- by name
def _found(folders: Iterable[Path]) -> dict[str, Environment | SpecError]:
    """Descriptions by name; a file with a mistake is found under the file's name, with the error."""
    found: dict[str, Environment | SpecError] = {}
    for folder in (user_directory(), *folders):
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            try:
                environment = load(path)
            except SpecError as error:
                found.setdefault(path.stem, error)
            else:
                found[environment.name] = environment
    return found


def known(folders: Iterable[Path] = ()) -> list[EnvironmentSummary]:
    """All environments, built ones first; a description with a mistake is listed with it, and not ready."""
    listed = [
        EnvironmentSummary(
            name, builder.DESCRIPTION, "built by g5kvirt", build_cache.is_built(_build_directory(name))
        )
        for name, builder in _BUILDERS.items()
    ]
    for name, found in sorted(_found(folders).items()):
        if isinstance(found, SpecError):
            listed.append(EnvironmentSummary(name, str(found), "", ready=False))
        else:
            ready = _image_path(found).exists()
            listed.append(EnvironmentSummary(name, found.description, found.image, ready))
    return listed


def _build_directory(name: str) -> Path:
    """Where a built environment is kept."""
    builder = _BUILDERS[name]
    recipe = json.dumps([builder.RECIPE, builder.scripts(), builder.fields()], sort_keys=True)
    return build_cache.build_directory(_KIND, recipe, name)


def _image_path(environment: Environment) -> Path:
    """The image's file: its own, or where a fetched one is kept."""
    if environment.remote:
        return paths.cache() / _KIND / "fetched" / environment.sha256 / "image"
    return Path(environment.image)


# --------------------------------------------------------------------------------------------------- images
def obtain(
    name: str,
    folders: Iterable[Path] = (),
    progress: ProgressCallback = no_progress,
    *,
    refresh: bool = False,
) -> Image:
    """The environment called ``name`` (or described by that YAML file) with its image, built or fetched.

    ``folders`` are searched besides `user_directory`; ``refresh`` rebuilds a built one. Raises SpecError
    if it is unknown, its description has a mistake, or its image is missing, corrupt or cannot be fetched;
    MachineError if it cannot be built or the cache cannot be written.
    """
    environment = _described(name, folders) or _built(name, progress, refresh=refresh)
    return _checked(environment, progress)


def check(name: str, folders: Iterable[Path] = ()) -> None:
    """Raises SpecError for what `obtain` would refuse at once: unknown, a wrong description, no image."""
    environment = _described(name, folders)
    if environment is not None and not environment.remote:
        path = _image_path(environment)
        file_size(path, environment.name)
        check_archive(path, environment.name, environment.compression)


def look_up(name: str, folders: Iterable[Path] = ()) -> tuple[Environment | None, Image | None]:
    """What `obtain` would give, as far as that takes neither building nor fetching.

    The description (None: it is built here) and the image (None: it has to be built or fetched first).
    Raises SpecError as `obtain`.
    """
    environment = _described(name, folders)
    if environment is None or (environment.remote and not _image_path(environment).exists()):
        return environment, None
    return environment, _checked(environment, no_progress)


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
        file = f"{name}.yaml" if re.fullmatch(NAME[0], name) else "NAME.yaml"
        others = f"choose from {', '.join(names)}, or describe it in {user_directory()}/{file}"
        close = suggest(name, names)
        raise SpecError(
            f"there is no environment {show(name)}",
            advice=close if close.startswith("did you mean") else others,
        )
    return None


def _built(name: str, progress: ProgressCallback, *, refresh: bool) -> Environment:
    directory, builder = _build_directory(name), _BUILDERS[name]

    def write(work: Path) -> dict[str, Any]:
        versions = builder.write(work, progress)
        fields = builder.fields()
        compression = str(fields.pop("compression", "none"))
        image = {
            "file": "image",
            "kind": "tar",
            "compression": compression,
            "sha256": sha256_of(work / "image", name),
            "unpacked": unpacked_size(work / "image", compression),
        }
        boot = fields.get("boot")
        if isinstance(boot, dict):
            files = (str(boot["kernel"]), str(boot.get("initrd") or ""))
            fields["boot"] = {**boot, "loaded": loaded_bytes(work / "image", compression, *files)}
        description = yaml.safe_dump({**fields, "image": image})
        (work / "environment.yaml").write_text(description, encoding="utf-8")
        return {"packages": versions}

    build_cache.build(directory, write, refresh=refresh)
    return load(directory / "environment.yaml")


def _checked(environment: Environment, progress: ProgressCallback) -> Image:
    """The environment with its image's file, fetched if need be and compared with the description."""
    path, name = _image_path(environment), environment.name
    if environment.remote and not path.exists():
        fetch(Download(f"the image of {name}", environment.image, environment.sha256), path, progress)
    size = file_size(path, name)
    found = sha256_of(path, name)
    if environment.sha256 and found != environment.sha256:
        advice = f"remove {path}" if environment.remote else "copy it again, or correct its description"
        raise SpecError(
            f"the image of {name} is corrupt ({path} has the SHA-256 {found}, not {environment.sha256})",
            advice=advice,
        )
    check_archive(path, name, environment.compression)
    unpacked = environment.unpacked or unpacked_size(path, environment.compression)
    return Image(replace(environment, sha256=found, unpacked=unpacked), path, found, size)
