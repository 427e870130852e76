"""The host agent as it is sent to hosts: `onhost` in a directory named by the hash of its content.

So services keep running under the version that started them while a newer one arrives, Python keeps the
compiled modules beside the sources, and a directory that is there is complete: it is unpacked aside and then
renamed. ``python3 -I -S DIRECTORY`` runs it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

__all__ = ["ARCHIVE", "DIRECTORY", "INSTALL", "unpack"]

#: What Python runs. The package itself is imported from the same directory, even with -I.
_MAIN = b"import sys\n\nfrom onhost.main import main\n\nsys.exit(main(sys.argv[1:]))\n"

#: With the archive on standard input: the directory is there afterwards, whole. If it is there already,
#: nothing is written. ``-m``: a host's clock may be behind ours.
_INSTALL = """\
set -e
directory=$1 sum=$2
if [ -e "$directory/__main__.py" ]; then cat >/dev/null; exit 0; fi
mkdir -p -- "${directory%/*}"
aside=$(mktemp -d -- "$directory.XXXXXX")
trap 'rm -rf -- "$aside"' EXIT
cat >"$aside/archive"
echo "$sum  $aside/archive" | sha256sum -c >/dev/null
mkdir "$aside/agent"
tar -x -z -m --no-same-owner -f "$aside/archive" -C "$aside/agent"
mv -T -- "$aside/agent" "$directory" 2>/dev/null || [ -e "$directory/__main__.py" ]  # another was faster
"""


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


_CONTENTS = _contents()  # read once: content and name agree even if a source changes meanwhile

#: The directory's content, compressed.
ARCHIVE = _archive(_CONTENTS)
#: Where the agent lies on hosts.
DIRECTORY = f"/usr/local/lib/g5kvirt-agent/{_digest(_CONTENTS)}"
#: The command that installs it there, with `ARCHIVE` on its standard input.
INSTALL = ("sh", "-c", _INSTALL, "sh", DIRECTORY, hashlib.sha256(ARCHIVE).hexdigest())


def unpack(directory: Path) -> Path:
    """Write the agent into a directory of this machine, and return that; for tests and benchmarks."""
    for name, data in _CONTENTS.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory
