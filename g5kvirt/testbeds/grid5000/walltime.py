"""More walltime for jobs that run, by OAR's ``oarwalltime`` on the frontends: on all sites or on none.

OAR takes a request first, and grants it when it schedules next: as a whole, in part, up to the next job of
the same machines, or not at all. What it has not granted stays pending, and may be granted later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from g5kvirt.errors import TestbedError
from g5kvirt.run.printable import short
from g5kvirt.spec.clock import format_walltime
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend
from g5kvirt.testbeds.grid5000.settings import Settings
from g5kvirt.testbeds.parallel import for_each

__all__ = ["Change", "extend", "fields", "parse_change"]

#: Runs ``oarwalltime`` with these arguments on a site's frontend: whether it succeeded, and what it printed,
#: or why there is no answer.
Oarwalltime = Callable[[str, Sequence[str]], tuple[bool, str]]

_FIELD = re.compile(r"^ *([\w/ ]+?): +(\S+)", re.MULTILINE)
_DURATION = re.compile(r"([+-]?)([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})")
_POLL = 1.0  #: seconds between two looks at a request that is pending
_TRIES = 3  #: how often to take back what OAR may be granting at that moment


@dataclass(frozen=True)
class Change:
    """What ``oarwalltime JOB`` prints of a job that runs, in seconds."""

    walltime: int  #: the current one
    pending: int  #: what was requested and is not granted; negative for a reduction


def fields(printed: str) -> dict[str, str]:
    """What ``oarwalltime JOB`` prints, by its own labels: ``"Current walltime": "1:40:7"``."""
    return dict(_FIELD.findall(printed))


def parse_change(printed: str) -> Change | None:
    """The state of a job's walltime; None if that is not what was printed, as of a job that does not run."""
    found = fields(printed)
    durations = [
        _DURATION.fullmatch(found.get(label, "")) for label in ("Current walltime", "Pending/unsatisfied")
    ]
    seconds = [
        (-1 if one[1] == "-" else 1) * (int(one[2]) * 3600 + int(one[3]) * 60 + int(one[4]))
        for one in durations
        if one is not None
    ]
    return Change(*seconds) if len(seconds) == 2 else None


def extend(jobs: Mapping[str, int], seconds: int, settings: Settings) -> None:
    """Give all jobs (site → id) ``seconds`` more, or none.

    OAR has the time of six polls, a minute on Grid'5000, to grant what it took. Where a site refuses, or
    grants only a part, what the others have got is taken back. Raises TestbedError with each site's reason,
    and which jobs still have more time, if that could not be taken back.
    """

    def oarwalltime(site: str, words: Sequence[str]) -> tuple[bool, str]:
        answer = run_on_frontend(site, " ".join(("oarwalltime", *words)), settings.command_timeout)
        # its own sentence is the last; a site without the command says so in the shell's words
        return answer.ok, answer.text if answer.ok else answer.failure

    extend_by(oarwalltime, jobs, seconds, patience=max(6.0, 6 * settings.polling_interval))


def extend_by(oarwalltime: Oarwalltime, jobs: Mapping[str, int], seconds: int, patience: float) -> None:
    """As `extend`, by a function that runs the command."""
    sites = sorted(jobs)
    before = dict(zip(sites, for_each(lambda site: _read(oarwalltime, site, jobs[site]), sites), strict=True))
    if refused := {site: state for site, state in before.items() if isinstance(state, str)}:
        raise _refusal(jobs, refused, {})
    walltimes = {site: state.walltime for site, state in before.items() if isinstance(state, Change)}
    try:
        reasons = for_each(
            lambda site: _request(
                oarwalltime, site, jobs[site], walltimes[site] + seconds, seconds, patience
            ),
            sites,
        )
    except BaseException:  # also on Ctrl-C: nobody would know of what was granted
        _take_back(oarwalltime, jobs, walltimes, patience)
        raise
    if refused := {site: reason for site, reason in zip(sites, reasons, strict=True) if reason}:
        raise _refusal(jobs, refused, _take_back(oarwalltime, jobs, walltimes, patience))


def _read(oarwalltime: Oarwalltime, site: str, job: int) -> Change | str:
    """The state of a job's walltime, or why it is not known."""
    done, printed = oarwalltime(site, [str(job)])
    if not done:
        return _sentence(printed)
    return parse_change(printed) or "its job does not run"


def _request(
    oarwalltime: Oarwalltime, site: str, job: int, wanted: int, seconds: int, patience: float
) -> str:
    """Request more and wait until it is granted; why not, or ""."""
    done, printed = oarwalltime(site, [str(job), _signed(seconds)])
    if not done:
        return _sentence(printed)
    state = _settled(oarwalltime, site, job, patience)
    if isinstance(state, str):
        return state
    if state.walltime >= wanted:
        return ""
    got = state.walltime - (wanted - seconds)
    return (
        f"it granted {format_walltime(max(0, got))} of that within {patience:.0f} s, probably because"
        " other jobs follow on its machines"
    )


def _settled(oarwalltime: Oarwalltime, site: str, job: int, patience: float) -> Change | str:
    """The state when nothing is pending any more, or the last one within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        state = _read(oarwalltime, site, job)
        if (isinstance(state, Change) and not state.pending) or time.monotonic() >= deadline:
            return state
        time.sleep(min(_POLL, patience / 4))


def _take_back(
    oarwalltime: Oarwalltime, jobs: Mapping[str, int], walltimes: Mapping[str, int], patience: float
) -> dict[str, int | None]:
    """Make the walltimes what they were; site → seconds that a job has still more, None if not known."""

    def one(site: str) -> int | None:
        job = jobs[site]
        state = _read(oarwalltime, site, job)
        for _ in range(_TRIES):
            if isinstance(state, str):
                return None
            more = state.walltime - walltimes[site]
            if more <= 0 and state.pending <= 0:
                return 0
            # A request of nothing is refused: what only waits is replaced by a second less.
            oarwalltime(site, [str(job), _signed(-max(more, 1))])
            state = _settled(oarwalltime, site, job, patience)
        if isinstance(state, str):
            return None
        return max(0, state.walltime - walltimes[site]) + max(0, state.pending)

    sites = sorted(jobs)
    left = dict(zip(sites, for_each(one, sites), strict=True))
    return {site: more for site, more in left.items() if more != 0}


def _signed(seconds: int) -> str:
    return f"{'-' if seconds < 0 else '+'}{format_walltime(abs(seconds))}"


def _sentence(printed: str) -> str:
    """The last line that OAR printed, as a part of a sentence."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return short(lines[-1]).rstrip(".") if lines else "no answer"


def _refusal(
    jobs: Mapping[str, int], refused: Mapping[str, str], left: Mapping[str, int | None]
) -> TestbedError:
    reasons = "; ".join(f"job {jobs[site]} at {site}: {reason}" for site, reason in refused.items())
    if not left:
        rest = "no job was extended" if len(jobs) > 1 else "it ends as before"
        return TestbedError(f"OAR does not extend the walltime ({reasons}), and {rest}", advice=_ADVICE)
    words = [
        f"job {jobs[site]} at {site} may have more"
        if more is None
        else f"job {jobs[site]} at {site} has {format_walltime(more)} more"
        for site, more in left.items()
    ]
    return TestbedError(
        f"OAR does not extend the walltime ({reasons}), and extensions at other sites could not be undone:"
        f" {'; '.join(words)}",
        advice=f"call extend() again, or {_ADVICE}",
    )


_ADVICE = "request less, or finish before the walltime is over"
