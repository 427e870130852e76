"""Testbeds: places with machines that can be reserved and deployed.

A new one is a module with a class that implements `base.Testbed`, and a line in `TESTBEDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from g5kvirt.errors import SpecError
from g5kvirt.testbeds.base import Deployed, Notify, ReservationRequest, Testbed

__all__ = ["TESTBEDS", "Deployed", "Notify", "ReservationRequest", "Testbed", "open_testbed"]


def _opener(module: str, function: str) -> Callable[[str], Testbed]:
    """Imports the testbed's module only when it is opened: they are expensive to import."""

    def open_one(name: str) -> Testbed:
        testbed: Testbed = getattr(import_module(f"{__name__}.{module}"), function)(name)
        return testbed

    return open_one


#: Kind of testbed → how to open one; what follows a colon ("local:second") is its argument.
TESTBEDS: dict[str, Callable[[str], Testbed]] = {
    "grid5000": _opener("grid5000.driver", "open_grid5000"),
    "local": _opener("local.driver", "local"),
    "simulated": _opener("simulated.driver", "simulated"),
}


def open_testbed(name: str) -> Testbed:
    """The testbed called ``name``: ``"grid5000"``, ``"local"`` or ``"local:NAME"``, ``"simulated:2013"``.

    Raises SpecError for an unknown name and TestbedError if the testbed is not up.
    """
    kind, _, argument = name.partition(":")
    if kind not in TESTBEDS:
        raise SpecError(
            f"there is no testbed called {name!r}", advice=f"choose one of {', '.join(sorted(TESTBEDS))}"
        )
    return TESTBEDS[kind](argument)
