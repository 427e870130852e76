"""The environment ``light``: busybox with an ssh server and no kernel, for light guests. About 2 MB.

Same packages, same bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

from g5kvirt.images import mini, packages
from g5kvirt.images.cache import ProgressCallback
from g5kvirt.images.minimal import gather_files

__all__ = ["DESCRIPTION", "RECIPE", "fields", "scripts", "write"]

DESCRIPTION = "busybox and dropbear without a kernel, for light guests"

#: As `mini`, but for busybox: a static one would be three times as large.
FILES: Mapping[str, tuple[str, ...]] = {
    **{package: paths for package, paths in mini.FILES.items() if package != "busybox-static"},
    "busybox": ("bin/busybox",),
    "libc6": (*packages.LIBC["libc6"], "lib/x86_64-linux-gnu/libresolv.so.2"),
}

#: Part of the key in the cache; the number is raised when the code would write other bytes.
RECIPE = [1, dict(FILES), mini.RECIPE]


def scripts() -> dict[str, str]:
    """Files of this package that go into the image, by name."""
    return mini.scripts()


def fields() -> dict[str, object]:
    """The environment's description, without the image."""
    return {"name": "light", "description": DESCRIPTION, "compression": "gzip"}


def write(work: Path, progress: ProgressCallback) -> dict[str, str]:
    """Write ``image`` (a compressed tar) into ``work``; returns the versions of the packages in it.

    Raises MachineError if the packages cannot be fetched.
    """
    progress("environment light: fetching busybox and dropbear from Debian")
    files, versions = gather_files(FILES, work)
    (work / "image").write_bytes(gzip.compress(mini.image(files, scripts()), 9, mtime=0))
    return versions
