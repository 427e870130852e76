"""For the site's reference: the docstrings of this project as Markdown.

A line ``::`` before an example is removed, and a comment ``#:`` after or above an attribute becomes its
docstring. Attributes show their default, also where it is an argument of ``field`` or of the constructor.
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

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Show the defaults of attributes instead of how they are declared or computed."""
        made = cls.members.get("__init__")
        given = made.parameters if isinstance(made, griffe.Function) else ()
        defaults = {parameter.name: parameter.default for parameter in given}
        for name, member in cls.members.items():
            if not isinstance(member, griffe.Attribute):
                continue
            if name in defaults:
                optional = "None" in str(member.annotation)
                member.value = defaults[name] if optional or str(defaults[name]) != "None" else None
            elif "instance-attribute" in member.labels and "class-attribute" not in member.labels:
                member.value = None  # an expression of the constructor
            elif isinstance(member.value, griffe.ExprCall) and str(member.value.function) == "field":
                member.value = _default(member.value)


def _default(call: griffe.ExprCall) -> str | griffe.Expr | None:
    """The default in a call of ``dataclasses.field``; None if there is none."""
    for argument in call.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name == "default":
            return argument.value
        if isinstance(argument, griffe.ExprKeyword) and argument.name == "default_factory":
            return f"{argument.value}()"
    return None


def _alone(found: re.Match[str]) -> bool:
    return found.start() == 0 or found.string[found.start() - 1] == "\n"
