"""Which orders are due. Everything in them counts as ordered from here on."""

from __future__ import annotations

from g5kvirt.provisioners.builtin.orders import (
    BroadcastOrder,
    CheckOrder,
    Order,
    RebootOrder,
    Target,
    TaskOrder,
)
from g5kvirt.provisioners.builtin.positions import reboot_kind
from g5kvirt.provisioners.builtin.state import WorkflowState
from g5kvirt.provisioners.builtin.workflow import REBOOTS, Into, RebootKind

__all__ = ["due_orders"]


def due_orders(state: WorkflowState, now: float) -> list[Order]:
    """All orders that the windows allow now, as few as there can be: each for all its VMs or hosts."""
    return [
        *_broadcast_orders(state, now),
        *_reboot_orders(state, now),
        *_task_orders(state),
        *_check_orders(state, now),
    ]


def _broadcast_orders(state: WorkflowState, now: float) -> list[BroadcastOrder]:
    groups: dict[tuple[str, str, int], list[str]] = {}
    for broadcast in state.broadcasts.start_due(now):
        state.recorder.host(broadcast, "start", now)
        position = broadcast.position
        key = (position.step.name, position.branch.variant.name, broadcast.attempt)
        groups.setdefault(key, []).append(broadcast.host)
    return [BroadcastOrder(tuple(hosts), *key) for key, hosts in groups.items()]


def _reboot_orders(state: WorkflowState, now: float) -> list[RebootOrder]:
    groups: dict[tuple[str, RebootKind, Into], list[Target]] = {}
    for progress in state.reboots.take(now):
        step = progress.position.step
        kind = reboot_kind(step, progress.min_rank)
        progress.last_rank = REBOOTS.index(kind)
        progress.order_given = True
        progress.step_start = progress.attempt_start = now
        state.deadlines.arm(progress, now)
        groups.setdefault((step.name, kind, step.into), []).append(Target(progress.vm, progress.attempt))
    return [RebootOrder(tuple(vms), *key) for key, vms in groups.items()]


def _task_orders(state: WorkflowState) -> list[TaskOrder]:
    groups: dict[tuple[str, tuple[int, ...]], list[Target]] = {}
    awaiting, state.awaiting_task = state.awaiting_task, []
    for progress in awaiting:
        step = progress.position.step
        if progress.state == "open" and step.act == "task" and not progress.order_given:
            progress.order_given = True
            key = (step.name, progress.variants)
            groups.setdefault(key, []).append(Target(progress.vm, progress.attempt))
    macros = state.positions.workflow.macros
    return [
        TaskOrder(
            tuple(vms), step, {m.name: m.variants[v].name for m, v in zip(macros, variants, strict=True)}
        )
        for (step, variants), vms in groups.items()
    ]


def _check_orders(state: WorkflowState, now: float) -> list[CheckOrder]:
    groups: dict[str, list[Target]] = {}
    for progress in state.checks.take(now):
        step = progress.position.step
        progress.turn += 1
        state.deadlines.set_timer(progress, now + step.lease)
        target = Target(progress.vm, progress.attempt, progress.turn)
        groups.setdefault(step.name, []).append(target)
    return [CheckOrder(tuple(vms), step) for step, vms in groups.items()]
