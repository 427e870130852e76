"""A report of a run: it has what a bug needs, and nothing of the person who sends it."""

from __future__ import annotations

import base64
import json
import platform
import stat
import tarfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from runmaker import run_events

from g5kvirt import cli
from g5kvirt.artifact.person import redaction_of_this_person
from g5kvirt.artifact.redaction import Redaction
from g5kvirt.testbeds.grid5000.answers import marked

Patch = pytest.MonkeyPatch
LOGIN, OTHER, MAIL = "jdoe", "asmith", "jane.doe@inria.example"
HOST = "janes-laptop"
TOKEN, PASSWORD, VARIABLE = "tok_8f3kq92mzx", "hunter2-very-long", "env_9Zk2p0Qd"
PUBLIC = "AAAAC3NzaC1lZDI1NTE5AAAAIG7Qw0nLk1cJQm2V"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----"
SECRETS = [LOGIN, OTHER, MAIL, "jane.doe", HOST, TOKEN, PASSWORD, VARIABLE, PUBLIC, "b3BlbnNzaC1rZXktdjEA"]

#: Each as it may stand in a command, an answer, a reason.
SENTENCES = [
    f"job 7 of {LOGIN} at nancy: User {OTHER} requested to frag the job",
    f"    owner = {OTHER}",
    f"/home/{LOGIN}/runs/x: permission denied, ask {MAIL}",
    f"umask 077; printf '%s\\n' 'ssh-ed25519 {PUBLIC} {LOGIN}@{HOST}' > .g5kvirt-nancy-1.pub",
    PRIVATE,
    f"curl -H 'Authorization: Bearer {TOKEN}' https://{LOGIN}:{PASSWORD}@api.grid5000.fr/",
    f"password={PASSWORD} API_TOKEN: {TOKEN}",
    json.dumps({"user_uid": OTHER, "password": PASSWORD, "token": TOKEN, "project": "x"}),
    json.dumps(json.dumps({"user": OTHER, "secret": PASSWORD})),
    f"the variable had {VARIABLE} in it on {HOST}.home.example",
]


#: Base64 of a private key, and its inside on lines of its own.
WRAPPED = (
    base64.encodebytes(PRIVATE.replace("b3B", "c3RyYW5nZSBrZXkgb2Yg" * 9).encode()).decode().splitlines()
)
SECRETS += [
    *WRAPPED,
    "tail-of-it",
    "82.66.12.34",
    "2a01:e0a:12:34::7",
    "adsl.example",
    "hunter 3",
    "glpat-",
    "eyJz",
]
SENTENCES += [
    "\n".join(WRAPPED),
    f"known as {PUBLIC} only",
    f"https://{LOGIN}:p@tail-of-it@api.grid5000.fr/ https://me:x%40tail-of-it@h/x http://h/ mysql://u:tail-of-it@db/",
    "Last login: Mon Nov 30 10:00:00 2026 from box-1.adsl.example",
    "SSH_CLIENT=82.66.12.34 51234 22",
    "SSH_CONNECTION=2a01:e0a:12:34::7 51234 172.16.79.101 22",
    "password: 'hunter 3, with' and PGPASSWORD=\"hunter 3\" psql",
    f"curl -u {LOGIN}:tail-of-it https://api.grid5000.fr",
    "glpat-abcdefghijklmnopqrst eyJhbGciOiJI.eyJzdWIiOiJqZG9l.abcdefghijk",
]
SENTENCES += [f"{sentence} {marked(sentence)} {quote(sentence)}" for sentence in SENTENCES]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with secrets in every place."""
    monkeypatch.setenv("USER", LOGIN)
    monkeypatch.setenv("GITLAB_TOKEN", VARIABLE)
    monkeypatch.setenv("HOME", f"/home/{LOGIN}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(platform, "node", lambda: f"{HOST}.home.example")
    path = tmp_path / "runs" / "first"
    path.mkdir(parents=True)
    document: dict[str, Any] = {"name": "first", "created": 1_700_000_000.0, "testbed": "grid5000"}
    document |= {"spec": {"vms": 4, "project": " ".join(SENTENCES)}, "password": PASSWORD, LOGIN: [SENTENCES]}
    (path / "run.json").write_text(json.dumps(document))
    events = [event.to_json() for event in run_events(4)]
    for number, text in enumerate(SENTENCES):
        detail = {"process": {"pid": 4, "host": HOST}, "reason": text, "token": TOKEN, "owner": OTHER}
        event = {"t": 1e9 + number, "phase": "reserve", "step": text, "kind": "site", "subject": text}
        events.append(json.dumps({**event, "status": "failed", "detail": detail}))
    torn = f'{{"torn": "{LOGIN} token={TOKEN}'
    (path / "journal.jsonl").write_text("\n".join([*events, torn]))
    for name in ("transcript-1.jsonl", "transcript.jsonl"):
        exchanges = [
            {"t": 1.0, "to": f"{LOGIN}@nancy", "request": text, "status": 0, "answer": f"{text}\r\n"}
            for text in SENTENCES
        ]
        (path / name).write_text("".join(json.dumps(one) + "\n" for one in exchanges))
    (path / "rehearsal.txt").write_text("Rehearsal first: 1 of 9 steps worked\n" + "\n".join(SENTENCES))
    (path / "ssh").mkdir()
    (path / "ssh" / "id_ed25519").write_text(PRIVATE)
    return path


def archived(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        assert {m.uname for m in archive.getmembers()} == {""}
        return {m.name: archive.extractfile(m).read().decode() for m in archive.getmembers()}  # type: ignore[union-attr]


def test_no_secret_of_any_place_is_in_the_archive(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bug.tar.gz"
    assert cli.main(["report", "first", "--runs", str(run.parent), "-o", str(out), "--yes"]) == 0
    listed = capsys.readouterr().out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = archived(out)
    assert {name.partition("/")[2] for name in found} == {
        "run.json",
        "journal.jsonl",
        "transcript.jsonl",
        "versions.json",
        "rehearsal.txt",
    }
    for name, text in found.items():
        for secret in SECRETS:
            assert secret not in text, f"{secret} in {name}: {text[max(0, text.find(secret) - 80) :][:200]}"
        assert name.partition("/")[2] in listed


def test_what_a_bug_needs_is_still_there(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "bug.tar.gz"
    assert cli.main(["report", "first", "--runs", str(run.parent), "-o", str(out), "--yes"]) == 0
    found = archived(out)
    journal = found["g5kvirt-report/journal.jsonl"].splitlines()
    assert json.loads(journal[0]) == json.loads(run_events(4)[0].to_json())
    assert "requested to frag the job" in found["g5kvirt-report/transcript.jsonl"]
    assert found["g5kvirt-report/rehearsal.txt"].startswith("Rehearsal first: 1 of 9 steps worked\n")
    versions = json.loads(found["g5kvirt-report/versions.json"])
    assert {"g5kvirt", "python", "execo", "system", "kernel"} <= versions.keys()
    owners = {json.loads(line)["detail"]["owner"] for line in journal if '"owner"' in line}
    assert len(owners) == 1, "the same person has the same name everywhere"
    assert owners.pop() in found["g5kvirt-report/transcript.jsonl"]


def test_nothing_is_written_without_a_yes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bug.tar.gz"
    arguments = ["report", "first", "--runs", str(run.parent), "-o", str(out)]
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert cli.main(arguments) == 2
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert cli.main(arguments) == 1
    assert not out.exists()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert cli.main(arguments) == 0
    assert out.exists()


def test_login_and_password_of_the_password_file_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "g5kvirt").mkdir()
    (tmp_path / "login.yaml").write_text("username: mmustermann\npassword: correct horse\n")
    (tmp_path / "login.yaml").chmod(0o600)
    (tmp_path / "g5kvirt" / "grid5000.yaml").write_text(f"password_file: {tmp_path / 'login.yaml'}\n")
    text = redaction_of_this_person().text("GET jobs?user=mmustermann with correct horse")
    assert "mmustermann" not in text
    assert "horse" not in text


def test_names_of_machines_and_programs_are_not_taken_for_persons() -> None:
    redaction = Redaction(["root", "g5k", "al"], hosts=["localhost", "vm"])
    for text in (
        "vm-7 of kind vm",
        "root@graphene-1.nancy.grid5000.fr",
        "g5k-subnets -a",
        "total alive",
        "{'type': 'default'}",
        "10.144.0.1/22 by 172.16.64.1 and 127.0.0.1, OAR 2.5.9, 192.168.1.2:8080, fe80::1, 52:54:00:12:34:56",
        "at 10:00:00, dead::beef, IO::Socket, take -u deploy: no",
        "job token ring: none",
    ):
        assert redaction.text(text) == text
    assert redaction.text("al: al-1") == "user-1: user-1-1"
    assert redaction.count == {"user": 2}


#: Text → what of it must not be sent.
LEAKS = {
    "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG": "wJalr",
    "export SECRET_KEY=hunter2pw GITHUB_PAT='ghq-x012'; declare -x MY_TOKEN_ID": "hunter2pw",
    "id AKIAIOSFODNN7EXAMPLE of eu-west": "AKIAIOSF",
    "Set-Cookie: session=abcdef0123; CASTGC=tail-of-it; Path=/": "tail-of-it",
    'Authorization: Digest username="x", response="6629fae49393"': "6629fae",
    "ticket=ST-1234-abcdefghijk-cas": "abcdefgh",
    "curl -ux:tail-of-it http://h/; curl --user=x:tail-of-it http://h/": "tail-of-it",
    "sshpass -p tail-of-it ssh h; mysql -uroot -ptail-of-it db": "tail-of-it",
    "wget --http-password tail-of-it http://h/": "tail-of-it",
    "machine api.grid5000.fr login x password hunter2pw": "hunter2pw",
    "mot de passe : hunter2pw": "hunter2pw",
    "the password is hunter2pw": "hunter2pw",
    "password=hunter,tail;tail%40tail&tail": "tail",
    json.dumps({"pwd": "hunter2pw", "auth": "aHVudGVyMnB3"}): "hunter2pw",
    json.dumps({"auths": {"registry": {"auth": "aHVudGVyMnB3"}}}): "aHVu",
    "xauth add h/unix:10 MIT-MAGIC-COOKIE-1 0123456789abcdef0123456789abcdef": "89abcdef",
    "root:$6$saltsalt$abcdefghijklmnopqrstuvwxyz:19000:0:99999:7:::": "abcdefgh",
    "sk-proj-abcdefghijklmnopqrstuv hf_abcdefghijklmnopqrstuvw pypi-AgEIcHlwaS5vcmcC": "pqrstuv",
    "pypi-AgEIcHlwaS5vcmcC AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQ": "QQQQ",
    "GET https://h/x?key=0123abc&X-Amz-Signature=0123abc": "0123abc",
    "PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=": "yAnz5",
    "MIIEpAIBAAKCAQEA7bq8M6j7wq9C5Jn0b6w3M0f3dFz0d2L1yq7n8mV9V2a1": "7bq8",
    "password=\x1b[31mhunter2pw\x1b[0m": "hunter2pw",
    "\x1b[31m88.120.3.4\x1b[0m": "88.120",
    "box 88-120-3-4.subs.provider.example": "88-120",
    "Derni\u00e8re connexion : lun. 30 nov. depuis box-1.provider.example": "provider",
    "~asmith/public and asmith": "asmith",
    "C:\\Users\\asmith\\x": "asmith",
    "asmith   pts/0    10.0.0.1   10:00": "asmith",
    "    user: asmith": "asmith",
    "asmith@fnancy: Permission denied (publickey).": "asmith",
    "uid=10234(asmith) gid=8000(users)": "asmith",
    "asmith:x:10234:8000:Ann Smith:/home/asmith:/bin/bash": "Smith",
    "X-Kadeploy-User: asmith": "asmith",
    "drwxr-xr-x 2 asmith users 4096 x": "asmith",
    "sudo -u asmith ls": "asmith",
}


@pytest.mark.parametrize("text", LEAKS)
@pytest.mark.parametrize("quoted", [False, True], ids=["plain", "in-json"])
def test_no_secret_in_any_form_stays(text: str, quoted: bool) -> None:
    redaction = Redaction()
    line = json.dumps({"to": "nancy", "answer": text}) if quoted else text
    redaction.learn(json.loads(line) if quoted else line)
    assert LEAKS[text] not in redaction.line(line)


def test_all_that_a_secret_s_field_holds_is_replaced() -> None:
    found = Redaction().document({"credentials": {"value": "a-1", "list": ["b-2", 3]}, "tokens": None})
    assert found == {"credentials": {"value": "secret-1", "list": ["secret-2", "secret-3"]}, "tokens": None}


@pytest.mark.parametrize(
    "word", ["a", "-", "a-", "Ab0+/", "1.", ":", "/", "ssh-", "pass", "\\", " ", "a@", "%20"]
)
def test_long_answers_take_no_time(word: str) -> None:
    """A transcript keeps 64 Ki characters of an answer, whatever they are."""
    begin = time.process_time()
    Redaction(["jdoe"]).line(json.dumps({"answer": word * (65_536 // len(word))}))
    assert time.process_time() - begin < 2


def test_logins_of_ssh_s_and_execo_s_configuration_are_known(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host *.g5k\n  user=asmith\nHost *\n  User %r\n")
    (tmp_path / ".execo.conf.py").write_text("g5k_configuration = {'api_username': 'bsmith', 'x': 1}\n")
    redaction = redaction_of_this_person()
    assert "smith" not in redaction.text("asmith at nancy and bsmith of the API")


def test_a_report_of_broken_and_binary_files_is_written(run: Path, tmp_path: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"spec": {"project": "half \ud83d"}}))
    lines = [
        b'{"t": 1, "detail": {"reason": "half \\ud83d of jdoe"}}',
        bytes(range(256)),
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ]
    (run / "journal.jsonl").write_bytes(b"\n".join(lines))
    (run / "transcript.jsonl").write_bytes(bytes(range(256)) * 1000)
    out = tmp_path / "bug.tar.gz"
    assert cli.main(["report", "first", "--runs", str(run.parent), "-o", str(out), "--yes"]) == 0
    first = archived(out)["g5kvirt-report/journal.jsonl"].splitlines()[0]
    assert json.loads(first)["detail"]["reason"] == "half \ud83d of user-1"
