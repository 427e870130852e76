"""An ssh server for guests whose image has none: connections and their login; `ssh_channel` runs commands.

It is libssh's, within the process of all guests of a host: a server that is started for each connection
takes four times as much processor time. Root is let in with the keys of the guest's authorized_keys; there
are commands, shells with a terminal and sftp (of the image), but no forwarding.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import time

from .. import libssh
from .authorized_keys import grant
from .loop import READABLE, WRITABLE, Signal, ready
from .root import read_regular
from .ssh_channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .authorized_keys import Grant
    from .loop import Loop, Task
    from .root import Root

#: Seconds for a client to log in.
LOGIN_LIMIT = 60.0
#: Connections of a guest at once, and commands of a connection.
MOST_CONNECTIONS, MOST_CHANNELS = 64, 64
#: Seconds without an answer after which a connection is given up: the client's machine is gone.
_SILENCE = 60

_AUTHORIZED_KEYS = "/root/.ssh/authorized_keys"


class SshServer:
    """The server of one guest, with a host key of its own."""

    def __init__(self, root: Root, ns: int, loop: Loop, left: set[int]) -> None:
        """``left`` gets the processes whose connection has gone. Raises OSError without the library."""
        self.root = root
        self.ns = ns
        self.loop = loop
        self.left = left
        self._connections: dict[Connection, Task] = {}
        library = libssh.library()
        self._bind = library.ssh_bind_new()
        libssh.set_option(library.ssh_bind_options_set, self._bind, libssh.BIND_PROCESS_CONFIG, False)
        key = libssh.new_host_key()
        if library.ssh_bind_options_set(self._bind, libssh.BIND_IMPORT_KEY, key):  # which owns it from now on
            raise OSError("libssh does not take the host key")

    def accept(self, connection: socket.socket) -> None:
        """Serve a connection, unless there are too many."""
        for one, task in list(self._connections.items()):
            if task.done:
                del self._connections[one]
        if len(self._connections) >= MOST_CONNECTIONS:
            connection.close()
            return
        served = Connection(self, connection, self._bind)
        self._connections[served] = served.task = self.loop.spawn(served.serve())

    def disconnect(self) -> None:
        """End all connections; processes go on, see `left`."""
        for connection, task in self._connections.items():
            self.loop.cancel(task)
            connection.close()  # one that had not begun
        self._connections.clear()

    def close(self) -> None:
        """Give back what the library holds."""
        self.disconnect()
        libssh.library().ssh_bind_free(self._bind)

    def authorized_keys(self) -> str:
        """The text of the guest's file; empty if it has none."""
        with self.root.inside(self.ns):
            return read_regular(_AUTHORIZED_KEYS)


class Connection:
    """One connection. `serve` is to be run once."""

    def __init__(self, server: SshServer, connection: socket.socket, bind: int) -> None:
        """Raises OSError; ``connection`` is closed then."""
        self.server = server
        self.loop = server.loop
        self.grant: Grant | None = None  #: of the key that has logged in
        self.moved = Signal()  #: something has come, or can be sent
        self.task: Task | None = None
        self._channels: list[Channel] = []
        self._socket = connection
        #: Both ends, as in a command's environment.
        self.addresses = "{} {} {} {}".format(*connection.getpeername(), *connection.getsockname())
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        libssh.watch_for_silence(connection, _SILENCE)
        self._library = libssh.library()
        self._callbacks = libssh.ServerCallbacks(
            public_key=libssh.OnKey(self._on_key),
            channel=libssh.OnChannel(self._on_channel),
            # Otherwise the library would ask Kerberos, whoever the client is.
            gssapi_oid=libssh.OnMechanism(lambda *_: None),
        )
        copy = os.dup(connection.fileno())
        self._session = self._library.ssh_new()
        self._event = self._library.ssh_event_new()
        # The library closes what it gets whenever it likes, and this one is waited for.
        if self._library.ssh_bind_accept_fd(bind, self._session, copy):
            self._free()
            raise OSError(f"libssh does not take the connection: {libssh.error(bind)}")
        self._library.ssh_set_blocking(self._session, 0)
        self._library.ssh_set_auth_methods(self._session, libssh.AUTH_PUBLIC_KEY)
        self._library.ssh_set_server_callbacks(self._session, ctypes.byref(self._callbacks))

    async def serve(self) -> None:
        """Until it ends."""
        deadline = time.monotonic() + LOGIN_LIMIT
        try:
            self._library.ssh_handle_key_exchange(self._session)
            self._library.ssh_event_add_session(self._event, self._session)
            while not self._status() & libssh.ENDED:
                events = READABLE | (WRITABLE if self._status() & libssh.WRITE_PENDING else 0)
                await ready(self._socket.fileno(), events, deadline)
                if self._library.ssh_event_dopoll(self._event, 0) == libssh.ERROR:
                    return
                if self.grant is not None:
                    deadline = float("inf")
                self._attend()
                self.loop.fire(self.moved)
        except TimeoutError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """End it, once; what its commands have started may go on."""
        if self._session:
            for channel in self._channels:
                channel.close()
            self._channels.clear()
            self._free()

    def _attend(self) -> None:
        """Begin what is requested, and end what has ended, until nothing is left to do."""
        while True:
            ended = [channel for channel in self._channels if channel.attend()]
            if not ended:
                return
            for channel in ended:
                self._channels.remove(channel)
                channel.close()  # meanwhile the library may take in more requests

    @property
    def is_sending(self) -> bool:
        """Whether the library still holds something for the client."""
        return bool(self._status() & libssh.WRITE_PENDING)

    def pass_on(self) -> None:
        """After each call that sends something: it may wait, and the library may have taken something in."""
        if self.task is not None:
            self.loop.wake(self.task)

    def _status(self) -> int:
        return int(self._library.ssh_get_status(self._session))

    def _free(self) -> None:
        library = self._library
        library.ssh_event_remove_session(self._event, self._session)
        library.ssh_event_free(self._event)
        library.ssh_disconnect(self._session)
        library.ssh_free(self._session)
        self._session = 0
        self._socket.close()

    def _on_key(self, _session: int, user: bytes, key: int, signature: int, _data: int) -> int:
        try:
            found = grant(self.server.authorized_keys(), libssh.public_key_text(key))
            if user != b"root" or found is None:
                return libssh.DENIED
            if signature == libssh.SIGNATURE_VALID:
                self.grant = found
            elif signature != libssh.SIGNATURE_NONE:  # no offer of a key, but a login by it
                return libssh.DENIED
        except BaseException:  # noqa: BLE001  the library would take it for success
            sys.excepthook(*sys.exc_info())
            return libssh.DENIED
        return libssh.SUCCESS

    def _on_channel(self, session: int, _data: int) -> int | None:
        if self.grant is None or len(self._channels) >= MOST_CHANNELS:
            return None
        channel = Channel(self, self.grant, session)
        self._channels.append(channel)
        return channel.handle
