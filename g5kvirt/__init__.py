"""Boot thousands of virtual machines on Grid'5000, step by step, and time every step of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Experiment",
    "Group",
    "Link",
    "Spec",
    "__version__",
    "archive",
    "build_image",
    "compare",
    "open_archive",
]

if TYPE_CHECKING:
    from g5kvirt.artifact.archive import archive, open_archive
    from g5kvirt.experiment import Experiment
    from g5kvirt.images.custom import build_image
    from g5kvirt.spec.groups import Group
    from g5kvirt.spec.links import Link
    from g5kvirt.spec.spec import Spec
    from g5kvirt.views.compare import compare


#: Name → the module that has it.
_MODULES = {
    "Experiment": "g5kvirt.experiment",
    "Group": "g5kvirt.spec.groups",
    "Link": "g5kvirt.spec.links",
    "Spec": "g5kvirt.spec.spec",
    "archive": "g5kvirt.artifact.archive",
    "build_image": "g5kvirt.images.custom",
    "compare": "g5kvirt.views.compare",
    "open_archive": "g5kvirt.artifact.archive",
}


def __dir__() -> list[str]:
    # For completion, since `__getattr__` names nothing.
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    # Lazy, so that `import g5kvirt` costs nothing: execo starts a thread and a process on import.
    if name in _MODULES:
        import importlib

        from g5kvirt.errors import show_briefly

        show_briefly()
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'g5kvirt' has no attribute {name!r}")
