"""Pages of HTML: checked to be well-formed, self-contained and without scripts, and what they show."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page shows. Asserts that every tag is closed, and that nothing is fetched or executed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tables: list[list[list[str]]] = []  #: table → row → text of each cell, headings as well
        self.bar: list[tuple[str, int]] = []  #: the parts of a bar of counts: title and width
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("img", "br", "meta"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        style, title = dict(attrs).get("style") or "", dict(attrs).get("title")
        if title and (width := re.match(r"flex:(\d+) ", style)):
            self.bar.append((title, int(width[1])))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data


def text_of(html: str) -> str:
    """The text of ``html``, which is checked."""
    return Page(html).text
