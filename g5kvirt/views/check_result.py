"""The result of `Experiment.check`: displays itself as text and HTML, and has the findings as a table."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field
from html import escape

import pandas as pd

from g5kvirt.planning.forecast import Plan
from g5kvirt.planning.preflight import Preflight
from g5kvirt.views import html
from g5kvirt.views.formatting import count, duration

__all__ = ["CheckResult"]

_MARK = {"ok": "✓", "warning": "!", "problem": "✗", "unknown": "?"}
_TINT = {"ok": "#009e73", "warning": "#e69f00", "problem": "#d55e00", "unknown": "inherit"}
_COLUMNS = ["what", "subject", "status", "code", "message", "advice"]
_WIDTH = 110


@dataclass(frozen=True, repr=False)
class CheckResult:
    """The result of a dry run.

    ``ok`` is True unless a finding is a problem; warnings and unknowns do not count. ``frame`` has one row
    per finding (pandas); ``plan`` is the plan of the experiment (`g5kvirt.planning.forecast.Plan`), None if
    the testbed's resources are not known.
    """

    preflight: Preflight
    of: str = field(kw_only=True)  #: what was checked: the run, or the specification's file
    testbed: str = field(kw_only=True)

    @property
    def ok(self) -> bool:
        """True unless a finding is a problem."""
        return self.preflight.ok

    @property
    def plan(self) -> Plan | None:
        """Hosts, VMs per host, addresses, expected times."""
        return self.preflight.plan

    @property
    def frame(self) -> pd.DataFrame:
        """One row per finding: ``what``, ``subject``, ``status``, ``code``, ``message`` and ``advice``.

        ``status`` is ok, warning, problem or unknown; ``code`` is what was found, for programs.
        """
        return pd.DataFrame([asdict(finding) for finding in self.preflight.findings], columns=_COLUMNS)

    @property
    def verdict(self) -> str:
        """A summary such as ``2 problems, 1 warning``."""
        statuses = [finding.status for finding in self.preflight.findings]
        parts = [
            count(statuses.count("problem"), "problem"),
            count(statuses.count("warning"), "warning"),
            f"{statuses.count('unknown')} unknown",
        ]
        found = [part for part in parts if not part.startswith("0 ")]
        return ", ".join(found) if found else "no problems"

    @property
    def _summary(self) -> list[tuple[str, str]]:
        """What would happen: a heading and a value for each line."""
        plan = self.plan
        if plan is None:
            return []
        hosts, services = sum(plan.sites.values()), sum(plan.services.values())
        shares = ", ".join(f"{site} {number:,}" for site, number in plan.sites.items())
        facts = [("machines", f"{count(hosts, 'host')} ({shares}) and {count(services, 'service machine')}")]
        if plan.vms_per_host is not None:
            least, most = plan.vms_per_host
            facts.append(("VMs per host", f"{least}" if least == most else f"{least}–{most}"))
            expected = ", ".join(f"{e.phase} {duration(e.seconds)}" for e in plan.expected)
            facts += [("expected", expected)] if expected else []
        demands = [f"{b.site} slash_{b.prefix}" for b in plan.addresses if b.prefix is not None]
        return [*facts, ("addresses", ", ".join(demands))]

    def __repr__(self) -> str:
        rows = self.preflight.findings
        what = max((len(row.what) for row in rows), default=0)
        subject = max((len(row.subject) for row in rows), default=0)
        indent = " " * (4 + what + 2 + subject + 2)
        lines = [f"check of {self.of} on {self.testbed}: {self.verdict}"]
        for row in rows:
            head = f"  {_MARK[row.status]} {row.what:<{what}}  {row.subject:<{subject}}  "
            lines += _filled(head, indent, row.message)
            if row.advice:
                lines += _filled(f"{indent}→ ", f"{indent}  ", row.advice)
        width = max((len(heading) for heading, _ in self._summary), default=0)
        for heading, value in self._summary:
            lines += _filled(f"  {heading:<{width}}  ", " " * (width + 4), value)
        return "\n".join(lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        rows = [
            [
                f'<span style="color:{_TINT[row.status]}" title="{row.status}">{_MARK[row.status]}</span>',
                escape(row.what).replace(" ", "&nbsp;"),
                escape(row.subject),
                escape(row.message) + (f"<br>→ {escape(row.advice)}" if row.advice else ""),
            ]
            for row in self.preflight.findings
        ]
        facts = [[escape(heading), escape(value)] for heading, value in self._summary]
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
