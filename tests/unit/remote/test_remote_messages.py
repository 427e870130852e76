"""The pure parts of the fan-out: the command script, messages of ssh and TakTuk, files, names."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.remote import Access, File, envelope
from g5kvirt.remote.access import check_host, parse_identity
from g5kvirt.remote.envelope import Capture, new_token, one_line, script
from g5kvirt.remote.files import pack, unpack_argv
from g5kvirt.remote.result import classify_failure, retry_delay
from g5kvirt.remote.taktuk import Message, parse
from g5kvirt.remote.window import make_result

TOKEN = "0123456789abcdef01234567"
arguments = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)


def shell(text: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-c", text], input=stdin, capture_output=True, timeout=20)


@given(st.lists(arguments, min_size=1, max_size=5))
def test_script_preserves_every_argument(argv: list[str]) -> None:
    text = script(TOKEN, ["printf", r"%s\0", *argv], 10)
    for form in (text, one_line(text)):
        done = shell(form)
        assert done.stdout == b"".join(argument.encode() + b"\0" for argument in argv)
        assert re.fullmatch(rf"{TOKEN}\n\n{TOKEN} 0 [0-9.]+ [0-9.]+\n", done.stderr.decode())


@given(arguments.filter(bool))
def test_one_line_has_no_taktuk_syntax(text: str) -> None:
    line = one_line(text)
    assert not set(line) & set("[]{}\n\t\\!;,")
    assert "  " not in line
    assert base64.b64decode(line.split()[2]).decode() == text


def test_script_reports_the_exit_code_and_limits_the_run_time() -> None:
    assert shell(script(TOKEN, ["sh", "-c", "exit 255"], 10)).returncode == 255
    late = shell(script(TOKEN, ["sleep", "20"], 0.2))
    assert late.returncode == 124
    capture = Capture("h", TOKEN)
    capture.feed_stderr(late.stderr, 1.0)
    assert capture.seconds == pytest.approx(0.2, abs=0.15)


@pytest.mark.parametrize("code", [124, 137, 143])
@pytest.mark.parametrize("seen", [100.0, 104.9])
def test_exit_code_of_every_timeout_program_is_a_timeout_only_after_the_time_limit(
    code: int, seen: float
) -> None:
    # by the host's clock: a busy notebook sees the first token late
    for seconds, reason in (
        ("1000.31 1005.30", "timed out: ended after 5 s"),
        ("1000.31 1001.31", f"exit code {code} (Terminated)"),
        (" ", f"exit code {code} (Terminated)"),
    ):
        capture = Capture("h", TOKEN)
        capture.feed_stderr(f"{TOKEN}\nTerminated\n".encode(), seen)
        capture.feed_stderr(f"\n{TOKEN} {code} {seconds}\n".encode(), 105.0)
        result, kind = make_result(capture, 5.0, 99.0, 106.0)
        assert (result.reason, result.ok, kind) == (reason, False, None)


@given(
    st.binary(max_size=80),
    st.binary(max_size=80),
    st.integers(0, 255),
    st.lists(st.integers(1, 40)),
    st.booleans(),
)
def test_capture_finds_its_tokens_in_any_chunks(
    before: bytes, stderr: bytes, code: int, cuts: list[int], keep: bool
) -> None:
    stream = before + f"{TOKEN}\n".encode() + stderr + f"\n{TOKEN} {code} 1000.5 123456789.75\n".encode()
    capture = Capture("h", TOKEN, keep=keep)
    t, rest = 0.0, stream
    for cut in [*cuts, len(stream)]:
        t += 1
        capture.feed_stderr(rest[:cut], t)
        rest = rest[cut:]
    assert (capture.ssh_stderr, capture.stderr, capture.returncode) == (before, stderr, code)
    assert capture.started is not None
    assert capture.ended is not None
    assert 0 < capture.started <= capture.ended <= t
    assert capture.seconds == 123455789.25


def test_capture_of_a_stream_keeps_only_the_end_of_standard_error() -> None:
    capture = Capture("h", TOKEN, keep=False)
    capture.feed_stderr(f"{TOKEN}\n".encode(), 1)
    for _ in range(100):
        capture.feed_stderr(b"x" * 4096, 2)
        capture.feed_stdout(b"y" * 4096, 2)
    assert len(capture.stderr) < 50_000
    assert not capture.stdout
    capture.feed_stderr(f"\n{TOKEN} 7\n".encode(), 3)
    assert capture.returncode == 7


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=60), st.lists(st.integers(1, 20)))
def test_capture_passes_on_complete_lines_from_any_chunks(text: str, cuts: list[int]) -> None:
    seen: list[str] = []
    capture = Capture("h", TOKEN, lambda host, line, t: seen.append(line))
    rest = text.encode()
    for cut in [*cuts, len(rest)]:
        capture.feed_stdout(rest[:cut], 1.0)
        rest = rest[cut:]
    capture.close(2.0)
    assert seen == (text.removesuffix("\n").split("\n") if text else [])
    assert capture.stdout == text.encode()


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ("ssh: connect to host h port 22: Connection refused\r\n", "refused"),
        ("kex_exchange_identification: Connection closed by remote host\n", "refused"),
        ("Connection closed by 1.2.3.4 port 22\n", "refused"),
        ("x.grid5000.fr is not a name of the local testbed 'local'\nmm_receive_fd: recvmsg: \n", "name"),
        (
            "connect to h (10.0.0.1) port 22: timed out\nproxy dialer did not pass back a connection\n",
            "timeout",
        ),
        ("kex_exchange_identification: read: Connection reset by peer\n", "refused"),
        ("Connection closed by UNKNOWN port 65535\n", "refused"),
        ("ssh: connect to host h port 22: Connection timed out\n", "timeout"),
        ("Connection timed out during banner exchange\n", "timeout"),
        ("ssh: connect to host h port 22: No route to host\n", "timeout"),
        ("root@h: Permission denied (publickey).\n", "key"),
        ("ssh: Could not resolve hostname h: Name or service not known\n", "name"),
        ("client_loop: send disconnect: Broken pipe\n", "other"),
        ("Read from remote host h: Connection reset by peer\n", "other"),
        ("Connection to h closed by remote host.\n", "other"),
        ("Timeout, server h not responding.\n", "other"),
        ("", "other"),
    ],
)
def test_ssh_messages_are_classified(messages: str, kind: str) -> None:
    found, sentence = classify_failure(messages.encode())
    assert found == kind
    assert messages.partition("\n")[0].strip() in sentence


def test_only_temporary_failures_are_retried() -> None:
    assert [retry_delay("refused", n, 4) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]
    assert retry_delay("refused", 20, 99) == 8.0
    assert [retry_delay(kind, 1, 9) for kind in ("timeout", "key", "name", "other")] == [None] * 4
    assert retry_delay("other", 1, 9, idempotent=True) == 0.5


@given(st.sampled_from("OECD"), st.integers(1, 5000), st.binary(max_size=50))
def test_taktuk_messages_carry_any_bytes(kind: str, position: int, data: bytes) -> None:
    assert parse(f"{kind} {position} {data.hex()}".encode()) == Message(kind, position, data)


def test_taktuk_events_are_parsed() -> None:
    assert parse(b"S 3 5 host-4:4 host-12:12") == Message("S", 3, event=5, given=(4, 12))
    assert parse(b"S 0 0 ") == Message("S", 0, event=0)
    assert parse(b"X 7 256") == Message("X", 7, event=256)


@given(st.binary(max_size=60))
def test_other_lines_are_no_taktuk_message(line: bytes) -> None:
    message = parse(line)
    assert message is None or line.split()[0] == message.kind.encode()


def test_files_are_installed_all_or_none(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 500)
    target = tmp_path / "deep er" / "x y"
    files = [File(source, f"{target}/it's", 0o750), File(b"second", f"{target}/../b", 0o600)]
    stream, argv = pack(files, "mark"), unpack_argv(files, "mark")
    done = subprocess.run(argv, input=stream, capture_output=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (target / "it's").read_bytes() == source.read_bytes()
    assert (target / "it's").stat().st_mode & 0o7777 == 0o750
    assert (target.parent / "b").read_bytes() == b"second"
    changed = bytearray(stream)
    changed[2000] ^= 1
    (target / "it's").write_bytes(b"as it was")
    done = subprocess.run(argv, input=bytes(changed), capture_output=True, timeout=20)
    assert done.returncode != 0
    assert (target / "it's").read_bytes() == b"as it was"
    assert sorted(path.name for path in target.parent.rglob("*")) == ["b", "it's", "x y"]


def test_command_line_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    files = [File(str(i).encode(), f"{tmp_path}/task/vm-{i}.task") for i in range(5000)]
    command = " ".join(unpack_argv(files, new_token()))
    assert len(command) < 4096  # a longer one than 128 KiB cannot be given to ssh, nor to the host's shell
    few = files[:300]
    argv = unpack_argv(few, "mark")
    done = subprocess.run(argv, input=pack(few, "mark"), capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert {path.name for path in (tmp_path / "task").iterdir()} == {f"vm-{i}.task" for i in range(300)}


def test_truncated_stream_leaves_no_files(tmp_path: Path) -> None:
    files = [File(b"x" * 5000, f"{tmp_path}/a {i}") for i in range(8)]
    stream, argv = pack(files, "mark"), unpack_argv(files, "mark")
    for cut in (0, 700, 20_000):
        done = subprocess.run(argv, input=stream[:cut], capture_output=True, timeout=20)
        assert done.returncode != 0
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "files",
    [
        [File(b"", "relative")],
        [File(b"", "/")],
        [File(b"", "/a\nb")],
        [File(b"", "/a"), File(b"", "/b/../a")],
        [File(Path("/no/such/file"), "/a")],
    ],
)
def test_invalid_files_raise(files: list[File]) -> None:
    with pytest.raises(SpecError):
        pack(files, "mark")


@pytest.mark.parametrize("name", ["", "-oProxyCommand=x", "a b", "a;b", "a\n", "$x", "user@host", "h-"])
def test_invalid_host_names_raise(name: str) -> None:
    with pytest.raises(SpecError):
        check_host(name)


@pytest.mark.parametrize("name", ["h", "graphene-1-kavlan-14.nancy.grid5000.fr", "10.0.0.1", "fe80::1%eth0"])
def test_valid_host_names_are_accepted(name: str) -> None:
    assert check_host(name) == name


def test_the_ssh_command_line() -> None:
    access = Access(None, Path("/c"), Path("/k"), ("ConnectTimeout=99",), 7)
    argv = access.argv("h", "x y")
    assert argv[:5] == ["ssh", "-F", "/c", "-o", "ConnectTimeout=99"], "a person's options come first and win"
    assert argv[-3:] == ["--", "h", "x y"]
    assert "ConnectTimeout=7" in argv
    assert argv[argv.index("-i") + 1] == "/k"
    assert "-l" not in argv
    assert "LC_ALL" in access.environment()
    relay = access.relay_prefix(parse_identity(["user someone"]))
    assert "/c" not in relay
    assert "/k" not in relay
    assert relay[-2:] == ("-l", "someone")


def test_identity_is_parsed_from_ssh_g(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    lines = ["host h", "user g5k", f"identityfile {tmp_path}/none", f"identityfile {tmp_path}/key", "port 22"]
    identity = parse_identity(lines)
    assert (identity.user, identity.keys) == ("g5k", (tmp_path / "key",))


@pytest.mark.parametrize("keep", [True, False])
def test_what_a_host_sends_without_end_is_not_all_kept(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "MOST_OUTPUT", 1 << 20)
    monkeypatch.setattr(envelope, "_MOST_ERRORS", 1 << 20)
    monkeypatch.setattr(envelope, "_LONGEST_LINE", 1 << 20)
    lines: list[str] = []
    capture = Capture("h", TOKEN, lambda _, line, __: lines.append(line), keep=keep)
    piece = b"x" * 65536
    for number in range(100):
        capture.feed_stdout(piece, float(number))
        capture.feed_stderr(piece, float(number))  # a banner before the login
    capture.feed_stderr(b"\n" + TOKEN[:5].encode(), 100.0)
    capture.feed_stderr(TOKEN[5:].encode() + b"\n", 100.0)
    assert capture.started == 100.0
    for number in range(100):
        capture.feed_stderr(piece, float(number))
    capture.feed_stderr(f"\nno room\n\n{TOKEN} 0 1.0 2.0\n".encode(), 101.0)
    capture.feed_stdout(b"\nshort\n", 102.0)
    assert [len(line) for line in lines] == [1 << 20, 5]
    assert len(capture.stdout) == keep << 20
    assert len(capture.stderr) <= 1 << 20
    result, _ = make_result(capture, 10.0, 0.0, 102.0)
    assert result.ok != keep
    assert result.reason == ("cut off: more than 1,024 MiB of output" if keep else "")
