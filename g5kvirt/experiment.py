"""The experiment as a person holds it: six calls in their order, each of which can be repeated without harm.

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

    environment: str | Path
    sizes: Sequence[int] | None
    repeat: int
    broadcast: Broadcast
    folder: str | Path
    group: str | None


class Experiment(VMAccess, LinkAccess):
    """One run of the experiment on one testbed.

    ``testbed`` is ``"local"``, ``"grid5000"`` or an object of the shape of `g5kvirt.testbeds.base.Testbed`.
    The run is kept in ``runs/name``; without a name it is named after the date. Everything that can be wrong
    with the request is found here, before anything is touched. Raises SpecError, CapacityError, RunError,
    TestbedError.
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
                f"an Experiment takes a Spec, made by Spec(...) or Spec.load(file), not {show(spec)}"
            )
        if not isinstance(testbed, str) and not hasattr(testbed, "connect"):
            raise SpecError(f'testbed must be a name such as "local" or "grid5000", not {show(testbed)}')
        if not isinstance(runs, str | Path):
            raise SpecError(f'runs must be a directory such as "runs", not {show(runs)}')
        self._runner = PhaseRunner.create(spec, testbed, name, Path(runs), self._display)

    @classmethod
    def open(cls, path: str | Path) -> Experiment:
        """The experiment kept in the run directory ``path``, or ``runs/path``, to look at or to continue.

        The testbed is contacted only when a step needs it: a run can be read where its testbed no longer
        exists, on another machine, and while another process works on it. A step continues where it was
        interrupted. Raises RunError.
        """
        if not isinstance(path, str | Path):
            raise RunError(f'a run is opened by its directory, such as "runs/first", not {show(path)}')
        self = cls.__new__(cls)
        self._runner = PhaseRunner.open(locate(Path("runs"), str(path)).path, self._display)
        return self

    def check(
        self, environment: str | Path | None = None, *, folder: str | Path = ENVIRONMENTS
    ) -> CheckResult:
        """What would happen, and what would be wrong, before anything is reserved. Changes nothing.

        Queries the testbed's API and the sites' frontends. Each query is bounded; if nothing answers, all of
        them take some minutes. What could not be found out is a row that says so. ``environment``: also say
        whether the VMs are large enough for what is to be deployed on them (as for `measure`).
        """
        from g5kvirt.phases.check import check
        from g5kvirt.prediction import expected_times

        found = check(
            self.spec,
            self.testbed,
            self.path.parent,
            self.name,
            environment=None if environment is None else str(environment),
            folders=environment_folders(folder),
            expect=expected_times,
        )
        return CheckResult(found, of=f"run {self.name}", testbed=self.testbed_name)

    def predict(
        self,
        sizes: Sequence[int] | None = None,
        *,
        environment: str = "mini",
        broadcast: Broadcast = "chain",
        calibration: str = "",
        summary: bool = False,
    ) -> Prediction:
        """How long this experiment would take by a model, with a deployment on each of ``sizes`` (all VMs).

        On the machines that are reserved, or on the largest ones of the testbed. ``calibration``: one that
        comes with g5kvirt or a file; by default the one for this testbed and guest. ``summary``: durations
        only, from a sample of the hosts, within seconds for any number of VMs. Changes nothing. Raises
        SpecError and CapacityError. The result fits ``figures.scalability(prediction=…)``.
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
        """Get hosts, service machines, sub-networks and a global KaVLAN, and wait until they are there."""
        return self._execute("reserve")

    def deploy(self) -> PhaseResult:
        """Deploy the host environment on the machines, inside the KaVLAN."""
        return self._execute("deploy")

    def configure(self) -> PhaseResult:
        """Prepare hosts and service machines: bridge, RAM disk, facts; DHCP, DNS, netboot."""
        return self._execute("configure")

    def place(self) -> PhaseResult:
        """Decide which host carries which VM, with which name, address and MAC. Touches nothing."""
        return self._execute("place")

    def launch(self) -> PhaseResult:
        """Power the VMs on and wait until each reports from its minimal system, or is given up.

        Called again, it tries those that were given up once more.
        """
        return self._execute("launch")

    def measure(
        self,
        environment: str | Path = "mini",
        sizes: Sequence[int] | None = None,
        repeat: int = 1,
        *,
        broadcast: Broadcast = "chain",
        folder: str | Path = ENVIRONMENTS,
        group: str | None = None,
    ) -> MeasureResult:
        """Deploy ``environment`` on n of the VMs that are up, for each n of ``sizes``, ``repeat`` times.

        ``environment`` is one of `environments`, or the path of a YAML file that describes one. ``sizes``
        defaults to all VMs that are up. Each call measures anew, on the same virtual cluster. ``broadcast``
        is how the image is distributed: down a ``chain`` of the hosts, or, for comparison, by a ``tree``
        (TakTuk) or by ``http`` (every host downloads it from one server); with Kadeploy3
        (``Spec.provisioner``) only the first two. ``folder`` holds descriptions of your own environments.
        ``group``: only on VMs of this group of the specification.
        A failed VM never raises: it ends as failed, with the step and the reason, and the end of its serial
        console in ``consoles/`` of the run's directory. Raises SpecError for what cannot be deployed, before
        anything reboots, and PhaseError if no VM at all was deployed.
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
        """Start a step in the background and return at once; the notebook stays free.

        ::

            running = exp.start("launch")
            measuring = exp.start("measure", environment="mini", sizes=[2, 4])

        ``step`` is the name of the method that would do it in the foreground, ``arguments`` are those of
        `measure`. The step runs in a process of its own, one at a time. What is returned can be waited for
        and stopped; its ``result()`` is what the method would have returned. Raises SpecError for an unknown
        step, and what the method would raise before it begins. A step that is done is not
        started again, except a launch that gave up VMs.
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
        """The step that was last started by `start`, None before."""
        return self._runner.background

    def environments(self, folder: str | Path = ENVIRONMENTS) -> pd.DataFrame:
        """What can be deployed: one row per environment.

        Besides the built-in ones these are the descriptions (YAML, see `g5kvirt.images.descriptions`) in
        ``folder``, by default ``environments/`` where the notebook runs, and in
        ``~/.config/g5kvirt/environments``. Raises SpecError if the folder does not exist.
        """
        from g5kvirt.images.environments import known

        return pd.DataFrame([asdict(one) for one in known(environment_folders(folder))])

    def extend(self, walltime: int | str) -> Reservation:
        """Give all jobs that much more walltime, such as ``"1:00:00"``, or none of them.

        Also while a step is under way. OAR grants it as far as no other job follows on the same machines.
        Returns the reservation with its new walltime. Raises TestbedError if a site refuses, which says where
        a job has more time all the same; SpecError in a prediction; PhaseOrderError without a reservation.
        """
        return self._runner.extend(walltime)

    def release(self) -> None:
        """Give the machines back. Harmless when there is nothing to give back.

        A step in the background is stopped first. Raises TestbedError if a job is still there afterwards;
        call it again then. Raises RunError if the journal cannot be written, on a full disk for instance: the
        machines are given back all the same, unless another process works on the run or it is read-only here.
        A first Ctrl-C does not interrupt it.
        """
        with uninterrupted():
            self._runner.release()

    def __enter__(self) -> Experiment:
        """Until the block ends, SIGTERM and a closed terminal end the process by way of its end, too."""
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
        """The specification, with the sites that were chosen."""
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
        """What happened, event by event."""
        return self._runner.journal

    @property
    def testbed(self) -> Testbed:
        """The testbed, connected. Raises TestbedError if it no longer exists."""
        return self._runner.testbed

    @property
    def reservation(self) -> Reservation | None:
        """What the testbed granted, or None before `reserve`."""
        return self._runner.reservation

    @property
    def frames(self) -> Frames:
        """The run as pandas tables: events, spans, phases, hosts, vms."""
        return Frames(self.journal)

    @property
    def figures(self) -> Figures:
        """The run as figures, one method each."""
        from g5kvirt.views.figures import Figures  # matplotlib takes most of a second to import

        frames = self._frames
        return Figures(frames, run=self.name, testbed=self.testbed_name, guest=frames.guest)

    def trace(self, path: str | Path) -> Path:
        """Write the run as a trace for ui.perfetto.dev: a track per host, VMs as slices. Returns the file."""
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
        """The testbed as it was given, such as ``local:second``, whether it still exists or not."""
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
