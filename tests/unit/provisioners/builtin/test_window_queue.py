"""Who goes when slots of a window are free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.planning.windows import RateWindow, SlotWindow
from g5kvirt.provisioners.builtin.window_queue import WindowQueue


class VM:
    """As the queue sees a VM's progress."""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.vm = SimpleNamespace(host=host)


def fleet(*hosts: str) -> list[Any]:
    return [VM(f"vm-{i}", host) for i, host in enumerate(hosts)]


def filled(queue: WindowQueue, vms: list[Any]) -> WindowQueue:
    for vm in vms:
        queue.put(vm)
    return queue


def test_vms_go_in_their_order() -> None:
    vms = fleet("a", "b", "a", "b")
    queue = filled(WindowQueue(SlotWindow(3)), vms)
    assert queue.take(0.0) == vms[:3]
    queue.leave(vms[1])
    assert queue.take(1.0) == vms[3:]


def test_vms_of_a_host_go_together_the_longest_waiting_host_first() -> None:
    vms = fleet(*"abcabcabca")
    queue = filled(WindowQueue(SlotWindow(8), by_host=True), vms)
    assert [vm.vm.host for vm in queue.take(0.0)] == [*"aaaabbb"]
    assert queue.take(1.0) == [], "of c, two go together: a quarter of the window"
    queue.leave(vms[0])
    assert [vm.vm.host for vm in queue.take(2.0)] == [*"cc"]
    queue.leave(vms[3])
    assert [vm.vm.host for vm in queue.take(3.0)] == ["c"]
    assert queue.waiting == 0


def test_a_vm_that_is_alone_on_its_host_goes_at_once() -> None:
    vms = fleet("a", "a", "b")
    queue = filled(WindowQueue(SlotWindow(8), by_host=True), vms[:2])
    assert queue.take(0.0) == vms[:2]
    queue.put(vms[2])
    assert queue.take(0.0) == vms[2:]


def test_what_has_left_the_queue_is_not_taken() -> None:
    vms = fleet("a", "a", "b")
    queue = filled(WindowQueue(SlotWindow(8), by_host=True), [*vms, vms[0]])
    assert queue.waiting == 3, "nobody waits twice"
    queue.leave(vms[0])
    queue.leave(vms[2])
    assert (queue.waiting, queue.waits(vms[0]), queue.waits(vms[1])) == (1, False, True)
    assert queue.take(0.0) == [vms[1]]
    assert (queue.held, queue.holds(vms[1])) == (1, True)


@given(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=60),
    st.one_of(
        st.builds(SlotWindow, st.integers(1, 40)),
        st.builds(RateWindow, st.integers(1, 40), st.floats(0.1, 9.0)),
    ),
    st.booleans(),
    st.randoms(),
)
def test_everybody_goes_once_and_no_window_is_exceeded(
    hosts: list[str], window: SlotWindow | RateWindow, by_host: bool, random: Any
) -> None:
    vms = fleet(*hosts)
    queue = filled(WindowQueue(window, by_host=by_host), vms)
    gone: list[Any] = []
    inside: list[Any] = []
    now = 0.0
    while queue.waiting:
        batch = queue.take(now)
        gone += batch
        inside += batch
        assert len(inside if isinstance(window, SlotWindow) else batch) <= window.size
        assert batch or inside or queue.next_time is not None, "somebody waits for nothing"
        if inside:
            queue.leave(inside.pop(random.randrange(len(inside))))
        now += 1.0
    assert len(gone) == len(set(gone)) == len(vms)
    if not by_host:
        assert gone == vms
