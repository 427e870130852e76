"""The experiment: six calls in their order, each of which can be repeated without harm.

::

    from g5kvirt import Experiment, Spec

    exp = Experiment(Spec(sites={"nancy": 2, "rennes": 2}, vms=16), testbed="local")
    exp.reserve(); exp.deploy(); exp.configure(); exp.place(); exp.launch()
    exp.figures.boot()

What a step found out is kept in the run's journal and nowhere else: a step that is done is read back
from there, not done again, and `Experiment.open` continues where another process stopped.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pandas as pd

import g5kvirt
from g5kvirt import runs as run_directories
from g5kvirt.errors import MachineError, PhaseError, PhaseOrderError
from g5kvirt.frames import Frames
from g5kvirt.inventory import Reservation, to_plain
from g5kvirt.journal import PHASES, Journal
from g5kvirt.phases import Context, recall
from g5kvirt.phases.reserve import release, reserve
from g5kvirt.planning.checks import check_against
from g5kvirt.spec import Spec
from g5kvirt.testbeds import Testbed, open_testbed

if TYPE_CHECKING:
    from g5kvirt.views.figures import Figures
    from g5kvirt.views.measured import MeasureResult
    from g5kvirt.views.results import PhaseResult

__all__ = ["Experiment"]

T = TypeVar("T")


class Experiment:
    """One run of the experiment on one testbed.

    ``testbed`` is ``"local"``, ``"grid5000"`` or an object of the shape of
    `g5kvirt.testbeds.base.Testbed`. The run is kept in ``runs/name``; without a name it gets one from
    the date. Everything that can be wrong with what is asked is found here, before anything is
    touched. Raises SpecError, CapacityError, RunError, TestbedError.
    """

    _testbed: Testbed | None

    def __init__(
        self,
        spec: Spec,
        testbed: str | Testbed = "local",
        *,
        name: str | None = None,
        runs: str | Path = "runs",
    ) -> None:
        self.spec = spec
        word = testbed if isinstance(testbed, str) else testbed.name
        self._testbed = open_testbed(testbed) if isinstance(testbed, str) else testbed
        self._testbed.connect()
        check_against(spec, self._testbed.hosts())
        self.run = _create(Path(runs), name, spec, word)
        self.journal = Journal.open(self.run.journal)

    @classmethod
    def open(cls, path: str | Path) -> Experiment:
        """The experiment kept in the run directory ``path``, to look at or to go on with.

        The testbed is asked for only when a step needs it: a run can be read where it is long gone. Raises
        RunError.
        """
        directory = Path(path)
        run = run_directories.find(directory.parent, directory.name)
        document = run.document
        self = cls.__new__(cls)
        self.run = run
        self.spec = Spec.from_dict(document["spec"])
        self.journal = Journal.open(run.journal)
        self._testbed = None
        return self

    # ---- the steps --------------------------------------------------------------------------------

    def reserve(self) -> PhaseResult:
        """Get hosts, service machines, sub-networks and a global KaVLAN, and wait until they are there."""
        return self._step("reserve", reserve)

    def deploy(self) -> PhaseResult:
        """Put the host environment on the machines, inside the KaVLAN."""
        from g5kvirt.phases.deploy import deploy

        return self._step("deploy", deploy)

    def configure(self) -> PhaseResult:
        """Make hosts and service machines ready: bridge, RAM disk, facts; DHCP, DNS, netboot."""
        from g5kvirt.phases.configure import configure

        return self._step("configure", configure)

    def place(self) -> PhaseResult:
        """Decide which host carries which VM, with which name, address and MAC. Touches nothing."""
        from g5kvirt.phases.place import place

        return self._step("place", place)

    def launch(self) -> PhaseResult:
        """Power the VMs on and wait until each reports from its minimal system, or is given up."""
        from g5kvirt.phases.launch import launch

        return self._step("launch", launch)

    def measure(
        self,
        environment: str = "mini",
        sizes: Sequence[int] | None = None,
        repeat: int = 1,
        *,
        broadcast: Literal["chain", "http"] = "chain",
    ) -> MeasureResult:
        """Deploy ``environment`` on n of the VMs that are up, for each n of ``sizes``, ``repeat`` times.

        ``sizes`` defaults to all VMs that are up. Each call measures anew, on the same virtual cluster.
        Single VMs never raise: they end as failed, with the step and the reason. Raises SpecError for what
        cannot be deployed, before anything reboots, and PhaseError if not one VM was deployed.
        """
        from g5kvirt.phases.measure import measure
        from g5kvirt.views.measured import MeasureResult

        self._check_order("measure")
        context = self._context
        wanted = sizes if sizes is not None else [len(recall.up(self.journal))]
        with context.span("measure", "phase") as found:
            found["deployments"] = measure(context, environment, wanted, repeat, broadcast)
        return MeasureResult(
            list(self.journal),
            run=self.run.name,
            testbed=self._where,
            guest=self.frames.guest,
            deployments=found["deployments"],
        )

    def environments(self) -> pd.DataFrame:
        """What can be deployed: one row an environment."""
        from g5kvirt.provision.environments import known

        return pd.DataFrame([asdict(one) for one in known()])

    def ssh_config(self) -> Path:
        """Write an ssh configuration with which plain ``ssh -F FILE vm-12`` reaches a deployed VM."""
        from g5kvirt.phases.vmaccess import ssh_config

        return ssh_config(self._context, recall.vms(self.journal))

    def command(self, command: str, vms: Sequence[str] | None = None, timeout: float = 60) -> pd.DataFrame:
        """Run a shell command on all deployed VMs, or on ``vms``; one row a VM, whatever became of it."""
        from g5kvirt.phases.vmaccess import run_on

        return pd.DataFrame(run_on(self._context, command, vms, timeout))

    def release(self) -> None:
        """Give the machines back. Harmless when there is nothing to give back.

        Raises TestbedError if a job is still there afterwards; call it again then.
        """
        if not recall.tries(self.journal, "reserve") or recall.released(self.journal):
            return
        with self._context.span("reserve", "release"):
            release(self._context)

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self.journal.close()

    # ---- what happened ----------------------------------------------------------------------------

    @property
    def reservation(self) -> Reservation | None:
        """What the testbed gave, or None before `reserve`."""
        return recall.reservation(self.journal)

    @property
    def frames(self) -> Frames:
        """The run as pandas tables: events, spans, phases, hosts, vms."""
        return Frames(self.journal)

    @property
    def figures(self) -> Figures:
        """The run as figures, one method each."""
        from g5kvirt.views.figures import Figures

        return Figures(self.frames, run=self.run.name, testbed=self._where, guest=self.frames.guest)

    def __repr__(self) -> str:
        done = [phase for phase in PHASES if recall.done(self.journal, phase)]
        return f"<Experiment {self.run.name} on {self._where}: {', '.join(done) or 'nothing done yet'}>"

    def _repr_html_(self) -> str:
        from g5kvirt.views.html import experiment_html

        return experiment_html(self.run.name, self._where, self.frames.guest, self.frames)

    # ---- inside -----------------------------------------------------------------------------------

    @property
    def testbed(self) -> Testbed:
        """The testbed, connected. Raises TestbedError if it is not there any more."""
        if self._testbed is None:
            testbed = open_testbed(self.run.document["testbed"])
            testbed.connect()
            self._testbed = testbed
        return self._testbed

    @property
    def _where(self) -> str:
        """What the testbed is called, whether it still exists or not."""
        return str(self.run.document["testbed"]).partition(":")[0]

    @cached_property
    def _context(self) -> Context:
        return Context(self.spec, self.testbed, self.run, self.journal)

    def _step(self, phase: str, do: Callable[[Context], Any]) -> PhaseResult:
        from g5kvirt.views.results import PhaseResult

        if not recall.done(self.journal, phase):
            self._check_order(phase)
            context = self._context
            try:
                with context.span(phase, "phase") as found:
                    found.update(to_plain(do(context)))
            except PhaseError as error:
                # The cause behind many another failure, and worth a question only then.
                if (granted := self.reservation) is not None and not self.testbed.alive(granted):
                    message = f"the jobs ended during {phase}(): start a new Experiment ({error})"
                    raise PhaseError(message, phase=phase, step=error.step) from error
                raise
        return PhaseResult(
            phase, self.frames, run=self.run.name, testbed=self._where, guest=self.frames.guest
        )

    def _check_order(self, phase: str) -> None:
        """Raises PhaseOrderError if the phase cannot begin now."""
        before = PHASES[: PHASES.index(phase)]
        missing = [p for p in before if not recall.done(self.journal, p)]
        if missing:
            raise PhaseOrderError(f"{phase}() stands on {before[-1]}(): call {missing[0]}() first")
        if recall.released(self.journal):
            raise PhaseOrderError(
                f"run {self.run.name!r} has given its machines back: start a new Experiment for {phase}()"
            )
        granted = self.reservation
        if granted is not None and time.time() > granted.start + granted.walltime:
            raise PhaseOrderError(
                f"the walltime of run {self.run.name!r} is over: start a new Experiment, with a longer one if"
                f" {phase}() came too late"
            )


def _create(root: Path, name: str | None, spec: Spec, testbed: str) -> run_directories.Run:
    document = {
        "spec": spec.to_dict(),
        "testbed": testbed,
        "versions": {"g5kvirt": g5kvirt.__version__, "execo": _version("execo")},
    }
    run = run_directories.create(root, name, document)
    try:
        _make_key(run)
    except BaseException:  # an interrupt too: a run without a key never was
        shutil.rmtree(run.path)
        raise
    return run


def _make_key(run: run_directories.Run) -> None:
    """The ssh key of the run, for root on its machines. Raises MachineError."""
    folder = run.path / "ssh"
    folder.mkdir(mode=0o700)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"g5kvirt {run.name}"]
    try:
        made = subprocess.run(
            [*words, "-f", str(folder / "id_ed25519")], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"ssh-keygen does not work ({error}): install openssh-client") from error
    if made.returncode:
        raise MachineError(f"ssh-keygen made no key: {made.stderr.strip()}")


def _version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)
