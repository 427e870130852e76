"""A VM that boots but never reports: it ends where it went silent, with that reason, in bounded time."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from measuremaker import Machines, vms

from g5kvirt.planning.windows import SlotWindow
from g5kvirt.provisioners.builtin.engine import Deployment, Outcome
from g5kvirt.provisioners.builtin.loop import drive
from g5kvirt.provisioners.builtin.orders import Order, RebootOrder
from g5kvirt.provisioners.builtin.workflow import default_workflow

BOOT = 100.0  # seconds that a boot may take until one was seen
LEASE = 60.0


@dataclass
class Silent(Machines):
    """Machines of which ``who`` never says ``step``, nor what would come after it."""

    who: str = ""
    step: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.kinds: list[str] = []  # of its reboots

    def _say(self, subject: str, step: str, t: float, attempt: int, turn: int | None = None) -> bool:
        if (subject, step) == (self.who, self.step):
            return False
        return super()._say(subject, step, t, attempt, turn)

    def execute(self, order: Order) -> None:
        super().execute(order)
        if isinstance(order, RebootOrder):
            self.kinds += [order.kind for target in order.vms if target.vm.name == self.who]


def run(machines: Silent, number: int = 1) -> dict[str, Outcome]:
    deployment = Deployment(
        "d",
        vms(number, hosts=2),
        default_workflow(boot_seconds=BOOT),
        reboots=SlotWindow(9),
        checks=SlotWindow(9),
    )
    outcomes = drive(deployment, machines, clock=machines.clock, write=lambda events: None)
    return {outcome.vm.name: outcome for outcome in outcomes}


#: Where a reason names the field of the specification that allows more time.
FIELDS = {"SET": "set_deployment_env", "BROADCAST": "broadcast_env", "BOOT": "boot_new_env"}


@pytest.mark.parametrize(
    ("step", "reason", "kinds"),
    [
        # each kind of reboot once, then the try that is left, which begins with the surest
        (
            "minimal-system",
            "nothing after reboot ok within 100 s SET",
            ["soft", "hard", "relaunch", "relaunch"],
        ),
        ("partition", "nothing after minimal-system ok within 120 s SET", ["soft", "hard"]),
        ("image", "nothing after format ok within 900 s BROADCAST", ["soft", "hard"]),
        # from kexec to resets into the disk
        (
            "ready",
            # the check that was under way at the deadline is waited for
            r"not ready within 1\d\d s BOOT, last: no answer to a check within 60 s",
            ["soft", "hard", "relaunch", "relaunch"],
        ),
    ],
)
def test_silent_vm_is_rebooted_harder_and_then_fails_at_its_step(
    step: str, reason: str, kinds: list[str]
) -> None:
    machines = Silent(0.0, 1, who="vm-1", step=step)
    outcome = run(machines)["vm-1"]
    assert (outcome.state, outcome.step) == ("failed", step)
    for short, setting in FIELDS.items():
        reason = reason.replace(short, rf"\(timeouts\.{setting} allows more\)")
    assert re.fullmatch(reason, outcome.reason)
    assert machines.kinds == kinds
    patience = 900.0 if step == "image" else BOOT + LEASE
    assert machines.now < (len(kinds) + 1) * (patience + 2 * BOOT)


def test_the_last_result_of_a_check_is_the_reason() -> None:
    machines = Silent(0.0, 1, {"vm-1": ("ready", 10**9, "no route to host")}, who="vm-1")
    outcome = run(machines)["vm-1"]
    assert (outcome.state, outcome.step) == ("failed", "ready")
    assert outcome.reason.endswith("last: ready failed: no route to host")


@pytest.mark.parametrize("step", ["minimal-system", "image", "ready"])
def test_silent_vm_does_not_delay_the_others(step: str) -> None:
    alone = Silent(0.0, 1, who="vm-1", step=step)
    run(alone)
    machines = Silent(0.0, 1, who="vm-1", step=step)
    outcomes = run(machines, number=20)
    assert {name for name, outcome in outcomes.items() if outcome.state == "failed"} == {"vm-1"}
    assert outcomes["vm-1"].step == step
    assert all(outcome.attempt == 1 for name, outcome in outcomes.items() if name != "vm-1")
    assert machines.now < alone.now
