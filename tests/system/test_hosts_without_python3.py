"""Hosts without python3 on the local testbed: real ssh, apt and dpkg, a repository behind a proxy."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from aptmaker import serving
from localbed import MARKS, temporary_testbed
from scripts import answer, end, start

from g5kvirt.run.journal import read_events
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import network
from g5kvirt.testbeds.local.state import State

pytestmark = MARKS

#: On a host: there is no python3, nor does dpkg know of any, or of anything that needs it. The interpreter
#: itself stays, for the package of the test. apt knows one repository, at an address that nothing resolves.
REMOVE = r"""awk 'BEGIN { RS = ""; ORS = "\n\n" }
/(^|\n)Package: (lib)?python3/ { next }
{ gsub(/\n(Pre-)?Depends:[^\n]*python3[^\n]*/, ""); print }' /var/lib/dpkg/status >/tmp/status
cp /tmp/status /var/lib/dpkg/status
for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do rm -f $folder/python3; done
rm -rf /etc/apt/sources.list.d /var/lib/apt/lists
mkdir -p /etc/apt/sources.list.d /var/lib/apt/lists/partial
echo "deb [trusted=yes] http://packages.invalid/$1 ./" >/etc/apt/sources.list
! command -v python3
"""
PROGRAM = """\
#!/bin/sh
for real in /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9]; do
    if [ -x $real ]; then exec $real "$@"; fi
done
"""
DEPLOYED = f"""
exp = Experiment(Spec(sites={{"nancy": 2}}, vms=1, min_hosts=1), testbed=testbed, name="bare", runs=runs)
exp.reserve()
exp.deploy()
context = exp._runner.context
def remove(host, path):
    command = ["sh", "-c", {REMOVE!r}, "sh", path]
    result = context.fanout.run([host.address], command, timeout=60)[host.address]
    assert result.ok, result
service, one, two = exp.journal.state.deployed_hosts
remove(service, "")
remove(one, "")
remove(two, "empty")
print(json.dumps([h.name for h in (service, one, two)]))
"""
CONFIGURED = """
exp = Experiment.open(runs + "/bare")
exp._runner.testbed.package_proxy = "%s"
try:
    print(json.dumps(exp.configure().facts))
finally:
    exp.release()
"""


def proxy(state: State) -> socket.socket:
    """A socket in the testbed's backbone, where its machines can reach it."""
    gateway = str(state.description.site("nancy").wan_gateway)
    with network.socket_inside(state.pid, socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((gateway, 0))
    return listening


def test_hosts_without_python3_get_it_through_the_proxy_or_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    with (
        temporary_testbed("bare", make({"nancy": 3})) as state,
        serving(tmp_path / "repository", proxy(state)) as repository,
    ):
        repository.package("python3", files={"usr/bin/python3": PROGRAM})
        repository.publish()
        service, one, two = answer(start(DEPLOYED, state, tmp_path))
        url = f"http://{state.description.site('nancy').wan_gateway}:{repository.port}"
        facts = json.loads(end(start(CONFIGURED % url, state, tmp_path)).splitlines()[-1])
    events = read_events(tmp_path / "bare" / "journal.jsonl")
    ends = [(e.subject, e.status) for e in events if e.step == "python3" and e.status != "start"]
    assert sorted(ends) == sorted([(service, "ok"), (one, "ok"), (two, "failed"), (two, "failed")]), "twice"
    reason = f"{two}: it has no python3, which could not be installed from the package proxy {url}: "
    assert facts["failed"].startswith(reason)
    assert "its package lists are outdated: Failed to fetch http://packages.invalid/empty" in facts["failed"]
    assert {e.subject for e in events if e.step == "facts" and e.status == "ok"} == {service, one}
    assert "http://packages.invalid/./python3.deb" in repository.requested
