"""Checks that HTML is well-formed, self-contained and without scripts."""

from __future__ import annotations

from html.parser import HTMLParser


class Checker(HTMLParser):
    """Asserts that every tag is closed, and that nothing is fetched or executed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("img", "br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def text_of(html: str) -> str:
    """The text of ``html``, which is checked."""
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker.text
