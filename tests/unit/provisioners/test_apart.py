"""Provisioners import neither each other nor the phases; the built-in engine has no I/O and no clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import g5kvirt.provisioners

ROOT = Path(g5kvirt.provisioners.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
#: Modules of `builtin` that decide.
DECISIONS = (
    *("workflow", "meter", "orders", "positions", "window_queue", "deadlines", "host_broadcasts", "recorder"),
    *("state", "transitions", "reports", "expiry", "dispatch", "engine"),
)
IO = {"time", "datetime", "threading", "queue", "socket", "subprocess", "requests", "concurrent", "os"}
IO |= {"g5kvirt.context", "g5kvirt.remote", "g5kvirt.hostagent", "g5kvirt.guests", "g5kvirt.testbeds"}


def imported(path: Path) -> set[str]:
    """The modules that a module imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of(packages: set[str], names: set[str]) -> set[str]:
    """Those of ``names`` that are in ``packages``."""
    return {name for name in names if any(name == p or name.startswith(f"{p}.") for p in packages)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_provisioner_imports_no_other_and_no_phase(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert not of({"g5kvirt.phases"}, names)
    others = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name not in (own, "__pycache__")}
    if own != "registry.py":
        assert not of({f"g5kvirt.provisioners.{other}" for other in others}, names)


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_know_no_io_and_no_clock(name: str) -> None:
    assert not of(IO, imported(ROOT / "builtin" / f"{name}.py"))


def test_the_boot_tracker_and_the_windows_know_no_io_and_no_clock() -> None:
    for path in ("netboot/boot_tracker.py", "planning/windows.py"):
        assert not of(IO, imported(ROOT.parent / path))
