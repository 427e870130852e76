"""For the site's reference: the docstrings of this project as Markdown.

A line ``::`` before an example is removed, and a comment ``#:`` after or above an attribute becomes its
docstring.
"""

from __future__ import annotations

import re
from itertools import takewhile
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
        """Use the comments that take the place of a docstring."""
        if attr.docstring or attr.lineno is None or not attr.module.lines_collection:
            return
        lines = attr.module.lines_collection[attr.module.filepath]
        own = lines[attr.lineno - 1 : attr.endlineno or attr.lineno]
        words = [found[1] for line in own if (found := _COMMENT.search(line))]
        if not words:  # the comment is above, and may have several lines
            above = takewhile(
                lambda line: line.startswith("#: "), map(str.lstrip, lines[attr.lineno - 2 :: -1])
            )
            words = [line[3:] for line in above][::-1]
        if words:
            attr.docstring = griffe.Docstring(" ".join(words), parent=attr, lineno=attr.lineno)


def _alone(found: re.Match[str]) -> bool:
    return found.start() == 0 or found.string[found.start() - 1] == "\n"
