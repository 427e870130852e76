"""The ssh ProxyCommand of a local testbed: ``proxy.py STATE_DIRECTORY PID START_TIME HOST PORT``.

Resolves HOST with the testbed's own names and connects inside the network namespace of process PID, the
testbed's init. With ProxyUseFdpass the connected socket is passed to ssh and this process ends, else it
copies the bytes. A name that the testbed does not have is rejected, never looked up elsewhere. A testbed that
has ended is rejected even if another of the same name is up: the ssh of a killed run must not submit its job
there.

It runs once for every ssh connection, so it does without most of the standard library, even without socket:
that imports enum and selectors, which takes as long as Python itself takes to start.
"""

import _socket
import os
import sys

CONNECT_TIMEOUT = 20.0  # seconds
CLONE_NEWNET = 0x40000000


def lookup(text: str, name: str) -> str | None:
    """The address of ``name`` in lines as in /etc/hosts, ignoring case as ssh does."""
    wanted = name.lower()
    at = text.find(f" {wanted}")
    while at >= 0:
        end = at + 1 + len(wanted)
        if end == len(text) or text[end] in " \n":
            return text[text.rfind("\n", 0, at) + 1 : at].partition(" ")[0]
        at = text.find(f" {wanted}", end)
    return None


def enter(pid: int, start_time: int) -> None:
    """Enter the network namespace of process ``pid``, unless the pid has been reused."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - importing pathlib would take longest
        if int(file.read().rpartition(")")[2].split()[19]) != start_time:
            raise ProcessLookupError
    setns(fd)
    os.close(fd)


def setns(fd: int) -> None:
    """Enter a network namespace. Raises OSError."""
    if sys.version_info >= (3, 12):
        os.setns(fd, CLONE_NEWNET)
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def connect(address: str, port: int) -> _socket.socket:
    """A connection to an address. Raises OSError."""
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    connection = _socket.socket(family, _socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT)
    connection.connect((address, port))
    connection.settimeout(None)
    connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return connection


def copy(connection: _socket.socket) -> None:
    """Standard input to the connection and back, until the testbed's end closes it."""
    import threading

    def send() -> None:
        try:
            while data := os.read(0, 1 << 16):
                connection.sendall(data)
            connection.shutdown(_socket.SHUT_WR)
        except OSError:  # closed by the other end, which ends the main thread
            pass

    threading.Thread(target=send, daemon=True).start()
    try:
        while data := connection.recv(1 << 16):
            while data:
                data = data[os.write(1, data) :]
    except (BrokenPipeError, ConnectionResetError):
        pass
    os._exit(0)  # the other thread may be in the middle of a read


def main(directory: str, pid: str, start_time: str, host: str, port: str) -> str | None:
    """Connect ssh, over standard output; returns an error message, or None."""
    testbed = os.path.basename(directory)  # noqa: PTH119
    try:
        with open(f"{directory}/names") as file:  # noqa: PTH123
            names = file.read()
    except FileNotFoundError:
        return f"testbed {testbed!r} is not up"
    except PermissionError:
        return f"testbed {testbed!r} belongs to another user"
    address = lookup(names, host)
    if address is None:
        return f"{host} is not a name of the local testbed {testbed!r}"
    try:
        enter(int(pid), int(start_time))
    except (FileNotFoundError, ProcessLookupError):
        return f"testbed {testbed!r} is no longer up"
    except PermissionError:
        return f"only root can enter testbed {testbed!r}"
    try:
        connection = connect(address, int(port))
    except OSError as error:
        return f"connect to {host} ({address}) port {port}: {error}"
    try:
        ssh = _socket.socket(fileno=os.dup(1))
    except OSError:  # a pipe
        copy(connection)
    rights = connection.fileno().to_bytes(4, sys.byteorder)
    ssh.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
