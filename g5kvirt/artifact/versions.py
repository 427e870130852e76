"""The software on which the bytes of a figure depend, and what says so to pip and to a reader."""

from __future__ import annotations

import importlib.metadata
import platform
import zlib
from collections.abc import Mapping, Sequence

import g5kvirt

__all__ = ["differences", "requirements", "versions"]

#: Libraries that draw, compute and write figures and tables.
_LIBRARIES = ("matplotlib", "numpy", "pandas", "pillow")


def versions() -> dict[str, str]:
    """Name → version of what draws here, down to the compression in PDF and PNG."""
    from matplotlib import ft2font
    from PIL import features

    found = {"g5kvirt": g5kvirt.__version__, "python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    found["freetype"] = ft2font.__freetype_version__
    found["zlib"] = zlib.ZLIB_RUNTIME_VERSION
    found["zlib of pillow"] = str(features.version("zlib"))
    found["machine"] = platform.machine()
    return found


def differences(archived: Mapping[str, str], here: Mapping[str, str]) -> Sequence[str]:
    """``matplotlib 3.10.0 there, 3.11.2 here`` for each that is not the same."""
    return [
        f"{name} {archived[name]} there, {here.get(name, 'none')} here"
        for name in archived
        if archived[name] != here.get(name)
    ]


def requirements(archived: Mapping[str, str]) -> str:
    """A requirements.txt that installs the same libraries."""
    lines = [
        f"# made with Python {archived['python']}; g5kvirt itself is installed from its wheel or checkout"
    ]
    return "\n".join([*lines, *(f"{name}=={archived[name]}" for name in _LIBRARIES)]) + "\n"
