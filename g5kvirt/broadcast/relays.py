"""The relays of a broadcast: started through the host agents, watched to their end, stopped."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from g5kvirt.broadcast.chain import ChainPlan
from g5kvirt.broadcast.jobs import service_request, watch_arguments
from g5kvirt.broadcast.reports import Progress, read_report, results_by_host
from g5kvirt.hostagent import calls, protocol
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout, File

__all__ = ["collect", "copy_by_tree", "start", "stop"]


def start(
    fanout: Fanout,
    plan: ChainPlan,
    *,
    home: str = protocol.HOME,
    timeout: float = 60.0,
    on_start: Callable[[str], object] | None = None,
) -> dict[str, str]:
    """Start the relays of all hosts, the front of the chain first; host name → reason, for those that failed.

    ``on_start`` is called with each host's name as soon as its relay takes connections. A host that fails
    here is skipped by those behind it, so the broadcast continues. Each call restarts the relays of its
    hosts, so a failed one can be given another try.
    """
    mark = secrets.token_hex(4)
    documents = {
        stop.host: protocol.document(service_request(plan, stop, home, mark), home=home)
        for stop in plan.stops
    }

    def on_answer(host: Host, answer: protocol.Answer) -> None:
        if on_start is not None and answer.ok:
            on_start(host.name)

    replies = calls.call_agents(fanout, documents, timeout=timeout, on_answer=on_answer)
    return {
        reply.host.name: f"its relay did not start: {_reason(reply.answers, reply.reason)}"
        for reply in replies
        if not reply.ok
    }


def collect(
    fanout: Fanout,
    plan: ChainPlan,
    *,
    timeout: float,
    failed: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Progress]:
    """Read every relay's reports until it has ended, at most ``timeout`` seconds per host; always one result
    for each host of the plan. ``failed``: hosts that are left out, with the reason (the result of `start`).

    A host whose connection breaks is watched again while its time lasts. ``on_progress`` is called for each
    report as it comes; what it raises ends the waiting.
    """
    failed = dict(failed or {})
    names = {stop.host.address: stop.host.name for stop in plan.stops if stop.host.name not in failed}
    reports: dict[str, Progress] = {}

    def on_line(address: str, line: str, _: float) -> None:
        report = read_report(line)
        if report is not None and report.host == names[address]:
            reports[report.host] = report
            if on_progress is not None:
                on_progress(report)

    watch = watch_arguments(plan, timeout)
    results = calls.watch_agents(fanout, names, watch, timeout=timeout, on_line=on_line)
    late = f"its relay had not ended after {timeout:g} s"
    reasons = {names[a]: late if r.returncode == 1 else r.reason for a, r in results.items() if not r.ok}
    return results_by_host(plan, reports, {**reasons, **failed})


def stop(
    fanout: Fanout, plan: ChainPlan, *, home: str = protocol.HOME, timeout: float = 60.0
) -> dict[str, str]:
    """End the relays and remove the image and their reports; host name → reason, for those that failed.

    A relay removes it itself when it ends; one that was killed just before cannot.
    """
    image = f"{plan.store}/{plan.image.sha256}"
    request = protocol.stop_service([plan.service], remove=[image, f"{image}.json"])
    documents = {stop.host: protocol.document(request, home=home) for stop in plan.stops}
    replies = calls.call_agents(fanout, documents, timeout=timeout)
    return {reply.host.name: _reason(reply.answers, reply.reason) for reply in replies if not reply.ok}


def copy_by_tree(
    fanout: Fanout, plan: ChainPlan, source: Path, *, timeout: float
) -> tuple[ChainPlan, dict[str, str]]:
    """Put the image on all hosts at once by TakTuk's tree (ssh in windows for few hosts), whole and checked;
    the plan with which `start` then has it served to the VMs, and host name → reason, for those without it.

    The file is held in memory here, and no VM can begin before its host has all of it.
    """
    names = {stop.host.address: stop.host.name for stop in plan.stops}
    target = File(source, f"{plan.store}/{plan.image.sha256}", 0o600)
    results = fanout.put(names, [target], timeout=timeout)
    failed = {names[address]: r.reason for address, r in results.items() if not r.ok}
    stops = tuple(stop for stop in plan.stops if stop.host.name not in failed)
    return replace(plan, kind="tree", stops=stops), failed


def _reason(answers: Iterable[protocol.Answer], reason: str) -> str:
    """Why it failed: the first answer that is not good, else ``reason``."""
    return next((answer.reason for answer in answers if not answer.ok), reason)
