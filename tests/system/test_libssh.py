"""Logins to guests by libssh: the ssh server of light guests with OpenSSH's clients, hosts' logins with both.

In the node layer, where the library is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agent_calls import call
from localbed import wait

from g5kvirt.hostagent import protocol
from g5kvirt.hostagent.onhost import guest_ssh
from g5kvirt.hostagent.onhost.light import ssh_server
from g5kvirt.hostagent.onhost.light.loop import READABLE, Loop, ready
from g5kvirt.hostagent.onhost.light.ssh_server import SshServer
from g5kvirt.hostagent.protocol import Answer
from g5kvirt.remote.result import classify_failure


class Root:
    """The file system of a guest is that of this machine, but for its authorized keys."""

    name = "vm-1"

    def inside(self, _: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Server:
    """A guest's server on a port of this machine, with keys below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "authorized_keys"
        self.left: set[int] = set()
        for name in ("key", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        self.allow("")
        self._loop = Loop()
        self._server = SshServer(Root(), 0, self._loop, self.left)  # type: ignore[arg-type]
        first = socket.create_server(("127.0.0.1", 0))
        self.port = first.getsockname()[1]
        others = [socket.create_server((f"127.0.1.{i}", self.port)) for i in range(1, 9)]
        self._listeners = [first, *others]
        self._running = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def allow(self, options: str) -> None:
        """Let the key in, with these options."""
        self.keys.write_text(f"# ours\n{options} {(self.folder / 'key.pub').read_text()}")

    def _run(self) -> None:
        for listener in self._listeners:
            listener.setblocking(False)
            self._loop.spawn(self._serve(listener))
        self._loop.run(lambda: self._running)
        self._server.close()

    async def _serve(self, listener: socket.socket) -> None:
        while True:
            await ready(listener.fileno(), READABLE, float("inf"))
            self._server.accept(listener.accept()[0])

    def listen(self, address: str) -> None:
        """Serve this address, too."""
        listener = socket.create_server((address, self.port))
        listener.setblocking(False)
        self._listeners.append(listener)
        self._loop.spawn(self._serve(listener))
        socket.create_connection(("127.0.0.1", self.port), 10).close()  # it wakes up

    def connections(self) -> int:
        return len(self._server._connections)

    def disconnect(self) -> None:
        """End all connections, in the thread of the loop."""

        async def end() -> None:
            self._server.disconnect()

        self._loop.spawn(end())
        socket.create_connection(("127.0.0.1", self.port), 10).close()  # it wakes up

    def stop(self) -> None:
        self._running = False
        socket.create_connection(("127.0.0.1", self.port), 10).close()  # it wakes up
        self._thread.join(30)
        for listener in self._listeners:
            listener.close()

    def words(self, program: str, *options: str, key: str = "key") -> list[str]:
        common = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        common += ["IdentitiesOnly=yes", "BatchMode=yes", f"Port={self.port}"]
        words = [program, "-F", "/dev/null", "-i", str(self.folder / key)]
        for option in common:
            words += ["-o", option]
        return [*words, *options]

    def run(self, command: str, *options: str, data: bytes = b"", key: str = "key") -> Any:
        return subprocess.run(
            [*self.words("ssh", *options, key=key), "root@127.0.0.1", command],
            input=data,
            capture_output=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(ssh_server, "_AUTHORIZED_KEYS", str(tmp_path / "authorized_keys"))
    made = Server(tmp_path)
    try:
        yield made
    finally:
        made.stop()
        for pid in made.left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_output_errors_and_exit_code(server: Server) -> None:
    done = server.run("echo out; echo err >&2; pwd; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n/root\n", b"err\n", 3)
    done = server.run("kill -KILL $$")
    assert done.returncode == 255


def test_much_in_and_out_at_once(server: Server) -> None:
    data = os.urandom(6 << 20)
    done = server.run("cat", data=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout == data
    done = server.run("tee /dev/stderr", data=data)
    assert (done.stdout, done.stderr) == (data, data)


def test_input_that_nobody_reads_holds_nothing_up(server: Server) -> None:
    assert server.run("exec <&-; sleep 0.2; echo done", data=bytes(5 << 20)).stdout == b"done\n"


def test_only_keys_of_the_file_are_let_in(server: Server) -> None:
    assert b"Permission denied" in server.run("true", key="other").stderr
    server.keys.unlink()
    assert b"Permission denied" in server.run("true").stderr
    server.allow('from="10.0.0.1"')
    assert b"Permission denied" in server.run("true").stderr
    server.allow("")
    other = [*server.words("ssh"), "-l", "daemon", "127.0.0.1", "true"]
    assert b"Permission denied" in subprocess.run(other, capture_output=True, timeout=30, check=False).stderr
    assert server.run("true").returncode == 0


def test_key_with_a_command_runs_only_that(server: Server) -> None:
    server.allow('restrict,command="echo \\"$SSH_ORIGINAL_COMMAND\\" was requested"')
    assert server.run("rm -r /").stdout == b"rm -r / was requested\n"
    assert b"PTY allocation request failed" in server.run("true", "-tt").stderr


def test_terminal(server: Server) -> None:
    done = server.run("tty; stty size; echo $TERM; kill -0 -$$ && ps -o tpgid= $$", "-tt")
    assert re.match(rb"/dev/pts/\d+\r\n\d+ \d+\r\n", done.stdout), done
    shell = [*server.words("ssh", "-tt"), "root@127.0.0.1"]
    typed = b"echo $((6 * 7))\nexit 5\n"
    done = subprocess.run(shell, input=typed, capture_output=True, timeout=30, check=False)
    assert b"42\r\n" in done.stdout
    assert done.returncode == 5


def test_client_that_hangs_up_ends_what_runs_in_its_terminal(server: Server) -> None:
    client = subprocess.Popen(
        [*server.words("ssh", "-tt"), "root@127.0.0.1", "echo $$; sleep 60"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    client.kill()
    client.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if pid in server.left and os.waitpid(pid, os.WNOHANG)[0]:
            server.left.discard(pid)
            return
        time.sleep(0.05)
    pytest.fail("it goes on")


def test_files_by_sftp(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(os.urandom(3 << 20))
    words = server.words("scp", str(tmp_path / "sent"), f"root@127.0.0.1:{tmp_path}/received")
    done = subprocess.run(words, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "received").read_bytes() == (tmp_path / "sent").read_bytes()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory for sockets, whose paths have at most 107 bytes."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def test_several_commands_of_one_connection(server: Server, short: Path) -> None:
    shared = ("-o", "ControlMaster=auto", "-o", f"ControlPath={short}/c", "-o", "ControlPersist=20")
    assert server.run("true", *shared).returncode == 0
    commands = [
        subprocess.Popen(
            [*server.words("ssh", *shared), "root@127.0.0.1", f"sleep 0.{i}; echo {i}; exit {i}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        for i in range(1, 6)
    ]
    for number, command in enumerate(commands, 1):
        assert command.communicate(timeout=30)[0] == b"%d\n" % number
        assert command.returncode == number
    for _ in range(100):
        assert server.run("true", *shared).returncode == 0
    server.run("true", *shared, "-O", "exit")


def test_what_goes_on_in_the_background_has_the_connection_until_it_closes_its_output(server: Server) -> None:
    assert server.run("(sleep 0.5; echo late) & echo now").stdout == b"now\nlate\n"
    began = time.monotonic()
    assert server.run("sleep 20 >/dev/null 2>&1 </dev/null & echo now").stdout == b"now\n"
    assert time.monotonic() - began < 10


def test_forwarding_is_refused(server: Server) -> None:
    done = server.run("true", "-W", f"127.0.0.1:{server.port}")
    assert done.returncode == 255
    assert b"forwarding failed" in done.stderr


def test_rubbish_and_silence_end_only_themselves(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_server, "LOGIN_LIMIT", 1.0)
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10)) for _ in range(20)
        ]
        for link in silent[:10]:
            link.sendall(os.urandom(5000))
        assert server.run("echo on").stdout == b"on\n"
        for link in silent[10:]:
            assert link.recv(100).startswith(b"SSH-2.0-")
            rest = b""
            with contextlib.suppress(ConnectionError):
                while data := link.recv(5000):
                    rest += data
        for _ in range(ssh_server.MOST_CONNECTIONS + 5):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
        time.sleep(1.5)
        assert server.run("echo on").stdout == b"on\n"


def test_what_a_guest_may_put_in_the_place_of_its_keys_holds_nothing_up(server: Server) -> None:
    server.keys.unlink()
    os.mkfifo(server.keys)
    assert b"Permission denied" in server.run("true").stderr
    server.keys.unlink()
    server.keys.symlink_to("/dev/zero")
    assert b"Permission denied" in server.run("true").stderr
    server.keys.unlink()
    server.allow("")
    assert server.run("true").returncode == 0


def test_ends_and_variables_that_nobody_has_a_name_for(server: Server) -> None:
    assert server.run("kill -35 $$").returncode == 255
    assert server.run("echo $LC_A", "-o", "SetEnv=LC_A=b=c").stdout == b"b=c\n"


def test_what_comes_while_something_is_sent_is_noticed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library takes in what has come whenever it sends; a slow loop makes that likely."""
    poll = Loop._poll

    def slow(loop: Loop) -> list[tuple[int, int]]:
        found = poll(loop)
        time.sleep(0.03)
        return found

    monkeypatch.setattr(Loop, "_poll", slow)
    for _ in range(5):
        done = server.run("echo a; sleep 0.02; echo b; cat", data=b"c\n")
        assert (done.stdout, done.returncode) == (b"a\nb\nc\n", 0)


def test_connection_that_has_not_begun_is_closed_with_the_others(server: Server) -> None:
    loop = Loop()
    other = SshServer(Root(), 0, loop, set())  # type: ignore[arg-type]
    before = descriptors()
    ours, theirs = _pair()
    other.accept(theirs)
    other.disconnect()
    assert ours.recv(100) == b""
    ours.close()
    assert descriptors() == before
    other.close()


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), 10)
        return ours, listener.accept()[0]


def test_logins_leave_no_descriptor(server: Server) -> None:
    request = protocol.ssh(
        {f"vm-{i}": "127.0.1.1" for i in range(20)},
        COMMAND,
        limit=9.0,
        port=server.port,
        key=(server.folder / "key").read_text(),
    )
    server.run("true")
    before = descriptors()
    results = dict(guest_ssh.ssh(request, ""))
    assert [result["code"] for result in results.values()] == [0] * 20
    wait(lambda: descriptors() <= before)


# ---- logins of a host ---------------------------------------------------------------------------------

#: Does what the guest's address says.
COMMAND = """case $SSH_CONNECTION in
    *127.0.1.1*) echo out; echo err >&2;;
    *127.0.1.2*) exec sleep 60;;
    *127.0.1.3*) printf 'a\\377b'; exit 3;;
    *127.0.1.4*) exec yes;;
    *127.0.1.5*) cat; echo to you >&2;;
    *127.0.1.6*) kill -KILL $$;;
    *) echo begun; sleep 0.4;;
esac"""


def logins(
    server: Server, home: Path, guests: dict[str, str], limit: float = 9.0, **more: Any
) -> dict[str, Answer]:
    """What each guest's login came to."""
    key = (server.folder / "key").read_text()
    order = protocol.ssh(guests, COMMAND, limit=limit, port=server.port, **{"key": key, **more})
    return {answer.subject: answer for answer in call(home, order)}


def test_each_guest_has_its_own_end(server: Server, home: Path) -> None:
    guests = {f"vm-{i}": f"127.0.1.{i}" for i in (1, 2, 3, 6)} | {"vm-off": "127.0.2.1"}
    start = time.monotonic()
    answers = logins(server, home, guests, 1.0)
    assert 3.5 <= time.monotonic() - start < 8, "it refused four times"
    assert all(answer.ok for answer in answers.values())
    found = {name: answer.detail for name, answer in answers.items()}
    assert (found["vm-1"]["code"], found["vm-1"]["out"], found["vm-1"]["err"]) == (0, "out\n", "err\n")
    assert (found["vm-2"]["code"], found["vm-2"]["stopped"]) == (None, "timed out: no end within 1 s")
    assert 1.0 <= found["vm-2"]["seconds"] < 3
    assert found["vm-3"]["code"] == 3
    assert found["vm-3"]["out"].encode("utf-8", "surrogateescape") == b"a\xffb"
    assert found["vm-6"]["code"] == 255
    assert found["vm-off"]["code"] == 255
    assert found["vm-off"]["err"] == f"connect to 127.0.2.1 port {server.port}: Connection refused\n"


def test_login_by_an_rsa_key(server: Server, home: Path) -> None:
    """What a library signs with, before it knows what the server takes, was a matter of chance."""
    for name in ("key", "key.pub"):
        (server.folder / name).unlink()
    words = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", server.folder / "key"]
    subprocess.run(words, check=True)
    server.allow("")
    guests = {f"vm-{i}": "127.0.1.1" for i in range(30)}
    found = logins(server, home, guests, at_once=4)
    assert [answer.detail["code"] for answer in found.values()] == [0] * 30


def test_guest_that_refuses_connections_is_tried_again(server: Server, home: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(logins, server, home, {"vm-9": "127.0.1.9"})
        time.sleep(1.2)
        server.listen("127.0.1.9")
        assert waiting.result(30)["vm-9"].detail["out"] == "begun\n"


def test_guest_that_prints_without_pause_costs_no_other_its_result(server: Server, home: Path) -> None:
    guests = {"vm-4": "127.0.1.4", "vm-7": "127.0.1.7", "vm-8": "127.0.1.8"}
    found = {name: answer.detail for name, answer in logins(server, home, guests, 2.0).items()}
    assert found["vm-4"]["code"] is None
    assert found["vm-4"]["seconds"] < 6
    assert [found[name]["code"] for name in ("vm-7", "vm-8")] == [0, 0]


def test_logins_at_once_are_limited_and_side_by_side(server: Server, home: Path) -> None:
    guests = {f"vm-{i}": f"127.0.1.{7 + i % 2}" for i in range(8)}
    start = time.monotonic()
    answers = logins(server, home, guests, at_once=4)
    assert 0.8 <= time.monotonic() - start < 2.5
    assert answers.keys() == guests.keys()
    assert all(answer.detail["begun"] < answer.detail["seconds"] - 0.2 for answer in answers.values())


def test_host_with_neither_key_nor_agent_refuses(
    server: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (answer,) = logins(server, home, {"vm-1": "127.0.1.1"}, key=None).values()
    assert (answer.ok, answer.reason) == (False, "no ssh agent is forwarded to this host")
    (answer,) = logins(server, home, {"vm-1": "127.0.1.1"}, key="rubbish").values()
    assert (answer.ok, answer.reason) == (False, "the private key cannot be read")


def test_login_by_an_agent(server: Server, home: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(short / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        wait(Path(path).exists)
        for name, code in (("other", 255), ("key", 0)):
            subprocess.run(["ssh-add", "-q", server.folder / name], check=True)
            guests = {f"vm-{i}": "127.0.1.1" for i in range(6)}
            found = logins(server, home, guests, key=None)
            assert [answer.detail["code"] for answer in found.values()] == [code] * 6
            if code:
                assert "Permission denied" in found["vm-0"].detail["err"]
        agent.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        (answer,) = logins(server, home, {"vm-1": "127.0.1.1"}, 2.0, key=None).values()
        assert answer.detail["stopped"] == "timed out: no end within 2 s"
        assert time.monotonic() - start < 15
    finally:
        agent.kill()
        agent.wait(10)


def test_logins_do_not_wait_for_the_lock_of_the_host(server: Server, home: Path) -> None:
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert logins(server, home, {"vm-1": "127.0.1.1"})["vm-1"].ok


def test_input_is_a_file_and_so_is_the_output(server: Server, home: Path, tmp_path: Path) -> None:
    guests = {"vm-7": "127.0.1.5", "vm-8": "127.0.1.5"}
    data = os.urandom(5 << 20)
    (tmp_path / "input").write_bytes(data)
    files = {"input": str(tmp_path / "input"), "output": str(tmp_path / "output")}
    answers = logins(server, home, guests, **files)
    assert answers.keys() == guests.keys()
    for name, answer in answers.items():
        assert (answer.detail["out"], answer.detail["err"]) == ("", "to you\n")
        assert answer.detail["bytes"] == len(data)
        assert (tmp_path / "output" / name).read_bytes() == data
    (tmp_path / "input").unlink()
    (answer,) = logins(server, home, {"vm-7": "127.0.1.5"}, **files).values()
    assert "No such file" in answer.reason


def test_what_prints_without_end_is_cut_off(server: Server, home: Path) -> None:
    answer = logins(server, home, {"vm-4": "127.0.1.4"}, 30.0, most=1 << 20)["vm-4"]
    assert answer.detail["code"] is None
    assert answer.detail["stopped"].startswith("cut off: more than 1 MiB of output")
    assert len(answer.detail["out"]) == 1 << 20
    assert answer.detail["seconds"] < 15


def test_guest_that_says_nothing_or_hangs_up_fails_alone(server: Server, home: Path) -> None:
    with (
        socket.create_server(("127.0.2.2", server.port)),
        socket.create_server(("127.0.2.3", server.port)) as rude,
    ):
        closing = threading.Thread(target=lambda: [rude.accept()[0].close() for _ in range(1)])
        closing.start()
        guests = {"vm-mute": "127.0.2.2", "vm-rude": "127.0.2.3", "vm-1": "127.0.1.1"}
        found = logins(server, home, guests, 20.0, login_limit=2.0)
        closing.join(10)
    assert [found[name].detail["code"] for name in guests] == [255, 255, 0]
    assert found["vm-mute"].detail["seconds"] < 6
    for name in ("vm-mute", "vm-rude"):
        kind, reason = classify_failure(found[name].detail["err"].encode())
        assert kind in ("timeout", "refused"), reason


def test_connection_that_is_lost_while_the_command_runs(server: Server, home: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(logins, server, home, {"vm-2": "127.0.1.2"}, 30.0)
        wait(lambda: server.connections() == 1)
        time.sleep(0.5)
        server.disconnect()
        found = waiting.result(30)["vm-2"].detail
    assert (found["code"], found["stopped"]) == (255, "")
    assert classify_failure(found["err"].encode())[0] == "other", "the command may have begun"
    assert found["seconds"] < 10


def test_logins_to_openssh(server: Server, home: Path, tmp_path: Path) -> None:
    """As environments with Debian's own ssh server answer."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host_key"], check=True)
    (tmp_path / "authorized_keys").chmod(0o600)
    config = f"""
ListenAddress 127.0.3.1:{server.port}
HostKey {tmp_path}/host_key
AuthorizedKeysFile {tmp_path}/authorized_keys
PidFile none
UsePAM no
StrictModes no
MaxStartups 100
"""
    (tmp_path / "config").write_text(config)
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", tmp_path / "config"])
    data = os.urandom(3 << 20)
    (tmp_path / "input").write_bytes(data)
    try:
        guests = {f"vm-{i}": "127.0.3.1" for i in range(6)}
        found = logins(server, home, guests, output=str(tmp_path / "output"), input=str(tmp_path / "input"))
        assert [answer.detail["code"] for answer in found.values()] == [0] * 6, found
        order = protocol.ssh(
            {"vm-1": "127.0.3.1"},
            "cat; exit 7",
            limit=20.0,
            port=server.port,
            key=(tmp_path / "key").read_text(),
            input=str(tmp_path / "input"),
            output=str(tmp_path / "output"),
        )
        (answer,) = call(home, order)
        assert (answer.detail["code"], answer.detail["bytes"]) == (7, len(data))
        assert (tmp_path / "output/vm-1").read_bytes() == data
        (refused,) = logins(
            server, home, {"vm-1": "127.0.3.1"}, key=(tmp_path / "other").read_text()
        ).values()
        assert classify_failure(refused.detail["err"].encode())[0] == "key"
    finally:
        process.terminate()
        process.wait(10)
