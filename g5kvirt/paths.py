"""Where g5kvirt keeps files outside of runs: the cache, the user's configuration, testbeds that are up.

The first two follow the XDG base directories, so that ``XDG_CACHE_HOME`` and ``XDG_CONFIG_HOME`` (absolute
paths) move them. Nothing is created here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

__all__ = ["RUNTIME", "cache", "config", "readable_by_all"]

#: State of the local testbeds that are up. It belongs to root and to the machine, not to a login session:
#: ``XDG_RUNTIME_DIR`` does not move it, so that ``sudo`` finds the same testbeds from every session.
RUNTIME = Path("/run/g5kvirt")


def cache() -> Path:
    """What can be built or fetched again: ``$XDG_CACHE_HOME/g5kvirt``, by default ``~/.cache/g5kvirt``."""
    return platformdirs.user_cache_path("g5kvirt", appauthor=False)


def config() -> Path:
    """The user's settings: ``$XDG_CONFIG_HOME/g5kvirt``, by default ``~/.config/g5kvirt``."""
    return platformdirs.user_config_path("g5kvirt", appauthor=False)


@contextmanager
def readable_by_all() -> Iterator[None]:
    """While what is made is for others than its owner; elsewhere the user's umask counts.

    Services of a testbed run as users of their own, and an image has the modes with which it was built.
    """
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)
