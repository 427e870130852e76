"""Modules and functions of the package stay small enough to be read from top to bottom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import g5kvirt

PACKAGE = Path(g5kvirt.__file__).parent
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


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


def test_modules_are_short() -> None:
    lines = {name: len(source.splitlines()) for name, source in modules().items()}
    assert len(lines) > 100
    long = {name for name, number in lines.items() if number > MAX_MODULE_LINES}
    assert not long


def test_functions_are_short() -> None:
    sizes = [
        ((name, function), number)
        for name, source in modules().items()
        for function, number in functions(source)
    ]
    assert len(sizes) > 1000
    long = {place for place, number in sizes if number > MAX_FUNCTION_LINES}
    assert not long
