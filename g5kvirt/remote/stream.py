"""A command that runs on one host for as long as we want, line by line."""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from g5kvirt.remote.access import Access
from g5kvirt.remote.envelope import Capture, new_token
from g5kvirt.remote.processes import end, spawn
from g5kvirt.remote.result import Result
from g5kvirt.remote.window import judge

__all__ = ["Stream"]

#: Said on the host before the command. The envelope of `Fanout.run` bounds a command's time; here its
#: standard input is what ties it to us: it stays open while we listen, and ends with us, however we end.
_SCRIPT = """printf '%s\\n' {token} >&2
{command}
code=$?
printf '\\n%s %s\\n' {token} $code >&2
exit $code
"""

#: Seconds that the command may take to end by itself once its standard input has.
FAREWELL = 1.0


class Stream:
    """``argv`` on ``host``, its lines with the time of their arrival (seconds since the epoch).

    Without ``on_line`` it is an iterator of (line, t) that ends when the connection does; with it, each line
    is handed to ``on_line(line, t)`` in a thread of the stream's own and nothing is kept. `result` says how
    it ended. Connecting again is the caller's decision. The command should exit when its standard input ends:
    that is how it learns that we are gone. A context manager; `close` takes at most about 2 s.
    """

    def __init__(
        self,
        access: Access,
        host: str,
        argv: Sequence[str],
        *,
        on_line: Callable[[str, float], None] | None = None,
    ) -> None:
        self.host = host
        self.error: BaseException | None = None  #: what ``on_line`` raised; it ends the stream
        self._lines: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()
        self._on_line = on_line
        token = new_token()
        self._capture = Capture(host, token, self._line, keep=False)
        self._begun = time.time()
        self._login_timeout = access.login_timeout
        self._result: Result | None = None
        self._closing = threading.Event()
        text = _SCRIPT.format(token=token, command=shlex.join(argv))
        self._process = spawn(access.argv(host, text), env=access.environment(), stdin=subprocess.PIPE)
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC)
        self._wake_read, self._wake_write = os.fdopen(wake_read, "rb", 0), os.fdopen(wake_write, "wb", 0)
        self._thread = threading.Thread(target=self._pump, name=f"stream {host}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[str, float]]:
        while (item := self._lines.get()) is not None:
            yield item
        self._lines.put(None)  # for whoever else iterates

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether lines may still come."""
        return self._thread.is_alive()

    @property
    def result(self) -> Result | None:
        """How it ended; None while it runs. Standard output is not kept in it."""
        return self._result

    def close(self) -> Result:
        """End the command and the connection, and say how it ended. May be called again, from any thread."""
        if not self._closing.is_set():
            self._closing.set()
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._wake_write.write(b".")
        if threading.current_thread() is not self._thread:
            self._thread.join()
            assert self._result is not None
            return self._result
        raise RuntimeError("a stream cannot be closed by its own callback: raise an exception there instead")

    def _line(self, _host: str, line: str, t: float) -> None:
        if self._on_line is None:
            self._lines.put((line, t))
        else:
            self._on_line(line, t)

    def _pump(self) -> None:
        """The thread: read until the connection ends or we are closed, then end and reap ssh."""
        words = ""
        try:
            words = self._listen()
            self._capture.close(time.time())
        except Exception as error:  # noqa: BLE001  whatever the caller's callback raises is kept for them
            self.error = error
            words = f"the callback raised {error!r}"
        finally:
            end([self._process])
            now = time.time()
            self._result, _ = judge(self._capture, float("inf"), self._begun, now, gave_up=words)
            self._wake_read.close()
            self._lines.put(None)

    def _listen(self) -> str:
        """Read; the reason why we stopped, empty if the connection ended by itself."""
        process, capture = self._process, self._capture
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feeds = {process.stdout: capture.feed_stdout, process.stderr: capture.feed_stderr}
        with selectors.DefaultSelector() as selector:
            for pipe in (*feeds, self._wake_read):
                selector.register(pipe, selectors.EVENT_READ)
            deadline, words = self._begun + self._login_timeout, "unreachable: no login in time"
            while True:
                now = time.time()
                if capture.started is not None and not self._closing.is_set():
                    deadline, words = float("inf"), ""
                if capture.ended is not None:
                    deadline, words = min(deadline, max(capture.ended, capture.last) + FAREWELL), ""
                if now >= deadline:
                    return words
                for key, _ in selector.select(min(deadline - now, 5.0)):
                    if key.fileobj is self._wake_read:
                        selector.unregister(self._wake_read)
                        process.stdin.close()
                        deadline, words = time.time() + FAREWELL, "closed by us"
                        continue
                    data = os.read(key.fd, 1 << 16)
                    if data:
                        feeds[key.fileobj](data, time.time())  # type: ignore[index]
                    else:
                        selector.unregister(key.fileobj)
                if not any(pipe in selector.get_map() for pipe in feeds):
                    return words if self._closing.is_set() else ""
