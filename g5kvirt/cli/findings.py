"""The findings of ``g5kvirt doctor`` as a table for the terminal (rich)."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from g5kvirt.cli.doctor import ProbeResult

__all__ = ["findings_table"]

_FINDINGS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red"), "unknown": ("?", "dim")}


def findings_table(findings: Sequence[ProbeResult]) -> Table:
    """One line per probe: its mark, its name, the result, and advice if there is any."""
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark, style = _FINDINGS[finding.state]
        found = Text(finding.found)
        if finding.advice:
            found.append(f"\n→ {finding.advice}", style=style)
        table.add_row(Text(mark, style), Text(finding.name), found)
    return table
