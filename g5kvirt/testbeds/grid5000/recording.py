"""Notes what execo says to frontends and to the API, at the two places through which all of it goes."""

from __future__ import annotations

import time
from typing import Any

from g5kvirt.testbeds.grid5000.api import error_summary, hide_password
from g5kvirt.testbeds.grid5000.frontends import exit_code
from g5kvirt.testbeds.transcript import Transcript

__all__ = ["record"]


def record(transcript: Transcript) -> None:
    """Note every ssh process of execo and every request of execo_g5k from now on. Call it once."""
    from execo.process import ProcessLifecycleHandler, SshProcess
    from execo_g5k.api_utils import APIConnection

    class Recorder(ProcessLifecycleHandler):  # type: ignore[misc]  # execo has no types
        """Notes a process when it has ended."""

        def end(self, process: Any) -> None:
            """In a thread of execo's."""
            note_process(transcript, process)

    recorder, make = Recorder(), SshProcess.__init__

    def make_recorded(self: Any, *words: Any, **options: Any) -> None:
        make(self, *words, **options)
        self.lifecycle_handlers.append(recorder)

    SshProcess.__init__ = make_recorded
    for name in ("get", "post"):
        setattr(APIConnection, name, _noted(transcript, name.upper(), getattr(APIConnection, name)))


def note_process(transcript: Transcript, process: Any) -> None:
    """One of execo's ssh processes that has ended."""
    begin, end = process.start_date or time.time(), process.end_date or time.time()
    status = "timed out" if process.timeouted else exit_code(process)
    answer = f"{process.stdout}{process.stderr}"
    request = str(getattr(process, "unmarked_command", process.remote_cmd))
    transcript.note(str(process.host.address), request, answer, begin=begin, end=end, status=status)


def _noted(transcript: Transcript, method: str, call: Any) -> Any:
    def noted(self: Any, relative_uri: str, *words: Any, **options: Any) -> Any:
        begin = time.time()
        request = f"{method} {hide_password(self._build_uri(relative_uri))}"
        try:
            response = call(self, relative_uri, *words, **options)
        except Exception as error:
            answer = getattr(getattr(error, "response", None), "text", "") or ""
            summary = error_summary(error)
            transcript.note("API", request, answer, begin=begin, end=time.time(), status=summary)
            raise
        status, end = response.status_code, time.time()
        transcript.note("API", request, response.text, begin=begin, end=end, status=status)
        return response

    return noted
