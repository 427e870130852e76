"""A module imports only from its own floor or from floors below (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "g5kvirt"
FLOORS = (
    {"spec", "inventory", "run", "errors", "data_tables", "paths"},
    {"planning"},
    {
        "remote",
        "hostagent",
        "testbeds",
        "context",
        "images",
        "netboot",
        "broadcast",
        "guests",
        "provisioners",
    },
    {"phases"},
    {"background", "experiment"},
    {"cli", "views", "sweeps", "__main__"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """The parts of g5kvirt that a module imports when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body:  # what a function imports, it hands out; what only types need, costs nothing
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("g5kvirt"):
            words = node.module.split(".")
            found |= {words[1]} if len(words) > 1 else {alias.name for alias in node.names}
    return found & set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_looks_down(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in FLOOR, f"{part} has no floor yet: give it one in docs/architecture.md and here"
    higher = {name for name in imported(path) if FLOOR[name] > FLOOR[part]}
    assert not higher


def test_importing_the_package_costs_next_to_nothing() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_once = [n.module for n in tree.body if isinstance(n, ast.ImportFrom)]
    assert at_once == ["__future__", "typing"]
