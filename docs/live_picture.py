"""Draw ``docs/images/live.png``: ``python docs/live_picture.py``.

The live view as it stood in the middle of a recorded run (``data/runs/http``), drawn by the code that leaves
such a picture in a notebook, in a headless Chromium (the machine's own, or Debian's unpacked into the cache).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from browser import chromium

from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.views.live.layout import WIDTH
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.live.static import picture

HERE = Path(__file__).resolve().parent
RUN = HERE.parent / "data" / "runs" / "http"
MARGIN = 12  #: pixels


def busiest(events: Sequence[Event]) -> int:
    """After how many events of the deployments the VMs are spread over the most states (their entropy)."""
    model, best, most = LiveModel(), 0, 0.0
    for number, event in enumerate(events, 1):
        model.take(event)
        shares = [count / model.total for count in model.counts.values() if count and model.total]
        spread = -sum(share * math.log(share) for share in shares)
        if event.phase == "measure" and spread > most:
            best, most = number, spread
    return best


def main() -> None:
    """Draw it."""
    events = list(Journal.open(RUN / "journal.jsonl"))
    seen = events[: busiest(events)]
    body = picture(LiveModel.of(seen), seen[-1].t, f"run {RUN.name} on a local testbed, recorded")
    page_style = f"margin:{MARGIN}px;font:14px sans-serif;background:white;width:{WIDTH}px"
    browser = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=browser.program, env=dict(browser.environment), args=["--no-sandbox"]
        )
        try:
            page = opened.new_page(
                viewport={"width": WIDTH + 2 * MARGIN, "height": 200}, device_scale_factor=2
            )
            page.set_content(f'<body style="{page_style}">{body}</body>')
            page.screenshot(path=HERE / "images" / "live.png", full_page=True)
        finally:
            opened.close()


if __name__ == "__main__":
    main()
