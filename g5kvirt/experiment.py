"""The experiment as the user sees it: six idempotent calls in order.

::

    from g5kvirt import Experiment, Spec

    exp = Experiment(Spec(sites={"nancy": 2, "rennes": 2}, vms=16), testbed="local")
    exp.reserve(); exp.deploy(); exp.configure(); exp.place(); exp.launch()
    exp.figures.boot()

`Experiment` is a face, as the command line is. `g5kvirt.phase_runner`, one floor down, does the work and
knows nothing of what is shown; here the journal that it leaves becomes results, tables and figures, and the
live view is handed down to it as a function. A registry of views would have served as well, but then neither
a type checker nor an editor's completion could tell what ``exp.figures`` is.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import pandas as pd

from g5kvirt.background import Running
from g5kvirt.errors import RunError, SpecError
from g5kvirt.inventory import Reservation
from g5kvirt.link_access import LinkAccess
from g5kvirt.phase_runner import ENVIRONMENTS, Broadcast, PhaseRunner, environment_folders
from g5kvirt.run.directory import locate
from g5kvirt.run.journal import Journal
from g5kvirt.run.tables import Frames
from g5kvirt.run.vocabulary import PHASES
from g5kvirt.spec.fields import show
from g5kvirt.spec.spec import Spec, suggest
from g5kvirt.termination import orderly_end, uninterrupted
from g5kvirt.testbeds import Testbed
from g5kvirt.views import live
from g5kvirt.views.check_result import CheckResult
from g5kvirt.views.html import experiment_html
from g5kvirt.views.measure_result import MeasureResult
from g5kvirt.views.phase_result import PhaseResult
from g5kvirt.views.trace import trace
from g5kvirt.vm_access import VMAccess

if TYPE_CHECKING:
    from g5kvirt.prediction import Prediction
    from g5kvirt.views.figures import Figures

__all__ = ["Experiment", "MeasureArguments"]


class MeasureArguments(TypedDict, total=False):
    """The arguments of `Experiment.measure`, for `Experiment.start`."""

    environment: str | Path | None
    sizes: Sequence[int] | None
    repeat: int
    broadcast: Broadcast
    folder: str | Path
    group: str | None


class Experiment(VMAccess, LinkAccess):
    """One run of the experiment on one testbed.

    ``testbed`` is ``"local"``, ``"grid5000"``, ``"simulated:2013"`` or an object that implements
    `g5kvirt.testbeds.base.Testbed`. The run is saved in ``runs/name``; the default name is the date. The
    request is checked before anything is touched. Raises SpecError, CapacityError, RunError, TestbedError.
    """

    _frames_cache: Frames | None = None

    def __init__(
        self,
        spec: Spec,
        testbed: str | Testbed = "local",
        *,
        name: str | None = None,
        runs: str | Path = "runs",
    ) -> None:
        if not isinstance(spec, Spec):
            raise SpecError(
                f"Experiment needs a Spec, created by Spec(...) or Spec.load(file), not {show(spec)}"
            )
        if not isinstance(testbed, str) and not hasattr(testbed, "connect"):
            raise SpecError(f'testbed must be a name such as "local" or "grid5000", not {show(testbed)}')
        if not isinstance(runs, str | Path):
            raise SpecError(f'runs must be a directory such as "runs", not {show(runs)}')
        self._runner = PhaseRunner.create(spec, testbed, name, Path(runs), self._display)

    @classmethod
    def open(cls, path: str | Path) -> Experiment:
        """Open the run in the directory ``path``, or ``runs/path``, to look at it or to continue it.

        The testbed is contacted only when a step needs it: a run can be read when its testbed no longer
        exists, on another machine, and while another process works on it. A step resumes where it was
        interrupted. Raises RunError.
        """
        if not isinstance(path, str | Path):
            raise RunError(f'open a run by its directory, such as "runs/first", not {show(path)}')
        self = cls.__new__(cls)
        self._runner = PhaseRunner.open(locate(Path("runs"), str(path)).path, self._display)
        return self

    def check(
        self, environment: str | Path | None = None, *, folder: str | Path = ENVIRONMENTS
    ) -> CheckResult:
        """Do a dry run: what would happen and what is wrong, before anything is reserved. Changes nothing.

        Queries the testbed's API and the sites' frontends. Each query has a timeout; if nothing answers, the
        check takes a few minutes. A question that could not be answered is reported as unknown.
        ``environment``: also report whether the VMs are large enough for it (an environment as for
        `measure`).
        """
        from g5kvirt.phases.check import check
        from g5kvirt.prediction import expected_times
        from g5kvirt.views.text import machines_held

        machines = machines_held(self.journal.state, time.time())
        found = check(
            self.spec,
            self.testbed,
            self.path.parent,
            self.name,
            environment=None if environment is None else str(environment),
            folders=environment_folders(folder),
            expect=expected_times,
            held=machines if machines.startswith("held") else "",
        )
        return CheckResult(found, of=f"run {self.name}", testbed=self.testbed_name)

    def predict(
        self,
        sizes: Sequence[int] | None = None,
        *,
        environment: str | None = None,
        broadcast: Broadcast = "chain",
        calibration: str = "",
        summary: bool = False,
    ) -> Prediction:
        """Predict with a model how long this experiment takes, with one deployment for each of ``sizes``.

        ``sizes`` defaults to all VMs. The prediction is for the reserved machines, or for the largest ones of
        the testbed. ``calibration``: a bundled calibration or a file; by default the one for this testbed and
        guest. ``summary``: only durations, from a sample of the hosts, within seconds for any number of VMs.
        Changes nothing. Pass the result to ``figures.scalability(prediction=…)`` to compare it. Raises
        SpecError and CapacityError.
        """
        from g5kvirt.prediction import predict_run

        return predict_run(
            self._runner,
            calibration,
            sizes=sizes,
            environment=environment,
            broadcast=broadcast,
            summary=summary,
        )

    # ---- the steps --------------------------------------------------------------------------------

    def reserve(self) -> PhaseResult:
        """Reserve hosts, service machines, sub-networks and a global KaVLAN; wait until they are granted."""
        return self._execute("reserve")

    def deploy(self) -> PhaseResult:
        """Deploy the host environment on the machines, inside the KaVLAN."""
        return self._execute("deploy")

    def configure(self) -> PhaseResult:
        """Prepare hosts and service machines: bridge, RAM disk, facts; DHCP, DNS, netboot."""
        return self._execute("configure")

    def place(self) -> PhaseResult:
        """Assign each VM a host, a name, an address and a MAC address. Pure computation."""
        return self._execute("place")

    def launch(self) -> PhaseResult:
        """Power the VMs on and wait until each reports from its minimal system or has failed.

        If you call it again, it retries the VMs that failed.
        """
        return self._execute("launch")

    def measure(
        self,
        environment: str | Path | None = None,
        sizes: Sequence[int] | None = None,
        repeat: int = 1,
        *,
        broadcast: Broadcast = "chain",
        folder: str | Path = ENVIRONMENTS,
        group: str | None = None,
    ) -> MeasureResult:
        """Deploy ``environment`` on n of the VMs that are up, for each n in ``sizes``, ``repeat`` times.

        ``environment`` is the name of one of `environments`, or the path of a YAML file that describes one;
        by default ``"mini"``, and ``"light"`` for light guests.
        ``sizes`` defaults to all VMs that are up. Each call makes new deployments on the same virtual
        cluster. ``broadcast`` is the method that distributes the image: a ``"chain"`` of the hosts, or, for
        comparison, a ``"tree"`` (TakTuk) or ``"http"`` (every host downloads it from one server); with
        Kadeploy3 (``Spec.provisioner``) only the first two. ``folder`` contains descriptions of your own
        environments. ``group``: deploy only on VMs of this group.
        A VM that fails does not raise an error: it is recorded as failed, with the step and the reason, and
        the end of its serial console is saved in ``consoles/`` in the run's directory. Raises SpecError if
        the request is invalid, before anything reboots, and PhaseError if no VM was deployed.
        """
        arguments = environment, sizes, repeat, broadcast, folder, group
        self._runner.measure(self._runner.measure_request(*arguments))
        return self._measured()

    @overload
    def start(
        self, step: Literal["reserve", "deploy", "configure", "place", "launch"]
    ) -> Running[PhaseResult]: ...
    @overload
    def start(
        self, step: Literal["measure"], **arguments: Unpack[MeasureArguments]
    ) -> Running[MeasureResult]: ...
    def start(self, step: str, **arguments: Any) -> Running[Any]:
        """Start a step in the background and return immediately.

        ::

            running = exp.start("launch")
            measuring = exp.start("measure", environment="mini", sizes=[2, 4])

        ``step`` is the name of the method that runs it in the foreground, ``arguments`` are those of
        `measure`. The step runs in a separate process, one at a time. Use the returned object to wait for it
        or to stop it; its ``result()`` is what the method would have returned. A step that is done is not
        started again, except a launch in which VMs failed. Raises SpecError for an unknown step, and what
        the method would raise before it starts.
        """
        if not isinstance(step, str) or step not in PHASES:
            raise SpecError(f"there is no step {show(step)} to start", advice=suggest(step, PHASES))
        try:
            given = inspect.signature(getattr(self, step)).bind(**arguments)
        except TypeError as error:
            raise TypeError(f'start("{step}", …): {error}') from None
        given.apply_defaults()
        result = self._measured if step == "measure" else lambda: self._result(step)
        return self._runner.start(step, given.arguments, result)

    @property
    def background(self) -> Running[Any] | None:
        """The step that was started last by `start`; None if there is none."""
        return self._runner.background

    def environments(self, folder: str | Path = ENVIRONMENTS) -> pd.DataFrame:
        """The environments that can be deployed, one row each.

        These are the built-in ones and those described by YAML files (see `g5kvirt.images.descriptions`) in
        ``folder``, by default ``environments/`` in the current directory, and in
        ``~/.config/g5kvirt/environments``. Raises SpecError if the folder does not exist.
        """
        from g5kvirt.images.environments import known

        return pd.DataFrame([asdict(one) for one in known(environment_folders(folder))])

    def extend(self, walltime: int | str) -> Reservation:
        """Extend all jobs, or none, by ``walltime`` such as ``"1:00:00"``; possible while a step is running.

        OAR extends a job until the next reservation of its machines at most. Returns the reservation with its
        new walltime. Raises TestbedError if a site refuses (the message names jobs that stay extended
        nevertheless); SpecError in a prediction; PhaseOrderError without a reservation.
        """
        return self._runner.extend(walltime)

    def release(self) -> None:
        """Release the machines. Does nothing if there are none to release.

        Stops a step in the background first. Raises TestbedError if a job could not be deleted; call it again
        then. Raises RunError if the journal cannot be written, for instance because the disk is full: the
        machines are released nevertheless, unless another process works on the run or it is read-only. The
        first Ctrl-C does not interrupt it.
        """
        with uninterrupted():
            self._runner.release()

    def __enter__(self) -> Experiment:
        """Within the block, SIGTERM and SIGHUP raise an exception, so that the machines are released."""
        self._signals = orderly_end()
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
            self.journal.close()
        finally:
            self._signals.__exit__(None, None, None)

    # ---- what happened ----------------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """The specification, including the chosen sites."""
        return self._runner.spec

    @property
    def name(self) -> str:
        """The run's name."""
        return self._runner.run.name

    @property
    def path(self) -> Path:
        """The run's directory: journal, ssh key, figures."""
        return self._runner.run.path

    @property
    def journal(self) -> Journal:
        """The journal of the run: its events."""
        return self._runner.journal

    @property
    def testbed(self) -> Testbed:
        """The testbed, connected. Raises TestbedError if it no longer exists."""
        return self._runner.testbed

    @property
    def reservation(self) -> Reservation | None:
        """The resources that the testbed granted; None before `reserve`."""
        return self._runner.reservation

    @property
    def frames(self) -> Frames:
        """The run as pandas tables: phases, vms, hosts, measurements and others."""
        return Frames(self.journal)

    @property
    def figures(self) -> Figures:
        """The figures of the run, one method each."""
        from g5kvirt.views.figures import Figures  # matplotlib takes most of a second to import

        frames = self._frames
        return Figures(frames, run=self.name, testbed=self.testbed_name, guest=frames.guest)

    def trace(self, path: str | Path) -> Path:
        """Write the run as a trace for ui.perfetto.dev, with one track per host. Returns the path."""
        guest = self._frames.guest
        return trace(self.journal, path, run=self.name, testbed=self.testbed_name, guest=guest)

    def __repr__(self) -> str:
        done = [phase for phase in PHASES if self.journal.state.done(phase)]
        done += ["released"] if self.journal.state.released else []
        return f"<Experiment {self.name} on {self.testbed_name}: {', '.join(done) or 'nothing done yet'}>"

    def _repr_html_(self) -> str:
        frames = self._frames
        return experiment_html(self.name, self.testbed_name, frames.guest, frames)

    # ---- inside -----------------------------------------------------------------------------------

    @property
    def _frames(self) -> Frames:
        """The tables for figures and results, made once until something else happens.

        Those of `frames` are the user's own, who may change them.
        """
        if self._frames_cache is None or len(self._frames_cache.journal) != len(self.journal):
            self._frames_cache = Frames(self.journal)
        return self._frames_cache

    @property
    def testbed_name(self) -> str:
        """The name of the testbed, such as ``local:second``, even if it no longer exists."""
        return self._runner.run.testbed

    def _display(self) -> Callable[[], None]:
        """Show the live view in a notebook, until what is returned is called."""
        return live.watch(self.journal, self.spec.vms, f"run {self.name} on {self.testbed_name}").end

    def _execute(self, phase: str) -> PhaseResult:
        self._runner.execute(phase)
        return self._result(phase)

    def _result(self, phase: str) -> PhaseResult:
        frames = self._frames
        return PhaseResult(phase, frames, run=self.name, testbed=self.testbed_name, guest=frames.guest)

    def _measured(self) -> MeasureResult:
        """What the last `measure` gave."""
        found = self.journal.state.detail("measure") or {}
        return MeasureResult(
            self._frames,
            run=self.name,
            testbed=self.testbed_name,
            guest=self._frames.guest,
            deployments=found.get("deployments", []),
        )
