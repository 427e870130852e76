"""For the site: ``<!-- help: run -->`` becomes what ``g5kvirt run --help`` prints."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

_MARK = re.compile(r"^<!-- help: ?(.*) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return _MARK.sub(lambda found: f"```text\n{_help(found[1].split())}```", markdown)


def _help(words: list[str]) -> str:
    from g5kvirt.cli.parser import build_parser

    os.environ["COLUMNS"] = "80"  # argparse takes the width from it; a block of code shows as many
    parser: argparse.ArgumentParser = build_parser()
    for word in words:
        (inner,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = inner.choices[word]
    return parser.format_help()
