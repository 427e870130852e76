"""The local OAR's rule for day and night, run by Perl: it accepts what we propose, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from datetime import date, datetime

import pytest

from g5kvirt.planning.availability import Calendar
from g5kvirt.planning.periods import closed_times
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.local.oar_periods import admission_rule

pytestmark = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")

HOLIDAY = date(2026, 12, 25)
#: Each line of the input is a job: its type, the start of its reservation or 0, its walltime, the time now.
JOBS = """
use strict; use warnings;
our $now;
BEGIN { *CORE::GLOBAL::time = sub { $now } }
while (my $line = <STDIN>) {
    my ($type, $startTimeReservation, $walltime, $at) = split(" ", $line);
    $now = $at;
    my $type_list = ["deploy", $type];
    my $reservationField = $startTimeReservation ? "toSchedule" : "None";
    my $ref_resource_list = [[[], $walltime]];
    my $said = "";
    eval { open(my $kept, ">&", \\*STDOUT); close(STDOUT); open(STDOUT, ">", \\$said);
RULE
        open(STDOUT, ">&", $kept); 1 } or do { open(STDOUT, ">", "/dev/fd/3"); print("refused\\n"); next };
    open(STDOUT, ">", "/dev/fd/3");
    my ($date) = map { /^postpone=(.*)/ ? $1 : () } @{$type_list};
    print(defined($date) ? $date : "accepted", "\\n");
}
"""


def working(day: date) -> bool:
    return day.weekday() < 5 and day != HOLIDAY


def at(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=PARIS).timestamp()


def answers(jobs: list[tuple[str, float, int, float]]) -> list[str]:
    """What the rule does with each job: ``accepted``, ``refused``, or the date to which it is postponed."""
    script = JOBS.replace("RULE", admission_rule([HOLIDAY]))
    lines = "".join(f"{kind} {start:.0f} {walltime} {now:.0f}\n" for kind, start, walltime, now in jobs)
    words = ["sh", "-c", 'exec perl -e "$1" 3>&1', "sh", script]
    done = subprocess.run(words, input=lines, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_rule_accepts_the_reservations_that_fit_and_no_others() -> None:
    jobs, expected = [], []
    for kind in ("day", "night", "exotic"):
        for hour in range(0, 24 * 16, 5):
            for minutes in (30, 240, 600, 840, 3720, 3721):
                start = at("2026-12-14 00:00") + hour * 3600 + 900 * (hour % 3)
                closed = closed_times([kind], start, start + minutes * 60, working)
                jobs.append((kind, start, minutes * 60, start - 3600))
                fits = Calendar(start, start, {}, closed).is_open(start, minutes * 60)
                expected.append("accepted" if fits else "refused")
    assert {"accepted", "refused"} == set(expected)
    assert answers(jobs) == expected


def test_a_job_without_a_date_is_postponed_to_the_first_time_that_fits() -> None:
    monday = at("2026-11-23 10:00")
    given = [("night", 3), ("night", 62), ("day", 9), ("day", 9.1), ("night", 90), ("destructive", 90)]
    jobs = [(kind, 0.0, int(hours * 3600), monday) for kind, hours in given]
    assert answers(jobs) == [
        "2026-11-23 19:00:00",
        "2026-11-27 19:00:00",
        "accepted",
        "2026-11-24 09:00:00",
        "refused",
        "accepted",
    ]
