"""Runs notebooks without a browser: a thin layer over papermill that knows the bundled notebooks."""

from __future__ import annotations

import argparse
import ast
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import g5kvirt
from g5kvirt.cli.console import Console
from g5kvirt.errors import G5kvirtError, MachineError, PhaseError, SpecError
from g5kvirt.spec.spec import suggest

__all__ = ["execute", "find", "keep", "notebook", "page", "parameters_of", "shipped", "values"]


def notebook(arguments: argparse.Namespace) -> int:
    """Run a notebook with papermill; saves the executed notebook, also as HTML."""
    console = Console()
    if arguments.notebook is None:
        return _list(console)
    source = find(arguments.notebook)
    given = values(arguments.parameters, source)
    name = str(given.get("name") or f"{source.stem}-{datetime.now(UTC):%Y-%m-%d-%H%M%S}")
    runs = Path(given.get("runs") or arguments.runs).resolve()
    known = parameters_of(source)
    own: dict[str, Any] = {"name": name, "runs": str(runs), "testbed": arguments.testbed}
    given = {**{key: value for key, value in own.items() if key in known and value is not None}, **given}
    output = Path(arguments.output) if arguments.output else None
    folder = runs / name
    if (output or folder).joinpath(source.name).exists():
        raise SpecError(f"{(output or folder) / source.name} already exists: choose another name or --output")
    beside = (output or runs) / (source.name if output else f"{name}.ipynb")
    beside.parent.mkdir(parents=True, exist_ok=True)

    def place() -> Path:
        return beside if output else keep(beside, folder, source.name)

    console.print(f"{source.name} as {name}", markup=False, highlight=False, soft_wrap=True)
    try:
        execute(source, beside, given, kept=place, progress_bar=console.is_terminal)
    except BaseException:
        _release_runs(folder, console)
        _print_path(console, "notebook", place())
        raise
    finally:
        if place().exists():
            _print_path(console, "html", page(place()))
    _print_path(console, "notebook", place())
    return 0


def shipped() -> dict[str, Path]:
    """The bundled notebooks by name: those of the checkout, or those installed with the package."""
    package = Path(g5kvirt.__file__).resolve().parent
    for folder in (package.parent / "notebooks", package / "_notebooks"):
        found = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
        if found:
            return found
    return {}


def find(name: str) -> Path:
    """The bundled notebook of that name, or that file. Raises SpecError."""
    path = Path(name)
    if path.suffix == ".ipynb":
        if path.is_file():
            return path
        raise SpecError(f"there is no notebook {path}: name a file that exists, or one of {_names()}")
    known = shipped()
    if name not in known:
        raise SpecError(f"there is no notebook {name!r}: {suggest(name, known)}")
    return known[name]


def _as_template(path: Path) -> str:
    """For papermill, which fills in the braces of a path as it does those of a template."""
    return str(path).replace("{", "{{").replace("}", "}}")


def parameters_of(path: Path) -> dict[str, str]:
    """The parameters: name → default, in Python syntax. Raises SpecError if the file is not a notebook."""
    import papermill

    try:
        found = papermill.inspect_notebook(_as_template(path))
    except Exception as error:  # papermill and nbformat raise whatever a broken file provokes
        raise SpecError(f"{path} cannot be read as a notebook ({error}): check the file") from error
    return {name: str(about["default"]) for name, about in found.items()}


def values(pairs: Sequence[Sequence[str]], path: Path) -> dict[str, Any]:
    """``-p NAME VALUE`` as Python values; what is not a Python literal is a string, and so is a number that
    stands for one (``-p name 42``). Raises SpecError."""
    known, given = parameters_of(path), {}
    for name, text in pairs:
        if name not in known:
            raise SpecError(f"{path.name} has no parameter {name!r}: {suggest(name, known)}")
        found = _literal(text, text)
        # the name of a run is a text, also where its default is None; a default may be an expression
        of_text = name == "name" or isinstance(_literal(known[name], None), str)
        given[name] = text if of_text and not isinstance(found, str | list | dict | None) else found
    return given


def _literal(text: str, otherwise: Any) -> Any:
    """The value of a Python literal; ``otherwise`` if it is none."""
    try:
        return _lists(ast.literal_eval(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return otherwise


def _lists(value: Any) -> Any:
    """Lists in place of tuples, of which papermill would make strings."""
    if isinstance(value, list | tuple):
        return [_lists(one) for one in value]
    if isinstance(value, dict):
        return {key: _lists(one) for key, one in value.items()}
    return value


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Set the environment variables for a kernel that is started inside; restore them afterwards."""
    before = dict(os.environ)
    # Otherwise a kernel of the same name in the user's home would be preferred to this environment's.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    # No browser is connected, even if a Jupyter kernel has started us and we inherit its variables.
    os.environ["G5KVIRT_VIEW"] = "static"
    os.environ.pop("MPLBACKEND", None)  # ours is not that of a notebook
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def execute(
    source: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    kept: Callable[[], Path],
    progress_bar: bool = False,
) -> None:
    """Run a notebook with papermill, which writes ``output`` after each cell.

    Raises PhaseError, which names the cell and where the notebook was saved (``kept``), and MachineError if
    there is no kernel.
    """
    # After Ctrl-C the kernel dies as well, which asyncio would report with a traceback at exit.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from papermill.exceptions import PapermillExecutionError

    try:
        with _kernel_environment():
            papermill.execute_notebook(
                _as_template(source),
                _as_template(output),
                parameters=dict(parameters),
                progress_bar=progress_bar,
                # The error of a cell is in the notebook, and raised here as well.
                extra_arguments=["--Application.log_level=50"],
            )
    except PapermillExecutionError as error:
        raise PhaseError(
            f"the notebook failed in cell {error.exec_count} ({error.ename}: {error.evalue}): see the output"
            f" up to there in {kept()}",
            phase="notebook",
        ) from error
    except NoSuchKernel as error:
        raise MachineError(
            f"there is no Jupyter kernel {error.name!r}: install ipykernel in the environment of g5kvirt"
        ) from error
    except RuntimeError as error:  # what nbclient raises when the kernel does not start, or dies
        raise PhaseError(f"the kernel of the notebook failed: {error}", phase="notebook") from error


def keep(beside: Path, folder: Path, name: str) -> Path:
    """Move the executed notebook into the directory of its run, if the experiment has created it by now.

    Returns where the notebook is.
    """
    inside = folder / name
    if beside.exists() and folder.is_dir():
        shutil.move(beside, inside)
    return inside if inside.exists() else beside


def page(path: Path) -> Path:
    """Save the notebook as an HTML page beside it."""
    from nbconvert import HTMLExporter

    text, _ = HTMLExporter().from_filename(str(path))  # type: ignore[no-untyped-call]
    written = path.with_suffix(".html")
    written.write_text(text, encoding="utf-8")
    return written


def _release_runs(folder: Path, console: Console) -> None:
    """Give back the machines of the runs of a notebook that failed."""
    from g5kvirt.experiment import Experiment
    from g5kvirt.run.directory import list_runs

    for run in [*list_runs(folder.parent), *list_runs(folder)]:
        if run.path not in (folder, folder / run.name):
            continue
        try:
            Experiment.open(run.path).release()
        except G5kvirtError as error:
            console.print(f"{error}; run `g5kvirt release {run.path}` later", markup=False)


def _list(console: Console) -> int:
    import nbformat

    for name, path in shipped().items():
        cells = nbformat.read(path, as_version=4).cells  # type: ignore[no-untyped-call]
        title = cells[0].source.splitlines()[0].lstrip("# ")
        console.print(f"{name:<22} {title}", markup=False, highlight=False, soft_wrap=True)
        for key, default in parameters_of(path).items():
            console.print(f"    -p {key} {default}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _names() -> str:
    return ", ".join(shipped())


def _print_path(console: Console, what: str, path: Path) -> None:
    console.print(f"{what:<8} {path}", markup=False, highlight=False, soft_wrap=True)
