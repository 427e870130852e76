"""The ssh library libssh (Debian's package libssh-4), by ctypes: for logins to guests and for their server.

An ssh client started for each login costs a host ten times as much processor time, a server twenty times.
"""

from __future__ import annotations

import ctypes
import functools
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "libssh.so.4"
PACKAGE = "libssh-4"

ERROR, AGAIN = -1, -2
#: Answers to a request for authentication.
SUCCESS, DENIED, AUTH_AGAIN = 0, 1, 4
AUTH_PUBLIC_KEY = 4
SIGNATURE_NONE, SIGNATURE_VALID = 0, 1
#: Flags of a session's status: closed, by either end or by an error; something is still to be sent.
ENDED, WRITE_PENDING = 1 | 4, 8

#: Options of a session, and of what a server gives to its sessions.
USER, TIMEOUT, KEY_EXCHANGE, HOST_KEYS, PROCESS_CONFIG, FD, HOST = 4, 9, 24, 25, 38, 3, 0
BIND_IMPORT_KEY, BIND_PROCESS_CONFIG = 10, 19

_POINTER, _TEXT, _INT, _SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32
_OUT = ctypes.POINTER(_POINTER)

#: Function → what it takes and what it returns.
_SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "ssh_init": ([], _INT),
    "ssh_new": ([], _POINTER),
    "ssh_free": ([_POINTER], None),
    "ssh_disconnect": ([_POINTER], None),
    "ssh_connect": ([_POINTER], _INT),
    "ssh_get_error": ([_POINTER], _TEXT),
    "ssh_get_status": ([_POINTER], _INT),
    "ssh_set_blocking": ([_POINTER, _INT], None),
    "ssh_options_set": ([_POINTER, _INT, _POINTER], _INT),
    "ssh_service_request": ([_POINTER, _TEXT], _INT),
    "ssh_userauth_publickey": ([_POINTER, _TEXT, _POINTER], _INT),
    "ssh_userauth_agent": ([_POINTER, _TEXT], _INT),
    "ssh_event_new": ([], _POINTER),
    "ssh_event_free": ([_POINTER], None),
    "ssh_event_add_session": ([_POINTER, _POINTER], _INT),
    "ssh_event_remove_session": ([_POINTER, _POINTER], _INT),
    "ssh_event_dopoll": ([_POINTER, _INT], _INT),
    "ssh_key_type_from_name": ([_TEXT], _INT),
    "ssh_pki_generate": ([_INT, _INT, _OUT], _INT),
    "ssh_pki_import_privkey_base64": ([_TEXT, _TEXT, _POINTER, _POINTER, _OUT], _INT),
    "ssh_pki_export_pubkey_base64": ([_POINTER, _OUT], _INT),
    "ssh_string_free_char": ([_POINTER], None),
    "ssh_bind_new": ([], _POINTER),
    "ssh_bind_free": ([_POINTER], None),
    "ssh_bind_options_set": ([_POINTER, _INT, _POINTER], _INT),
    "ssh_bind_accept_fd": ([_POINTER, _POINTER, _INT], _INT),
    "ssh_set_auth_methods": ([_POINTER, _INT], None),
    "ssh_set_server_callbacks": ([_POINTER, _POINTER], _INT),
    "ssh_handle_key_exchange": ([_POINTER], _INT),
    "ssh_channel_new": ([_POINTER], _POINTER),
    "ssh_channel_free": ([_POINTER], None),
    "ssh_channel_open_session": ([_POINTER], _INT),
    "ssh_channel_request_exec": ([_POINTER, _TEXT], _INT),
    "ssh_channel_request_send_exit_status": ([_POINTER, _INT], _INT),
    "ssh_channel_request_send_exit_signal": ([_POINTER, _TEXT, _INT, _TEXT, _TEXT], _INT),
    "ssh_channel_read_nonblocking": ([_POINTER, _POINTER, _SIZE, _INT], _INT),
    "ssh_channel_write": ([_POINTER, _TEXT, _SIZE], _INT),
    "ssh_channel_write_stderr": ([_POINTER, _TEXT, _SIZE], _INT),
    "ssh_channel_window_size": ([_POINTER], _SIZE),
    "ssh_channel_send_eof": ([_POINTER], _INT),
    "ssh_channel_close": ([_POINTER], _INT),
    "ssh_channel_is_closed": ([_POINTER], _INT),
    "ssh_channel_is_eof": ([_POINTER], _INT),
    "ssh_set_channel_callbacks": ([_POINTER, _POINTER], _INT),
    "ssh_remove_channel_callbacks": ([_POINTER, _POINTER], _INT),
}

# Types of callbacks. What one raises is printed, and the library gets 0 in its place, which is `SUCCESS`: so
# nothing may depend on that answer alone.
OnKey = ctypes.CFUNCTYPE(_INT, _POINTER, _TEXT, _POINTER, ctypes.c_byte, _POINTER)
OnMechanism = ctypes.CFUNCTYPE(_POINTER, _POINTER, _TEXT, _INT, _POINTER, _POINTER)
OnChannel = ctypes.CFUNCTYPE(_POINTER, _POINTER, _POINTER)
OnData = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _SIZE, _INT, _POINTER)
OnClose = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _POINTER)
OnSignal = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _TEXT, _POINTER)
OnExitStatus = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _INT, _POINTER)
OnTerminal = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _TEXT, _INT, _INT, _INT, _INT, _POINTER)
OnShell = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER)
OnSize = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, _INT, _INT, _INT, _POINTER)
OnText = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _TEXT, _POINTER)
OnVariable = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _TEXT, _TEXT, _POINTER)


class Callbacks(ctypes.Structure):
    """The functions that are given; the library sees by the size which ones it may know of."""

    def __init__(self, **functions: Any) -> None:
        super().__init__(size=ctypes.sizeof(self), **functions)


class ServerCallbacks(Callbacks):
    """What a server is called for, of its sessions."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("userdata", _POINTER),
        ("password", _POINTER),
        ("none", _POINTER),
        ("gssapi_mic", _POINTER),
        ("public_key", OnKey),
        ("service", _POINTER),
        ("channel", OnChannel),
        ("gssapi_oid", OnMechanism),
        ("gssapi_context", _POINTER),
        ("gssapi_verify", _POINTER),
    )


class ChannelCallbacks(Callbacks):
    """What both ends are called for, of a channel."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("userdata", _POINTER),
        ("data", OnData),
        ("eof", _POINTER),
        ("close", OnClose),
        ("signal", OnSignal),
        ("exit_status", OnExitStatus),
        ("exit_signal", _POINTER),
        ("terminal", OnTerminal),
        ("shell", OnShell),
        ("agent", _POINTER),
        ("x11", _POINTER),
        ("window_size", OnSize),
        ("command", OnText),
        ("variable", OnVariable),
        ("subsystem", OnText),
        ("may_write", _POINTER),
    )


@functools.cache
def library() -> Any:
    """The library, loaded once. Raises OSError if this host does not have it."""
    try:
        found = ctypes.CDLL(FILE)
    except OSError:
        raise OSError(f"this host has no {FILE}: install {PACKAGE}") from None
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, result
    found.ssh_init()
    return found


def set_option(function: Any, handle: int, option: int, value: bytes | int | bool) -> None:
    """Set an option of a session (`ssh_options_set`) or of a server (`ssh_bind_options_set`).

    Raises OSError.
    """
    holder: Any
    if isinstance(value, bytes):
        holder = ctypes.create_string_buffer(value)
    else:
        holder = ctypes.c_bool(value) if isinstance(value, bool) else ctypes.c_long(value)
    if function(handle, option, ctypes.byref(holder)):
        raise OSError(f"libssh takes no option {option} = {value!r}")


def error(session: int) -> str:
    """The last error of a session."""
    return str(library().ssh_get_error(session).decode("utf-8", "replace"))


def watch_for_silence(link: socket.socket, seconds: int) -> None:
    """Have the kernel give up a connection whose other end does not answer for that long."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        link.setsockopt(socket.IPPROTO_TCP, option, seconds // 3)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * seconds)


def import_private_key(text: str) -> int:
    """A private key from its file's text. Raises OSError."""
    function = library().ssh_pki_import_privkey_base64
    return _made("the private key cannot be read", function, text.encode(), None, None, None)


def new_host_key() -> int:
    """A new host key. Of those that clients take it is the one that costs both ends least.

    Raises OSError.
    """
    kind = library().ssh_key_type_from_name(b"ecdsa-sha2-nistp256")
    return _made("libssh makes no host key", library().ssh_pki_generate, kind, 256)


def public_key_text(key: int) -> str:
    """A public key as in authorized_keys, without its type. Raises OSError."""
    function = library().ssh_pki_export_pubkey_base64
    text = _made("libssh does not write the public key", function, key)
    try:
        return ctypes.string_at(text).decode("ascii")
    finally:
        library().ssh_string_free_char(text)


def _made(failure: str, function: Any, *arguments: object) -> int:
    """What ``function`` leaves where its last argument points. Raises OSError with ``failure``."""
    made = ctypes.c_void_p()
    if function(*arguments, ctypes.byref(made)) or made.value is None:
        raise OSError(failure)
    return made.value
