"""Fan-out to real sshd processes, one per host: separate pid, mount and UTS namespaces, one network."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from g5kvirt.remote import Access, Fanout, File, Stream, taktuk

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
MISSING = [
    word
    for word, there in (
        ("root", os.geteuid() == 0),
        ("sshd", SSHD),
        ("ssh", shutil.which("ssh")),
        ("unshare", shutil.which("unshare")),
        ("ip", shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")),
    )
    if not there
]
pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
needs_taktuk = pytest.mark.skipif(not taktuk.installed(), reason="needs taktuk and openssh-client")

SSHD_CONFIG = """Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
PidFile none
MaxStartups 200
"""

#: A minimal version of what the local testbed does: enter the network, connect, hand the socket to ssh.
PROXY = """
import ctypes, os, socket, sys
fd = os.open("/proc/{pid}/ns/net", os.O_RDONLY)
if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
    sys.exit("the network is gone")
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
socket.send_fds(socket.socket(fileno=1), [b"x"], [s.fileno()])
"""


class Lab:
    """A private network in which the hosts 127.1.0.1, 127.1.0.2, … each run an sshd."""

    def __init__(self, folder: Path, size: int) -> None:
        assert SSHD is not None
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("host_key", "key", "wrong"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True, timeout=10
            )
        Path("/run/sshd").mkdir(exist_ok=True)
        (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder))
        self.anchor = self._in_session(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep 1000"]
        )
        assert self.anchor.stdout is not None
        assert self.anchor.stdout.readline() == b"up\n"
        self.hosts = [f"127.1.{n >> 8}.{n & 255}" for n in range(1, size + 1)]
        for host in self.hosts:
            self.raise_host(host)
        for host in self.hosts:
            self.wait_for(host)
        (folder / "proxy.py").write_text(PROXY.format(pid=self.anchor.pid))
        (folder / "ssh_config").write_text(
            "Host 127.1.*\n"
            f"  ProxyCommand {sys.executable} -I -S {folder}/proxy.py %h %p\n"
            "  ProxyUseFdpass yes\n"
            f"  IdentityFile {folder}/key\n"
            "  IdentitiesOnly yes\n"
        )
        self.access = Access(ssh_config=folder / "ssh_config", connect_timeout=5)

    def _in_session(self, argv: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def raise_host(self, host: str) -> None:
        start = (
            f"hostname host-{host.rpartition('.')[2]}; mount -t tmpfs none /mnt; mount -t tmpfs none /root; "
            f"exec {SSHD} -D -f {self.folder}/sshd_config -o ListenAddress={host}"
        )
        enter = ["nsenter", f"--net=/proc/{self.anchor.pid}/ns/net"]
        space = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self.processes[host] = self._in_session([*enter, *space, "sh", "-c", start])

    def wait_for(self, host: str, port: int = 22) -> None:
        net = Path(f"/proc/{self.anchor.pid}/net/tcp")
        word = (
            "".join(f"{int(part):02X}" for part in reversed(host.split(".")))
            + f":{port:04X} 00000000:0000 0A"
        )
        deadline = time.monotonic() + 20
        while word not in net.read_text():
            assert time.monotonic() < deadline, f"sshd of {host} does not listen"
            time.sleep(0.01)

    def kill_host(self, host: str) -> None:
        """Power failure: all its processes die at once."""
        process = self.processes.pop(host)
        process.kill()
        process.wait(5)

    def close(self) -> None:
        for host in list(self.processes):
            self.kill_host(host)
        self.anchor.kill()
        self.anchor.wait(5)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"), 6)
    yield lab
    lab.close()


@pytest.fixture(params=["ssh", pytest.param("taktuk", marks=needs_taktuk)])
def way(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Fanout]:
    """Both transports, ssh and TakTuk; no child process may be left after a test."""
    before = set(children())
    yield Fanout(lab.access, tree_from=1 if request.param == "taktuk" else None)
    assert set(children()) <= before, "a process was left"


def children() -> list[int]:
    """Our children, zombies too, and every ssh-agent that one of our trees started."""
    mine = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                mine.append(int(stat.parent.name))
    return mine


def via(fanout: Fanout) -> str:
    return "ssh" if fanout.tree_from is None else "taktuk"


def test_each_host_has_its_own_result(way: Fanout, lab: Lab) -> None:
    results = way.run(
        lab.hosts, ["sh", "-c", "hostname; echo oops >&2; test $(hostname) != host-2 || exit 3"], timeout=20
    )
    assert list(results) == lab.hosts
    for number, (host, result) in enumerate(results.items(), 1):
        assert (result.host, result.text, result.stderr) == (host, f"host-{number}\n", b"oops\n")
        assert result.via == via(way)
        assert result.start <= result.end <= time.time()
    bad = results[lab.hosts[1]]
    assert (bad.ok, bad.returncode, bad.reason) == (False, 3, "exit code 3 (oops)")
    assert [r.ok for r in results.values()].count(True) == len(lab.hosts) - 1


def test_arguments_and_bytes_arrive_untouched(way: Fanout, lab: Lab) -> None:
    hostile = [
        "a b",
        "it's",
        '"',
        "$(reboot)",
        "`id`",
        "x\ny",
        "",
        "[",
        "]",
        "; quit",
        "-[",
        "!",
        "\\",
        "*",
        "ü–日本",
        "  ",
    ]
    everything = bytes(range(256)) * 4
    hosts = lab.hosts[:3]
    results = way.run(
        hosts,
        ["sh", "-c", 'cat; printf "%s\\0" "$@"; cat /dev/null >&2', "sh", *hostile],
        stdin=everything,
        timeout=20,
    )
    expected = everything + b"".join(word.encode() + b"\0" for word in hostile)
    assert {result.stdout == expected for result in results.values()} == {True}
    assert {result.stderr for result in results.values()} == {b""}


def test_a_megabyte_out_and_each_host_its_own_input(way: Fanout, lab: Lab) -> None:
    own = {host: f"for {host} ".encode() * 9000 for host in lab.hosts[:2]}  # more than TakTuk broadcasts from
    results = way.run(lab.hosts[:3], ["sh", "-c", "cat; head -c 1000000 /dev/zero"], stdin=own, timeout=30)
    for host, result in results.items():
        assert result.stdout == own.get(host, b"") + bytes(1_000_000)


def test_lines_are_passed_on_as_they_arrive(way: Fanout, lab: Lab) -> None:
    seen: list[tuple[str, str, float]] = []
    before = time.time()
    way.run(
        lab.hosts[:2],
        ["sh", "-c", "echo first; sleep 1; printf 'last ü'"],
        timeout=20,
        on_line=lambda host, line, t: seen.append((host, line, t)),
    )
    for host in lab.hosts[:2]:
        (first, t1), (last, t2) = [(line, t) for who, line, t in seen if who == host]
        assert (first, last) == ("first", "last ü")
        assert t2 - t1 > 0.8
        assert before <= t1 <= time.time()


def test_a_callback_that_raises_ends_everything(way: Fanout, lab: Lab) -> None:
    def refuse(host: str, line: str, t: float) -> None:
        raise ArithmeticError(host)

    with pytest.raises(ArithmeticError):
        way.run(lab.hosts, ["sh", "-c", "echo x; sleep 30"], timeout=40, on_line=refuse)


def test_files_are_copied_completely_or_not_at_all(way: Fanout, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(os.urandom(300_000))
    files = [
        File(tmp_path / "source", "/mnt/new folder/it's", 0o640),
        File(b"#!/bin/sh\necho it runs\n", "/mnt/run", 0o755),
    ]
    blocked = lab.hosts[1]
    assert way.run([blocked], ["sh", "-c", "rm -f /mnt/run; mkdir -p /mnt/run/full"], timeout=20)[blocked].ok
    results = way.put(lab.hosts[:3], files, timeout=30)
    assert [result.ok for result in results.values()] == [True, False, True]
    assert "directory" in results[blocked].reason
    good = [lab.hosts[0], lab.hosts[2]]
    for result in way.run(good, ["sh", "-c", "cat '/mnt/new folder/it'\\''s'"], timeout=20).values():
        assert result.stdout == (tmp_path / "source").read_bytes()
    for result in way.run(
        good, ["sh", "-c", "/mnt/run; stat -c %a /mnt/*/it*; ls -A /mnt"], timeout=20
    ).values():
        assert result.text == "it runs\n640\nnew folder\nrun\n"
    left = way.run([blocked], ["sh", "-c", "ls -A /mnt; rm -r /mnt/*"], timeout=20)[blocked]
    assert ".run" not in left.text, "a temporary file was left"


def test_command_is_killed_on_its_host_after_its_timeout(way: Fanout, lab: Lab) -> None:
    hosts = lab.hosts[:2]
    begun = time.monotonic()
    results = way.run(hosts, ["sh", "-c", "sleep 77 & sleep 77; echo never"], timeout=1)
    assert time.monotonic() - begun < 20
    assert {result.reason for result in results.values()} == {"timed out: ended after 1 s"}
    assert {result.stdout for result in results.values()} == {b""}
    for result in way.run(hosts, ["pgrep", "-f", "^sleep 77"], timeout=20).values():
        assert result.returncode == 1, "the command went on"


def test_background_process_of_a_command_does_not_delay_its_result(way: Fanout, lab: Lab) -> None:
    begun = time.monotonic()
    result = way.run(lab.hosts[:1], ["sh", "-c", "setsid sleep 66 & echo done"], timeout=30)[lab.hosts[0]]
    assert (result.ok, result.text) == (True, "done\n")
    assert time.monotonic() - begun < 15
    assert way.run(lab.hosts[:1], ["pkill", "-f", "^sleep 66"], timeout=20)[lab.hosts[0]].ok, (
        "it was ended with us"
    )


def test_unreachable_hosts_do_not_affect_the_others(way: Fanout, lab: Lab) -> None:
    dead, unknown = "127.1.9.9", "no-such-host.invalid"
    hosts = [dead, *lab.hosts, unknown]
    begun = time.monotonic()
    results = way.run(hosts, ["true"], timeout=20)
    assert time.monotonic() - begun < 60
    assert list(results) == hosts
    assert {host for host, result in results.items() if result.ok} == set(lab.hosts)
    for host in (dead, unknown):
        assert results[host].reason.startswith("unreachable")
        assert not results[host].started
        assert results[host].returncode is None


def test_rejected_key_is_reported(lab: Lab) -> None:
    access = Access(
        ssh_config=lab.folder / "ssh_config", options=(f"IdentityFile={lab.folder}/wrong",), connect_timeout=5
    )
    config = (lab.folder / "ssh_config").read_text().replace(f"{lab.folder}/key", f"{lab.folder}/wrong")
    (lab.folder / "wrong_config").write_text(config)
    access = Access(ssh_config=lab.folder / "wrong_config", connect_timeout=5)
    result = Fanout(access).run(lab.hosts[:1], ["true"], timeout=5)[lab.hosts[0]]
    assert result.reason.startswith("the host rejects our SSH key")
    assert result.attempt == 1


def test_connection_to_a_booting_host_is_retried(lab: Lab) -> None:
    host = "127.1.7.7"
    timer = threading.Timer(0.8, lab.raise_host, [host])
    timer.start()
    result = Fanout(lab.access).run([host], ["hostname"], timeout=10)[host]
    timer.join()
    lab.kill_host(host)
    assert result.ok, result.reason
    assert result.attempt > 1


def test_window_limits_parallel_connections_and_within_limits_the_whole_call(lab: Lab) -> None:
    fanout = Fanout(lab.access, window=2)
    spans = [(r.start, r.end) for r in fanout.run(lab.hosts, ["sleep", "0.3"], timeout=10).values()]
    assert max(sum(start <= t < end for start, end in spans) for t, _ in spans) <= 2
    begun = time.monotonic()
    results = fanout.run(lab.hosts, ["sleep", "60"], timeout=70, within=2)
    assert time.monotonic() - begun < 10
    assert list(results) == lab.hosts
    reasons = {result.reason for result in results.values()}
    assert reasons == {"given up: the time limit of 2 s for all hosts has expired"}
    fanout.run(lab.hosts[:2], ["pkill", "-x", "sleep"], timeout=10)


def test_an_interrupt_leaves_no_process(way: Fanout, lab: Lab) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    agents = set(running("ssh-agent"))
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3.0)
        with pytest.raises(KeyboardInterrupt):
            way.run(lab.hosts, ["sleep", "20"], timeout=20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    deadline = time.monotonic() + 3
    while set(running("ssh-agent")) - agents and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(running("ssh-agent")) - agents, "an agent with a key was left"
    ours = f"{lab.folder}/"
    left = [pid for pid in running("ssh") if ours in command_line(pid)]
    assert not left, "an ssh was left"


def running(name: str) -> list[int]:
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().strip() == name:
                found.append(int(comm.parent.name))
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@needs_taktuk
def test_dead_relay_leaves_only_its_subtree_unknown(lab: Lab) -> None:
    """A tree that must branch: one connection at a time, so hosts fetch work from each other."""
    hosts = lab.hosts
    identity = lab.access.identity(hosts[0])
    tree = taktuk.Tree(lab.access, identity, hosts, ["sleep", "6"], stdin=None, timeout=20, connections=1)
    victim: list[str] = []

    def kill() -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            relays = [h for h in hosts if ["ssh", "-A"] in children_of_host(lab, h)]
            if relays and all(capture.started for capture in tree.captures):
                victim.append(relays[0])
                lab.kill_host(relays[0])
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    begun = time.monotonic()
    outcome = tree.run()
    thread.join()
    assert victim, "the tree did not branch"
    lab.raise_host(victim[0])
    lab.wait_for(victim[0])
    assert time.monotonic() - begun < 30
    assert set(outcome.results) | set(outcome.unknown) | set(outcome.not_started) == set(hosts)
    assert victim[0] in outcome.unknown
    assert all(result.reason.startswith("connection lost") for result in outcome.unknown.values())
    assert len(outcome.unknown) > 1, "nobody was behind the relay"
    assert outcome.results, "hosts that were not behind the relay must have ended well"
    assert all(result.ok for result in outcome.results.values())


def children_of_host(lab: Lab, host: str) -> list[list[str]]:
    """The first two arguments of every command line on a host."""
    commands = []
    for pid in descendants(lab.processes[host].pid):
        commands.append(command_line(pid).split("\0")[:2])
    return commands


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(
                int(stat.parent.name)
            )
    found, todo = [], [pid]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


@needs_taktuk
def test_hosts_that_do_not_reach_each_other_are_reached_from_here(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Access, "relay_prefix", lambda self, identity: ("ssh", "-o", "BatchMode=yes", "-p", "9")
    )
    fanout = Fanout(lab.access, tree_from=1)
    fanout.tree_connections = 1
    results = fanout.run(lab.hosts, ["true"], timeout=20)
    assert all(result.ok for result in results.values()), {r.reason for r in results.values()}
    assert {"ssh", "taktuk"} == {result.via for result in results.values()}
    again = fanout.run(lab.hosts, ["true"], timeout=20)
    assert {"ssh"} == {result.via for result in again.values()}
    assert sum("instead of a TakTuk tree" in record.message for record in caplog.records) == 1


def test_without_taktuk_ssh_is_used_and_this_is_logged_once(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taktuk, "installed", lambda: False)
    fanout = Fanout(lab.access, tree_from=1)
    for _ in range(2):
        assert {r.via for r in fanout.run(lab.hosts[:2], ["true"], timeout=20).values()} == {"ssh"}
    assert sum("not installed" in record.message for record in caplog.records) == 1


def test_a_stream_gives_lines_and_ends_both_sides(lab: Lab) -> None:
    host = lab.hosts[0]
    command = ["sh", "-c", "echo one; echo two; cat >/dev/null; echo bye; sleep 0.1"]
    with Stream(lab.access, host, command) as stream:
        lines = iter(stream)
        assert [next(lines)[0], next(lines)[0]] == ["one", "two"]
        assert stream.alive
        assert stream.result is None
        begun = time.monotonic()
        result = stream.close()
        assert time.monotonic() - begun < 4
        assert [line for line, _ in lines] == ["bye"], "it must notice that its input ended"
    assert result.ok
    deaf = Stream(lab.access, host, ["sh", "-c", "trap '' HUP TERM; echo on; while :; do sleep 1; done"])
    assert next(iter(deaf))[0] == "on"
    begun = time.monotonic()
    assert deaf.close().reason == "closed by us"
    assert time.monotonic() - begun < 4
    Fanout(lab.access).run([host], ["pkill", "-9", "-f", "while :"], timeout=10)


def test_a_stream_whose_host_dies_ends_with_a_reason(lab: Lab) -> None:
    host = lab.hosts[2]
    seen: list[str] = []
    stream = Stream(lab.access, host, ["sh", "-c", "echo up; cat"], on_line=lambda line, t: seen.append(line))
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        time.sleep(0.02)
    lab.kill_host(host)
    while stream.alive and time.monotonic() < deadline:
        time.sleep(0.02)
    result = stream.result
    lab.raise_host(host)
    lab.wait_for(host)
    assert seen == ["up"]
    assert result is not None
    assert not result.ok
    assert result.reason.startswith("connection lost")


def test_it_works_inside_a_running_event_loop_and_in_a_thread(lab: Lab) -> None:
    import asyncio

    fanout = Fanout(lab.access)

    async def cell() -> bool:
        here = fanout.run(lab.hosts[:2], ["true"], timeout=20)
        there = await asyncio.to_thread(fanout.run, lab.hosts[:2], ["true"], timeout=20)
        return all(result.ok for result in (*here.values(), *there.values()))

    assert asyncio.run(cell())
