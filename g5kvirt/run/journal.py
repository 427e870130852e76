"""The journal of a run: the single source of truth, append-only, one event per line.

``runs/<name>/journal.jsonl`` contains everything that happened, ``run.json`` the request. Timings, states,
progress, frames, figures and the final account are all derived from it; nothing is measured twice.

Any number of processes may read a journal, even without permission to write; one at a time may write: the
one that holds its lock (flock), which the kernel releases when the process ends. A crash loses at most a torn
last line. Readers ignore it until it is complete, and the next writer removes it. A journal that is kept as a
recording may be compressed (``journal.jsonl.xz``); nobody writes to it any more.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from io import FileIO
from pathlib import Path
from typing import Any

from g5kvirt.errors import RunError
from g5kvirt.run import file_lock
from g5kvirt.run.events import Event
from g5kvirt.run.lines import decompress, parse
from g5kvirt.run.state import RunState
from g5kvirt.run.vocabulary import Kind, Status

__all__ = ["MOVED", "Journal", "Listener", "read_events"]

#: What to do when the directory of a run is not where it was.
MOVED = "if the run's directory was moved, move it back, or open the run where it is now"

log = logging.getLogger(__name__)

Listener = Callable[[Event], None]


class Journal:
    """The journal of one run, open for reading and, while this process holds its lock, for writing.

    Reading includes what other processes have written. Thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: list[Event] = []
        self._sound = 0  #: bytes of complete lines that were read or written
        self._listeners: list[Listener] = []
        self._failed: list[Listener] = []  # listeners that were warned about
        self._state, self._taken = RunState(), 0  #: the state, and the number of events in it
        self._followers: list[threading.Event] = []
        self._lock = threading.RLock()
        self._file: FileIO | None = None  #: with the lock, while we hold it
        self._holder: object = None  #: who may release it

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Read ``path``, which need not exist yet; it is created with the first event.

        Raises RunError if a line other than the last cannot be read.
        """
        journal = cls(path)
        journal.refresh()
        return journal

    # ---- writing ----------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for writing: reads what others have written, and removes a torn last line.

        Raises RunError, which names the holder, if another process or another phase of this one holds it.
        """
        holder = object()
        try:
            try:
                self._acquire(holder)
                yield
            finally:
                self._let_go(holder)
        finally:  # once more, in case the first is interrupted as it begins
            self._let_go(holder)

    def append(
        self,
        phase: str,
        step: str,
        kind: Kind,
        subject: str,
        status: Status,
        *,
        t: float | None = None,
        attempt: int = 1,
        **detail: Any,
    ) -> Event:
        """Write one event and call the listeners. ``t`` defaults to now."""
        event = Event(phase, step, kind, subject, status, time.time() if t is None else t, attempt, detail)
        self.extend([event])
        return event

    def extend(self, events: Iterable[Event]) -> None:
        """Write several events at once; acquires the lock temporarily if it is not `held` already.

        Raises RunError if another process holds the lock or the disk is full.
        """
        batch = list(events)
        if not batch:
            return
        data = "".join(event.to_json() + "\n" for event in batch).encode()
        with self._lock:
            with self.held() if self._file is None else nullcontext():
                self._write(data, batch)
            listeners = tuple(self._listeners)
        self._tell(listeners, batch)

    def _write(self, data: bytes, batch: list[Event]) -> None:
        """Write all or nothing: an interrupt may come between the file and our own records."""
        assert self._file is not None
        view, known, sound = memoryview(data), len(self._events), self._sound
        try:
            while view:
                view = view[os.write(self._file.fileno(), view) :]
            self._events.extend(batch)
            self._sound += len(data)
        except BaseException as error:
            del self._events[known:]
            self._sound = sound
            self._file.truncate(sound)
            if isinstance(error, OSError):
                raise RunError(
                    f"{self.path} cannot be written ({error.strerror}): make room there"
                ) from error
            raise

    def _acquire(self, holder: object) -> None:
        """Whoever calls it lets go as the same ``holder``, whatever is raised here."""
        with self._lock:
            if self._file is not None:
                raise RunError(
                    f"run {self._run!r} is in use by another step of this process: wait for it, or stop it"
                )
            try:
                if self._compressed:
                    raise RunError(f"{self.path} is a compressed recording: this run can only be read")
                if self._sound:
                    self.path.stat()  # a new one in its place would know nothing of the run
                else:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                self._holder = holder
                self._file = FileIO(self.path, "a")
            except FileNotFoundError as error:
                raise RunError(f"{self.path} is not there any more", advice=MOVED) from error
            except OSError as error:
                raise RunError(
                    f"{self.path} cannot be written ({error.strerror}): this run can only be read here"
                ) from error
            self._flock(self._file)
            new = self._catch_up()
            if self._sound < os.fstat(self._file.fileno()).st_size:
                self._file.truncate(self._sound)
            listeners = tuple(self._listeners)
        self._tell(listeners, new)

    def _tell(self, listeners: Iterable[Listener], events: Iterable[Event]) -> None:
        """Call the listeners; none of their errors comes out of here, since it would end a step."""
        for listener in listeners:
            for event in events:
                try:
                    listener(event)
                except Exception as error:
                    log.debug("a listener failed", exc_info=True)
                    if listener not in self._failed:
                        self._failed.append(listener)
                        log.warning("the progress cannot be displayed (%s); the run continues", error)

    def _flock(self, file: FileIO) -> None:
        try:
            file_lock.lock(file.fileno())
        except BlockingIOError:
            self._catch_up()
            raise RunError(
                f"run {self._run!r} is in use by {_writer(self._events)}: wait, or interrupt it there"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            log.warning("%s: its file system has no locks; use this run in one process only", self.path)

    def _let_go(self, holder: object) -> None:
        with self._lock:
            if self._file is not None and self._holder is holder:
                self._file.close()
                self._file = None

    @property
    def _compressed(self) -> bool:
        return self.path.suffix == ".xz"

    @property
    def _run(self) -> str:
        return self.path.parent.name

    # ---- reading ----------------------------------------------------------------------------------

    def refresh(self) -> int:
        """Read what other processes have written; returns the number of new events. Calls the listeners.

        Raises RunError if a line other than the last cannot be read.
        """
        with self._lock:
            if self._file is not None:
                return 0  # no other process writes
            new = self._catch_up()
            listeners = tuple(self._listeners)
        self._tell(listeners, new)
        return len(new)

    def _catch_up(self) -> list[Event]:
        try:
            try:
                new, sound = self._read_on()
            except RunError:  # perhaps a torn line was removed while it was read: read again
                time.sleep(0.05)
                new, sound = self._read_on()
        except FileNotFoundError:  # before the first event; or the run was removed, and our events stay
            return []
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}") from error
        known, before = len(self._events), self._sound
        try:
            self._events.extend(new)
            self._sound += sound
        except BaseException:  # an interrupt in between: otherwise they would be read twice
            del self._events[known:]
            self._sound = before
            raise
        return new

    def _read_on(self) -> tuple[list[Event], int]:
        if self._compressed:
            return ([], 0) if self._sound else parse(decompress(self.path), self.path, 0)
        size = self.path.stat().st_size
        if size < self._sound:
            raise RunError(f"{self.path} has become shorter: open the run again")
        if size == self._sound:
            return [], 0
        with self.path.open("rb") as file:
            file.seek(self._sound)
            return parse(file.read(size - self._sound), self.path, len(self._events))

    def follow(self, interval: float = 0.25) -> Callable[[], None]:
        """Read every ``interval`` seconds what other processes write, in a thread that calls the listeners.

        Returns a function that ends the thread, after a last read.
        """
        over = threading.Event()

        def look() -> None:
            try:
                while not over.wait(interval):
                    self.refresh()
            except RunError as error:
                log.warning("%s", error)  # the next reader gets the exception

        thread = threading.Thread(target=look, name=f"following {self._run}", daemon=True)
        thread.start()
        with self._lock:
            self._followers.append(over)

        def end() -> None:
            over.set()
            if threading.current_thread() is not thread:
                thread.join()
                self.refresh()

        return end

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every event from now on; returns a function that unsubscribes it.

        It is called in the thread that wrote the event, or that read it (`refresh`, `follow`) if another
        process wrote it.
        """
        with self._lock:
            self._listeners.append(listener)

        def unsubscribe() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return unsubscribe

    @property
    def state(self) -> RunState:
        """The state after all events. It belongs to the journal and is updated in place: keep no references
        to parts that later events may change."""
        self.refresh()
        with self._lock:
            for event in self._events[self._taken :]:
                self._state.take(event)
                self._taken += 1
            return self._state

    def __iter__(self) -> Iterator[Event]:
        self.refresh()
        with self._lock:
            return iter(tuple(self._events))

    def since(self, position: int) -> list[Event]:
        """The events from ``position`` on, for a reader that polls and counts."""
        self.refresh()
        with self._lock:
            return self._events[position:]

    def __len__(self) -> int:
        self.refresh()
        return len(self._events)

    def __repr__(self) -> str:
        # Those read so far: to show the object in a debugger must neither read nor call listeners.
        number = len(self._events)
        return f"<Journal {self.path}: {number:,} event{'s' * (number != 1)} read>"

    def close(self) -> None:
        """End all subscriptions and `follow` threads; the events stay readable."""
        with self._lock:
            self._listeners.clear()
            for over in self._followers:
                over.set()
            self._followers.clear()


def read_events(path: Path) -> list[Event]:
    """All events of a journal that may still be written to; a torn last line is left out.

    Raises RunError if the file is missing or a line other than the last cannot be read.
    """
    if not path.exists():
        raise RunError(f"there is no journal at {path}: is this the directory of a run?")
    return list(Journal.open(path))


def _writer(events: Iterable[Event]) -> str:
    """The process that holds the lock, according to the last phase that was started."""
    process: Mapping[str, Any] = {}
    for event in events:
        if event.status == "start" and "process" in event.detail:
            process = event.detail["process"]
    if not process:
        return "another process"
    pid, host = process.get("pid"), process.get("host")
    if host != os.uname().nodename:
        return f"process {pid} on {host}"
    return "another step of this process" if pid == os.getpid() else f"process {pid}"
