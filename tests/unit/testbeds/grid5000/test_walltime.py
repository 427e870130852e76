"""More walltime: on all sites or on none, with each site's own words where it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.grid5000.walltime import Change, extend_by, parse_change

#: What OAR 2.5.9 prints over a terminal.
PARTLY = (
    "Walltime change status for job 1 (job is running):\r\n  Current walltime:      1:40:7\r\n"
    "  Possible increase:  UNLIMITED\r\n  Already granted:      +1:10:7\r\n"
    "  Pending/unsatisfied: +0:49:53\r\n"
)
HOUR = 3600


class Oar:
    """One site's OAR: a job of half an hour, after which its machines have ``room`` seconds."""

    def __init__(self, room: int = 10 * HOUR, refusal: str = "", keeps: bool = False) -> None:
        self.walltime, self.pending, self.room = 1800, 0, room
        self.refusal, self.keeps, self.requests = refusal, keeps, 0
        self.gone = False

    def __call__(self, words: Sequence[str]) -> tuple[bool, str]:
        if self.gone:
            return False, "Connection refused"
        if len(words) == 1:
            return True, self._status()
        self.requests += 1
        if self.refusal:
            return False, f"setlocale: cannot change locale\nForbidden: {self.refusal}.\n"
        sign = -1 if words[1][0] == "-" else 1
        h, m, s = map(int, words[1][1:].split(":"))
        if sign < 0 and self.keeps:
            return False, "Bad request: walltime reduction is not allowed.\n"
        self.pending = sign * (h * 3600 + m * 60 + s)
        return True, "Accepted: walltime change request accepted for job 1, it will be handled shortly.\n"

    def _status(self) -> str:
        given = min(self.pending, self.room)
        self.walltime, self.pending, self.room = (
            self.walltime + given,
            self.pending - given,
            self.room - given,
        )
        h, m, s = self.walltime // 3600, self.walltime // 60 % 60, self.walltime % 60
        ph, pm, ps = self.pending // 3600, self.pending // 60 % 60, self.pending % 60
        sign = "+" if self.pending > 0 else ""
        return (
            f"Walltime change status for job 1 (job is running):\n  Current walltime:      {h}:{m}:{s}\n"
            f"  Pending/unsatisfied: {sign}{ph}:{pm}:{ps}\n"
        )


def extend(seconds: int, **oars: Oar) -> None:
    jobs = {site: number for number, site in enumerate(oars, start=1)}
    extend_by(lambda site, words: oars[site](words), jobs, seconds, patience=0.05)


def test_status_of_a_job_is_read() -> None:
    assert parse_change(PARTLY) == Change(6007, 2993)
    assert parse_change(PARTLY.replace("+0:49:53", "-0:0:1")) == Change(6007, -1)
    assert parse_change("Walltime change status for job 2 (job is not running yet):\n  N/A\n") is None
    assert parse_change("") is None


def test_all_sites_get_more() -> None:
    nancy, lyon = Oar(), Oar()
    extend(HOUR, nancy=nancy, lyon=lyon)
    assert (nancy.walltime, lyon.walltime) == (1800 + HOUR, 1800 + HOUR)


def test_what_others_gave_is_taken_back_if_a_site_refuses() -> None:
    nancy, lyon = Oar(), Oar(refusal="request cannot be accepted because … more than 1:0:0")
    with pytest.raises(TestbedError, match=r"job 2 at lyon: Forbidden: request cannot") as caught:
        extend(HOUR, nancy=nancy, lyon=lyon)
    assert "setlocale" not in str(caught.value)
    assert "no job was extended" in str(caught.value)
    assert (nancy.walltime, nancy.pending, lyon.walltime) == (1800, 0, 1800)


def test_a_part_is_not_enough_and_is_taken_back() -> None:
    nancy, lyon = Oar(room=600), Oar()
    with pytest.raises(TestbedError, match=r"job 1 at nancy: it granted 0:10:00 of that within"):
        extend(HOUR, nancy=nancy, lyon=lyon)
    assert (nancy.walltime, nancy.pending, lyon.walltime) == (1800, 0, 1800)


def test_a_request_that_only_waits_is_replaced() -> None:
    nancy = Oar(room=0)
    with pytest.raises(TestbedError, match=r"it granted 0:00:00 of that .* it ends as before"):
        extend(HOUR, nancy=nancy)
    assert (nancy.walltime, nancy.pending) == (1799, 0)


def test_sites_that_have_more_are_named_if_it_cannot_be_taken_back() -> None:
    nancy, lyon = Oar(keeps=True), Oar(refusal="no")
    with pytest.raises(TestbedError, match=r"could not be undone: job 1 at nancy has 1:00:00 more"):
        extend(HOUR, nancy=nancy, lyon=lyon)


def test_nothing_is_requested_anywhere_if_a_site_does_not_answer() -> None:
    nancy, lyon = Oar(), Oar()
    lyon.gone = True
    with pytest.raises(TestbedError, match=r"job 2 at lyon: Connection refused\), and no job was extended"):
        extend(HOUR, nancy=nancy, lyon=lyon)
    assert nancy.requests == 0


def test_a_frontend_that_is_lost_meanwhile_may_have_given_more() -> None:
    nancy, lyon = Oar(), Oar()

    def ask(site: str, words: Sequence[str]) -> tuple[bool, str]:
        answer = {"nancy": nancy, "lyon": lyon}[site](words)
        if site == "lyon" and len(words) > 1:
            lyon.gone = True
            return False, "Connection closed"
        return answer

    with pytest.raises(TestbedError, match=r"lyon: Connection closed.* job 2 at lyon may have more"):
        extend_by(ask, {"nancy": 1, "lyon": 2}, HOUR, 0.05)
    assert nancy.walltime == 1800


def test_an_interrupt_takes_back_what_was_given() -> None:
    nancy, lyon = Oar(), Oar()

    def ask(site: str, words: Sequence[str]) -> tuple[bool, str]:
        if site == "lyon" and len(words) > 1:
            raise KeyboardInterrupt
        return {"nancy": nancy, "lyon": lyon}[site](words)

    with pytest.raises(KeyboardInterrupt):
        extend_by(ask, {"nancy": 1, "lyon": 2}, HOUR, 0.05)
    assert (nancy.walltime, lyon.walltime) == (1800, 1800)
