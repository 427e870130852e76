"""What `Experiment.check` gives back: it shows itself in text and in HTML, and has the rows as a table."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from html import escape

import pandas as pd

from g5kvirt.planning.forecast import Plan
from g5kvirt.planning.preflight import Preflight
from g5kvirt.views import html
from g5kvirt.views.words import count, duration

__all__ = ["CheckResult"]

_MARK = {"ok": "✓", "warning": "!", "problem": "✗", "unknown": "?"}
_TINT = {"ok": "#009e73", "warning": "#e69f00", "problem": "#d55e00", "unknown": "inherit"}
_COLUMNS = ["what", "subject", "status", "says", "todo"]
_WIDTH = 110


@dataclass(frozen=True, repr=False)
class CheckResult:
    """What would happen, and what is wrong.

    ``ok`` is True if nothing is a problem: warnings, and what nobody could say, are none. ``frame`` has a
    row a question (pandas); ``plan`` is what would happen (`g5kvirt.planning.forecast.Plan`; None where
    nobody says what the testbed has).
    """

    preflight: Preflight
    of: str = field(kw_only=True)  #: what was checked: the run, or the specification's file
    testbed: str = field(kw_only=True)

    @property
    def ok(self) -> bool:
        """True if nothing is a problem."""
        return self.preflight.ok

    @property
    def plan(self) -> Plan | None:
        """Hosts, VMs on each, addresses, expected times."""
        return self.preflight.plan

    @property
    def frame(self) -> pd.DataFrame:
        """One row a question: ``what``, ``subject``, ``status``, ``says`` and ``todo``.

        ``status`` is ok, warning, problem or unknown.
        """
        return pd.DataFrame([asdict(row) for row in self.preflight.rows], columns=_COLUMNS)

    @property
    def verdict(self) -> str:
        """The whole in a few words: ``2 problems, 1 warning``."""
        statuses = [row.status for row in self.preflight.rows]
        parts = [
            count(statuses.count("problem"), "problem"),
            count(statuses.count("warning"), "warning"),
            f"{statuses.count('unknown')} unknown",
        ]
        found = [part for part in parts if not part.startswith("0 ")]
        return ", ".join(found) if found else "all is well"

    @property
    def _summary(self) -> list[tuple[str, str]]:
        """What would happen: a word and what there is to say about it."""
        plan = self.plan
        if plan is None:
            return []
        hosts, services = sum(plan.sites.values()), sum(plan.services.values())
        shares = ", ".join(f"{site} {number:,}" for site, number in plan.sites.items())
        facts = [("machines", f"{count(hosts, 'host')} ({shares}) and {count(services, 'service machine')}")]
        if plan.a_host is not None:
            least, most = plan.a_host
            facts.append(("VMs a host", f"{least}" if least == most else f"{least} to {most}"))
            facts.append(("expected", ", ".join(f"{e.phase} {duration(e.seconds)}" for e in plan.expected)))
        bills = [f"{b.site} slash_{b.prefix}" for b in plan.addresses if b.prefix is not None]
        return [*facts, ("addresses", ", ".join(bills))]

    def __repr__(self) -> str:
        rows = self.preflight.rows
        what = max((len(row.what) for row in rows), default=0)
        subject = max((len(row.subject) for row in rows), default=0)
        indent = " " * (4 + what + 2 + subject + 2)
        lines = [f"check of {self.of} on {self.testbed}: {self.verdict}"]
        for row in rows:
            head = f"  {_MARK[row.status]} {row.what:<{what}}  {row.subject:<{subject}}  "
            lines += _filled(head, indent, row.says)
            if row.todo:
                lines += _filled(f"{indent}→ ", f"{indent}  ", row.todo)
        width = max((len(word) for word, _ in self._summary), default=0)
        for word, says in self._summary:
            lines += _filled(f"  {word:<{width}}  ", " " * (width + 4), says)
        return "\n".join(lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = [
            [
                f'<span style="color:{_TINT[row.status]}" title="{row.status}">{_MARK[row.status]}</span>',
                escape(row.what).replace(" ", "&nbsp;"),
                escape(row.subject),
                escape(row.says) + (f"<br>→ {escape(row.todo)}" if row.todo else ""),
            ]
            for row in self.preflight.rows
        ]
        facts = [[escape(word), escape(says)] for word, says in self._summary]
        subtitle = f"{self.of}, testbed {self.testbed}"
        return html.box(f"check: {self.verdict}", subtitle, [html.table(rows), html.table(facts)])


def _filled(head: str, indent: str, words: str) -> list[str]:
    return textwrap.wrap(
        words,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
