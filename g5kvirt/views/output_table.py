"""A table of what VMs printed: the data as it came, its picture without control characters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from g5kvirt.run.printable import printable

__all__ = ["OutputTable"]


class _OutputColumn(pd.Series):
    """A column of an `OutputTable`, or a row."""

    @property
    def _constructor(self) -> Callable[..., pd.Series]:
        return _OutputColumn

    @property
    def _constructor_expanddim(self) -> Callable[..., pd.DataFrame]:
        return OutputTable

    def __repr__(self) -> str:
        return printable(super().__repr__(), "\n")


class OutputTable(pd.DataFrame):
    r"""A DataFrame that never sends what a VM printed to the terminal as it is: ESC is shown as ``\x1b``.

    Its cells hold every byte of the output; so do those of what is selected from it.
    """

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return OutputTable

    @property
    def _constructor_sliced(self) -> Callable[..., pd.Series]:
        return _OutputColumn

    def __repr__(self) -> str:
        with pd.option_context("display.max_columns", None):  # the output is what it is printed for
            return printable(super().__repr__(), "\n")

    def _repr_html_(self) -> str | None:
        html: str | None = super()._repr_html_()  # type: ignore[misc]  # pandas' stubs lack it
        return None if html is None else printable(html, "\n")

    def to_string(self, *arguments: Any, **more: Any) -> Any:
        """As pandas does, for a terminal too."""
        text = super().to_string(*arguments, **more)
        return printable(text, "\n") if isinstance(text, str) else text
