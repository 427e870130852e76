"""Steps in the background: each in a process of its own, with the notebook free meanwhile.

The process opens the run, does the step and ends. What happens goes into the run's journal, as always, and
the notebook reads it there. To stop a step is to interrupt the main thread of that process, as Ctrl-C
would: whatever it waits for, it cleans up and ends. It also stops when the notebook is gone, however that
ended. A thread could not be stopped in the middle of a call, and execo wants the main thread of its process.
"""

from __future__ import annotations

import atexit
import contextlib
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
PATIENCE = 120.0

#: Seconds that the interpreter waits at its exit for a step that it stopped; the step then ends by itself.
FAREWELL = 30.0

# The search path first: g5kvirt may lie where only this process knows.
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
    """A step that runs in the background, and in the end what came of it.

    An interrupt (Ctrl-C, "interrupt the kernel") ends the waiting in `wait` and `result`, not the step.
    ``ended`` is called when the step is over, before anybody is told; it must not raise.
    """

    def __init__(
        self,
        phase: str,
        arguments: Mapping[str, Any],
        journal: Journal,
        result: Callable[[], T],
        *,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.phase = phase
        self.began = time.time()
        self.ended: float | None = None  #: when it ended, seconds since the epoch
        self._journal = journal
        self._result = result
        self._ended = ended
        self._said = ""
        self._stopped = False
        self._over = threading.Event()
        job = {
            "run": str(journal.path.parent.absolute()),
            "phase": phase,
            "arguments": arguments,
            "modules": sys.path,
        }
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  what it writes, for when it dies
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps(job, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            start_new_session=True,  # an interrupt of the notebook is not for it
        )
        self._thread = threading.Thread(target=self._attend, name=f"{phase} in the background", daemon=True)
        self._thread.start()
        _all.add(self)

    @property
    def pid(self) -> int:
        """The process that does it."""
        return self._process.pid

    @property
    def done(self) -> bool:
        """True when it has ended, well or not."""
        return self._over.is_set()

    @property
    def seconds(self) -> float:
        """How long it took, or takes until now."""
        return (self.ended or time.time()) - self.began

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most ``timeout`` seconds; True if it has."""
        return self._over.wait(timeout)

    def result(self, timeout: float | None = None) -> T:
        """What the step gives back when it is waited for; waits at most ``timeout`` seconds.

        Raises what the step raised, PhaseError if it was stopped, TimeoutError if it has not ended in time.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"{self.phase}() has not ended within {timeout:g} s: it goes on")
        error = self._error()
        if error is not None:
            raise error
        return self._result()

    def stop(self, timeout: float = PATIENCE) -> None:
        """Interrupt it, as Ctrl-C would, and wait until it has cleaned up: ``timeout`` seconds, then kill it.

        What is done stays done; the step can be called again. Harmless when it has ended.
        """
        self._interrupt()
        if not self.wait(timeout):
            self._process.kill()
            self.wait(10)

    def __repr__(self) -> str:
        return f"<{self.phase}() in the background: {self._state()}>"

    def _repr_html_(self) -> str:
        hint = "" if self.done else ' <span style="opacity:.65"><code>.stop()</code> interrupts it</span>'
        return f"<div><b>{escape(self.phase)}</b> in the background: {escape(self._state())}{hint}</div>"

    def _state(self) -> str:
        if not self.done:
            return (
                f"{'stopping' if self._stopped else 'running'} for {self.seconds:.0f} s (process {self.pid})"
            )
        error = self._error()
        return f"{'done' if error is None else 'failed'} after {self.seconds:.0f} s" + (
            f": {error}" if error else ""
        )

    def _attend(self) -> None:
        """The thread: until the process has ended, whoever listens to the journal hears of what it writes."""
        unfollow = self._journal.follow()
        assert self._process.stdout is not None
        with self._process.stdout as out:
            self._said = out.read().decode(errors="replace")
        self._process.wait()
        try:
            unfollow()
        except RunError as error:
            log.warning("%s", error)  # whoever reads the journal next has it raised
        except Exception:
            log.exception("a listener to the journal failed")
        finally:
            self.ended = time.time()
            self._ended()
            self._over.set()

    def _interrupt(self) -> None:
        self._stopped = self._stopped or not self.done
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended; it was told before
            self._process.stdin.write(b".")
            self._process.stdin.close()

    def _error(self) -> Exception | None:
        try:
            said = json.loads(self._said)
        except ValueError:
            if self._stopped:
                return PhaseError(
                    f"{self.phase}() was stopped and did not clean up in time", phase=self.phase
                )
            return PhaseError(
                f"{self.phase}() in the background ended without a word (exit code"
                f" {self._process.returncode}{self._last_words()}): call it again to go on",
                phase=self.phase,
            )
        if "interrupted" in said:
            return PhaseError(f"{self.phase}() was stopped: call it again to go on", phase=self.phase)
        if "bug" in said:
            return RuntimeError(f"{self.phase}() in the background failed:\n{said['bug']}")
        if "error" in said:
            kind: type[G5kvirtError] = getattr(errors, said["error"])
            error = kind.__new__(kind, said["message"])
            error.__dict__.update(said["more"])
            return error
        return None

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f", {last[:200]}" if last else ""


@atexit.register
def _stop_all() -> None:
    """At the interpreter's exit: stop what still runs, and wait for it a little."""
    left = [running for running in _all if not running.done]
    for running in left:
        running._interrupt()
    deadline = time.monotonic() + FAREWELL
    for running in left:
        if not running.wait(max(0.0, deadline - time.monotonic())):
            print(f"g5kvirt: {running.phase}() still cleans up (process {running.pid})", file=sys.stderr)


# ---- the step's own process ---------------------------------------------------------------------------


def serve(job: Mapping[str, Any]) -> None:
    """Do the step that ``job`` names, in this process, and say on standard output what came of it."""
    tether, out = os.dup(0), os.dup(1)  # out of reach of whatever the step starts or prints
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the notebook's is ignored
    over = threading.Event()
    said: Mapping[str, Any]
    try:
        try:
            from g5kvirt.experiment import Experiment  # numpy's import would call an interrupt a broken numpy

            threading.Thread(target=_heed, args=(tether, over), daemon=True).start()
            getattr(Experiment.open(job["run"]), job["phase"])(**job["arguments"])
        finally:
            over.set()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        said = {}
    except KeyboardInterrupt:
        said = {"interrupted": True}
    except G5kvirtError as error:
        said = {"error": type(error).__name__, "message": str(error), "more": vars(error)}
    except Exception:  # noqa: BLE001  raised again in the notebook
        said = {"bug": traceback.format_exc()}
    with os.fdopen(out, "w", encoding="utf-8") as file:
        file.write(json.dumps(said, default=str))


def _heed(tether: int, over: threading.Event) -> None:
    """Interrupt the main thread when we are told to stop, or when the notebook is gone."""
    os.read(tether, 1)
    if not over.is_set():
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
