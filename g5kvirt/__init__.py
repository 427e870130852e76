"""Boot thousands of virtual machines on Grid'5000, step by step, and time every step of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Experiment", "Group", "Link", "Spec", "__version__", "compare"]

if TYPE_CHECKING:
    from g5kvirt.experiment import Experiment
    from g5kvirt.spec.groups import Group
    from g5kvirt.spec.links import Link
    from g5kvirt.spec.spec import Spec
    from g5kvirt.views.compare import compare


def __dir__() -> list[str]:
    # For completion, since `__getattr__` names nothing.
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    # Lazy, so that `import g5kvirt` costs nothing: execo starts a thread and a process on import.
    if name in __all__:
        from g5kvirt.errors import show_briefly

        show_briefly()
    if name == "Experiment":
        from g5kvirt.experiment import Experiment

        return Experiment
    if name == "Spec":
        from g5kvirt.spec.spec import Spec

        return Spec
    if name == "Group":
        from g5kvirt.spec.groups import Group

        return Group
    if name == "Link":
        from g5kvirt.spec.links import Link

        return Link
    if name == "compare":
        from g5kvirt.views.compare import compare

        return compare
    raise AttributeError(f"module 'g5kvirt' has no attribute {name!r}")
