"""For the site's reference: docstrings as this project writes them, made into Markdown.

A line ``::`` before an example goes, and ``#:`` behind or above an attribute is its docstring.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_MARK = re.compile(r"::$\n(?=\n)", re.MULTILINE)
_COMMENT = re.compile(r"#: ?(.*)$")


class Plain(griffe.Extension):
    """Called by mkdocstrings for each object that it documents."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change docstrings in place."""
        if obj.docstring:
            obj.docstring.value = _MARK.sub(lambda found: "" if _alone(found) else ":\n", obj.docstring.value)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Take the comments that stand for a docstring."""
        if attr.docstring or attr.lineno is None or not attr.module.lines_collection:
            return
        lines = attr.module.lines_collection[attr.module.filepath]
        said = [
            _COMMENT.search(lines[number - 1]) for number in range(attr.lineno, (attr.endlineno or 0) + 1)
        ]
        words = [found[1] for found in said if found]
        above = attr.lineno - 2
        while not words and above >= 0 and lines[above].lstrip().startswith("#: "):
            words.insert(0, lines[above].lstrip()[3:])
            above -= 1
            if not lines[above].lstrip().startswith("#: "):
                break
        if words:
            attr.docstring = griffe.Docstring(" ".join(words), parent=attr, lineno=attr.lineno)


def _alone(found: re.Match[str]) -> bool:
    return found.start() == 0 or found.string[found.start() - 1] == "\n"
