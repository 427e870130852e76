"""What OAR's commands print: states of jobs, how a job ended, why one was refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.grid5000.oar import (
    STATES,
    end_of_job,
    has_ended,
    is_about,
    is_usable,
    listed_jobs,
    refusal_reason,
    submitted_job,
)


@pytest.mark.parametrize(
    ("state", "usable", "ended"),
    [
        ("Waiting", True, False),
        ("toAckReservation", True, False),
        ("toLaunch", True, False),
        ("Launching", True, False),
        ("Running", True, False),
        ("Hold", False, False),
        ("Suspended", False, False),
        ("Resuming", False, False),
        ("Finishing", False, True),
        ("Terminated", False, True),
        ("toError", False, True),
        ("Error", False, True),
        ("", False, False),
        ("Unheard-of", False, False),
    ],
)
def test_state_of_a_job_is_usable_or_ended(state: str, usable: bool, ended: bool) -> None:
    assert (is_usable(state), has_ended(state)) == (usable, ended)


@pytest.mark.parametrize("state", [state for state in STATES if has_ended(state)])
def test_end_of_job_agrees_with_has_ended(state: str) -> None:
    assert end_of_job("nancy", 7, f"    state = {state}\n").startswith("job 7 at nancy ended")


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            "[ADMISSION RULE] Modify resource description with type constraints\nOAR_JOB_ID=-5\n"
            "There are not enough resources for your request\n"
            "[ERROR] Oarsub failed, please verify your request syntax.\n",
            "There are not enough resources for your request",
        ),
        (
            'Bad resource request (ERROR:  column "nonsense" does not exist\nLINE 4:  (nonsense >= 999...\n'
            "                        ^)\n[ERROR] Oarsub failed, please verify your request syntax.\n",
            'column "nonsense" does not exist',
        ),
        (
            "OAR_JOB_ID=2\nReservation mode: waiting validation...\n"
            "Reservation not valid --> KO (This reservation could run at 2026-11-22 19:47:23)\n"
            "Connection to nancy.grid5000.fr closed.\n",
            "not at that time: This reservation could run at 2026-11-22 19:47:23",
        ),
        ("ERROR : The queue nono does not exist\n", "The queue nono does not exist"),
        (
            "[ADMISSION RULE] Error: no slash_17 here: ask for slash_18 to slash_22\n",
            "no slash_17 here: ask for slash_18 to slash_22",
        ),
        (
            "# Filtering out exotic resources (vianden).\n# Set walltime to default (3600 s).\n"
            "There are not enough resources for your request\nOAR_JOB_ID=-5\n"
            "Oarsub failed: please verify your request syntax or ask for support to your admin.\n",
            "There are not enough resources for your request",
        ),
        (
            "# Filtering out exotic resources (pyxis, neowise).\n"
            "# Warning: your reservation starts very soon, you might get less nodes than what you required!\n"
            "OAR_JOB_ID=1894417\n# Advance reservation request: waiting for validation...\n"
            "# Reservation not valid --> KO (This reservation could run at 2026-11-22 19:47:23)\n",
            "not at that time: This reservation could run at 2026-11-22 19:47:23",
        ),
        ("# Some remark.\nWhat is wrong\n", "What is wrong"),
        (
            "[ADMISSION_RULE] Automatically add the constraint to go on nodes\nWhat is wrong\n",
            "What is wrong",
        ),
        ("# [ADMISSION RULE] Modify resource description\nWhat is wrong\nIt is\n", "What is wrong"),
        ("# ERROR: no such project as x\nOAR_JOB_ID=-3\n", "no such project as x"),
        ("[ADMISSION_RULE] Error : you are not in the group x.\n", "you are not in the group x"),
        ("What else is wrong\n[ADMISSION RULE] ERROR: no queue x\n[ERROR] Oarsub failed\n", "no queue x"),
        ("# Some remark\n[ADMISSION RULE] Set default walltime\n[ADMISSION_RULE] other\nOAR_JOB_ID=-5\n", ""),
        ("", ""),
    ],
)
def test_refusal_reason_is_the_line_that_has_it(printed: str, reason: str) -> None:
    lines = [line.strip() for line in printed.splitlines() if not line.startswith("Connection to ")]
    assert refusal_reason(lines) == reason


REMARKS = st.builds(
    "{}{}".format,
    st.sampled_from(("[ADMISSION RULE] ", "[ADMISSION_RULE] ", "# ", "# [ADMISSION RULE] ", "#")),
    st.sampled_from(
        ("Modify resources", "There are not enough words", "Set walltime to 1:0:0", "Warning: late")
    ),
)


@given(st.lists(REMARKS), st.lists(REMARKS))
def test_no_remark_is_the_reason_of_a_refusal(before: list[str], after: list[str]) -> None:
    assert refusal_reason([*before, *after]) == ""
    assert refusal_reason([*before, "No way.", *after, "Oarsub failed: please ask"]) == "No way"


@pytest.mark.parametrize(
    ("printed", "clause"),
    [
        ("", ""),
        ("    state = Running\n", ""),
        ("    state = Waiting\r\n", ""),
        ("    state = Terminated\n", "job 7 at nancy ended (its command ended)"),
        ("    state = Error\n", "job 7 at nancy ended (state Error)"),
        (
            "id: 7\n    state = Terminated\n    stop_time = 2026-12-01 19:00:00\n    events =\n",
            "job 7 at nancy ended at 2026-12-01 19:00:00 (its command ended)",
        ),
        (
            "    state = Error\r\n    walltime = 0:30:0\r\n    stopTime = 2026-12-01 19:00:00\r\n"
            "2026-12-01 18:59:57> FRAG_JOB_REQUEST:User root requested to frag the job 7\r\n"
            "2026-12-01 18:59:57> WALLTIME:[sarko] Job [7] from 1 with 20; current time=2 (Elapsed)\r\n",
            "job 7 at nancy ended at 2026-12-01 19:00:00 (its walltime of 0:30:0 was over)",
        ),
        (
            "    state = Error\n    walltime = 1:30:0\n    stopTime = 2026-12-01 19:00:00\n"
            "2026-12-01 18:00:00> WALLTIME: walltime changed: 1:30:0 (granted: +1:0:0/pending: 0:0:0)\n"
            "2026-12-01 18:59:57> FRAG_JOB_REQUEST:User g5k requested to frag the job 7\n",
            "job 7 at nancy ended at 2026-12-01 19:00:00 (it was deleted by g5k)",
        ),
        (
            "    state = Error\n    events = \n2026-12-01 18:59:57> EXECUTE_JOB:the node crashed\n",
            "job 7 at nancy ended at 2026-12-01 18:59:57 (state Error, the node crashed)",
        ),
    ],
)
def test_end_of_job_has_the_time_and_the_reason(printed: str, clause: str) -> None:
    assert end_of_job("nancy", 7, printed) == clause


def test_a_number_with_thousands_of_digits_is_no_job() -> None:
    long = "9" * 5000
    assert not is_about(f"id: {long}\n    state = Running\n", 1)
    assert listed_jobs([f"{long} name user R"]) is None
    assert submitted_job([f"OAR_JOB_ID={long}"]) is None
