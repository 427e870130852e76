"""Where a path in an archive leads, its links followed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

__all__ = ["resolve"]

_HOPS = 40  #: links that are followed, as many as Linux does


def resolve(
    path: str, links: Mapping[str, str], exists: Callable[[str], bool] = lambda name: True
) -> str | None:
    """The path without leading slash to which ``path`` leads, links followed in every part of it.

    ``links``: path → target, relative to the link's directory or with a leading slash. ``exists``: whether
    there is anything of a name that is no link. None if a part does not exist, or links lead in a circle.
    """
    parts, done, hops = list(PurePosixPath(path.strip("/")).parts), "", 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        name = f"{done}/{part}" if done else part
        if name in links:
            hops += 1
            if hops > _HOPS:
                return None
            target = links[name]
            if target.startswith("/"):
                done = ""
            parts = [*PurePosixPath(target.strip("/")).parts, *parts]
        elif exists(name):
            done = name
        else:
            return None
    return done
