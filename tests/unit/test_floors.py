"""A module imports only from its own floor or below it; neither modules nor rooms form a circle.

Imports inside functions and for type checkers only count as well: they tell what a module knows of.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

PACKAGE = Path(__file__).parents[2] / "g5kvirt"
#: The rooms (folders and modules of the package) of each floor, the lowest first; see docs/architecture.md.
FLOORS = (
    {"spec", "inventory", "run", "errors", "data_tables", "paths"},
    {"planning", "simulation"},
    {"remote", "hostagent"},
    {"testbeds", "provisioners", "guests", "images", "netboot", "broadcast", "context", "trial"},
    {"phases"},
    {"phase_runner", "background"},
    {"prediction"},
    {"experiment", "vm_access", "link_access", "termination"}
    | {"views", "sweeps", "artifact", "cli", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    """``views/live/__init__.py`` → ``g5kvirt.views.live``."""
    return ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


#: All modules but the package itself, which Python imports before any of them and which only hands names out.
MODULES = {
    module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"
}


def room(module: str) -> str:
    """``g5kvirt.views.live`` → ``views``."""
    return module.split(".")[1]


def imports(source: str, package: str = "") -> set[str]:
    """The modules of g5kvirt that a module of ``package`` imports, at its top or anywhere else."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = str(node.module)
            if node.level:  # what runs on hosts has no name of its own there
                above = package.rsplit(".", node.level - 1)[0]
                base = f"{above}.{node.module}" if node.module else above
            # `from g5kvirt.remote import fanout` imports a module, `… import Fanout` what is in one
            whole = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in whole]
            if base == PACKAGE.name:
                assert set(whole) <= {*MODULES, f"{PACKAGE.name}.__version__"}, "name the module it is from"
        else:
            continue
        found |= {name for name in names if name.startswith(f"{PACKAGE.name}.")}
    return found


IMPORTS = {
    name: imports(
        path.read_text(encoding="utf-8"), name if path.stem == "__init__" else name.rpartition(".")[0]
    )
    for name, path in MODULES.items()
}


PAIRS = {(module, name) for module, names in IMPORTS.items() for name in names}
ROOM_PAIRS = {(room(one), room(other)) for one, other in PAIRS if room(one) != room(other)}


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_its_own_floor_or_below(module: str) -> None:
    assert room(module) in FLOOR, f"give {room(module)} a floor, in docs/architecture.md and here"
    higher = {(module, name) for name in IMPORTS[module] if FLOOR[room(name)] > FLOOR[room(module)]}
    assert not higher


@pytest.mark.parametrize("pairs", [PAIRS, ROOM_PAIRS], ids=["modules", "rooms"])
def test_no_circular_imports(pairs: set[tuple[str, str]]) -> None:
    assert len(pairs) > len(FLOOR), "imports were not found"
    components = nx.strongly_connected_components(nx.DiGraph(pairs))
    assert not [sorted(circle) for circle in components if len(circle) > 1]


def test_imports_are_found_inside_functions_and_for_type_checkers() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from g5kvirt.views.figures import Figures
def draw():
    import g5kvirt.views.trace
    from g5kvirt.views import live
    from g5kvirt import cli, __version__
"""
    views = {"g5kvirt.views.figures", "g5kvirt.views.trace", "g5kvirt.views.live"}
    assert imports(source) == views | {"g5kvirt.cli"}


def test_importing_the_package_imports_none_of_its_modules() -> None:
    """`g5kvirt --version` and `import g5kvirt` must not wait for pandas or execo."""
    script = "import sys, g5kvirt; print([m for m in sys.modules if m.startswith('g5kvirt.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
