"""One login to a guest and the command that is run there, by libssh."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import time

from . import libssh

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class Limits(NamedTuple):
        """Of one login: seconds until the guest takes a connection, for each step of the login, and in all;
        bytes of its output, and of its errors."""

        connect: float
        log_in: float
        seconds: float
        output: int

else:
    from collections import namedtuple

    Limits = namedtuple("Limits", "connect log_in seconds output")

#: As ssh(1) ends where the login failed, and where a signal has ended the command.
FAILED = 255

#: Those that cost both ends least come first.
_KEY_EXCHANGES = (
    b"ecdh-sha2-nistp256,curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp384,"
    b"ecdh-sha2-nistp521,diffie-hellman-group16-sha512,diffie-hellman-group14-sha256"
)
_HOST_KEYS = (
    b"ecdsa-sha2-nistp256,ssh-ed25519,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512"
)
_PIECE = 1 << 15
_LOOK = 0.25  #: seconds between two looks at the clock, while nothing comes
#: Seconds without an answer of the guest's kernel after which it is lost.
_SILENCE = 30


class LoginError(OSError):
    """The guest has not let us in, or has been lost."""


class Login:
    """Runs ``command`` on the guest with this address and port. `run` is for a thread; the rest for any.

    ``key``: a private key of the library, or None for those of the ssh agent. ``source``: a descriptor that
    the command reads from; ``target``: one that gets its output. Both are closed at the end.
    """

    def __init__(
        self,
        address: tuple[str, int],
        command: str,
        key: int | None,
        source: int,
        target: int | None,
        limits: Limits,
    ) -> None:
        self.code = FAILED
        self.stopped = ""  #: why it was ended
        self.output, self.errors = bytearray(), bytearray()
        self.begun: float | None = None  #: seconds until the first output
        self.seconds = 0.0  #: that it has taken
        self.begin = time.monotonic()
        self._address, self._port = address
        self._command, self._key = command, key
        self._source: int | None = source
        self._target = target
        self._limits = limits
        self._failure: OSError | None = None  # of the file of its output
        self._session = 0
        self._library = libssh.library()

    def run(self) -> None:
        """Log in, run the command, and see to its end."""
        try:
            self._connect()
            self._log_in()
            self._converse()
        except OSError as error:
            self.code = FAILED
            self.errors += f"{error.strerror or error}\n".encode()
        finally:
            self.seconds = time.monotonic() - self.begin
            if self._session:
                # ssh_disconnect would forget the socket, and leave it open.
                self._library.ssh_free(self._session)
            self._close()

    def _close(self) -> None:
        for descriptor in (self._source, self._target):
            if descriptor is not None:
                os.close(descriptor)
        self._source = self._target = None

    def fail(self, reason: str) -> None:
        """It does not run."""
        self.errors += f"{reason}\n".encode()
        self._close()

    def stop(self, reason: str) -> None:
        """End it soon."""
        self.stopped = self.stopped or reason

    def _connect(self) -> None:
        place = f"connect to {self._address} port {self._port}"
        try:
            link = socket.create_connection((self._address, self._port), self._limits.connect)
        except OSError as error:
            raise LoginError(f"{place}: {error.strerror or os.strerror(errno.ETIMEDOUT)}") from None
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        libssh.watch_for_silence(link, _SILENCE)
        self._session = self._library.ssh_new()
        set_option = self._library.ssh_options_set
        for option, value in (
            (libssh.PROCESS_CONFIG, False),
            (libssh.HOST, self._address.encode()),
            (libssh.USER, b"root"),
            (libssh.KEY_EXCHANGE, _KEY_EXCHANGES),
            (libssh.HOST_KEYS, _HOST_KEYS),
            (libssh.TIMEOUT, int(self._limits.log_in)),
            (libssh.FD, link.detach()),
        ):
            libssh.set_option(set_option, self._session, option, value)

    def _log_in(self) -> None:
        self._check(self._library.ssh_connect(self._session))
        # The guest says before its answer by which algorithms it verifies; until then the library would sign
        # by an RSA key with SHA-1, which nobody takes any more.
        self._check(self._library.ssh_service_request(self._session, b"ssh-userauth"))
        if self._key is None:
            answer = self._library.ssh_userauth_agent(self._session, None)
        else:
            answer = self._library.ssh_userauth_publickey(self._session, None, self._key)
        if answer == libssh.DENIED:
            raise LoginError(f"{self._address}: Permission denied (publickey)")
        self._check(libssh.AGAIN if answer == libssh.AUTH_AGAIN else answer)

    def _converse(self) -> None:
        library = self._library
        channel = library.ssh_channel_new(self._session)
        event = library.ssh_event_new()
        callbacks = libssh.ChannelCallbacks(
            data=libssh.OnData(self._on_data),
            exit_status=libssh.OnExitStatus(self._on_exit_status),
        )
        try:
            library.ssh_set_channel_callbacks(channel, ctypes.byref(callbacks))
            self._check(library.ssh_channel_open_session(channel))
            if library.ssh_channel_request_exec(channel, os.fsencode(self._command)):
                raise self._lost()  # it may have begun
            self._check(library.ssh_event_add_session(event, self._session))
            while not library.ssh_channel_is_closed(channel):
                patience = 0 if self._feed(channel) else int(1000 * _LOOK)
                if library.ssh_event_dopoll(event, patience) == libssh.ERROR:
                    raise self._lost()
                if self._must_stop():
                    return
            if self.code == FAILED and library.ssh_get_status(self._session) & libssh.ENDED:
                raise self._lost()
        finally:
            library.ssh_event_remove_session(event, self._session)
            library.ssh_event_free(event)
            library.ssh_remove_channel_callbacks(channel, ctypes.byref(callbacks))
            library.ssh_channel_free(channel)

    def _feed(self, channel: int) -> bool:
        """Send the next piece of its input; False if there is none, or the guest takes none now."""
        room = 0 if self._source is None else self._library.ssh_channel_window_size(channel)
        if self._source is None or not room:
            return False
        data = os.read(self._source, min(room, _PIECE))
        if not data:
            self._library.ssh_channel_send_eof(channel)
            os.close(self._source)
            self._source = None
        elif self._library.ssh_channel_write(channel, data, len(data)) != len(data):
            raise self._lost()
        return bool(data)

    def _must_stop(self) -> bool:
        if self._failure is not None:
            raise self._failure
        if not self.stopped and time.monotonic() - self.begin > self._limits.seconds:
            self.stopped = f"timed out: no end within {self._limits.seconds:.0f} s"
        if not self.stopped and max(len(self.output), len(self.errors)) > self._limits.output:
            mebibytes = f"{self._limits.output / (1 << 20):.3g} MiB"
            self.stopped = f"cut off: more than {mebibytes} of output; get() fetches files of any size"
        return bool(self.stopped)

    def _on_data(self, _session: int, _channel: int, place: int, size: int, is_error: int, _data: Any) -> int:
        self.begun = self.begun or time.monotonic() - self.begin
        data = ctypes.string_at(place, size)
        if is_error or self._target is None:
            (self.errors if is_error else self.output).extend(data)
            return size
        try:
            while data:
                data = data[os.write(self._target, data) :]
        except OSError as error:
            self._failure = error
        return size

    def _on_exit_status(self, _session: int, _channel: int, code: int, _data: Any) -> None:
        self.code = code

    def _lost(self) -> LoginError:
        return LoginError(f"connection lost to {self._address}: {libssh.error(self._session)}")

    def _check(self, answer: int) -> None:
        """Raises LoginError with the library's reason, unless ``answer`` is a good one; and if it is late."""
        late = time.monotonic() - self.begin > self._limits.seconds
        if answer == libssh.AGAIN or late:
            raise LoginError(f"{self._address}: {os.strerror(errno.ETIMEDOUT)} during the login")
        if answer:
            raise LoginError(f"{self._address}: {libssh.error(self._session)}")
