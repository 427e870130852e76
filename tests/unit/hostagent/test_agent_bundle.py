"""The host agent as a directory: complete or not there, of the standard library, for old Pythons."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import agent_copy
import pytest
from agent_calls import call

from g5kvirt.hostagent import bootstrap, bundle, protocol

PACKAGE = Path(bundle.__file__).parent / "onhost"
MODULES = [Path(bootstrap.__file__), *sorted(PACKAGE.rglob("*.py"))]


def install(directory: Path, archive: bytes = bundle.archive()) -> subprocess.CompletedProcess[bytes]:
    """Run the installing command for another directory."""
    words = [str(directory) if word == bundle.DIRECTORY else word for word in bundle.INSTALL]
    return subprocess.run(words, input=archive, capture_output=True, timeout=30, check=False)


def test_installed_agent_runs_and_keeps_its_compiled_modules(tmp_path: Path) -> None:
    directory = tmp_path / "agents" / "abc"
    assert install(directory).returncode == 0
    words = [*agent_copy.argv()[:-1], str(directory)]
    document = protocol.document(protocol.status(), protocol.services(), home=str(tmp_path / "home"))
    assert subprocess.run(words, input=document, check=True, timeout=30).returncode == 0
    with tarfile.open(fileobj=io.BytesIO(bundle.archive())) as tar:
        contents = {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name))}
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {str(path.relative_to(directory)): path.read_bytes() for path in files} == contents
    assert list((directory / "onhost" / "__pycache__").glob("vms.*.pyc"))
    assert [path.name for path in directory.parent.iterdir()] == ["abc"]


def test_complete_agent_is_not_written_again(tmp_path: Path) -> None:
    directory = tmp_path / "abc"
    assert install(directory).returncode == 0
    before = (directory / "__main__.py").stat()
    assert install(directory).returncode == 0
    after = (directory / "__main__.py").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("damage", ["cut", "changed", "lost"])
def test_damaged_archive_leaves_nothing(tmp_path: Path, damage: str) -> None:
    whole = bundle.archive()
    archives = {"cut": whole[:-2000], "changed": whole[:5000] + b"\0\0" + whole[5002:], "lost": b""}
    done = install(tmp_path / "abc", archives[damage])
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"the host agent cannot be installed: ")
    assert list(tmp_path.iterdir()) == []


def test_agent_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "agents").touch()
    done = install(tmp_path / "agents" / "abc")
    assert done.returncode == 1
    assert done.stderr.startswith(b"the host agent cannot be installed: [Errno ")
    assert done.stderr.count(b"\n") == 1


def test_session_gets_the_agent_once(tmp_path: Path) -> None:
    command = bundle.SESSION.command.replace(bundle.DIRECTORY, str(tmp_path / "abc"))
    archive = bundle.archive()
    first = subprocess.run(
        ["sh", "-c", command], input=b"%d " % len(archive) + archive, capture_output=True, timeout=30
    )
    assert first.stdout.splitlines() == [b'{"send": true}', b'{"ready": true}'], first.stderr
    second = subprocess.run(["sh", "-c", command], input=b"", capture_output=True, timeout=30)
    assert second.stdout.splitlines() == [b'{"ready": true}'], second.stderr


def test_agents_installed_at_once_are_one(tmp_path: Path) -> None:
    words = [str(tmp_path / "abc") if word == bundle.DIRECTORY else word for word in bundle.INSTALL]
    running = [subprocess.Popen(words, stdin=subprocess.PIPE) for _ in range(6)]
    for process in running:
        process.communicate(bundle.archive(), timeout=30)
    assert [process.returncode for process in running] == [0] * 6
    assert [path.name for path in tmp_path.iterdir()] == ["abc"]


def test_name_depends_on_the_content_alone() -> None:
    contents = bundle._contents()
    assert bundle.DIRECTORY.endswith(f"/{bundle._digest(contents)}")
    assert bundle._digest({**contents, "onhost/clock.py": b""}) != bundle._digest(contents)
    compiled = bundle._compiled(contents, bundle.DIRECTORY)
    assert bundle._archive(contents) == bundle._archive(contents)
    with tarfile.open(fileobj=io.BytesIO(bundle.archive())) as tar:
        sources = {"__main__.py", *(str(p.relative_to(PACKAGE.parent)) for p in PACKAGE.rglob("*.py"))}
        assert set(tar.getnames()) == {*sources, *compiled}
        assert len(compiled) == len(sources)


def test_python_of_our_version_compiles_nothing(tmp_path: Path) -> None:
    """With hundreds of hosts on one machine, that takes seconds of all its cores."""
    directory = tmp_path / "abc"
    assert install(directory).returncode == 0
    argv = [sys.executable, "-I", "-S", "-v", str(directory)]
    document = protocol.document(protocol.status(), home=str(tmp_path / "home"))
    done = subprocess.run(argv, input=document, capture_output=True, timeout=30, check=True)
    lines = done.stderr.decode().splitlines()
    ours = [line for line in lines if str(directory) in line or "onhost" in line]
    assert any("code object from" in line and "onhost" in line for line in ours)
    assert not [line for line in ours if "wrote" in line]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_module_is_of_the_standard_library_and_understood_by_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        else:
            continue
        assert {name.partition(".")[0] for name in names} <= {*sys.stdlib_module_names, "onhost"}
    unions = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "isinstance"]
    assert not [n for n in unions if isinstance(n.args[1], ast.BinOp)], "int | str is not a class in 3.9"


def test_agent_leaves_out_modules_that_are_slow_to_import(tmp_path: Path) -> None:
    document = protocol.document(protocol.status(), home=str(tmp_path))
    words = agent_copy.argv()
    done = subprocess.run([words[0], "-X", "importtime", *words[1:]], input=document, capture_output=True)
    loaded = {line.rpartition(b"|")[2].strip().decode() for line in done.stderr.splitlines()}
    assert "onhost.vms" in loaded
    slow = {"pathlib", "typing", "dataclasses", "inspect", "asyncio", "tempfile", "ctypes", "urllib.request"}
    assert not slow & loaded
    assert "onhost.packages" not in loaded, "only what was requested"
    assert call(tmp_path, protocol.services()) == []
