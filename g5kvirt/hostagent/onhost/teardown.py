"""The ``teardown`` operation: a host as it was before."""

from __future__ import annotations

import os
import shutil

from . import links, port_security
from .bridge import remove_bridge
from .light import operations as light
from .prepare import MOUNTS
from .processes import run_checked
from .services import stop_service
from .vms import stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .records import Record, Results


def teardown(request: Record, home: str) -> Results:
    """End and remove all that this agent made on the host; the NIC gets its addresses back."""
    for function in (stop_service, stop):
        for subject, result in function({}, home):
            if isinstance(result, Exception):
                yield subject, result
    light.end(home)
    for name in MOUNTS.values():
        if os.path.ismount(f"{home}/{name}"):
            run_checked(["umount", "-l", f"{home}/{name}"])
    links.remove(home)
    port_security.remove()
    restored = remove_bridge(home)
    for path in request.get("directories", []):
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(home)
    yield os.uname().nodename, {"bridge": "removed" if restored else "not started by g5kvirt"}
