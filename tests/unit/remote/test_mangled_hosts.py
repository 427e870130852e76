"""Whatever hosts, ssh and TakTuk print, each reader gives a result or one sentence, for that host alone.

300 answers for each reader with ``-m slow``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mangling import bodies, check_sentence, examples, reader_tests, sentence_of, texts
from test_sessions import FakeAccess

from g5kvirt.hostagent import protocol
from g5kvirt.remote.access import Access, parse_identity
from g5kvirt.remote.connections import Program
from g5kvirt.remote.envelope import Capture
from g5kvirt.remote.result import classify_failure, exit_reason, last_line
from g5kvirt.remote.sessions import Sessions
from g5kvirt.remote.taktuk import parse
from g5kvirt.remote.window import make_result

TOKEN = "0123456789abcdef01234567"
TREE = [
    *("O 1 68656c6c6f0a", "E 2 6572726f72", "S 1 6 0 2:3", "S 3 3 0 7:8 9:10", "X 2 0", "D 0 5461", "C 4 4b"),
]
SSH = [
    "ssh: connect to host gros-1 port 22: Connection refused\r\n",
    "root@gros-1: Permission denied (publickey).\n",
    "kex_exchange_identification: Connection closed by remote host\n",
    "client_loop: send disconnect: Broken pipe\n",
]
IDENTITY = [
    "user root\nidentityfile ~/.ssh/id_rsa\nidentityfile /etc/ssh/k\nproxycommand none\nproxyjump a,b\n"
]
ENVELOPE = [f"Warning: added\n{TOKEN}\ntrouble\n\n{TOKEN} 0 100.25 101.50\n", f"{TOKEN}\n\n{TOKEN} 255\n"]
FACTS = {"began": 1.7e9, "clock": 1.7e9, "cores": 4, "memory": 1 << 34, "kvm": True, "missing": []}
ANSWERS = [
    {"op": "facts", "subject": "gros-1", "status": "ok", "t": 1.7e9, "detail": FACTS},
    {"op": "start", "subject": "vm-1", "status": "failed", "t": 1.7e9, "detail": {"reason": "no\nroom"}},
]
FOLLOWED = [{"file": "/log", "offset": 10, "line": "text"}, {}]
#: Of a session with a host; 0 stands for the number of the call.
MESSAGES = [
    {"ready": True},
    {"id": 0, "begun": True},
    {"id": 0, "out": "text"},
    {"id": 0, "code": 0, "err": ""},
    {"send": True},
]


def tree(data: st.DataObject) -> None:
    line = data.draw(texts(TREE)).encode(errors="replace")
    found = parse(line)
    assert found is None or found.position >= 0


def ssh(data: st.DataObject) -> None:
    printed = data.draw(texts(SSH)).encode(errors="replace")
    check_sentence(classify_failure(printed)[1])
    check_sentence(exit_reason(1, printed))
    if last := last_line(printed):
        check_sentence(last)


def identity(data: st.DataObject) -> None:
    assert parse_identity(data.draw(texts(IDENTITY)).splitlines()).user is not None


def envelope(data: st.DataObject) -> None:
    printed = data.draw(texts(ENVELOPE)).encode(errors="replace")
    capture, cut = Capture("gros-1", TOKEN), data.draw(st.integers(0, len(printed)))
    for part in (printed[:cut], printed[cut:]):
        capture.feed_stderr(part, 1.0)
    assert math.isfinite(capture.seconds)
    result, _ = make_result(capture, 10.0, 0.0, 2.0)
    if not result.ok:
        check_sentence(result.reason)


def answers(data: st.DataObject) -> None:
    for answer in protocol.parse(data.draw(bodies(ANSWERS))):
        assert isinstance(answer.reason, str)
        if answer.ok and answer.op == "facts":
            assert math.isfinite(protocol.read_facts(answer, 1.7e9, 1.7e9).clock_offset)


def followed(data: st.DataObject) -> None:
    line = protocol.parse_line(data.draw(bodies(FOLLOWED)))
    assert line is None or isinstance(line.text, str)


READERS = (tree, ssh, identity, envelope, answers, followed)


def check(reader: Callable[[st.DataObject], object], data: st.DataObject) -> None:
    sentence_of(lambda: reader(data))


test_what_hosts_print_is_read_or_refused_in_a_sentence, test_300_answers_of_hosts_for_each_reader = (
    reader_tests(check, READERS)
)


# ---- sessions, with a process for a host -----------------------------------------------------------------

#: It prints what is in a file, with the number of the call in it, and goes.
HOST = """
import json, sys
print('{"ready": true}', flush=True)
number = json.loads(sys.stdin.readline())["id"]
text = open(sys.argv[1], "rb").read()
sys.stdout.buffer.write(text.replace(b'"id": 0', b'"id": %d' % number))
"""


@pytest.fixture
def access() -> FakeAccess:
    return FakeAccess()


def called(access: FakeAccess, folder: Path, lines: list[str]) -> None:
    """The odd host's call ends with a reason; that of another host, over the same thread, is answered."""
    (folder / "host.py").write_text(HOST)
    odd, good = folder / "odd", folder / "good"
    odd.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogatepass"))
    good.write_text("".join(json.dumps(message) + "\n" for message in MESSAGES[1:4]))
    access.before = {"odd": f"file={odd}", "good": f"file={good}"}
    program = Program(f"exec {sys.executable} -I -S {folder}/host.py $file")
    sessions = Sessions(cast(Access, access), program, window=8, attempts=1)
    try:
        results = sessions.call({"odd": b"{}", "good": b"{}"}, timeout=5.0, idempotent=False)
    finally:
        sessions.close()
    assert (results["good"].ok, results["good"].text) == (True, "text")
    if not results["odd"].ok:
        check_sentence(results["odd"].reason)


@examples(15)
@given(lines=st.lists(bodies(MESSAGES), max_size=4))
def test_an_odd_host_costs_no_other_its_session(access: FakeAccess, tmp_path: Path, lines: list[str]) -> None:
    called(access, tmp_path, lines)


@pytest.mark.slow
@examples(300)
@given(lines=st.lists(bodies(MESSAGES), max_size=4))
def test_300_odd_hosts_cost_no_other_its_session(
    access: FakeAccess, tmp_path: Path, lines: list[str]
) -> None:
    called(access, tmp_path, lines)
