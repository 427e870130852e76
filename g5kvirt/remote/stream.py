"""A long-running command on one host whose output arrives line by line."""

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
from g5kvirt.remote.processes import spawn, terminate
from g5kvirt.remote.result import Result
from g5kvirt.remote.window import make_result

__all__ = ["Stream"]

#: The script around the command. That of `Fanout.run` limits the command's run time; here the standard input
#: ties it to us: it stays open while we read, and closes when this process ends, for whatever reason.
_SCRIPT = """printf '%s\\n' {token} >&2
{command}
code=$?
printf '\\n%s %s\\n' {token} $code >&2
exit $code
"""

#: Seconds that the command may take to exit after its standard input was closed.
EXIT_SECONDS = 1.0


class Stream:
    """The output lines of ``argv`` on ``host``, with their time of arrival (seconds since the epoch).

    Without ``on_line`` it is an iterator of (line, t) that ends with the connection; with it, each line is
    passed to ``on_line(line, t)`` in a thread of the stream, and none is stored. `result` is the outcome.
    Reconnecting is up to the caller. The command should exit when its standard input is closed, which is how
    it learns that we are gone. A context manager; `close` takes at most about 2 s.
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
        self.error: BaseException | None = None  #: the exception that ``on_line`` raised; it ends the stream
        self._lines: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()
        self._on_line = on_line
        token = new_token()
        self._capture = Capture(host, token, self._line, keep=False)
        self._start_time = time.time()
        self._login_timeout = access.login_timeout
        self._result: Result | None = None
        self._closing = threading.Event()
        text = _SCRIPT.format(token=token, command=shlex.join(argv))
        self._process = spawn(access.argv(host, text), env=access.environment(), stdin=subprocess.PIPE)
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC)
        self._wake_read, self._wake_write = os.fdopen(wake_read, "rb", 0), os.fdopen(wake_write, "wb", 0)
        self._thread = threading.Thread(target=self._run, name=f"stream {host}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[str, float]]:
        while (item := self._lines.get()) is not None:
            yield item
        self._lines.put(None)  # for other iterators

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether more lines may arrive."""
        return self._thread.is_alive()

    @property
    def result(self) -> Result | None:
        """The outcome, without standard output; None while the command runs."""
        return self._result

    def close(self) -> Result:
        """End the command and the connection; returns the outcome. Idempotent, callable from any thread."""
        if not self._closing.is_set():
            self._closing.set()
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                self._wake_write.write(b".")
        if threading.current_thread() is not self._thread:
            self._thread.join()
            assert self._result is not None
            return self._result
        raise RuntimeError("a stream cannot be closed from its own callback: raise an exception instead")

    def _line(self, _host: str, line: str, t: float) -> None:
        if self._on_line is None:
            self._lines.put((line, t))
        else:
            self._on_line(line, t)

    def _run(self) -> None:
        """Body of the thread: read until the connection ends or `close` is called, then end and reap ssh."""
        reason = ""
        try:
            reason = self._read_output()
            self._capture.close(time.time())
        except Exception as error:  # noqa: BLE001  any exception of the callback is kept for the caller
            self.error = error
            reason = f"the callback raised {error!r}"
        finally:
            terminate([self._process])
            now = time.time()
            self._result, _ = make_result(
                self._capture, float("inf"), self._start_time, now, stop_reason=reason
            )
            self._wake_read.close()
            self._lines.put(None)

    def _read_output(self) -> str:
        """Read all output; returns why we stopped, empty if the connection ended by itself."""
        process, capture = self._process, self._capture
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feeds = {process.stdout: capture.feed_stdout, process.stderr: capture.feed_stderr}
        with selectors.DefaultSelector() as selector:
            for pipe in (*feeds, self._wake_read):
                selector.register(pipe, selectors.EVENT_READ)
            deadline, reason = self._start_time + self._login_timeout, "unreachable: login timed out"
            while True:
                now = time.time()
                if capture.started is not None and not self._closing.is_set():
                    deadline, reason = float("inf"), ""
                if capture.ended is not None:
                    deadline, reason = min(deadline, max(capture.ended, capture.last) + EXIT_SECONDS), ""
                if now >= deadline:
                    return reason
                for key, _ in selector.select(min(deadline - now, 5.0)):
                    if key.fileobj is self._wake_read:
                        selector.unregister(self._wake_read)
                        process.stdin.close()
                        deadline, reason = time.time() + EXIT_SECONDS, "closed by us"
                        continue
                    data = os.read(key.fd, 1 << 16)
                    if data:
                        feeds[key.fileobj](data, time.time())  # type: ignore[index]
                    else:
                        selector.unregister(key.fileobj)
                if not any(pipe in selector.get_map() for pipe in feeds):
                    return reason if self._closing.is_set() else ""
