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

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import pandas as pd

from g5kvirt.background import Running
from g5kvirt.context import Context
from g5kvirt.errors import PhaseOrderError, RunError, SpecError
from g5kvirt.inventory import Reservation, to_plain
from g5kvirt.phases.reservation_request import with_sites
from g5kvirt.phases.reserve import release, reserve
from g5kvirt.phases.watching import interruptible, watched
from g5kvirt.planning.checks import check_against
from g5kvirt.run import directory as run_directories
from g5kvirt.run import state
from g5kvirt.run.create import begin
from g5kvirt.run.journal import PHASES, Journal
from g5kvirt.run.tables import Frames
from g5kvirt.spec.fields import show
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import Testbed, open_testbed

if TYPE_CHECKING:
    from g5kvirt.views.checked import CheckResult
    from g5kvirt.views.figures import Figures
    from g5kvirt.views.measured import MeasureResult
    from g5kvirt.views.results import PhaseResult

__all__ = ["Experiment"]

#: Where a user's own environments are described, beside the notebook.
ENVIRONMENTS = "environments"

T = TypeVar("T")


class Experiment:
    """One run of the experiment on one testbed.

    ``testbed`` is ``"local"``, ``"grid5000"`` or an object of the shape of
    `g5kvirt.testbeds.base.Testbed`. The run is kept in ``runs/name``; without a name it gets one from
    the date. Everything that can be wrong with what is asked is found here, before anything is
    touched. Raises SpecError, CapacityError, RunError, TestbedError.
    """

    #: The step that was last started in the background, by ``wait=False``.
    background: Running[Any] | None = None

    _testbed: Testbed | None
    _known: Frames | None = None
    _unnamed = False  # the testbed was given as an object: nobody else can open it

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
                f"an Experiment is made of a Spec, as Spec(...) or Spec.load(file), not {show(spec)}"
            )
        if not isinstance(testbed, str) and not hasattr(testbed, "connect"):
            raise SpecError(f'testbed must be a word such as "local" or "grid5000", not {show(testbed)}')
        if not isinstance(runs, str | Path):
            raise SpecError(f'runs must be a directory such as "runs", not {show(runs)}')
        word = testbed if isinstance(testbed, str) else testbed.name
        self._testbed = open_testbed(testbed) if isinstance(testbed, str) else testbed
        self._unnamed = not isinstance(testbed, str)
        self._testbed.connect()
        self.spec = with_sites(spec, self._testbed)
        check_against(self.spec, self._testbed.hosts())
        self._run = begin(Path(runs), name, self.spec, word)
        self.journal = Journal.open(self._run.journal)

    @classmethod
    def open(cls, path: str | Path) -> Experiment:
        """The experiment kept in the run directory ``path``, to look at or to go on with.

        The testbed is asked for only when a step needs it: a run can be read where it is long gone, on
        another machine, and while another process is at it. A step goes on where it was cut short. Raises
        RunError.
        """
        if not isinstance(path, str | Path):
            raise RunError(f'a run is opened by its directory, such as "runs/first", not {show(path)}')
        directory = Path(path)
        if not directory.name:  # "." and the like
            directory = directory.resolve()
        run = run_directories.find(directory.parent, directory.name)
        document = run.document
        if "spec" not in document or not isinstance(document.get("testbed"), str):
            raise RunError(
                f"run {run.name!r} does not say what was asked of which testbed: its run.json is damaged"
            )
        self = cls.__new__(cls)
        self._run = run
        self.spec = Spec.from_dict(document["spec"])
        self.journal = Journal.open(run.journal)
        self._testbed = None
        return self

    def check(self) -> CheckResult:
        """What would happen, and what is wrong with it, before anything is reserved. Changes nothing.

        Asks the testbed's API and the sites' frontends, each question within a bound (some minutes for all,
        where nothing answers); what cannot be asked is a row that says so.
        """
        from g5kvirt.phases.check import check
        from g5kvirt.views.checked import CheckResult

        found = check(self.spec, self.testbed, self.path.parent, self.name)
        return CheckResult(found, of=f"run {self.name}", testbed=self._where)

    # ---- the steps --------------------------------------------------------------------------------
    # With ``wait=False`` a step runs in a process of its own, and a handle on it comes back at once.

    @overload
    def reserve(self) -> PhaseResult: ...
    @overload
    def reserve(self, *, wait: Literal[False]) -> Running[PhaseResult]: ...
    def reserve(self, *, wait: bool = True) -> PhaseResult | Running[PhaseResult]:
        """Get hosts, service machines, sub-networks and a global KaVLAN, and wait until they are there."""
        return self._step("reserve", reserve, wait)

    @overload
    def deploy(self) -> PhaseResult: ...
    @overload
    def deploy(self, *, wait: Literal[False]) -> Running[PhaseResult]: ...
    def deploy(self, *, wait: bool = True) -> PhaseResult | Running[PhaseResult]:
        """Put the host environment on the machines, inside the KaVLAN."""
        from g5kvirt.phases.deploy import deploy

        return self._step("deploy", deploy, wait)

    @overload
    def configure(self) -> PhaseResult: ...
    @overload
    def configure(self, *, wait: Literal[False]) -> Running[PhaseResult]: ...
    def configure(self, *, wait: bool = True) -> PhaseResult | Running[PhaseResult]:
        """Make hosts and service machines ready: bridge, RAM disk, facts; DHCP, DNS, netboot."""
        from g5kvirt.phases.configure import configure

        return self._step("configure", configure, wait)

    def place(self) -> PhaseResult:
        """Decide which host carries which VM, with which name, address and MAC. Touches nothing."""
        from g5kvirt.phases.place import place

        return self._now("place", place)

    @overload
    def launch(self) -> PhaseResult: ...
    @overload
    def launch(self, *, wait: Literal[False]) -> Running[PhaseResult]: ...
    def launch(self, *, wait: bool = True) -> PhaseResult | Running[PhaseResult]:
        """Power the VMs on and wait until each reports from its minimal system, or is given up."""
        from g5kvirt.phases.launch import launch

        return self._step("launch", launch, wait)

    @overload
    def measure(
        self,
        environment: str | Path = "mini",
        sizes: Sequence[int] | None = None,
        repeat: int = 1,
        *,
        broadcast: Literal["chain", "tree", "http"] = "chain",
        folder: str | Path = ENVIRONMENTS,
    ) -> MeasureResult: ...
    @overload
    def measure(
        self,
        environment: str | Path = "mini",
        sizes: Sequence[int] | None = None,
        repeat: int = 1,
        *,
        broadcast: Literal["chain", "tree", "http"] = "chain",
        folder: str | Path = ENVIRONMENTS,
        wait: Literal[False],
    ) -> Running[MeasureResult]: ...
    def measure(
        self,
        environment: str | Path = "mini",
        sizes: Sequence[int] | None = None,
        repeat: int = 1,
        *,
        broadcast: Literal["chain", "tree", "http"] = "chain",
        folder: str | Path = ENVIRONMENTS,
        wait: bool = True,
    ) -> MeasureResult | Running[MeasureResult]:
        """Deploy ``environment`` on n of the VMs that are up, for each n of ``sizes``, ``repeat`` times.

        ``environment`` is one of `environments`, or the path of a YAML file that describes one. ``sizes``
        defaults to all VMs that are up. Each call measures anew, on the same virtual cluster. The image goes
        down a ``chain`` of the hosts; ``tree`` (TakTuk) and ``http`` (all from one server) are there to be
        compared with; a Kadeploy3 (``Spec.provisioner``) takes the first two. Single VMs never raise: they
        end as failed, with the step and the reason, and the end of their serial console in ``consoles/`` of
        the run's directory. Raises SpecError for what cannot be deployed, before anything reboots, and
        PhaseError if not one VM was deployed.
        """
        from g5kvirt.phases.measure import check_request, measure

        self._check_order("measure")
        up, provisioner, folders = len(state.up(self.journal)), self.spec.provisioner, folders_of(folder)
        request = check_request(
            str(environment), sizes, repeat, broadcast, folders, up=up, provisioner=provisioner
        )
        if not wait:
            arguments = {"environment": str(environment), "repeat": int(repeat), "broadcast": broadcast}
            arguments |= {"folder": str(folder), "sizes": list(request.sizes)}
            return self._in_background("measure", arguments, self._measured)
        context = self._context
        span = context.span("measure", "phase")
        with (
            interruptible("measure"),
            self._writing(),
            self._shown(),
            span as found,
            watched(context, "measure"),
        ):
            found["deployments"] = measure(context, request)
        return self._measured()

    def environments(self, folder: str | Path = ENVIRONMENTS) -> pd.DataFrame:
        """What can be deployed: one row an environment.

        Besides the built-in ones these are the descriptions (YAML, see `g5kvirt.images.environments`) in
        ``folder``, by default ``environments/`` where the notebook runs, and in
        ``~/.config/g5kvirt/environments``. Raises SpecError for a folder that is not there.
        """
        from g5kvirt.images.environments import known

        return pd.DataFrame([asdict(one) for one in known(folders_of(folder))])

    def ssh_config(self) -> Path:
        """Write an ssh configuration with which plain ``ssh -F FILE vm-12`` reaches a deployed VM.

        Hosts, service machines and frontends go by their whole names: ``graphene-3.nancy.grid5000.fr``.
        """
        from g5kvirt.guests.ssh import ssh_config

        return ssh_config(self._context, state.vms(self.journal))

    def run(self, command: str, vms: Sequence[str] | None = None, timeout: float = 60) -> pd.DataFrame:
        """Run a shell command on all deployed VMs, in their order, or on ``vms``; one row a VM, whatever
        became of it.

        Columns: ``vm``, ``ok``, ``code`` (None where nobody saw it end), ``out``, ``err``, ``seconds`` and,
        where not ok, the ``reason``. ``timeout``: seconds for each. Raises SpecError for an unknown VM,
        PhaseOrderError where none is deployed, and after `release`.
        """
        from g5kvirt.guests.ssh import COLUMNS, run_on

        return pd.DataFrame(run_on(self._context, command, vms, timeout), columns=list(COLUMNS))

    def release(self) -> None:
        """Give the machines back. Harmless when there is nothing to give back.

        A step in the background is stopped first. Raises TestbedError if a job is still there afterwards;
        call it again then. Raises RunError if it could not be written down, on a full disk for instance: the
        machines go back all the same, unless another process is at the run or it may only be read here.
        """
        if self.background is not None:
            self.background.stop()
        if not state.tries(self.journal, "reserve") or state.released(self.journal):
            return
        try:
            with self._writing(), self._context.span("reserve", "release"):
                release(self._context)
        except RunError as error:
            why = error.__cause__
            if not isinstance(why, OSError) or isinstance(why, PermissionError) or why.errno == errno.EROFS:
                raise
            release(self._context)  # a full disk is no reason to keep machines
            raise RunError(f"the machines are given back, but {error}") from error

    def __enter__(self) -> Experiment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self.journal.close()

    # ---- what happened ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The run's name."""
        return self._run.name

    @property
    def path(self) -> Path:
        """The run's directory: journal, ssh key, figures."""
        return self._run.path

    @property
    def reservation(self) -> Reservation | None:
        """What the testbed gave, or None before `reserve`."""
        return state.reservation(self.journal)

    @property
    def frames(self) -> Frames:
        """The run as pandas tables: events, spans, phases, hosts, vms."""
        return Frames(self.journal)

    @property
    def figures(self) -> Figures:
        """The run as figures, one method each."""
        from g5kvirt.views.figures import Figures

        frames = self._frames
        return Figures(frames, run=self.name, testbed=self._where, guest=frames.guest)

    def trace(self, path: str | Path) -> Path:
        """Write the run as a trace for ui.perfetto.dev: one track a host, VMs as slices. Returns the file."""
        from g5kvirt.views.trace import trace

        return trace(self.journal, path, run=self.name, testbed=self._where, guest=self._frames.guest)

    def __repr__(self) -> str:
        done = [phase for phase in PHASES if state.done(self.journal, phase)]
        return f"<Experiment {self.name} on {self._where}: {', '.join(done) or 'nothing done yet'}>"

    def _repr_html_(self) -> str:
        from g5kvirt.views.html import experiment_html

        frames = self._frames
        return experiment_html(self.name, self._where, frames.guest, frames)

    # ---- inside -----------------------------------------------------------------------------------

    @property
    def testbed(self) -> Testbed:
        """The testbed, connected. Raises TestbedError if it is not there any more."""
        if self._testbed is None:
            testbed = open_testbed(self._run.document["testbed"])
            testbed.connect()
            self._testbed = testbed
        return self._testbed

    @property
    def _frames(self) -> Frames:
        """The tables for figures and results, made once until something else happens.

        Those of `frames` are a person's own, who may change them.
        """
        if self._known is None or len(self._known.journal) != len(self.journal):
            self._known = Frames(self.journal)
        return self._known

    @property
    def _where(self) -> str:
        """What the testbed is called, whether it still exists or not."""
        return str(self._run.document["testbed"]).partition(":")[0]

    @property
    def _title(self) -> str:
        return f"run {self.name} on {self._where}"

    @cached_property
    def _context(self) -> Context:
        return Context(self.spec, self.testbed, self._run, self.journal)

    def _step(
        self, phase: str, do: Callable[[Context], Any], wait: bool
    ) -> PhaseResult | Running[PhaseResult]:
        if wait:
            return self._now(phase, do)
        if not state.done(self.journal, phase):
            self._check_order(phase)
        return self._in_background(phase, {}, lambda: self._result(phase))

    def _now(self, phase: str, do: Callable[[Context], Any]) -> PhaseResult:
        if not state.done(self.journal, phase):
            self._check_order(phase)
            context = self._context
            with interruptible(phase), self._writing():
                if not state.done(self.journal, phase):  # another process may just have done it
                    self._check_order(phase)
                    with self._shown():
                        self._do(phase, do, context)
        return self._result(phase)

    def _result(self, phase: str) -> PhaseResult:
        from g5kvirt.views.results import PhaseResult

        frames = self._frames
        return PhaseResult(phase, frames, run=self.name, testbed=self._where, guest=frames.guest)

    def _do(self, phase: str, do: Callable[[Context], Any], context: Context) -> None:
        with context.span(phase, "phase") as found, watched(context, phase):
            found.update(to_plain(do(context)))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the one who writes the journal, in which what a killed process had under way gets its end."""
        with self.journal.held():
            self.journal.extend(state.cut_short(self.journal))
            yield

    def _shown(self) -> AbstractContextManager[None]:
        """The live view, in a notebook; its last picture holds the end of the step's span."""
        from g5kvirt.views import live

        return live.show(self.journal, self.spec.vms, self._title)

    def _in_background(self, phase: str, arguments: Mapping[str, Any], result: Callable[[], T]) -> Running[T]:
        self._check_free(phase)
        if self._unnamed:
            raise SpecError(
                f"{phase}(wait=False) opens the testbed in another process: give it to the Experiment by its"
                ' name, such as "local" or "grid5000"'
            )
        from g5kvirt.views import live

        view = live.watch(self.journal, self.spec.vms, self._title)
        try:
            running = Running(phase, arguments, self.journal, result, ended=view.end)
        except BaseException:
            view.end()
            raise
        self.background = running
        return running

    def _measured(self) -> MeasureResult:
        """What the last `measure` gave."""
        from g5kvirt.views.measured import MeasureResult

        found = state.detail(self.journal, "measure") or {}
        return MeasureResult(
            self._frames,
            run=self.name,
            testbed=self._where,
            guest=self._frames.guest,
            deployments=found.get("deployments", []),
        )

    def _check_free(self, phase: str) -> None:
        """Raises PhaseOrderError while another step runs in the background."""
        if self.background is not None and not self.background.done:
            raise PhaseOrderError(
                f"{self.background.phase}() still runs in the background: wait for it (.wait()) or stop it"
                f" (.stop()) before {phase}()"
            )

    def _check_order(self, phase: str) -> None:
        """Raises PhaseOrderError if the phase cannot begin now."""
        self._check_free(phase)
        before = PHASES[: PHASES.index(phase)]
        missing = [p for p in before if not state.done(self.journal, p)]
        if missing:
            raise PhaseOrderError(f"{phase}() stands on {before[-1]}(): call {missing[0]}() first")
        if state.released(self.journal):
            raise PhaseOrderError(
                f"run {self.name!r} has given its machines back: start a new Experiment for {phase}()"
            )
        granted = self.reservation
        if granted is not None and time.time() > granted.start + granted.walltime:
            raise PhaseOrderError(
                f"the walltime of run {self.name!r} is over: start a new Experiment, with a longer one if"
                f" {phase}() came too late"
            )


def folders_of(folder: str | Path) -> list[Path]:
    """Where to look for environments; the usual folder need not be there. Raises SpecError."""
    if isinstance(folder, str | Path) and (Path(folder).is_dir() or Path(folder) == Path(ENVIRONMENTS)):
        return [Path(folder)]
    shown = folder if isinstance(folder, Path) else show(folder)
    raise SpecError(f"there is no folder {shown}: name one with descriptions of environments")
