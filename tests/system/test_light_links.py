"""Links of light guests on a host, in a network namespace of this test. Needs root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from g5kvirt.hostagent import onhost

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SCRIPT = """
import sys; sys.path.insert(0, {package!r})
from onhost.light import netns
from onhost.processes import run_checked

run_checked(["ip", "link", "add", "br0", "type", "bridge"])
run_checked(["ip", "link", "add", "v1", "type", "veth", "peer", "name", "other"])
# v1 is there; v2 was, and has gone since
netns.interface_names = lambda: ["v1", "v2"]
home = netns.Home()
links = [(name, f"52:54:00:00:00:0{{n}}", home.create()) for n, name in enumerate(("v1", "v2", "v3"))]
home.connect(links, "br0")
print(run_checked(["ip", "-o", "link", "show", "master", "br0"]).count("master br0"))
"""


def test_guest_comes_back_whether_its_old_link_is_still_there_or_not() -> None:
    script = SCRIPT.format(package=str(Path(onhost.__file__).parents[1]))
    words = ["unshare", "--net", sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr
