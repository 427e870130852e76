"""The environment ``light``: busybox without a kernel, for light guests. About 1 MB.

It has no ssh server: that of the light guests' process lets in whoever its authorized_keys name.

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

DESCRIPTION = "busybox without a kernel, for light guests"

#: Not the static busybox, which would be three times as large.
FILES: Mapping[str, tuple[str, ...]] = {
    "busybox": ("bin/busybox",),
    "openssh-sftp-server": mini.FILES["openssh-sftp-server"],
    "libc6": (*packages.LIBC["libc6"], "lib/x86_64-linux-gnu/libresolv.so.2"),
}

#: Part of the key in the cache; the number is raised when the code would write other bytes.
RECIPE = [2, dict(FILES), mini.RECIPE]


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
    progress("environment light: fetching busybox from Debian")
    files, versions = gather_files(FILES, work)
    (work / "image").write_bytes(gzip.compress(mini.image(files, scripts()), 9, mtime=0))
    return versions
