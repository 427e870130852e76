"""Stand-ins for what light guests netboot: files to fetch, which nothing runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from g5kvirt.images import cache as build_cache
from g5kvirt.images.minimal import MinimalSystem

__all__ = ["SIZES", "build"]

#: Bytes of each file. Debian's kernel and our initrd have 14 MB, which for thousands of guests on one machine
#: would measure its memory and not the services.
SIZES = {"kernel": 128 << 10, "initrd": 128 << 10}


def build(cache: Path | None = None) -> MinimalSystem:
    """The files from the cache, or written into it. Raises MachineError."""
    directory = build_cache.build_directory("stand-in", json.dumps([1, SIZES]), cache=cache)
    build_cache.build(directory, _write)
    manifest = build_cache.manifest(directory)
    return MinimalSystem(directory / "kernel", directory / "initrd", directory / "initrd", manifest)


def _write(work: Path) -> dict[str, Any]:
    for name, size in SIZES.items():
        (work / name).write_bytes(hashlib.shake_256(name.encode()).digest(size))
    return {"stand-in": SIZES}
