"""The operation on small text files: files. One process for thousands of them."""

from __future__ import annotations

import contextlib
import os

from .records import write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results


def files(request: Record, _home: str) -> Results:
    """Write files, each as a whole, then remove others; a file that is not there is as good as removed."""
    for directory in {os.path.dirname(item["path"]) for item in request["files"]}:
        os.makedirs(directory, exist_ok=True)
    for item in request["files"]:
        write_text(item["path"], item["content"], int(item["mode"]))
    for path in request["remove"]:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    yield os.uname().nodename, {"written": len(request["files"])}
