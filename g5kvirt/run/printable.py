"""Text from machines and people, for a terminal: it is shown, and never acted upon."""

from __future__ import annotations

__all__ = ["printable", "short"]


def printable(text: str, kept: str = "") -> str:
    r"""``text`` with everything that is no visible character or space written out: ESC as ``\x1b``.

    Control characters, those that change the direction of writing, and halves of surrogate pairs; ``kept``
    stay as they are. A reason that a VM reports must not move a terminal's cursor.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def short(text: str, longest: int = 200) -> str:
    """``text`` as a part of a sentence: on one line, printable, at most ``longest`` characters."""
    whole = printable(" ".join(text.split()))
    return whole if len(whole) <= longest else f"{whole[: longest - 1]}…"
