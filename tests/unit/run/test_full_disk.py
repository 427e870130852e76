"""A disk that is full for a while, or for good, while VMs boot and are deployed: the account adds up."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from g5kvirt import Experiment, Spec
from g5kvirt.errors import RunError
from g5kvirt.run import journal
from g5kvirt.run.events import Event
from g5kvirt.run.outbox import Outbox
from g5kvirt.run.tables import Frames

SPEC = Spec(sites={"nancy": 4}, vms=12)
real_write = os.write


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, *, after: int, writes: int) -> Iterator[list[int]]:
    """The journal cannot be written, from its ``after``-th write on, ``writes`` times; counts those."""
    refused = [0]
    done = [0]

    def write(descriptor: int, data: bytes) -> int:
        done[0] += 1
        if after < done[0] <= after + writes:
            refused[0] += 1
            if len(data) > 100:
                real_write(descriptor, bytes(data)[:90])  # a part of it still fitted
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "write", write)
        yield refused


def adds_up(path: Path) -> Frames:
    frames = Frames(journal.read_events(path / "journal.jsonl"))
    account, summary = frames.account, frames.measurements.summary()
    assert account.requested == account.up + account.failed + account.unfinished
    assert (summary.deployed + summary.failed, summary.unfinished) == (summary.requested, 0)
    assert len(frames.measurements.vms) == summary.requested
    return frames


@pytest.mark.parametrize("after", [1, 2, 3, 6, 12, 25])
@pytest.mark.parametrize("writes", [1, 2, 4, 1000])
def test_every_vm_has_an_end(
    after: int, writes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exp = Experiment(SPEC, testbed="simulated:2013", name="full", runs=tmp_path)
    for step in ("reserve", "deploy", "configure", "place", "launch"):
        getattr(exp, step)()
    words = r"cannot be written \(No space left on device\): make room"
    with full_disk(monkeypatch, after=after, writes=writes) as refused, pytest.raises(RunError, match=words):
        exp.measure()
    assert refused[0] >= 1
    if writes < 3:  # there was room again when the step ended
        adds_up(exp.path)
    exp.measure()  # another process would close what is open just so
    frames = adds_up(exp.path)
    last = list(frames.measurements.deployments["deployment"])[-1]
    assert frames.measurements.summary(last).deployed == 12
    assert list(frames.phases["status"])[-1] == "ok"


def test_launch_that_meets_a_full_disk_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for after in range(1, 12, 2):
        exp = Experiment(SPEC, testbed="simulated:2013", name=f"full-{after}", runs=tmp_path)
        for step in ("reserve", "deploy", "configure", "place"):
            getattr(exp, step)()
        with full_disk(monkeypatch, after=after, writes=1), pytest.raises(RunError):
            exp.launch()
        account = exp.frames.account
        assert account.requested == account.up + account.failed + account.unfinished == 12
        exp.launch()
        assert exp.frames.account.up == 12


def test_nothing_that_could_not_be_written_is_lost_or_written_twice() -> None:
    written: list[Event] = []
    room = [False]

    def write(events: list[Event]) -> None:
        if not room[0]:
            raise RunError("no room")
        written.extend(events)

    events = [Event("launch", "dhcp", "vm", f"vm-{i}", "ok", float(i)) for i in range(4)]
    outbox = Outbox(write)  # type: ignore[arg-type]
    for event in events[:2]:
        with pytest.raises(RunError):
            outbox.send([event])
    with pytest.raises(RunError):
        outbox.send([])
    room[0] = True
    outbox.send(events[2:])
    outbox.send([])
    assert written == events
