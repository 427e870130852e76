"""Testbeds: places with machines that can be reserved and deployed.

A new one is a file with a class of the shape of `base.Testbed` and a line in `TESTBEDS`.
"""

from __future__ import annotations

from collections.abc import Callable

from g5kvirt.errors import SpecError
from g5kvirt.testbeds.base import Deployed, Notify, Request, Testbed

__all__ = ["TESTBEDS", "Deployed", "Notify", "Request", "Testbed", "open_testbed"]


def _grid5000(name: str) -> Testbed:
    if name:
        raise SpecError(f'there is one Grid\'5000, called "grid5000", and none called {name!r} beside it')
    from g5kvirt.testbeds.grid5000.driver import Grid5000
    from g5kvirt.testbeds.grid5000.settings import settings

    return Grid5000(settings())


def _local(name: str) -> Testbed:
    from g5kvirt.testbeds.local import local

    return local(name or None)


#: word → how to open it; what follows a colon in the word ("local:second") is handed over.
TESTBEDS: dict[str, Callable[[str], Testbed]] = {"grid5000": _grid5000, "local": _local}


def open_testbed(word: str) -> Testbed:
    """The testbed called ``word``: ``"grid5000"``, ``"local"``, or ``"local:NAME"`` for one of several.

    Raises SpecError for an unknown word and TestbedError if the testbed is not up.
    """
    kind, _, name = word.partition(":")
    if kind not in TESTBEDS:
        raise SpecError(f"there is no testbed called {word!r}: choose one of {', '.join(sorted(TESTBEDS))}")
    return TESTBEDS[kind](name)
