"""The documentation builds without a warning, and promises only commands that exist."""

from __future__ import annotations

import argparse
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from g5kvirt import __version__
from g5kvirt.cli.parser import build_parser
from g5kvirt.run.tables import Frames
from g5kvirt.spec.spec import Spec
from g5kvirt.sweeps import plan

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
#: In a block of code or in backticks: ``g5kvirt local up --name x``.
_COMMAND = re.compile(r"(?:`|^ {4,})g5kvirt ((?:(?:local|image) )?[a-z]+)([^`\n#]*)", re.MULTILINE)


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: it is among the dev dependencies")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",  # without --quiet, which keeps warnings from being counted
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},  # a word about mkdocs' own future
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "reference" / "experiment.html").read_text(encoding="utf-8")
    assert "g5kvirt.experiment.Experiment.measure" in reference
    spec = (tmp_path / "site" / "reference" / "spec.html").read_text(encoding="utf-8")
    assert "number of hosts for VMs, over all sites" in spec, "comments of attributes are in the reference"
    assert "types of the OAR jobs" in spec, "all lines of a comment, not only the last"
    text = _plain(spec)
    assert "min_hosts: int | None = None" in text, "also defaults of the constructor"
    assert "memory: int = 160" in text
    assert "field(" not in text
    assert "usage: g5kvirt sweep" in (tmp_path / "site" / "reference" / "cli.html").read_text(
        encoding="utf-8"
    )
    assert "name: str | None = None" in _plain(reference), "how an Experiment is made"
    figures = (tmp_path / "site" / "reference" / "results.html").read_text(encoding="utf-8")
    assert "g5kvirt.views.figures.Figures.scalability" in figures, "also what a class inherits"
    tables = _plain((tmp_path / "site" / "reference" / "tables.html").read_text(encoding="utf-8"))
    assert "t_minimal_system" in tables, "what a table holds is said where it is"
    assert "See " not in tables


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "what the format requires"


def _plain(page: str) -> str:
    """The text of a page, without its marks."""
    return re.sub(r"<[^>]*>", "", page)


def test_every_column_of_a_table_is_documented() -> None:
    page = (ROOT / "docs/reference/tables.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `frames\.([a-z_.]+)`\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL))
    frames = Frames([])
    assert {f"measurements.{n}" for n in ("deployments", "vms", "attempts", "macros", "scalability")} < set(
        sections
    )
    for name, section in sections.items():
        table = operator.attrgetter(name)(frames)
        steps = re.compile(r".+_(start|end|duration|attempt|outcome)")
        columns = {re.sub(steps, r"STEP_\1", column) for column in table.columns}
        documented = re.findall(r"^\|((?: `\w+`,?)+) \|", section, re.MULTILINE)
        assert {column for row in documented for column in re.findall(r"`(\w+)`", row)} == columns, name


def test_yaml_in_the_documentation_is_accepted() -> None:
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```yaml.*?\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    ]
    documents = [yaml.safe_load(block) for block in blocks]
    sweeps = [document for document in documents if "vary" in document]
    assert sweeps
    for document in sweeps:
        plan.parse(document, "docs")
    specs = [one for one in documents if "vms" in one and ("sites" in one or "hosts" in one)]
    assert len(specs) > 3
    for document in specs:
        Spec.from_dict(document)


def test_commands_in_the_documentation_exist() -> None:
    commands = [match for page in PAGES for match in _COMMAND.findall(page.read_text(encoding="utf-8"))]
    assert len(commands) > 20
    for words, rest in commands:
        options = set(re.findall(r"--[a-z-]+", rest))
        assert options <= options_of(words.split()), f"g5kvirt {words}{rest}"


def options_of(words: list[str]) -> set[str]:
    """The options of a command; the test fails if there is none of that name."""
    parser = build_parser()
    for word in words:
        commands = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        assert commands, f"g5kvirt {' '.join(words)}"
        assert word in commands[0], f"g5kvirt {' '.join(words)}"
        parser = commands[0][word]
    return {option for action in parser._actions for option in action.option_strings}


def test_every_command_has_a_heading_in_the_reference() -> None:
    headings = re.findall(
        r"^## g5kvirt ([a-z ]+)$", (ROOT / "docs/reference/cli.md").read_text(), re.MULTILINE
    )
    parser = build_parser()
    [sub] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(sub.choices) <= set(headings)
