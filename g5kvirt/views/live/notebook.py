"""Displaying a run while a phase runs: the mode for the current environment, and the thread that does it.

The thread reads the journal at most four times a second; the run never waits for the view and does not depend
on it. In a notebook there are two outputs. One is the live widget, if there may be a browser. The other is
the static picture, updated every few seconds, which the widget hides while it is displayed; in the end only
the picture remains, so that closed pages, papermill and nbconvert have it too.
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from g5kvirt.run.events import Event
from g5kvirt.views.live.model import LiveModel
from g5kvirt.views.live.static import picture

if TYPE_CHECKING:
    from g5kvirt.views.live.widget import LiveWidget
    from g5kvirt.views.terminal import TerminalProgress

__all__ = ["DisplayMode", "EventSource", "View", "display_mode", "watch"]

DisplayMode = Literal["widget", "static", "terminal", "none"]

POLL_INTERVAL = 0.25  #: seconds between two reads of the journal, at least
CPU_SHARE = 0.08  #: of a core at most: a slower update makes the pause until the next one longer
START_DELAY = 0.4  #: seconds; a phase that ends sooner leaves its picture, without a live view
PICTURE_INTERVAL = 5.0  #: seconds between two static pictures while the phase runs, at least
END_TIMEOUT = 15.0  #: seconds until `View.end` gives up waiting for the last picture

_log = logging.getLogger(__name__)


class EventSource(Protocol):
    """A growing list of events, such as a `g5kvirt.run.journal.Journal`."""

    def since(self, position: int) -> Sequence[Event]:
        """The events from ``position`` on."""


def display_mode(environ: Mapping[str, str] = os.environ) -> DisplayMode:
    """How a run can be displayed in this process.

    A kernel cannot find out whether a browser is connected. Jupyter's server and VS Code set variables in its
    environment, papermill and nbconvert do not. A plain script is displayed as ``g5kvirt run`` is, on
    standard error. ``G5KVIRT_VIEW`` overrides the choice.
    """
    wish = environ.get("G5KVIRT_VIEW", "")
    for known in ("widget", "static", "terminal", "none"):
        if wish == known:
            return known
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return "terminal"
    shell = get_ipython()
    if shell is None:
        return "terminal"
    if not hasattr(shell, "kernel"):
        return "terminal"
    return "widget" if {"JPY_SESSION_NAME", "VSCODE_PID"} & set(environ) else "static"


def watch(journal: EventSource, vms: int = 0, title: str = "", *, mode: DisplayMode | None = None) -> View:
    """Display the run of ``journal`` in the output of this cell until `View.end`, which leaves a picture.

    ``vms``: how many were requested. The view raises no errors of its own: they are logged, and the run
    continues.
    """
    mode = mode or display_mode()
    if mode in ("widget", "static"):
        return _Notebook(journal, vms, title, live=mode == "widget")
    from g5kvirt.views.terminal import TerminalProgress  # rich takes a while to import

    if mode == "none" or TerminalProgress.displayed:  # a command has a display of its own
        return View()
    return _Terminal(journal, vms)


class View:
    """A display that lasts until `end`, or the end of its ``with`` block; this one displays nothing."""

    def end(self) -> None:
        """Display the final state, then return. May be called again, and from any thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class _Threaded(View):
    """What all views share: a thread that owns the model and the outputs."""

    def __init__(self, source: EventSource, vms: int) -> None:
        self.model = LiveModel(vms)
        self._source = source
        self._position = 0
        self._over = threading.Event()
        # the context says to which cell outputs belong
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._work,), name="g5kvirt view", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join(END_TIMEOUT)

    def _work(self) -> None:
        try:
            if not self._over.wait(START_DELAY):
                self._watch()
        except Exception:  # noqa: BLE001  no error of the view may end the run
            _log.exception("the live view stopped; the run continues")
            self._over.wait()
        try:
            self.finish()
        except Exception:  # noqa: BLE001
            _log.exception("the run could not be displayed; its journal is complete")

    def _watch(self) -> None:
        self.refresh()  # opens the outputs, which takes many times as long as an update
        # of several updates: a single slow one, such as a garbage collection, does not delay the next
        costs: deque[float] = deque([0.0], maxlen=5)
        while not self._over.wait(max(POLL_INTERVAL, median(costs) / CPU_SHARE)):
            began = time.thread_time()
            self.refresh()
            costs.append(time.thread_time() - began)

    def new_events(self) -> Sequence[Event]:
        """The events since the last call."""
        events = self._source.since(self._position)
        self._position += len(events)
        return events

    def refresh(self) -> None:
        """Process new events, and update the display."""
        raise NotImplementedError

    def finish(self) -> None:
        """Display the final state; called last."""
        raise NotImplementedError


class _Terminal(_Threaded):
    """With rich, as on the command line: for IPython in a terminal, and for scripts."""

    _shown: TerminalProgress | None = None

    def __init__(self, source: EventSource, vms: int) -> None:
        self._earlier = source.since(0)  # not printed again
        super().__init__(source, vms)

    def refresh(self) -> None:
        from rich.console import Console

        from g5kvirt.views.terminal import TerminalProgress

        if self._shown is None:
            self._shown = TerminalProgress(Console(stderr=not _in_ipython()), self.model.vms)
            for event in self._earlier:
                self._shown.progress.take(event)
            self._position = len(self._earlier)
            self._shown.__enter__()
        for event in self.new_events():
            self._shown.take(event)

    def finish(self) -> None:
        self.refresh()
        if self._shown is not None:
            self._shown.__exit__(None, None, None)


class _Notebook(_Threaded):
    """The picture and, where ``live``, the widget, each in an output of its own."""

    _picture: Any = None  # handle with which IPython updates the output
    _output: Any = None
    _widget: LiveWidget | None = None
    _renewed = float("-inf")
    _pause = PICTURE_INTERVAL
    _stale = True  # the picture is older than the model

    def __init__(self, source: EventSource, vms: int, title: str, *, live: bool) -> None:
        self._title = title
        self._live = live
        self._key = uuid.uuid4().hex
        super().__init__(source, vms)

    def refresh(self) -> None:
        self._take()
        now = self.model.now()
        if self._stale and time.monotonic() - self._renewed >= self._pause:
            self._draw(now)
        if self._widget is not None:
            self._widget.renew(now)
        elif self._live:
            self._open(now)

    def finish(self) -> None:
        try:
            self._take()
            self._draw(self.model.now())
        finally:
            if self._widget is not None and self._output is not None:
                self._widget.close()
                self._output.update({"text/html": ""}, raw=True)

    def _take(self) -> None:
        for event in self.new_events():
            self.model.take(event)
            self._stale = True

    def _draw(self, now: float) -> None:
        began = time.thread_time()
        html = picture(self.model, now, self._title)
        data = {
            "text/html": f'<div data-g5kvirt-picture="{self._key}">{html}</div>',
            "text/plain": f"{self._title}: {self.model.status}".removeprefix(": "),
        }
        if self._picture is None:
            self._picture = _display(data, raw=True)
        else:
            self._picture.update(data, raw=True)
        self._stale = False
        self._renewed = time.monotonic()
        self._pause = max(PICTURE_INTERVAL, (time.thread_time() - began) / CPU_SHARE * 4)

    def _open(self, now: float) -> None:
        try:
            from g5kvirt.views.live.widget import LiveWidget
        except ImportError as error:
            _log.warning("no live view, only pictures (%s): pip install anywidget", error)
            self._live = False
            return
        self._widget = LiveWidget(self.model, now, key=self._key, title=self._title)
        self._output = _display(self._widget)


def _in_ipython() -> bool:
    """Whether outputs are its cells'; a script's standard output belongs to the script."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None


def _display(what: object, *, raw: bool = False) -> Any:
    """Create an output that can be updated."""
    import IPython.display

    display: Any = IPython.display.display  # typed in some versions only
    return display(what, raw=raw, display_id=True)
