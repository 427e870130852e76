"""What was said to a testbed is kept in the run's directory, within bounds."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import backgroundbeds  # noqa: F401  it registers a testbed

from g5kvirt import Spec
from g5kvirt.phase_runner import PhaseRunner
from g5kvirt.testbeds import transcript as module
from g5kvirt.testbeds.grid5000.recording import _noted, note_process
from g5kvirt.testbeds.transcript import FILES, Transcript


def lines(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for name in FILES
        if (folder / name).exists()
        for line in (folder / name).read_text().splitlines()
    ]


def say(transcript: Transcript, request: str, answer: str) -> None:
    transcript.note("nancy", request, answer, begin=10.0, end=10.5, status=0)


def test_what_was_said_before_the_run_had_a_directory_is_kept_too(tmp_path: Path) -> None:
    transcript = Transcript()
    say(transcript, "oarstat", "none")
    transcript.keep_in(tmp_path)
    say(transcript, "oarsub", "OAR_JOB_ID=1")
    assert [line["request"] for line in lines(tmp_path)] == ["oarstat", "oarsub"]
    first = {"t": 10.0, "seconds": 0.5, "to": "nancy", "request": "oarstat", "status": 0, "answer": "none"}
    assert lines(tmp_path)[0] == first
    assert stat.S_IMODE((tmp_path / FILES[-1]).stat().st_mode) == 0o600


def test_a_repeated_answer_is_not_repeated(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.keep_in(tmp_path)
    for answer in ("Waiting", "Waiting", "Running"):
        say(transcript, "oarstat -fj 1", answer)
    found = lines(tmp_path)
    assert [line.get("answer") for line in found] == ["Waiting", None, "Running"]
    assert found[1]["same"] is True


def test_answers_and_files_are_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.keep_in(tmp_path)
    for number in range(100):
        say(transcript, f"request {number}", f"{number}" + "x" * 200_000)
    found = lines(tmp_path)
    assert all(len(line["answer"]) == module.LONGEST_ANSWER and line["cut"] > 200_000 for line in found)
    assert sum((tmp_path / name).stat().st_size for name in FILES) <= 2 * module.LARGEST_FILE
    numbers = [int(line["request"].split()[1]) for line in found]
    assert numbers == list(range(numbers[0], 100))
    assert len(numbers) > 30


def test_a_directory_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.keep_in(tmp_path / "gone")
    say(transcript, "oarstat", "none")
    assert not (tmp_path / "gone").exists()


def test_processes_and_requests_are_noted_without_the_password_of_the_api(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.keep_in(tmp_path)
    process = SimpleNamespace(
        host=SimpleNamespace(address="nancy.grid5000.fr"),
        remote_cmd="oarsub -l nodes=1",
        start_date=5.0,
        end_date=7.0,
        exit_code=3 << 8,
        timeouted=False,
        stdout="no\n",
        stderr="really\n",
    )
    note_process(transcript, process)

    class Api:
        def _build_uri(self, path: str) -> str:
            return f"http://me:hidden@api.test/{path}"

    def get(self: Api, path: str) -> Any:
        if path == "bad":
            raise OSError("no route")
        return SimpleNamespace(status_code=200, text="{}")

    noted = _noted(transcript, "GET", get)
    assert noted(Api(), "sites").text == "{}"
    try:
        noted(Api(), "bad")
    except OSError:
        pass
    else:
        raise AssertionError("the error is the caller's")
    first, second, third = lines(tmp_path)
    assert (first["to"], first["status"], first["answer"]) == ("nancy.grid5000.fr", 3, "no\nreally\n")
    assert (second["request"], second["status"]) == ("GET http://api.test/sites", 200)
    assert third["status"] == "no route"
    assert "hidden" not in (tmp_path / FILES[-1]).read_text()


def test_transcript_follows_the_run_in_progress_and_no_prediction(tmp_path: Path) -> None:
    spec = Spec(sites={"nancy": 1}, vms=2)
    first = PhaseRunner.create(spec, f"bed:give@{tmp_path}", "first", tmp_path)
    second = PhaseRunner.create(spec, f"bed:give@{tmp_path}", "second", tmp_path)
    PhaseRunner.create(spec, "simulated:2013", "third", tmp_path)
    say(module.transcript, "a", "1")
    first.execute("reserve")
    say(module.transcript, "b", "2")
    assert [line["request"] for line in lines(second.run.path)][-1:] == ["a"]
    assert [line["request"] for line in lines(first.run.path)][-1:] == ["b"]
    assert not lines(tmp_path / "third")
