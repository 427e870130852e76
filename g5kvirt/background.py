"""A call in the background: in a process of its own, while the notebook stays free.

The process imports a function by its name, calls it and ends. What happens is written to the run's journal,
as always, where the notebook reads it; only how the call ended comes back through a pipe. To stop it is to
interrupt the main thread of that process, as Ctrl-C would: it cleans up and ends, even while it waits. It
also stops when the notebook is gone. A thread would not do: it could not be stopped in
the middle of a call, and execo needs the main thread of its process.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Generic, TypeVar

from g5kvirt import errors
from g5kvirt.errors import G5kvirtError, PhaseError, RunError
from g5kvirt.run.journal import Journal

__all__ = ["Running", "serve"]

log = logging.getLogger(__name__)

#: Seconds that a step may take to clean up after it was stopped.
STOP_TIMEOUT = 120.0

#: Seconds that the interpreter waits at its exit for a step that it stopped; the step then ends on its own.
EXIT_TIMEOUT = 30.0

# The search path first: g5kvirt may lie where only this process finds it.
_BOOT = """
import json, sys
job = json.loads(sys.argv[1])
sys.path[:] = job["modules"]
from g5kvirt.background import serve
serve(job)
"""

T = TypeVar("T")
_all: weakref.WeakSet[Running[Any]] = weakref.WeakSet()


class Running(Generic[T]):
    """A step that runs in the background, as returned by `g5kvirt.experiment.Experiment.start`.

    An interrupt (Ctrl-C, "interrupt the kernel") during `wait` or `result` ends the call, but not the step.
    """

    def __init__(
        self,
        phase: str,
        function: Callable[..., object] | None,
        arguments: Mapping[str, Any],
        journal: Journal,
        result: Callable[[], T],
        *,
        when_ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Call ``function`` of a module with ``arguments`` (what JSON can hold) in a new process.

        No process is started without a ``function``, for a step that was done before: it has ended well.
        ``result`` makes the result in this process once the call has ended well. ``when_ended`` is called
        when it has ended, before `done` is True, and must not raise.
        """
        self.phase = phase
        self.start_time = time.time()  #: seconds since the epoch
        self.end_time: float | None = None  #: seconds since the epoch; None while it runs
        self._journal = journal
        self._result = result
        self._when_ended = when_ended
        self._outcome = ""
        self._stopped = False
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        if function is None:
            self._outcome, self.end_time = "{}", self.start_time
            self._when_ended()
            self._over.set()
            return
        job = {
            "function": f"{function.__module__}:{function.__qualname__}",
            "arguments": arguments,
            "modules": sys.path,
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  what it prints, for when it dies
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(job, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # an interrupt of the notebook is not meant for it
        )
        self._thread = threading.Thread(
            target=self._attend, args=(self._process,), name=f"{phase} in the background", daemon=True
        )
        self._thread.start()
        _all.add(self)

    @property
    def pid(self) -> int | None:
        """Process id; None if the step was already done and needed no process."""
        return None if self._process is None else self._process.pid

    @property
    def done(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self._over.is_set()

    @property
    def seconds(self) -> float:
        """How long it took, or has been running so far."""
        return (self.end_time or time.time()) - self.start_time

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most ``timeout`` seconds; True if it has."""
        return self._over.wait(timeout)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the step, at most ``timeout`` seconds, and return its result.

        Raises what the step raised, PhaseError if it was stopped, TimeoutError if it has not ended in time.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"{self.phase}() has not ended within {timeout:g} s: it is still running")
        error = self._error()
        if error is not None:
            raise error
        return self._result()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Interrupt it like Ctrl-C and wait until it has cleaned up; kill it after ``timeout`` seconds.

        The step can be called again and resumes. Does nothing if it has ended.
        """
        self._interrupt()
        if not self.wait(timeout) and self._process is not None:
            self._process.kill()
            self.wait(10)

    def __repr__(self) -> str:
        return f"<{self.phase}() in the background: {self._state()}>"

    def _repr_html_(self) -> str:
        hint = "" if self.done else ' <span style="opacity:.65"><code>.stop()</code> interrupts it</span>'
        return f"<div><b>{escape(self.phase)}</b> in the background: {escape(self._state())}{hint}</div>"

    def _state(self) -> str:
        if self._process is None:
            return "was done before"
        if not self.done:
            return (
                f"{'stopping' if self._stopped else 'running'} for {self.seconds:.0f} s (process {self.pid})"
            )
        error = self._error()
        return f"{'done' if error is None else 'failed'} after {self.seconds:.0f} s" + (
            f": {error}" if error else ""
        )

    def _attend(self, process: subprocess.Popen[bytes]) -> None:
        """The thread: until the process has ended, listeners to the journal get what it writes."""
        unfollow = self._journal.follow()
        assert process.stdout is not None
        with process.stdout as out:
            self._outcome = out.read().decode(errors="replace")
        process.wait()
        try:
            unfollow()
        except RunError as error:
            log.warning("%s", error)  # the next reader of the journal gets it raised
        except Exception:
            log.exception("a listener to the journal failed")
        finally:
            self.end_time = time.time()
            self._when_ended()
            self._over.set()

    def _interrupt(self) -> None:
        self._stopped = self._stopped or not self.done
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, or was interrupted before
            self._process.stdin.write(b".")
            self._process.stdin.close()

    def _error(self) -> Exception | None:
        """What it ended with, None if it ended well."""
        try:
            outcome = json.loads(self._outcome)
        except ValueError:
            if self._stopped:
                return PhaseError(
                    f"{self.phase}() was stopped and did not clean up in time", phase=self.phase
                )
            code = None if self._process is None else self._process.returncode
            return PhaseError(
                f"the process of {self.phase}() in the background died (exit code"
                f" {code}{self._last_error_line()})",
                advice="call it again to continue",
                phase=self.phase,
            )
        if "interrupted" in outcome:
            return PhaseError(
                f"{self.phase}() was stopped", advice="call it again to continue", phase=self.phase
            )
        if "bug" in outcome:
            return RuntimeError(f"{self.phase}() in the background failed:\n{outcome['bug']}")
        if "error" in outcome:
            kind: type[G5kvirtError] = getattr(errors, outcome["error"])
            error = kind.__new__(kind, outcome["message"])
            error.__dict__.update(outcome["attributes"])
            return error
        return None

    def _last_error_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f", {last[:200]}" if last else ""


@atexit.register
def _stop_all() -> None:
    """At the interpreter's exit: stop what is still running, and wait for it a little."""
    left = [running for running in _all if not running.done]
    for running in left:
        running._interrupt()
    deadline = time.monotonic() + EXIT_TIMEOUT
    for running in left:
        if not running.wait(max(0.0, deadline - time.monotonic())):
            print(f"g5kvirt: {running.phase}() is still cleaning up (process {running.pid})", file=sys.stderr)


# ---- the step's own process ---------------------------------------------------------------------------


def serve(job: Mapping[str, Any]) -> None:
    """Call the function that ``job`` names, in this process, and print how it ended as JSON."""
    control, out = os.dup(0), os.dup(1)  # out of reach of the step's output and child processes
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the notebook ignores it
    over = threading.Event()
    outcome: Mapping[str, Any]
    try:
        try:
            # Before anything can interrupt: numpy, interrupted during its import, reports itself as broken.
            function = _function(job["function"])
            threading.Thread(target=_interrupt_on_request, args=(control, over), daemon=True).start()
            function(**job["arguments"])
        finally:
            over.set()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        outcome = {}
    except KeyboardInterrupt:
        outcome = {"interrupted": True}
    except G5kvirtError as error:
        outcome = {"error": type(error).__name__, "message": str(error), "attributes": vars(error)}
    except Exception:  # noqa: BLE001  raised again in the notebook
        outcome = {"bug": traceback.format_exc()}
    with os.fdopen(out, "w", encoding="utf-8") as file:
        file.write(json.dumps(outcome, default=str))


def _function(name: str) -> Callable[..., object]:
    """The function called ``module:name``."""
    module, _, attribute = name.partition(":")
    function: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    return function


def _interrupt_on_request(control: int, over: threading.Event) -> None:
    """Interrupt the main thread when the notebook requests it, or is gone."""
    os.read(control, 1)
    if not over.is_set():
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
