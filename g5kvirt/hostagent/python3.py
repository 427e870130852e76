"""Python for hosts that have none: installed by apt, with nothing but sh, before the agent can be sent.

The minimal environments of Grid'5000 are made without it. What the agent installs once it runs is in
`g5kvirt.hostagent.onhost.packages`, by the same commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from g5kvirt.hostagent.bundle import HAS_PYTHON
from g5kvirt.hostagent.calls import AgentReply
from g5kvirt.hostagent.onhost.packages import ENVIRONMENT, apt_commands, apt_error
from g5kvirt.inventory import Host
from g5kvirt.remote import Fanout, Result

__all__ = ["PACKAGE", "install_python"]

#: Debian's package: python3-minimal lacks modules that the agent imports.
PACKAGE = "python3"

#: Before the exit code of ``apt-get update`` in the output.
_MARK = "g5kvirt: update"


def script(proxy: str) -> str:
    """What a host runs: ``apt-get install``, without and then with new package lists, as the agent does it.

    Its output is theirs, with a line of `_MARK` and the exit code after that for new lists.
    """
    install, update = (shlex.join(words) for words in apt_commands([PACKAGE], proxy, []))
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in ENVIRONMENT.items())
    return f"""\
exec 2>&1 </dev/null
if {HAS_PYTHON}; then exit 0; fi
if ! command -v apt-get >/dev/null; then echo "E: there is no apt-get"; exit 127; fi
export {variables}
if {install}; then exit 0; fi
dpkg --configure -a
{update}
echo "{_MARK} $?"
{install}
"""


def install_python(
    fanout: Fanout, hosts: Iterable[Host], *, proxy: str | None, limit: float
) -> list[AgentReply]:
    """Install python3 on hosts, in parallel, for at most ``limit`` seconds each.

    ``proxy``: URL of the one through which they fetch packages; None: straight from the network.
    """
    hosts = list(hosts)
    command = ("sh", "-c", script(proxy or ""))
    results = fanout.run([host.address for host in hosts], command, timeout=limit, idempotent=True)
    return [_reply(host, results[host.address], proxy) for host in hosts]


def _reply(host: Host, result: Result, proxy: str | None) -> AgentReply:
    if result.ok:
        return AgentReply(host, result, (), "")
    through = f"the package proxy {proxy}" if proxy else "the network"
    reason = f"it has no python3, which could not be installed from {through}: {_reason(result)}"
    return AgentReply(host, result, (), reason)


def _reason(result: Result) -> str:
    """Why apt-get failed, in its own words; else why the command as a whole did."""
    if not result.started or result.reason.startswith("timed out"):
        return result.reason
    text = result.text
    mark = re.search(rf"^{_MARK} (\d+)$", text, re.M)
    if mark is None:
        return apt_error(text) or result.reason
    reason = apt_error(text[mark.end() :]) or result.reason
    if mark[1] == "0":
        return reason
    return f"{reason}; its package lists are outdated: {apt_error(text[: mark.start()])}"
