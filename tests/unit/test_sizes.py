"""Modules and functions of the package stay small enough to be read from top to bottom."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import g5kvirt

PACKAGE = Path(g5kvirt.__file__).parent
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60

#: Module → why it is longer than the limit.
LONG_MODULES: Mapping[str, str] = {
    "broadcast/chain.py": "being split",
    "experiment.py": "being split",
    "hostagent/onhost/agent.py": "being split",
    "hostagent/onhost/relay.py": "being split",
    "images/environments.py": "being split",
    "run/deployment_tables.py": "being split",
    "run/journal.py": "being split",
}

#: Module and function → why it is longer than the limit.
LONG_FUNCTIONS: Mapping[tuple[str, str], str] = {
    ("hostagent/onhost/agent.py", "serve"): "being split",
    ("provisioners/builtin/workflow.py", "default_workflow"): "a table of data: one row per micro-step",
    ("provisioners/kadeploy3/server.py", "schema"): "one SQL text",
    ("views/spread.py", "draw_steps"): "being split",
}


def modules() -> dict[str, str]:
    """Path of each module below the package → its source."""
    return {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function, with its decorators."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.name, node.end_lineno - first + 1


def test_modules_are_short_or_have_a_reason() -> None:
    lines = {name: len(source.splitlines()) for name, source in modules().items()}
    assert len(lines) > 100
    long = {name for name, number in lines.items() if number > MAX_MODULE_LINES}
    assert long == LONG_MODULES.keys(), (
        "split the module, or remove the exception that is not needed any more"
    )


def test_functions_are_short_or_have_a_reason() -> None:
    sizes = [
        ((name, function), number)
        for name, source in modules().items()
        for function, number in functions(source)
    ]
    assert len(sizes) > 1000
    long = {place for place, number in sizes if number > MAX_FUNCTION_LINES}
    assert long == LONG_FUNCTIONS.keys(), (
        "split the function, or remove the exception that is not needed any more"
    )
