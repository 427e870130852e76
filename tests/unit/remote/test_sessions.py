"""Connections that are kept for further calls: what is answered, and what each fault comes to."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import agent_copy
import pytest

from g5kvirt.errors import MachineError, SpecError
from g5kvirt.remote.access import Access
from g5kvirt.remote.connections import Program
from g5kvirt.remote.fanout import Fanout
from g5kvirt.remote.sessions import Sessions

#: A host's side whose documents are Python: what it prints is the answer.
HOST = """
import sys; sys.path.insert(0, {directory!r})
from onhost.session import serve

def perform(text):
    variables = {{"code": 0}}
    exec(text, variables)
    return variables["code"]

serve(perform, lambda text: None)
"""


class FakeAccess:
    """Runs commands on this machine; counts them."""

    login_timeout = 20.0
    key = None

    def __init__(self) -> None:
        self.logins: list[str] = []
        self.before: dict[str, str] = {}  #: shell text that a host runs first
        self.filters: dict[str, str] = {}  #: shell text through which its answers pass

    def argv(self, host: str, command: str) -> list[str]:
        self.logins.append(host)
        if host in self.filters:
            command = f"({command}) | {{ {self.filters[host]}; }}"
        return ["sh", "-c", f"{self.before.get(host, '')}\n{command}"]

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin"}

    def forwarding(self, agent: object) -> FakeAccess:
        return self

    def watching(self) -> FakeAccess:
        return self


@pytest.fixture
def access() -> FakeAccess:
    return FakeAccess()


@pytest.fixture
def make(access: FakeAccess, tmp_path: Path) -> Iterator[Callable[..., Sessions]]:
    directory = agent_copy.directory()
    script = tmp_path / "host.py"
    script.write_text(HOST.format(directory=str(directory)))
    every = []

    def sessions(**more: Any) -> Sessions:
        program = Program(f"exec {sys.executable} -I -S {script}")
        one = Sessions(cast(Access, access), program, **{"window": 8, "attempts": 2, **more})
        every.append(one)
        return one

    yield sessions
    for one in every:
        one.close()


def call(sessions: Sessions, timeout: float = 20.0, idempotent: bool = True, **texts: str) -> dict[str, Any]:
    documents = {host: text.encode() for host, text in texts.items()}
    return dict(sessions.call(documents, timeout=timeout, idempotent=idempotent))


def test_hosts_are_logged_in_once_and_calls_see_nothing_of_each_other(
    make: Callable[..., Sessions], access: FakeAccess
) -> None:
    sessions = make()
    first = call(sessions, a="import os; os.chdir('/usr'); print('one')", b="code = 3")
    assert (first["a"].ok, first["a"].text, first["a"].via) == (True, "one\n", "session")
    assert (first["b"].ok, first["b"].returncode, first["b"].reason) == (False, 3, "exit code 3")
    second = call(sessions, a="import os; print(os.getcwd() != '/usr')", b="print('ü' * 100_000)")
    assert second["a"].text == "True\n"
    assert second["b"].text == "ü" * 100_000 + "\n"
    assert sorted(access.logins) == ["a", "b"]


def test_more_hosts_than_the_window_are_all_called(make: Callable[..., Sessions]) -> None:
    results = call(make(window=3), **{f"h{i}": f"print({i})" for i in range(10)})
    assert {host: result.text for host, result in results.items()} == {f"h{i}": f"{i}\n" for i in range(10)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import sys; sys.stderr.write('no such bridge'); code = 1", "exit code 1 (no such bridge)"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit code 137"),
        ("1 / 0", "exit code 1 (ZeroDivisionError: division by zero)"),
    ],
)
def test_call_that_fails_does_not_end_the_session(
    make: Callable[..., Sessions], access: FakeAccess, text: str, reason: str
) -> None:
    sessions = make()
    assert call(sessions, a=text)["a"].reason == reason
    assert call(sessions, a="print(1)")["a"].text == "1\n"
    assert access.logins == ["a"]


def test_call_that_takes_too_long_is_killed_on_its_host(
    make: Callable[..., Sessions], tmp_path: Path
) -> None:
    sessions = make()
    mark = tmp_path / "mark"
    child = f"['sh', '-c', 'sleep 2; touch {mark}']"
    text = f"import subprocess; print('begun', flush=True); subprocess.run({child})"
    start = time.monotonic()
    result = call(sessions, timeout=0.5, a=text)["a"]
    assert time.monotonic() - start < 4
    assert result.reason == "timed out: ended after 0.5 s"
    assert result.text == "begun\n"
    time.sleep(2.2)
    assert not mark.exists(), "what it had started is killed, too"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    assert call(sessions, timeout=0.2, a=stubborn)["a"].reason == "timed out: ended after 0.2 s"


def test_host_decides_whether_a_call_timed_out(make: Callable[..., Sessions], access: FakeAccess) -> None:
    access.filters["a"] = "read -r ready; echo $ready; sleep 0.4; cat"  # "begun" is seen late
    sessions = make()
    late = call(sessions, timeout=0.5, a="import time; time.sleep(60)")["a"]
    assert late.reason == "timed out: ended after 0.5 s"
    assert call(sessions, timeout=0.1, b="code = 124")["b"].reason == "exit code 124"


def test_process_that_a_call_detaches_is_not_waited_for(make: Callable[..., Sessions]) -> None:
    text = "import subprocess; print('up'); subprocess.Popen(['sleep', '5'], start_new_session=True)"
    start = time.monotonic()
    assert call(make(), a=text)["a"].text == "up\n"
    assert time.monotonic() - start < 4


def test_refused_login_is_tried_again(
    make: Callable[..., Sessions], access: FakeAccess, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    access.before["a"] = f"[ -e {mark} ] || {{ touch {mark}; echo 'Connection refused' >&2; exit 255; }}"
    result = call(make(), a="print(1)")["a"]
    assert (result.ok, result.attempt, access.logins) == (True, 2, ["a", "a"])


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("echo 'Permission denied (publickey).' >&2; exit 255", "the host rejects our SSH key"),
        ("echo 'Connection refused' >&2; exit 255", "unreachable: the host refuses connections"),
        ("echo 'python3: command not found' >&2; exit 127", "exit code 127 (python3: command not found)"),
        ("echo 'tar: No space left on device' >&2; exit 2", "exit code 2 (tar: No space left on device)"),
        ("mkdir: Permission denied >&2; exit 1", "exit code 1"),
        ("exit 255", "unreachable"),
        ("echo what is this; sleep 60", "the host's answer cannot be read"),
        ("echo 1; sleep 60", "the host's answer cannot be read"),
        ("echo '{\"code\": 0}'; sleep 60", "the host's answer cannot be read"),
    ],
)
def test_host_that_cannot_be_used_has_a_reason(
    make: Callable[..., Sessions], access: FakeAccess, before: str, reason: str
) -> None:
    access.before["a"] = before
    results = call(make(), a="print(1)", b="print(2)")
    assert results["a"].reason.startswith(reason)
    assert not results["a"].started
    assert results["b"].ok


def test_login_has_a_bound(make: Callable[..., Sessions], access: FakeAccess) -> None:
    access.before["a"] = "sleep 60"
    access.login_timeout = 0.5
    assert call(make(), a="print(1)")["a"].reason == "unreachable: no login within 0.5 s"


def test_start_is_when_a_call_was_sent_so_that_a_host_s_clock_can_be_compared(
    make: Callable[..., Sessions],
) -> None:
    for _ in range(2):
        result = call(make(), a="import time; print(time.time())")["a"]
        assert result.start <= float(result.text) <= result.end


def test_host_that_died_without_a_word_is_logged_into_anew(
    make: Callable[..., Sessions], access: FakeAccess
) -> None:
    sessions = make()
    access.login_timeout = 2.0
    stop = "import os; os.system(f'(sleep 0.2; kill -STOP {os.getppid()}) >/dev/null 2>&1 &')"
    assert call(sessions, a=stop)["a"].ok
    time.sleep(0.6)
    result = call(sessions, a="print(1)")["a"]
    assert (result.ok, result.attempt) == (True, 2)
    assert call(sessions, a=stop)["a"].ok
    time.sleep(0.6)
    once = call(sessions, idempotent=False, a="print(1)")["a"]
    assert once.reason == "unreachable: no answer within 2 s"


def test_slow_installation_is_no_slow_login(access: FakeAccess, tmp_path: Path) -> None:
    access.login_timeout = 1.0
    script = "import os, time; os.write(1, b'{\"send\": true}\\n'); os.read(0, 9); time.sleep(1.5)\n"
    (tmp_path / "send.py").write_text(script + HOST.format(directory=str(agent_copy.directory())))
    program = Program(f"exec {sys.executable} -I -S {tmp_path}/send.py", lambda: b"abc")
    sessions = Sessions(cast(Access, access), program, window=1, attempts=1)
    assert call(sessions, a="print(1)")["a"].ok
    sessions.close()


def test_more_connections_than_may_be_open_are_not_kept(
    make: Callable[..., Sessions], access: FakeAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("g5kvirt.remote.multiplexer.raise_limit", lambda: 12)
    sessions = make()
    for _ in range(2):
        assert all(r.ok for r in call(sessions, **{f"h{i}": "print(1)" for i in range(4)}).values())
    assert len(access.logins) == 4 + 2


@pytest.mark.parametrize(("window", "timeout"), [(0, 1.0), (1, 0.0)])
def test_senseless_bounds_are_refused(make: Callable[..., Sessions], window: int, timeout: float) -> None:
    with pytest.raises(SpecError):
        call(make(window=window), timeout=timeout, a="print(1)")


def test_lost_connection_is_opened_again_only_if_the_call_may_run_twice(
    make: Callable[..., Sessions], access: FakeAccess, tmp_path: Path
) -> None:
    sessions = make()
    kill = "import os, signal; print('x', flush=True); os.kill(os.getppid(), signal.SIGKILL)"
    lost = call(sessions, idempotent=False, a=kill)["a"]
    assert lost.reason.startswith("connection lost while the command ran")
    assert (lost.started, lost.returncode, access.logins) == (True, None, ["a"])
    once = (
        f"import os\nif not os.path.exists('{tmp_path}/m'):\n  open('{tmp_path}/m', 'w')\n  {kill}\nprint(2)"
    )
    again = call(sessions, a=once)["a"]
    assert (again.ok, again.text, again.attempt) == (True, "2\n", 2)


def test_call_that_ends_its_host_before_it_says_more_has_begun(access: FakeAccess, tmp_path: Path) -> None:
    slow = "import os, time\nfork = os.fork\nos.fork = lambda: (pid := fork()) and time.sleep(1) or pid\n"
    (tmp_path / "slow.py").write_text(slow + HOST.format(directory=str(agent_copy.directory())))
    program = Program(f"exec {sys.executable} -I -S {tmp_path}/slow.py")
    sessions = Sessions(cast(Access, access), program, window=1, attempts=1)
    lost = call(sessions, idempotent=False, a="import os; os.kill(os.getppid(), 9)")["a"]
    assert (lost.started, lost.reason) == (True, "connection lost while the command ran")
    sessions.close()


def test_session_that_has_died_meanwhile_is_replaced(
    make: Callable[..., Sessions], access: FakeAccess
) -> None:
    sessions = make()
    kill = (
        "import os, signal, subprocess; os.system(f'(sleep 0.3; kill -9 {os.getppid()}) >/dev/null 2>&1 &')"
    )
    assert call(sessions, a=kill)["a"].ok
    time.sleep(0.8)
    assert call(sessions, idempotent=False, a="print(1)")["a"].ok
    assert access.logins == ["a", "a"]


def test_giving_up_ends_all_that_is_left(make: Callable[..., Sessions]) -> None:
    sessions, start = make(window=1), time.monotonic()
    texts = dict.fromkeys(("a", "b"), b"import time; time.sleep(60)")
    reason = ["", "the testbed is gone"]
    results = sessions.call(
        texts, timeout=60, idempotent=True, given_up=lambda: reason[time.monotonic() - start > 0.5]
    )
    assert {r.reason for r in results.values()} == {"given up: the testbed is gone"}
    assert time.monotonic() - start < 5


def test_abandoned_host_ends_its_calls_and_no_others(
    make: Callable[..., Sessions], access: FakeAccess
) -> None:
    access.before["refuses"] = "echo 'Connection refused' >&2; exit 255"  # will be tried again in a while
    access.before["slow"] = "sleep 60"
    sessions = make(attempts=9)
    hosts = ("running", "refuses", "slow")

    def abandon() -> None:
        for host in hosts:
            sessions.abandon(host, f"{host} is gone")

    timer, start = threading.Timer(1.0, abandon), time.monotonic()
    timer.start()
    wait = "import time; time.sleep(60)"
    results = call(sessions, running=wait, refuses=wait, slow=wait, other="import time; time.sleep(3)")
    assert {host: results[host].reason for host in hosts} == {host: f"{host} is gone" for host in hosts}
    assert results["other"].ok
    assert time.monotonic() - start < 20
    timer.join()


def test_lines_are_passed_on_as_they_come(make: Callable[..., Sessions], tmp_path: Path) -> None:
    lines: list[tuple[str, str, float]] = []
    text = f"""
import os, time
for n in range(3):
    print("line", n, flush=True)
    time.sleep(0.3)
print("rest", end="", flush=True)
if not os.path.exists("{tmp_path}/m"):
    open("{tmp_path}/m", "w")
    os.kill(os.getppid(), 9)
"""
    results = make().call(
        {"a": text.encode()}, timeout=20, idempotent=True, on_line=lambda *line: lines.append(line)
    )
    assert results["a"].text == "line 0\nline 1\nline 2\nrest"
    assert [(host, line) for host, line, _ in lines] == 2 * [("a", f"line {n}") for n in range(3)]
    assert lines[2][2] - lines[0][2] > 0.4


def test_what_a_line_raises_ends_all(make: Callable[..., Sessions]) -> None:
    def raise_it(*_: object) -> None:
        raise RuntimeError("enough")

    start = time.monotonic()
    with pytest.raises(RuntimeError, match="enough"):
        make().call(
            {"a": b"import time; print(1, flush=True); time.sleep(60)"},
            timeout=60,
            idempotent=True,
            on_line=raise_it,
        )
    assert time.monotonic() - start < 5


def test_calls_at_once_to_one_host_do_not_wait_for_each_other(
    make: Callable[..., Sessions], access: FakeAccess
) -> None:
    sessions = make()
    results: list[Any] = []
    text = "import time; time.sleep(1); print(1)"
    threads = [threading.Thread(target=lambda: results.append(call(sessions, a=text)["a"])) for _ in range(3)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.text for r in results] == ["1\n"] * 3
    assert time.monotonic() - start < 2.5
    assert access.logins == ["a"], "one connection serves all"


def test_thread_that_cannot_be_started_fails_its_call_alone(
    make: Callable[..., Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, start = make(), threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("no thread")))
    with pytest.raises(RuntimeError, match="no thread"):
        call(sessions, a="print(1)")
    monkeypatch.setattr(threading.Thread, "start", start)
    assert call(sessions, a="print(1)")["a"].text == "1\n"


def test_failure_of_the_connections_thread_reaches_all_calls(
    make: Callable[..., Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = make()
    assert call(sessions, a="print(1)")["a"].ok
    failures: list[str] = []

    def run() -> None:
        try:
            call(sessions, a="import time; time.sleep(20)", b="print(2)")
        except ZeroDivisionError:
            failures.append("told")

    threads = [threading.Thread(target=run) for _ in range(3)]
    monkeypatch.setattr(sessions._connections, "_look", lambda: 1 // 0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert failures == ["told"] * 3
    monkeypatch.undo()
    assert call(sessions, a="print(3)")["a"].text == "3\n"


def test_connection_that_ends_by_itself_is_told_and_one_that_is_closed_is_not(
    access: FakeAccess, make: Callable[..., Sessions]
) -> None:
    lost: list[str] = []
    sessions = Sessions(cast(Access, access), make().program, window=1, attempts=1, lost=[lost.append])
    kill = "import os; os.system(f'(sleep 0.2; kill -9 {os.getppid()}) >/dev/null 2>&1 &')"
    assert all(r.ok for r in call(sessions, a=kill, b="print(1)").values())
    time.sleep(0.8)
    sessions.close()
    assert lost == ["a"]


def test_missing_agent_is_requested_and_sent(access: FakeAccess, tmp_path: Path) -> None:
    archive = bytes(range(256)) * 300
    script = (
        'import os; os.write(1, b\'{"send": true}\\n\'); size = b""\n'
        'while not size.endswith(b" "): size += os.read(0, 1)\n'
        'data = b""\nwhile len(data) < int(size): data += os.read(0, 4096)\n'
        f'open("{tmp_path}/got", "wb").write(data)\n'
    )
    (tmp_path / "send.py").write_text(script + HOST.format(directory=str(agent_copy.directory())))
    program = Program(f"exec {sys.executable} -I -S {tmp_path}/send.py", lambda: archive)
    sessions = Sessions(cast(Access, access), program, window=1, attempts=1)
    assert call(sessions, a="print(1)")["a"].ok
    assert (tmp_path / "got").read_bytes() == archive
    sessions.close()


def test_host_counts_as_gone_until_a_call_reaches_it(
    access: FakeAccess, make: Callable[..., Sessions]
) -> None:
    fanout = Fanout(cast(Access, access))
    fanout.abandon("a", "it was silent")
    assert (fanout.is_gone("a"), fanout.is_gone("b")) == (True, False)
    program = make().program
    results = fanout.call(program, {"a": b"print(1)"}, timeout=20, idempotent=True)
    assert results["a"].ok
    assert not fanout.is_gone("a")
    fanout.close()


def test_release_closes_what_the_fanout_has_kept(access: FakeAccess, make: Callable[..., Sessions]) -> None:
    access.jump = ""  # type: ignore[attr-defined]
    fanout = Fanout(cast(Access, access))
    assert fanout.keeps_connections
    for _ in range(2):
        results = fanout.call(
            make().program, {"a": b"import os; print(os.getppid())"}, timeout=9, idempotent=True
        )
    assert access.logins == ["a"]
    fanout.close()
    assert not Path(f"/proc/{results['a'].text.strip()}").exists()
    access.jump = "gateway"  # type: ignore[attr-defined]
    assert not fanout.keeps_connections, "a jump host bears only so many"


@pytest.mark.parametrize("how", ["close", "forget"])
def test_no_process_is_left(make: Callable[..., Sessions], access: FakeAccess, how: str) -> None:
    program = make().program
    sessions = Sessions(cast(Access, access), program, window=1, attempts=1)
    pid = int(call(sessions, a="import os; print(os.getppid())")["a"].text)
    assert Path(f"/proc/{pid}").exists()
    if how == "close":
        sessions.close()
    del sessions
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


def test_missing_ssh_is_said_plainly(make: Callable[..., Sessions], access: FakeAccess) -> None:
    access.argv = lambda host, command: ["no-such-ssh"]  # type: ignore[method-assign]
    with pytest.raises(MachineError, match="no-such-ssh not found"):
        call(make(), a="print(1)")


def test_setting_the_clock_makes_no_call_late(
    make: Callable[..., Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    timer = threading.Timer(0.4, lambda: monkeypatch.setattr(time, "time", lambda: now() + 86400))
    timer.start()
    result = call(make(), timeout=20, a="import time; time.sleep(1.2); print('done')")["a"]
    timer.join()
    assert (result.ok, result.text) == (True, "done\n"), result.reason
