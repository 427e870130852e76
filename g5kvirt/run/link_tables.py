"""The links of a run as a table: what was set, and what was measured beside what was requested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from g5kvirt.run.events import Event
from g5kvirt.run.frame import make_frame
from g5kvirt.run.link_events import is_link_measured, is_links_set, link_measurement_of, links_of

__all__ = ["links_table"]

_NAN = float("nan")
_LINKS: Mapping[str, str] = (
    {"t": "float64", "what": "object", "from": "object", "to": "object"}
    | dict.fromkeys(("latency", "rate", "loss"), "float64")
    | {"source": "object", "target": "object"}
    | dict.fromkeys(("rtt", "measured_rate", "measured_loss"), "float64")
    | {"reason": "object"}
)


def links_table(events: Iterable[Event]) -> pd.DataFrame:
    """One row for each direction of a link when it was set, and for each measurement of it, in their order.

    ``what`` is ``set``, ``measured``, or ``none`` where all links were taken away. ``latency`` (seconds, one
    way), ``rate`` (bits per second) and ``loss`` are what was requested, NaN if nothing was; ``rtt``
    (seconds), ``measured_rate`` and ``measured_loss`` what ``target`` saw of ``source``, NaN with a
    ``reason`` if it could not be measured. A ping goes there and back: so do its time and its loss.
    """
    rows: list[list[object]] = []
    for event in events:
        if is_links_set(event):
            links = links_of(event)
            for link in links:
                for source, target in link.directions:
                    values = [_number(v) for v in (link.latency, link.rate, link.loss)]
                    rows.append([event.t, "set", source, target, *values, "", "", _NAN, _NAN, _NAN, ""])
            if not links:
                rows.append([event.t, "none", "", "", *[_NAN] * 3, "", "", *[_NAN] * 3, ""])
        elif is_link_measured(event):
            link, ends, names, found = link_measurement_of(event)
            values = [_number(v) for v in (link.latency, link.rate, link.loss)]
            seen = [_number(found.get(key)) for key in ("rtt", "rate", "loss")]
            rows.append([event.t, "measured", *ends, *values, *names, *seen, str(found.get("reason", ""))])
    return make_frame(rows, _LINKS)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else _NAN
