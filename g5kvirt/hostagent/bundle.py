"""The host agent as it is sent to hosts: `onhost` in a directory named by the hash of its content.

So services keep running under the version that started them while a newer one arrives, and a directory that
is there is complete: it is unpacked aside and then renamed. ``python3 -I -S DIRECTORY`` runs it. Compiled
modules are sent along, for hosts whose Python is of the same version as ours; others compile the sources.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import marshal
import shlex
import tarfile
from functools import cache
from pathlib import Path

from g5kvirt.hostagent import bootstrap
from g5kvirt.hostagent.bootstrap import NO_PYTHON
from g5kvirt.remote.connections import Program

__all__ = ["DIRECTORY", "HAS_PYTHON", "INSTALL", "NO_PYTHON", "SESSION", "archive", "unpack"]

#: What Python runs. The package itself is imported from the same directory, even with -I.
_MAIN = b"import sys\n\nfrom onhost.main import main\n\nsys.exit(main(sys.argv[1:]))\n"

#: In sh: whether python3 is there, and whole. Debian's python3-minimal lacks some modules, json among them.
HAS_PYTHON = "python3 -I -S -c 'import json' >/dev/null 2>&1"

#: What a host's Python runs that may not have the agent.
_BOOTSTRAP = Path(bootstrap.__file__).read_text(encoding="utf-8")


def _contents() -> dict[str, bytes]:
    """The files of the directory: path in it → content."""
    package = Path(__file__).parent / "onhost"
    sources = {str(path.relative_to(package.parent)): path for path in sorted(package.rglob("*.py"))}
    return {"__main__.py": _MAIN, **{name: path.read_bytes() for name, path in sources.items()}}


def _archive(contents: dict[str, bytes]) -> bytes:
    """A compressed tar of these files; the same files make the same archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(stream.getvalue(), mtime=0)


def _digest(contents: dict[str, bytes]) -> str:
    """A name for this content. Not the archive's sum, which depends on the version of zlib here."""
    digest = hashlib.sha256()
    for name, data in contents.items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def _compiled(contents: dict[str, bytes], directory: str) -> dict[str, bytes]:
    """The modules as our Python compiles them, valid whatever the time of the sources is (PEP 552)."""
    unchecked = (1).to_bytes(4, "little")
    files = {}
    for name, source in contents.items():
        code = compile(source, f"{directory}/{name}", "exec", dont_inherit=True)
        head = importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(source)
        files[importlib.util.cache_from_source(name)] = head + marshal.dumps(code)
    return files


_CONTENTS = _contents()  # read once: content and name agree even if a source changes meanwhile

#: The agent's directory on hosts.
DIRECTORY = f"/usr/local/lib/g5kvirt-agent/{_digest(_CONTENTS)}"


def _bootstrap(mode: str, check: str, without: str = "") -> tuple[str, ...]:
    """The command that runs `bootstrap` on a host.

    ``check``: in sh, whether Python is there; ``without``: what sh does first if it is not.
    """
    check = f'{check} || {{ {without}echo "{NO_PYTHON}" >&2; exit 127; }}'
    return ("sh", "-c", f'{check}; exec python3 -I -S -c "$@"', "sh", _BOOTSTRAP, mode, DIRECTORY)


#: The command that installs the agent, with `archive` on its standard input.
INSTALL = _bootstrap("install", HAS_PYTHON, "cat >/dev/null; ")


@cache
def archive() -> bytes:
    """The directory's content, compressed."""
    return _archive({**_CONTENTS, **_compiled(_CONTENTS, DIRECTORY)})


#: Starts it for calls one after another (`onhost.session`); it requests `archive` where it is missing.
SESSION = Program(shlex.join(_bootstrap("session", "command -v python3 >/dev/null")), archive)


def unpack(directory: Path) -> Path:
    """Write the agent into a directory of this machine, and return that; for tests and benchmarks."""
    for name, data in _CONTENTS.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory
