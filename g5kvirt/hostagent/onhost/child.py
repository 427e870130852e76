"""The process of a service: a program, or a part of the agent, for which no other Python is started."""

from __future__ import annotations

import fcntl
import os
import signal
import sys

from .processes import become

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: To which the supervisor gives a meaning, and a new child its usual one again; programs get SIGPIPE, too.
HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1


class Child:
    """A child process in a session of its own that gets SIGTERM when its parent dies.

    ``command`` is a program with its arguments, or the name that ps shows for ``work``, which a fork does.
    `output` is the reading end of a pipe for all that it prints.
    """

    def __init__(self, command: Sequence[str], work: Callable[[], int] | None = None) -> None:
        self.returncode: int | None = None
        self.output, output = os.pipe()
        lifeline, self._lifeline = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _start(command, work, output, lifeline)
        os.close(output)
        os.close(lifeline)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Close its pipes, when it has ended."""
        os.close(self.output)
        os.close(self._lifeline)


def _start(command: Sequence[str], work: Callable[[], int] | None, output: int, lifeline: int) -> None:
    """In the child: never returns."""
    code = 127
    try:
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        descriptors = [os.open(os.devnull, os.O_RDONLY), output, output]
        if work is None:
            become(descriptors, "g5kvirt-start")
            _die_with_parent()
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execvp(command[0], list(command))  # noqa: S606  there is no shell
        become([*descriptors, lifeline], command[0])
        _die_at_end_of(len(descriptors))
        code = work()
    except BaseException as error:  # noqa: BLE001  nothing may continue as if it were the supervisor
        print(f"{command[0]} cannot be started: {error!r}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_with_parent() -> None:
    """For a program. Python has no call for it, and what it takes is slow to import."""
    from .libc import prctl

    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _die_at_end_of(pipe: int) -> None:
    """SIGTERM for this process when the other end of ``pipe``, which only the parent has, is closed."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
