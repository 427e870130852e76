"""What Grid'5000 knows before anything is reserved: its API, its frontends, the charter. Changes nothing.

Everything is bounded and done for all sites in parallel, and every failure becomes a finding. Pure
functions interpret the answers (`frontend_findings`, `charter_finding`, `start_finding`).
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Network

from g5kvirt.errors import G5kvirtError, SpecError
from g5kvirt.planning.inventories import LARGEST, Inventory, Machine, read_machines
from g5kvirt.planning.preflight import Finding
from g5kvirt.remote.result import classify_failure
from g5kvirt.run.printable import printable, short
from g5kvirt.spec.clock import PARIS
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import api
from g5kvirt.testbeds.grid5000.answers import Answer, quoted, unreadable
from g5kvirt.testbeds.grid5000.charter import Breach
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend
from g5kvirt.testbeds.grid5000.host_environments import AmbiguousError, choose, listed
from g5kvirt.testbeds.grid5000.resources import RESOURCES, Resources, parse_resources
from g5kvirt.testbeds.grid5000.scheduling import SchedulingSource, charter_check, first_start, types_breach
from g5kvirt.testbeds.parallel import call_within, collect

__all__ = [
    "charter_finding",
    "find_environment",
    "frontend_findings",
    "inventory",
    "preflight",
    "start_finding",
]

API_LIMIT = 120.0  #: seconds for all requests to the API together; each has execo's own bound, 30 s
FRONTEND_LIMIT = 30.0  #: seconds for all frontends together; a connection has 20
_SOON = 60.0  #: seconds: a slot that begins within them is free now


# ---- the API -------------------------------------------------------------------------------------------


def inventory(name: str, sites: Collection[str]) -> tuple[Inventory | None, list[Finding]]:
    """What exists on ``sites`` (empty: on all), and how the API answered; None if it did not."""
    begun = time.monotonic()
    try:
        known = api.uids("sites")
    except Exception as error:  # noqa: BLE001 - whatever it is becomes the finding
        return None, [_api_problem("", error)]
    wanted = [site for site in known if not sites or site in sites]
    clusters = collect(lambda s: api.uids(f"sites/{s}/clusters"), wanted, API_LIMIT)
    pairs = [(s, c) for s, own in clusters.items() if not isinstance(own, Exception) for c in own]
    nodes = collect(lambda p: api.items(f"sites/{p[0]}/clusters/{p[1]}/nodes"), pairs, API_LIMIT)
    oar = collect(_resources, wanted, API_LIMIT)

    failed: dict[str, Exception] = {s: e for s, e in clusters.items() if isinstance(e, Exception)}
    failed |= {site: e for (site, _), e in nodes.items() if isinstance(e, Exception)}
    good = [site for site in wanted if site not in failed]
    resources = {s: r for s, r in oar.items() if isinstance(r, Resources) and s in good}
    machines, findings = {}, []
    for site in good:
        own = {c: found for (s, c), found in nodes.items() if s == site and not isinstance(found, Exception)}
        machines[site], unreadable = read_machines(
            site, own, resources[site].properties if site in resources else None
        )
        findings += [_unreadable(site, *why) for why in unreadable]
    if good or not wanted:
        count, took = sum(map(len, machines.values())), time.monotonic() - begun
        where = ", ".join(good) if 0 < len(good) < 5 else f"{len(good)} sites"
        message = f"answers in {took:.1f} s: {count:,} machines at {where}"
        findings.append(Finding("API", "", "ok", "ok", message))
    findings += [_api_problem(site, error) for site, error in failed.items()]
    findings += [
        Finding("OAR's resources", site, "unknown", "no-answer", _reason(e))
        for site, e in oar.items()
        if isinstance(e, Exception) and site in good
    ]
    # The other sites are listed without machines, to suggest one for a misspelt name.
    elsewhere: dict[str, tuple[Machine, ...]] = dict.fromkeys(set(known) - set(wanted), ())
    return (
        Inventory(
            name,
            {**machines, **dict.fromkeys(failed, ()), **elsewhere},
            largest={s: r.largest for s, r in resources.items() if r.largest is not None},
            vlans={s: r.vlan_count for s, r in resources.items() if r.vlan_count is not None},
            unanswered=frozenset(failed),
        ),
        findings,
    )


def _api_problem(site: str, error: Exception) -> Finding:
    advice = error.advice if isinstance(error, G5kvirtError) else ""
    return Finding("API", site, "problem", "no-answer", _reason(error), advice or api.CHECK_THAT_IT_IS_UP)


def _unreadable(site: str, name: str, why: str) -> Finding:
    advice = "report it to the site; the machine is left out until then"
    return Finding("API", site, "warning", "unreadable", f"{name} cannot be read: {why}", advice)


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, G5kvirtError) else f"no answer ({api.error_summary(error)})"


def _resources(site: str) -> Resources:
    path = RESOURCES.format(site)
    rows = api.items(path)
    found = api.read(path, lambda: parse_resources(rows, time.time()))
    if found.largest is not None:
        return found
    pool = api.get(f"sites/{site}").get("g5ksubnet")
    return replace(found, largest=_prefix(pool.get("network") if isinstance(pool, dict) else None))


def _prefix(pool: object) -> int | None:
    """Prefix length of the largest sub-network in a site's pool."""
    try:
        return max(LARGEST, IPv4Network(str(pool)).prefixlen) if pool else None
    except ValueError:
        return None


# ---- the request ---------------------------------------------------------------------------------------


def preflight(testbed: SchedulingSource, request: ReservationRequest, user: str | None) -> list[Finding]:
    """Whether the usage charter allows the request, and when it can start.

    ``user``: the login whose use of the charter counts; None: there is no charter.
    """
    now = time.time()
    return [_charter(testbed, request, user, now), _start(testbed, request, user, now)]


def _charter(testbed: SchedulingSource, request: ReservationRequest, user: str | None, now: float) -> Finding:
    if (found := types_breach(request, now)) is not None:
        return charter_finding(found)
    if user is None:
        return Finding("usage charter", "", "ok", "ok", "this testbed has none")
    if request.start == "first":
        return Finding("usage charter", "", "ok", "ok", "the first slot is chosen according to it")
    start = now if isinstance(request.start, str) else request.start

    def breach() -> Breach | None:
        return charter_check(testbed.hosts(), request, user, start, start + request.walltime)(start)

    return charter_finding(call_within(API_LIMIT, breach))


def charter_finding(answer: Breach | Exception | None) -> Finding:
    """What a check of the usage charter, or its failure, means. Pure."""
    what = "usage charter"
    if isinstance(answer, Exception):
        advice = "check your jobs by hand (oarstat -u)"
        return Finding(what, "", "unknown", "no-answer", _reason(answer), advice)
    if answer is not None:
        return Finding(what, "", "problem", "breach", answer.message, answer.advice)
    return Finding(what, "", "ok", "ok", "respected, if the jobs start as requested")


def _start(testbed: SchedulingSource, request: ReservationRequest, user: str | None, now: float) -> Finding:
    answer = call_within(API_LIMIT, lambda: first_start(testbed, request, user))
    return start_finding(request, answer, now)


def start_finding(request: ReservationRequest, first: float | Exception | None, now: float) -> Finding:
    """What the first slot for a request, or the failure to find it, means. Pure."""
    what = "start"
    if isinstance(first, Exception):
        return Finding(what, "", "unknown", "no-answer", _reason(first))
    if first is None:
        advice = "request fewer machines, a shorter walltime or other sites"
        message = "within the next weeks there is no slot in which everything is free"
        return Finding(what, "", "warning", "no-slot", message, advice)
    if first <= now + _SOON:
        return Finding(what, "", "ok", "ok", "everything is free now")
    message = f"everything is free from {datetime.fromtimestamp(first, PARIS):%Y-%m-%d %H:%M} (Paris time)"
    if request.start == "first":
        return Finding(what, "", "ok", "ok", message)
    if isinstance(request.start, float) and request.start >= first:
        return Finding(what, "", "ok", "ok", f"{message}, which is before the requested start")
    return Finding(what, "", "warning", "later", message, 'reserve that slot with start="first", or wait')


# ---- frontends -----------------------------------------------------------------------------------------

_SHELL, _NO_KAENV = "g5kvirt-shell", "g5kvirt-no-kaenv3"
#: One connection per site: does the login work, and does its Kadeploy3 have the environment (the user's own,
#: or a public one, unless its name says whose)?
_COMMAND = (
    f'echo "{_SHELL} ${{{{SHELL##*/}}}}"; if command -v kaenv3 >/dev/null; then'
    f" {{{{ {{lookup}}; }}}} 2>&1; else echo {_NO_KAENV}; fi"
)
#: Kadeploy3's messages for an environment that it does not have, unlike those for other failures.
_NO_SUCH_ENVIRONMENT = re.compile(r"not exist|n't exist|no such|not found|unknown", re.IGNORECASE)
_KEY_ADVICE = (
    "add your public key to your account, load it (ssh-add), and set your login in ~/.ssh/config or"
    " ~/.execo.conf.py"
)


def find_environment(environment: str, sites: Sequence[str]) -> list[Finding]:
    """Whether each site's frontend can be reached, accepts the ssh key, and has the host environment."""
    lookup = f"kaenv3 -p {shlex.quote(environment)}"
    if "@" not in environment:
        lookup += f" || kaenv3 -u deploy -p {shlex.quote(environment)}"
    command = _COMMAND.format(lookup=lookup)
    answers = collect(lambda s: run_on_frontend(s, command, FRONTEND_LIMIT), sites, FRONTEND_LIMIT + 10)
    findings: list[Finding] = []
    for site, answer in answers.items():
        if isinstance(answer, Exception):
            answer = Answer(failure=api.error_summary(answer))
        findings += frontend_findings(site, environment, answer)
    if not any(finding.what == "ssh key" for finding in findings):
        findings.append(
            Finding("ssh key", "", "ok", "ok", "yours is accepted")
            if any(finding.what == "frontend" and finding.status == "ok" for finding in findings)
            else Finding("ssh key", "", "unknown", "not-tried", "no frontend could be reached to try it")
        )
    order = ("frontend", "login shell", "ssh key", "environment")
    return sorted(findings, key=lambda finding: order.index(finding.what))


def frontend_findings(site: str, environment: str, answer: Answer) -> list[Finding]:
    """What a frontend's answer to `_COMMAND` means. Pure."""
    first, *lines = answer.lines or ("",)
    if not first.startswith(_SHELL):
        return _unreachable(site, environment, answer)
    shell = short(first.removeprefix(_SHELL), 60) or "sh"
    findings = [Finding("frontend", site, "ok", "ok", f"answers, login shell {shell}")]
    if answer.noise:
        message = f"{shell} prints extra text around each answer, which is ignored: "
        advice = "let its start-up files (.bashrc, .profile) print nothing unless the shell is interactive"
        message += quoted(answer.noise)
        findings.append(Finding("login shell", site, "warning", "noise", message, advice))
    return [*findings, _environment(site, environment, lines, answer)]


def _unreachable(site: str, environment: str, answer: Answer) -> list[Finding]:
    """For a frontend on which the command did not run."""
    reason = answer.failure or unreadable(answer)
    message = f"{environment}: not checked, the frontend could not be reached"
    unknown = Finding("environment", site, "unknown", "not-checked", message)
    if classify_failure(reason.encode())[0] == "key":
        return [
            Finding("frontend", site, "ok", "ok", "answers"),
            Finding("ssh key", site, "problem", "key-refused", f"is refused ({reason})", _KEY_ADVICE),
            unknown,
        ]
    advice = f"try ssh {site}.grid5000.fr; if it is down, use another site"
    how = "cannot be reached"
    if answer.lines or answer.noise:  # something is there, and sent other words than ours
        how, advice = "does not run our commands", f"try ssh {site}.grid5000.fr true: it should print nothing"
    return [
        Finding("frontend", site, "problem", "unreachable", f"{how} ({reason})", advice),
        unknown,
    ]


def _environment(site: str, name: str, lines: Sequence[str], answer: Answer) -> Finding:
    """What kaenv3 answered: ``lines``, at the end of ``answer``."""
    what = "environment"
    if _NO_KAENV in lines:
        message = f"{name}: not checked, the frontend has no kaenv3"
        return Finding(what, site, "unknown", "not-checked", message)
    if answer.ok and (found := listed(lines)):
        try:
            chosen = choose(name, found)
        except AmbiguousError as error:
            return Finding(what, site, "warning", "ambiguous-environment", error.message, error.advice)
        except SpecError as error:
            return Finding(what, site, "problem", "unknown-environment", error.message, error.advice)
        which = f" ({chosen})" if len(found) > 1 else ""
        return Finding(what, site, "ok", "ok", f"Kadeploy3 has {name}{which}")
    if answer.code is None:
        return Finding(what, site, "unknown", "not-checked", f"{name}: kaenv3 did not answer in time")
    messages = (words for line in lines if (words := printable(line.strip()).removeprefix("[ERROR] ")))
    reason = next(messages, "no reason given")[:150]
    # The environment's own name may be one of the words.
    without_name = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "", reason)
    missing = _NO_SUCH_ENVIRONMENT.search(without_name)
    advice = "register it there (kaenv3 -a FILE), or set host_environment to one that exists (kaenv3 -l)"
    if missing:
        message = f"Kadeploy3 has no environment {name} ({reason})"
        return Finding(what, site, "problem", "unknown-environment", message, advice)
    return Finding(what, site, "problem", "unusable", f"Kadeploy3 cannot use {name} ({reason})", advice)
