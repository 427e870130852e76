"""Showing a run while a step lasts: which way suits where we are, and one thread that does it.

The thread looks into the journal at most four times a second; the run itself never waits for the view and
knows nothing of it. In a notebook two outputs are made. One is the live widget, where there may be a browser
that shows it. The other is the static picture, renewed every now and then, which the widget hides while it is
there; in the end only the picture is left. So a page that was closed, papermill and nbconvert have it too.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from g5kvirt.run.events import Event
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.live.static import picture

if TYPE_CHECKING:
    from g5kvirt.views.live.widget import LiveWidget
    from g5kvirt.views.terminal import TerminalProgress

__all__ = ["Face", "Source", "View", "face", "show", "watch"]

Face = Literal["widget", "static", "terminal", "none"]

TICK = 0.25  #: seconds between two looks at the journal, at least
SHARE = 0.08  #: of a core at most: whoever needs longer for a look makes a longer pause
PATIENCE = 0.4  #: a step that is over sooner leaves its picture, but there is nothing to watch
RENEW = 5.0  #: seconds between two static pictures while the step lasts, at least
ENDING = 15.0  #: seconds that the last picture may take

_log = logging.getLogger(__name__)


class Source(Protocol):
    """What is shown: events that become more, such as a `g5kvirt.run.journal.Journal`."""

    def since(self, position: int) -> Sequence[Event]:
        """The events from ``position`` on."""


def face(environ: Mapping[str, str] = os.environ) -> Face:
    """How a run can be shown here.

    A kernel cannot ask whether a browser is at its other end. Jupyter's server and VS Code leave their mark
    in its environment, papermill and nbconvert do not. ``G5KVIRT_VIEW`` overrides it all.
    """
    wish = environ.get("G5KVIRT_VIEW", "")
    for known in ("widget", "static", "terminal", "none"):
        if wish == known:
            return known
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return "none"
    shell = get_ipython()
    if shell is None:
        return "none"
    if not hasattr(shell, "kernel"):
        return "terminal"
    return "widget" if {"JPY_SESSION_NAME", "VSCODE_PID"} & set(environ) else "static"


@contextmanager
def show(journal: Source, vms: int = 0, title: str = "", *, way: Face | None = None) -> Iterator[None]:
    """Show the run of ``journal`` while the ``with`` block lasts; ``vms`` is how many were asked for.

    Whatever ends the block, an interrupt too, a picture of what was reached stays. The view raises nothing of
    its own: what goes wrong with it is logged, and the run goes on.
    """
    view = watch(journal, vms, title, way=way)
    try:
        yield
    finally:
        view.end()


def watch(journal: Source, vms: int = 0, title: str = "", *, way: Face | None = None) -> View:
    """The same for what outlasts the cell: shown in the output of this cell, until `View.end` is called."""
    way = way or face()
    if way in ("widget", "static"):
        return _Notebook(journal, vms, title, live=way == "widget")
    return _Terminal(journal, vms) if way == "terminal" else View()


class View:
    """Something that is shown until `end`; this one shows nothing."""

    def end(self) -> None:
        """Show the end, and return when it is there. May be called again, and from any thread."""


class _Threaded(View):
    """What all views share: a thread of their own, which owns the model and the outputs."""

    def __init__(self, source: Source, vms: int) -> None:
        self.model = LiveModel(vms)
        self._source = source
        self._position = 0
        self._over = threading.Event()
        # outputs belong to the cell that runs now, which is a matter of the context
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._work,), name="g5kvirt view", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join(ENDING)

    def _work(self) -> None:
        try:
            if not self._over.wait(PATIENCE):
                self._watch()
        except Exception:  # noqa: BLE001  whatever it is, it is not the run's
            _log.exception("the live view stopped; the run goes on")
            self._over.wait()
        try:
            self.finish()
        except Exception:  # noqa: BLE001
            _log.exception("the run could not be shown; its journal has it all")

    def _watch(self) -> None:
        cost = 0.0
        while True:
            began = time.thread_time()
            self.look()
            cost = time.thread_time() - began
            if self._over.wait(max(TICK, cost / SHARE)):
                return

    def news(self) -> Sequence[Event]:
        """The events that were not heard yet."""
        events = self._source.since(self._position)
        self._position += len(events)
        return events

    def look(self) -> None:
        """Take what is new, and show it."""
        raise NotImplementedError

    def finish(self) -> None:
        """Show the end; the last thing that happens."""
        raise NotImplementedError


class _Terminal(_Threaded):
    """With rich, as on the command line: in a terminal's IPython."""

    _shown: TerminalProgress | None = None

    def __init__(self, source: Source, vms: int) -> None:
        self._before = source.since(0)  # is not said again
        super().__init__(source, vms)

    def look(self) -> None:
        from rich.console import Console

        from g5kvirt.views.terminal import TerminalProgress

        if self._shown is None:
            self._shown = TerminalProgress(Console(), self.model.vms)
            for event in self._before:
                self._shown.progress.take(event)
            self._position = len(self._before)
            self._shown.__enter__()
        for event in self.news():
            self._shown.take(event)

    def finish(self) -> None:
        self.look()
        if self._shown is not None:
            self._shown.__exit__(None, None, None)


class _Notebook(_Threaded):
    """The picture and, where ``live``, the widget, each in an output of its own."""

    _picture: Any = None  # what IPython gives to renew an output
    _output: Any = None
    _widget: LiveWidget | None = None
    _renewed = float("-inf")
    _pause = RENEW
    _stale = True  # the picture does not show what the model knows

    def __init__(self, source: Source, vms: int, title: str, *, live: bool) -> None:
        self._title = title
        self._live = live
        self._key = uuid.uuid4().hex
        super().__init__(source, vms)

    def look(self) -> None:
        now = time.time()
        self._take()
        if self._stale and time.monotonic() - self._renewed >= self._pause:
            self._draw(now)
        if self._widget is not None:
            self._widget.renew(now)
        elif self._live:
            self._open(now)

    def finish(self) -> None:
        try:
            self._take()
            self._draw(time.time())
        finally:
            if self._widget is not None and self._output is not None:
                self._widget.close()
                self._output.update({"text/html": ""}, raw=True)

    def _take(self) -> None:
        for event in self.news():
            self.model.take(event)
            self._stale = True

    def _draw(self, now: float) -> None:
        began = time.thread_time()
        html = picture(self.model, now, self._title)
        data = {
            "text/html": f'<div data-g5kvirt-picture="{self._key}">{html}</div>',
            "text/plain": f"{self._title}: {self.model.stands_at}".removeprefix(": "),
        }
        if self._picture is None:
            self._picture = _display(data, raw=True)
        else:
            self._picture.update(data, raw=True)
        self._stale = False
        self._renewed = time.monotonic()
        self._pause = max(RENEW, (time.thread_time() - began) / SHARE * 4)

    def _open(self, now: float) -> None:
        try:
            from g5kvirt.views.live.widget import LiveWidget
        except ImportError as error:
            _log.warning("no live view, only pictures (%s): pip install anywidget", error)
            self._live = False
            return
        self._widget = LiveWidget(self.model, now, key=self._key, title=self._title)
        self._output = _display(self._widget)


def _display(what: object, *, raw: bool = False) -> Any:
    """Make an output that can be renewed."""
    import IPython.display

    display: Any = IPython.display.display  # typed in some versions only
    return display(what, raw=raw, display_id=True)
