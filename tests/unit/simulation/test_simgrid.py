"""Links are shared as SimGrid shares them, on random platforms."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from g5kvirt.simulation.network import TICK, Network
from g5kvirt.simulation.timeline import Timeline

SCRIPT = Path(__file__).parents[2] / "support" / "simgrid_flows.py"
PYTHON = "/usr/bin/python3"  # that of Debian's package python3-simgrid

Flow = tuple[list[int], float, float]


def has_simgrid() -> bool:
    try:
        done = subprocess.run([PYTHON, "-c", "import simgrid"], capture_output=True, timeout=60, check=False)
    except OSError:
        return False
    return done.returncode == 0


def of_simgrid(capacities: list[float], flows: list[Flow]) -> list[float]:
    document = json.dumps({"capacities": capacities, "flows": flows})
    done = subprocess.run(
        [PYTHON, SCRIPT], input=document, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    ends: list[float] = json.loads(done.stdout)
    return ends


def of_ours(capacities: list[float], flows: list[Flow]) -> list[float]:
    timeline = Timeline()
    network = Network(timeline, capacities)
    ends = [0.0] * len(flows)

    def begin(number: int, path: list[int], size: float) -> None:
        network.send(path, size, lambda: ends.__setitem__(number, timeline.now))

    for number, (path, size, start) in enumerate(flows):
        timeline.at(start, lambda n=number, p=path, s=size: begin(n, p, s))  # type: ignore[misc]
    timeline.run(1e9)
    return ends


def platform(seed: int) -> tuple[list[float], list[Flow]]:
    """Some links of 0.5 to 10 Gb/s, and transfers of minutes over up to four of them."""
    draw = random.Random(seed)
    links = draw.randint(3, 30)
    capacities = [draw.choice([62.5e6, 125e6, 1250e6]) for _ in range(links)]
    paths = [draw.sample(range(links), draw.randint(1, min(4, links))) for _ in range(draw.randint(2, 20))]
    flows = [
        (draw.choice(paths), draw.uniform(2e9, 4e10), draw.choice([0.0, draw.uniform(0, 100)]))
        for _ in range(draw.randint(5, 80))
    ]
    return capacities, flows


@pytest.mark.skipif(not has_simgrid(), reason="needs Debian's python3-simgrid")
@pytest.mark.parametrize("seed", range(20))
def test_transfers_end_when_they_do_in_simgrid(seed: int) -> None:
    capacities, flows = platform(seed)
    expected, found = of_simgrid(capacities, flows), of_ours(capacities, flows)
    for (_, _, start), theirs, ours in zip(flows, expected, found, strict=True):
        assert ours - start == pytest.approx(theirs - start, rel=0.01, abs=TICK)


def test_three_transfers_by_hand() -> None:
    """Two share a link of 100 B/s; one of them also a link of 20 with a third: 90, 10 and 10 B/s at first."""
    ends = of_ours([100.0, 20.0], [([0], 8000, 0), ([0, 1], 10_000, 0), ([1], 5000, 0)])
    # the third ends after 500 s; then the second has 20 B/s for what is left
    assert ends == pytest.approx([8000 / 90, 750, 500], rel=0.01)
