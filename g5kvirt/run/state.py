"""What a run knows of itself, read back from its journal: the only memory between two steps.

Every question may be put to a `Journal`, whose events are then taken once, however many questions there are,
or to any other events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from g5kvirt.inventory import VM, Facts, Host, Reservation
from g5kvirt.run.journal import Event, Journal
from g5kvirt.run.tables import Boot, placed_vms

__all__ = [
    "Memory",
    "cut_short",
    "deployed",
    "deployed_vms",
    "deployments",
    "detail",
    "done",
    "facts",
    "jobs",
    "released",
    "reservation",
    "tries",
    "up",
    "vms",
]

T = TypeVar("T")

#: Why what a killed process had under way is said to have failed.
CUT_SHORT = "cut short: the process that was at it ended"

_Key = tuple[str, str, str, str, int, str]


class Memory:
    """What the events of a run add up to, as far as its steps ask for it. See the functions below."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, str], Mapping[str, Any]] = {}  # (phase, step) → detail of its last ok
        self.tries: dict[str, list[float]] = {}
        self.jobs: list[tuple[str, int]] = []
        self.facts: dict[str, Facts] = {}
        self.plan: Event | None = None
        self.boots: dict[str, Boot] = {}
        self.deployments: dict[str, list[str]] = {}
        self.ends: dict[str, str] = {}  # VM → status of its last deployment
        self.open: dict[_Key, Event] = {}  # spans without an end
        self.undone: dict[str, dict[str, Event]] = {}  # deployment without an end → VM → its last event
        self.t = 0.0  # the latest that was heard of

    def planned(self, names: Collection[str]) -> list[str]:
        """These VMs in the order of the plan, and behind them those that are not in it."""
        plan = [] if self.plan is None else [str(row["name"]) for row in self.plan.detail["vms"]]
        return [name for name in dict.fromkeys([*plan, *names]) if name in names]

    def take(self, event: Event) -> None:
        """Go one event further."""
        self.t = max(self.t, event.t)
        ok, start = event.status == "ok", event.status == "start"
        if ok:
            self.last[event.phase, event.step] = event.detail
        if (event.step, start) == ("phase", True):
            self.tries.setdefault(event.phase, []).append(event.t)
        match event.phase, event.step, event.kind:
            case "reserve", "submitted", _:
                self.jobs.append((event.subject, int(event.detail["job"])))
            case "configure", "facts", _ if ok:
                self.facts[event.subject] = Facts(**{f: event.detail[f] for f in Facts.__dataclass_fields__})
            case "place", "plan", "run" if "vms" in event.detail:
                self.plan = event
            case "launch", _, "vm":
                if event.subject not in self.boots:
                    self.boots[event.subject] = Boot({})
                self.boots[event.subject].see(event)
            case "measure", "deployment", "run" if start:
                self.deployments[event.subject] = list(event.detail.get("vms", []))
            case "measure", "deployment", "vm":
                self.ends[event.subject] = event.status
        self._spans(event)

    def _spans(self, event: Event) -> None:
        deployment = str(event.detail.get("deployment", "")) if event.phase == "measure" else ""
        key = (event.phase, event.step, event.kind, event.subject, event.attempt, deployment)
        if event.status == "start":
            self.open[key] = event
        else:
            self.open.pop(key, None)
        if (event.step, event.kind) == ("deployment", "run"):
            if event.status == "start":
                self.undone[deployment] = {}
            else:
                self.undone.pop(deployment, None)
        elif deployment in self.undone and event.kind == "vm":
            self.undone[deployment][event.subject] = event

    def missing(self) -> list[Event]:
        """See `cut_short`."""
        steps = [e for e in self.open.values() if e.kind == "run" and e.step in ("phase", "release")]
        ends = []
        for whole in steps:
            inside = [e for e in self.open.values() if e.phase == whole.phase and e.t >= whole.t]
            for start in inside:
                if start.step == "deployment" and start.kind == "run":
                    ends += self._end_of(start)
                elif start not in steps:
                    ends.append(self._failed(start, **_kept(start, "deployment", "variant")))
        return [*ends, *map(self._failed, steps)]

    def _end_of(self, start: Event) -> list[Event]:
        """The last words about a deployment: one for each VM that was not done, and one for the whole."""
        name = start.subject
        heard = self.undone.get(name, {})
        ends = []
        deployed = 0
        vms = dict.fromkeys([*self.deployments[name], *heard])
        for vm in vms:
            last = heard.get(vm)
            if last is not None and last.step == "deployment":
                deployed += last.status == "ok"
                continue
            macro, at = _place(start.detail.get("workflow") or {}, last)
            end = replace(start, kind="vm", subject=vm, attempt=last.attempt if last else 1)
            ends.append(self._failed(end, deployment=name, said="", macro=macro, at=at))
        whole = self._failed(start, deployment=name, deployed=deployed, failed=len(vms) - deployed)
        return [*ends, replace(whole, status="ok") if deployed else whole]

    def _failed(self, start: Event, **detail: Any) -> Event:
        return replace(start, status="failed", t=max(self.t, start.t), detail={**detail, "reason": CUT_SHORT})


def _kept(event: Event, *words: str) -> dict[str, Any]:
    return {word: event.detail[word] for word in words if word in event.detail}


def _place(workflow: Mapping[str, Sequence[str]], last: Event | None) -> tuple[str, str]:
    """The macro-step and the step that a VM was at, of which ``last`` was heard last."""
    steps = [(macro, step) for macro, own in workflow.items() for step in own]
    if not steps:
        return "", "" if last is None else last.step
    if last is None:
        return steps[0]
    for number, (macro, step) in enumerate(steps):
        if last.step == step and "seconds" in last.detail:
            done = last.status in ("ok", "skipped")
            return steps[min(number + done, len(steps) - 1)]
        if last.step == macro:
            return macro, step
    return "", last.step


def _ask(events: Iterable[Event], question: Callable[[Memory], T]) -> T:
    if isinstance(events, Journal):
        return events.ask(Memory, question)
    memory = Memory()
    for event in events:
        memory.take(event)
    return question(memory)


def detail(events: Iterable[Event], phase: str, step: str = "phase") -> Mapping[str, Any] | None:
    """What the last ``ok`` of a step wrote down, or None if there was none."""
    return _ask(events, lambda m: m.last.get((phase, step)))


def tries(events: Iterable[Event], phase: str) -> list[float]:
    """When the phase was started, each time."""
    return _ask(events, lambda m: list(m.tries.get(phase, ())))


def done(events: Iterable[Event], phase: str) -> bool:
    """True if the phase ended well."""
    return detail(events, phase) is not None


def released(events: Iterable[Event]) -> bool:
    """True if the machines have been given back."""
    return detail(events, "reserve", "release") is not None


def reservation(events: Iterable[Event]) -> Reservation | None:
    """What the testbed gave."""
    found = detail(events, "reserve", "granted")
    return None if found is None else Reservation.from_plain(found)


def jobs(events: Iterable[Event]) -> list[tuple[str, int]]:
    """Every job that was submitted, (site, id), also those of a reservation that was cut short."""
    return _ask(events, lambda m: list(m.jobs))


def deployed(events: Iterable[Event]) -> tuple[Host, ...]:
    """The machines that carry the host environment, with the addresses by which they are reached."""
    found = detail(events, "deploy")
    return () if found is None else tuple(Host.from_plain(h) for h in found["hosts"])


def facts(events: Iterable[Event]) -> dict[str, Facts]:
    """What each machine said of itself when it was configured."""
    return _ask(events, lambda m: dict(m.facts))


def vms(events: Iterable[Event]) -> list[VM]:
    """The VMs as the place phase planned them; none before that."""
    plan = _ask(events, lambda m: m.plan)
    return [] if plan is None else placed_vms([plan])


def up(events: Iterable[Event]) -> list[str]:
    """The VMs that stand in their minimal system, in the order of the plan."""
    return _ask(events, lambda m: [name for name in m.planned(m.boots) if m.boots[name].state == "up"])


def deployments(events: Iterable[Event]) -> dict[str, list[str]]:
    """Every deployment that was begun, with the names of its VMs, in their order."""
    return _ask(events, lambda m: {name: list(vms) for name, vms in m.deployments.items()})


def deployed_vms(events: Iterable[Event]) -> list[str]:
    """The VMs whose last deployment went well, in the order of the plan."""
    return _ask(events, lambda m: [name for name in m.planned(m.ends) if m.ends[name] == "ok"])


def cut_short(events: Iterable[Event]) -> list[Event]:
    """What is missing at the end of a journal whose writer was killed in the middle of a step.

    The step, what it had under way, and every VM of a deployment end as failed, at the time of the last sign
    of life; nothing is missing where the last step has an end.
    """
    return _ask(events, lambda m: m.missing())
