"""Runs the phases of a run: in order, each until it is done, by one process at a time; and the release.

An experiment without its user interface. The results of a phase go into the run's journal only, so a
phase that is done is not repeated and another process can continue where this one stopped. Nothing is
displayed from here: `g5kvirt.experiment`, one floor up, turns the journal into results and figures, and hands
in a ``display`` that lasts as long as a phase does. A phase in the background runs this module alone, in a
process of its own (`run_phase`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from g5kvirt.background import Running
from g5kvirt.context import Context
from g5kvirt.errors import G5kvirtError, PhaseOrderError, RunError, SpecError, TestbedDownError
from g5kvirt.inventory import Reservation, to_plain
from g5kvirt.phases.reservation_request import check_on, with_sites
from g5kvirt.phases.reserve import check_request, release
from g5kvirt.phases.watching import interruptible, watched
from g5kvirt.run import directory as run_directories
from g5kvirt.run import inbox
from g5kvirt.run.create import create_run
from g5kvirt.run.directory import Run
from g5kvirt.run.journal import MOVED, Journal
from g5kvirt.run.recovery import missing_ends
from g5kvirt.run.vocabulary import PHASES
from g5kvirt.spec.clock import parse_extension
from g5kvirt.spec.fields import show
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import Testbed, open_testbed
from g5kvirt.testbeds.transcript import transcript

if TYPE_CHECKING:
    from g5kvirt.phases.measure import MeasureRequest

__all__ = ["ENVIRONMENTS", "Broadcast", "Display", "PhaseRunner", "environment_folders"]

#: The folder beside the notebook in which users describe their own environments.
ENVIRONMENTS = "environments"

Broadcast: TypeAlias = Literal["chain", "tree", "http"]

#: Begins to display the run; what it returns ends that. The end may be called in another thread.
Display: TypeAlias = Callable[[], Callable[[], None]]

T = TypeVar("T")


def no_display() -> Callable[[], None]:
    """Displays nothing."""
    return lambda: None


class PhaseRunner:
    """The phases of one run on one testbed.

    ``testbed`` is None until something needs it: a run can be read where its testbed no longer exists.
    """

    def __init__(
        self, run: Run, spec: Spec, testbed: Testbed | None = None, display: Display = no_display
    ) -> None:
        self.run = run
        self.spec = spec
        self.journal = Journal.open(run.journal)
        if testbed is not None:
            self._keep_transcript()
        self.background: Running[Any] | None = None  #: the phase last started by `start`
        self._testbed = testbed
        self._display = display
        self._by_name = True  # the testbed was given by its name, so another process can open it as well

    @classmethod
    def create(
        cls, spec: Spec, testbed: str | Testbed, name: str | None, runs: Path, display: Display = no_display
    ) -> PhaseRunner:
        """A new run ``name`` in ``runs``. Raises SpecError, CapacityError, RunError, TestbedError."""
        runs = runs.absolute()  # where it is now, whatever directory a notebook changes to later
        opened = open_testbed(testbed) if isinstance(testbed, str) else testbed
        opened.connect()
        spec = with_sites(spec, opened)
        check_on(spec, opened)
        if opened.simulated and spec.provisioner != "g5kvirt":
            raise SpecError(
                f"a prediction is made with the built-in provisioner only, not with {spec.provisioner!r}",
                advice="leave provisioner out of the specification",
            )
        if opened.world is not None and isinstance(testbed, str):  # with a calibration that its name chose
            opened.world.calibration.check_guests(spec.guest)
        shown = testbed if isinstance(testbed, str) and not opened.simulated else opened.name
        about: dict[str, Any] = {"network": opened.network, "real_cores": opened.real_cores}
        if opened.world is not None:
            about |= {"prediction": True, "calibration": opened.world.calibration.about}
        run = create_run(runs, name, spec, shown, about)
        runner = cls(run, spec, opened, display)
        runner._by_name = isinstance(testbed, str)
        return runner

    @classmethod
    def open(cls, path: Path, display: Display = no_display) -> PhaseRunner:
        """The run kept in the directory ``path``. Raises RunError."""
        path = path.absolute() if path.name else path.resolve()  # "." and the like have no name
        run = run_directories.find(path.parent, path.name)
        if "spec" not in run.document or not isinstance(run.document.get("testbed"), str):
            raise RunError(
                f"{path / 'run.json'} is damaged: it does not name the specification and the testbed of run"
                f" {run.name!r}"
            )
        return cls(run, Spec.from_dict(run.document["spec"]), display=display)

    @property
    def testbed(self) -> Testbed:
        """The testbed, connected. Raises TestbedError if it no longer exists."""
        if self._testbed is None:
            self._keep_transcript()
            testbed = open_testbed(self.run.document["testbed"])
            testbed.connect()
            self._testbed = testbed
        return self._testbed

    @property
    def reservation(self) -> Reservation | None:
        """What the testbed granted, or None before the phase ``reserve``."""
        return self.journal.state.reservation

    @cached_property
    def context(self) -> Context:
        """What every phase works with."""
        world = self.testbed.world
        if world is not None:  # its clock resumes where that of an earlier process stopped
            world.go_on(max((event.t for event in self.journal), default=world.now()))
        return Context(self.spec, self.testbed, self.run, self.journal)

    # ---- phases -----------------------------------------------------------------------------------

    def execute(self, phase: str) -> None:
        """Do a phase other than ``measure``, unless it is done; VMs that `launch` gave up are tried again.

        Raises PhaseOrderError.
        """
        if self._complete(phase):
            return
        self._check_order(phase)
        carry_out = _phase_function(phase)
        context = self.context
        with interruptible(phase), self._writing():
            if self._complete(phase):  # another process may have finished it just now
                return
            self._check_order(phase)
            if phase == "reserve":
                check_request(context)
            with self._displayed(), context.span(phase, "phase") as found, watched(context, phase):
                found.update(to_plain(carry_out(context)))

    def measure_request(
        self,
        environment: str | Path | None,
        sizes: Sequence[int] | None,
        repeat: int,
        broadcast: Broadcast,
        folder: str | Path,
        group: str | None = None,
    ) -> MeasureRequest:
        """Check what is to be measured, before anything is touched or recorded.

        Raises PhaseOrderError, SpecError and CapacityError.
        """
        from g5kvirt.phases.measure import check_request

        self._check_order("measure")
        state = self.journal.state
        return check_request(
            environment,
            sizes,
            repeat,
            broadcast,
            environment_folders(folder),
            up=len(state.members(state.up_vms, group)),
            provisioner=self.spec.provisioner,
            guest=self.spec.guest,
            group=group,
        )

    def measure(self, request: MeasureRequest) -> None:
        """Deploy an environment as requested; each call measures again. Raises what the phase raises."""
        from g5kvirt.phases.measure import measure

        context = self.context
        span = context.span("measure", "phase")
        with (
            interruptible("measure"),
            self._writing(),
            self._displayed(),
            span as found,
            watched(context, "measure"),
        ):
            found["deployments"] = measure(context, request)

    def start(self, phase: str, arguments: Mapping[str, Any], result: Callable[[], T]) -> Running[T]:
        """Do a phase in a process of its own; ``arguments`` are those of `measure_request`.

        ``result`` is called for `Running.result` when it has ended well. A phase that is done is not started
        again, unless VMs failed in ``launch``. Raises PhaseOrderError and SpecError for what can be known to
        fail beforehand.
        """
        if phase != "measure" and self._complete(phase):
            return Running(phase, None, {}, self.journal, result)
        if phase == "measure":
            request = self.measure_request(**arguments)
            plain = {"environment": request.environment, "folder": str(arguments["folder"])}
            arguments = {**arguments, **plain, "sizes": list(request.sizes), "repeat": request.repeat}
        else:
            self._check_order(phase)
        if not self._by_name:
            raise SpecError(
                f'start("{phase}") opens the testbed in another process',
                advice='give the Experiment its name, such as "local" or "grid5000", not an object',
            )
        call = {"path": str(self.run.path.absolute()), "phase": phase, "arguments": dict(arguments)}
        self.context.disconnect()  # the other process has connections of its own
        end_display = self._display()
        try:
            running = Running(phase, run_phase, call, self.journal, result, when_ended=end_display)
        except BaseException:
            end_display()
            raise
        self.background = running
        return running

    def extend(self, walltime: int | str) -> Reservation:
        """Give all jobs of the run that much more walltime, or none; also while a step is under way.

        Raises SpecError, PhaseOrderError, and what `g5kvirt.phases.extend.extend` raises.
        """
        from g5kvirt.phases.extend import extend

        seconds = parse_extension(walltime)
        if self.run.predicted:
            raise SpecError(
                f"run {self.run.name!r} is a prediction: there is nothing to extend",
                advice="predict with a longer walltime instead",
            )
        self._check_held("extend")
        return extend(self.context, seconds)

    def release(self) -> None:
        """Release the machines. Does nothing if there are none to release.

        A phase in the background is stopped first. Raises TestbedError if a job is still there afterwards,
        and RunError as `g5kvirt.experiment.Experiment.release` says.
        """
        if self.background is not None:
            self.background.stop()
        if not self.journal.state.phases["reserve"].tries or self.journal.state.released:
            return
        try:
            with self._writing(), self.context.span("reserve", "release"):
                release(self.context)
        except TestbedDownError as down:  # all that was reserved there ended with it
            with self._writing():
                self.journal.append("reserve", "release", "run", self.run.name, "start")
                self.journal.append("reserve", "release", "run", self.run.name, "ok", reason=down.message)
        except RunError as error:
            why = error.__cause__
            if not isinstance(why, OSError) or isinstance(why, PermissionError) or why.errno == errno.EROFS:
                raise
            release(self.context)  # a full disk is no reason to keep machines
            raise RunError(f"the machines are released, but {error.message}", advice=error.advice) from error

    # ---- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the process that writes the journal, in which unfinished work of a killed one is closed."""
        self._keep_transcript()
        with self.journal.held():
            self.journal.extend(missing_ends(self.journal.state))
            inbox.take(self.run.path, self.journal)
            try:
                yield
            except (G5kvirtError, OSError) as error:
                if (
                    not self.journal.path.exists()
                ):  # whatever it says, it was for want of the run's keys or files
                    gone = f"{self.run.path} was moved or removed while a step of it ran"
                    raise RunError(gone, advice=MOVED) from error
                raise
            finally:
                inbox.take(self.run.path, self.journal)

    def _keep_transcript(self) -> None:
        """Record exchanges with the testbed in this run from now on; a prediction has none."""
        if not self.run.predicted:
            transcript.keep_in(self.run.path)

    @contextmanager
    def _displayed(self) -> Iterator[None]:
        """Display the run meanwhile; the last picture holds the end of the phase's span."""
        end_display = self._display()
        try:
            yield
        finally:
            end_display()

    def _check_free(self, phase: str) -> None:
        """Raises PhaseOrderError while another phase runs in the background."""
        if self.background is not None and not self.background.done:
            raise PhaseOrderError(
                f"{self.background.phase}() is still running in the background",
                advice=f"wait for it (.wait()) or stop it (.stop()) before {phase}()",
            )

    def _complete(self, phase: str) -> bool:
        """Whether nothing is left that a call of the phase could do."""
        state = self.journal.state
        if not state.done(phase):
            return False
        if phase != "launch" or not any(vm.state == "failed" for vm in state.launched()):
            return True
        return (
            state.released or self._walltime_over or self._is_read_only
        )  # the last one may open the testbed

    @property
    def _is_read_only(self) -> bool:
        """Whether no VM can be tried again: another step is under way, the run is a prediction of another
        process, or its testbed is gone."""
        if self.background is not None and not self.background.done:
            return True
        if self._testbed is None and self.run.predicted:
            return True
        try:
            _ = self.testbed
        except G5kvirtError:
            return True
        return False

    @property
    def _walltime_over(self) -> bool:
        granted = self.reservation
        if granted is None or self.run.predicted:  # whose clock stands still between the calls
            return False
        return time.time() > granted.start + granted.walltime

    def _check_order(self, phase: str) -> None:
        """Raises PhaseOrderError if the phase cannot begin now."""
        self._check_free(phase)
        missing = next((p for p in PHASES[: PHASES.index(phase)] if not self.journal.state.done(p)), None)
        if missing is not None:
            raise PhaseOrderError(f"{phase}() needs {missing}() first", advice=f"call {missing}()")
        self._check_held(phase)

    def _check_held(self, call: str) -> None:
        """Raises PhaseOrderError if the machines are not reserved any more; before `reserve`, for others."""
        if call not in PHASES and self.reservation is None:
            raise PhaseOrderError(f"{call}() needs reserve() first", advice="call reserve()")
        if self.journal.state.released:
            raise PhaseOrderError(
                f"run {self.run.name!r} has released its machines",
                advice=f"create a new Experiment for {call}()",
            )
        if self._walltime_over:
            raise PhaseOrderError(
                f"the walltime of run {self.run.name!r} is over",
                advice=f"create a new Experiment, with a longer walltime if it was too short for {call}()",
            )


def run_phase(path: str, phase: str, arguments: Mapping[str, Any]) -> None:
    """Do one phase of the run in ``path``: what the process of a phase in the background is started for."""
    runner = PhaseRunner.open(Path(path))
    if phase == "measure":
        runner.measure(runner.measure_request(**arguments))
    else:
        runner.execute(phase)


def environment_folders(folder: str | Path) -> list[Path]:
    """Where to search for environments; the default folder need not exist. Raises SpecError."""
    if isinstance(folder, str | Path) and (Path(folder).is_dir() or Path(folder) == Path(ENVIRONMENTS)):
        return [Path(folder)]
    shown = folder if isinstance(folder, Path) else show(folder)
    raise SpecError(f"there is no folder {shown}", advice="name one with descriptions of environments")


def _phase_function(phase: str) -> Callable[[Context], Any]:
    """The function that does a phase. Imported on demand: together they take a third of a second."""
    function: Callable[[Context], Any] = getattr(import_module(f"g5kvirt.phases.{phase}"), phase)
    return function
