"""Commands, shells and sftp over connections of a guest's ssh server, and their processes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import termios

from .. import libssh
from .loop import READABLE, WRITABLE, Signal, ready, sleep
from .root import ENVIRONMENT, read_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from .authorized_keys import Grant
    from .loop import Loop, Task
    from .root import Root

    class Server(Protocol):
        """What a channel needs of the server of its guest."""

        root: Root
        ns: int
        left: set[int]

    class Connection(Protocol):
        """What a channel needs of its connection."""

        loop: Loop
        moved: Signal
        addresses: str

        @property
        def server(self) -> Server: ...

        @property
        def is_sending(self) -> bool: ...

        def pass_on(self) -> None: ...


#: Bytes that are passed on at a time.
_PIECE = 1 << 15
_BUFFER = ctypes.create_string_buffer(_PIECE)

_ENVIRONMENT = {**ENVIRONMENT, "USER": "root", "LOGNAME": "root"}
_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server", "/usr/libexec/sftp-server")
_GRANTED, _REFUSED = 0, 1
#: Exit code of what cannot be started, as a shell gives it.
_NOT_FOUND = 127
_KEY_EXCHANGE = 0.02  #: seconds until it may be over


class Channel:
    """One channel; ``handle`` is the library's."""

    def __init__(self, connection: Connection, grant: Grant, session: int) -> None:
        self._connection = connection
        self._grant = grant
        self._request: tuple[str, str] | None = None  # its kind, and the command
        self._environment = {**_ENVIRONMENT, "SSH_CONNECTION": connection.addresses}
        self._terminal: int | None = None  # our end
        self._line: int | None = None  # the process's end
        self._task: Task | None = None
        self._pid = 0
        self._waiting = 0  # bytes that have come and were not read
        self._closed = False  # by the client
        self._output_ended = Signal()
        self._library = libssh.library()
        self.handle: int = self._library.ssh_channel_new(session)
        self._callbacks = libssh.ChannelCallbacks(
            data=libssh.OnData(self._on_data),
            close=libssh.OnClose(self._on_close),
            signal=libssh.OnSignal(self._on_signal),
            terminal=libssh.OnTerminal(self._on_terminal),
            shell=libssh.OnShell(self._on_shell),
            window_size=libssh.OnSize(self._on_window_size),
            command=libssh.OnText(self._on_command),
            variable=libssh.OnVariable(self._on_variable),
            subsystem=libssh.OnText(self._on_subsystem),
        )
        self._library.ssh_set_channel_callbacks(self.handle, ctypes.byref(self._callbacks))

    def attend(self) -> bool:
        """Begin what the client has requested; True if the channel has come to its end."""
        if self._task is None and self._request is not None and not self._closed:
            self._task = self._connection.loop.spawn(self._run())
        return self._closed or (self._task is not None and self._task.done)

    def close(self) -> None:
        """End it; its process may go on."""
        if self._task is not None:
            self._connection.loop.cancel(self._task)
        self._close_terminal()
        # The library may keep it until the client closes it, too.
        self._library.ssh_remove_channel_callbacks(self.handle, ctypes.byref(self._callbacks))
        self._library.ssh_channel_free(self.handle)

    # ---- requests, from within the library ------------------------------------------------------------

    def _take(self, kind: str, text: str = "") -> int:
        if self._request is not None:
            return _REFUSED
        self._request = (kind, text)
        return _GRANTED

    def _on_shell(self, *_: Any) -> int:
        return self._take("shell")

    def _on_command(self, _session: int, _channel: int, command: bytes, _data: int) -> int:
        return self._take("command", os.fsdecode(command))

    def _on_subsystem(self, _session: int, _channel: int, name: bytes, _data: int) -> int:
        return self._take("sftp", "sftp") if name == b"sftp" else _REFUSED

    def _on_variable(self, _session: int, _channel: int, name: bytes, value: bytes, _data: int) -> int:
        if (name != b"LANG" and not name.startswith(b"LC_")) or b"=" in name:
            return _REFUSED
        self._environment[os.fsdecode(name)] = os.fsdecode(value)
        return _GRANTED

    def _on_terminal(
        self, _session: int, _channel: int, kind: bytes, columns: int, rows: int, *_: Any
    ) -> int:
        if not self._grant.terminal or self._terminal is not None or self._request is not None:
            return _REFUSED
        try:
            self._terminal, self._line = os.openpty()
            self._resize(columns, rows)
        except OSError:  # the library would take it for granted
            self._close_terminal()
            return _REFUSED
        self._environment["TERM"] = os.fsdecode(kind)
        return _GRANTED

    def _on_window_size(self, _session: int, _channel: int, columns: int, rows: int, *_: Any) -> int:
        self._resize(columns, rows)
        return _GRANTED

    def _resize(self, columns: int, rows: int) -> None:
        if self._terminal is not None:
            size = struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def _on_signal(self, _session: int, _channel: int, name: bytes, _data: int) -> None:
        number = getattr(signal, f"SIG{name.decode('ascii', 'replace')}", None)
        if self._pid and self._grant.command is None and isinstance(number, signal.Signals):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def _on_data(
        self, _session: int, _channel: int, _bytes: int, size: int, is_error: int, _data: int
    ) -> int:
        """It stays with the library, which asks the client for more only when it has been read."""
        if is_error:  # no client sends any
            return size
        self._waiting = size
        return 0

    def _on_close(self, *_: Any) -> None:
        self._closed = True

    # ---- its process ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Start the process, pass on what it reads and writes, and report its end."""
        try:
            await self._serve()
        except Exception as error:  # noqa: BLE001  of whatever kind, the client is told
            reason = f"{getattr(error, 'strerror', None) or error}"
            message = f"{reason}: {getattr(error, 'filename', None) or self._connection.server.root.name}\n"
            await self._send(self._library.ssh_channel_write_stderr, message.encode())
            self._finish(_NOT_FOUND << 8)
        finally:
            self._connection.pass_on()

    async def _serve(self) -> None:
        ends = self._start()
        loop, library = self._connection.loop, self._library
        writers = (library.ssh_channel_write, library.ssh_channel_write_stderr)
        tasks: list[Task] = []
        exited = -1
        try:
            exited = os.pidfd_open(self._pid)
            tasks.append(loop.spawn(self._feed(ends[0])))
            outputs = [loop.spawn(self._drain(end, write)) for end, write in zip(ends[1:], writers)]  # noqa: B905
            tasks += outputs
            await ready(exited, READABLE, float("inf"))
            status = os.waitpid(self._pid, 0)[1]
            self._pid = 0
            while not all(task.done for task in outputs):  # others may hold them open
                await self._output_ended.wait(float("inf"))
            self._finish(status)
        finally:
            if exited >= 0:
                os.close(exited)
            begun = [task.turn > 0 for task in tasks]
            for task in tasks:
                loop.cancel(task)
            for number, end in enumerate(ends):
                if number >= len(begun) or not begun[number]:  # else its task has closed it
                    os.close(end)
            if self._pid:
                self._connection.server.left.add(self._pid)
                self._pid = 0

    def _start(self) -> list[int]:
        """Start it; returns our ends of its input, its output and, without a terminal, of its errors.

        Raises OSError.
        """
        theirs: list[int] = []
        ends: list[int] = []
        try:
            if self._terminal is not None and self._line is not None:
                name = os.ttyname(self._line)
                # the first terminal that the leader of a session opens is the session's
                actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, name, os.O_RDWR, 0)]
                actions += [(os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2)]
                for _ in range(2):
                    ends.append(os.dup(self._terminal))
            else:
                for number in range(3):
                    pair = os.pipe()
                    theirs.append(pair[number > 0])
                    ends.append(pair[number == 0])
                actions = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(theirs)]
            for end in ends:
                os.set_blocking(end, False)
            server = self._connection.server
            with server.root.inside(server.ns):
                program, arguments = self._command()
                with contextlib.suppress(OSError):
                    os.chdir(_ENVIRONMENT["HOME"])
                self._pid = os.posix_spawn(
                    program,
                    arguments,
                    self._environment,
                    file_actions=actions,
                    setsid=True,
                    setsigdef=[signal.SIGPIPE],
                )
            return ends
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        finally:
            for end in theirs:
                os.close(end)
            if self._line is not None:
                os.close(self._line)
                self._line = None

    def _command(self) -> tuple[str, list[str]]:
        """What is to be run, within the guest: the program and its arguments. Raises OSError."""
        assert self._request is not None
        kind, text = self._request
        shell = self._environment["SHELL"] = login_shell()
        name = os.path.basename(shell)
        if self._grant.command is not None:
            self._environment["SSH_ORIGINAL_COMMAND"] = text
            return shell, [name, "-c", self._grant.command]
        if kind == "shell":
            return shell, [f"-{name}"]
        if kind == "command":
            return shell, [name, "-c", text]
        for path in _SFTP_SERVERS:
            if os.path.exists(path):
                return path, [os.path.basename(path)]
        raise FileNotFoundError(2, "the image has no sftp-server", "sftp")

    async def _feed(self, end: int) -> None:
        """What the client sends, to the process; without a reader it is dropped."""
        library, reads = self._library, True
        try:
            while True:
                if not self._waiting:
                    if library.ssh_channel_is_eof(self.handle):
                        return
                    await self._connection.moved.wait(float("inf"))
                    continue
                size = min(self._waiting, _PIECE)
                if library.ssh_channel_read_nonblocking(self.handle, _BUFFER, size, 0) != size:
                    return
                self._waiting -= size
                data = _BUFFER.raw[:size]
                self._connection.pass_on()
                while data and reads:
                    try:
                        data = data[os.write(end, data) :]
                    except BlockingIOError:
                        await ready(end, WRITABLE, float("inf"))
                    except OSError:
                        reads = False
        finally:
            os.close(end)

    async def _drain(self, end: int, write: Callable[[int, bytes, int], int]) -> None:
        """What the process writes, to the client."""
        try:
            while True:
                await ready(end, READABLE, float("inf"))
                try:
                    data = os.read(end, _PIECE)
                except BlockingIOError:
                    continue
                except OSError:  # a terminal that nobody has open any more
                    return
                if not data or not await self._send(write, data):
                    return
        finally:
            os.close(end)
            self._connection.loop.fire(self._output_ended)

    async def _send(self, write: Callable[[int, bytes, int], int], data: bytes) -> bool:
        """Send all of it, as fast as the client takes it; False if it takes no more."""
        while data:
            # More than the window would have the library take in what comes meanwhile, and nobody notice.
            room = self._library.ssh_channel_window_size(self.handle)
            if not room:
                await self._connection.moved.wait(float("inf"))
                continue
            size = write(self.handle, data, min(room, len(data)))
            self._connection.pass_on()
            if size < 0:
                return False
            data = data[size:]
            while self._connection.is_sending:  # a client that reads nothing gets no more
                await self._connection.moved.wait(float("inf"))
            if not size:  # the keys of the connection are being exchanged anew
                await sleep(_KEY_EXCHANGE)
        return True

    def _finish(self, status: int) -> None:
        """Tell the client how the process has ended."""
        library = self._library
        if os.WIFSIGNALED(status):
            name = signal_name(os.WTERMSIG(status)).encode()
            library.ssh_channel_request_send_exit_signal(self.handle, name, 0, b"", b"")
        else:
            library.ssh_channel_request_send_exit_status(self.handle, os.WEXITSTATUS(status))
        library.ssh_channel_send_eof(self.handle)
        library.ssh_channel_close(self.handle)
        self._connection.pass_on()

    def _close_terminal(self) -> None:
        for end in (self._terminal, self._line):
            if end is not None:
                os.close(end)
        self._terminal = self._line = None


def signal_name(number: int) -> str:
    """As ssh has it, without SIG; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return f"{number}@g5kvirt"


def login_shell() -> str:
    """The shell of root, by this system's passwd file."""
    for line in read_regular("/etc/passwd").split("\n"):
        fields = line.split(":")
        if fields[0] == "root" and len(fields) > 6 and fields[6]:
            return fields[6]
    return "/bin/sh"
