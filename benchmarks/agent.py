"""What a call of the host agent costs before it does anything: ``python benchmarks/agent.py``.

The same modules, run in turn by the same Python: as the directory that hosts have, whose compiled modules
Python keeps, and as one file (a zip archive), which each call compiles. The bound is the one file's time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import report

from g5kvirt.hostagent import bundle, protocol

REQUESTS: Mapping[str, protocol.Request] = {
    "the state of VMs": protocol.status(),
    "the state of services": protocol.services(),
    "a reset of no VM": protocol.power("reset", []),
}


def call(python: str, agent: Path, document: bytes) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    subprocess.run([python, "-I", "-S", str(agent)], input=document, capture_output=True, check=True)
    return (time.perf_counter() - start) * 1e3


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="calls of each kind; the median counts")
    parser.add_argument("--python", default=sys.executable, help="the hosts' Python")
    arguments = parser.parse_args()
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        directory, file = bundle.unpack(Path(folder, "agent")), Path(folder, "agent.zip")
        with zipfile.ZipFile(file, "w") as archive:
            for path in sorted(directory.rglob("*.py")):
                archive.write(path, path.relative_to(directory))
        for name, request in REQUESTS.items():
            document = protocol.document(request, home=f"{folder}/home")
            call(arguments.python, directory, document)  # the first call compiles
            runs = [
                [call(arguments.python, agent, document) for agent in (directory, file)]
                for _ in range(arguments.runs)
            ]
            one, other = (statistics.median(times) for times in zip(*runs, strict=True))
            print(f"{name}: {one:.1f} ms as a directory, {other:.1f} ms as one file", flush=True)
            kept.append(report(f"{name}, a call of the host agent", one, "ms", other))
    return int(not all(kept))


if __name__ == "__main__":
    sys.exit(main())
