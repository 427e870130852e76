"""The unmodified enoslib on a local testbed: its provider reserves, deploys into a KaVLAN, runs, destroys.

In a process of its own, as `docs/howto/own-client.md` says.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from localbed import MARKS, on, temporary_testbed

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.clients import write_configurations

pytestmark = MARKS

#: Of the environment that `./bootstrap test` makes for it.
PYTHON = Path(__file__).parents[2] / ".venv/enoslib/bin/python"

SCRIPT = """
import json, sys
import enoslib as en

en.set_config(g5k_auto_jump=False)
network = en.G5kNetworkConf(type="kavlan", roles=["net"], site="nancy")
configuration = (
    en.G5kConf.from_settings(
        job_name="own", job_type=["deploy"], env_name="debian12-min", walltime="0:20:00", key=sys.argv[1])
    .add_network_conf(network)
    .add_machine(roles=["workers"], cluster="graphene", nodes=2, primary_network=network)
    .finalize()
)
provider = en.G5k(configuration)
out = {}
try:
    roles, networks = provider.init()
    out["hosts"] = sorted(host.address for host in roles["workers"])
    out["networks"] = sorted(str(one.network) for one in networks["net"] if one.network.version == 4)
    results = en.run_command("cat /etc/g5k-environment", roles=roles)
    out["environments"] = [result.stdout for result in results]
finally:
    provider.destroy(wait=True)
print("ANSWER " + json.dumps(out))
"""


def test_the_provider_from_reservation_to_destruction() -> None:
    if not PYTHON.exists():
        assert "enoslib" not in os.environ.get("G5KVIRT_REQUIRE", ""), "enoslib is not installed"
        pytest.skip("enoslib is not installed (./bootstrap test installs it)")
    with temporary_testbed("enoslib", make({"nancy": 2}, cores=2)) as state:
        clients = write_configurations(state.name)
        done = subprocess.run(
            [str(PYTHON), "-W", "ignore", "-c", SCRIPT, str(state.key.with_suffix(".pub"))],
            env={
                "HOME": str(clients.directory),
                "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",  # ansible is a program there
                "NO_PROXY": "127.0.0.1",
                "ANSIBLE_SSH_ARGS": f"-F {state.ssh_config}",
            },
            cwd=clients.directory,  # it leaves files where it is started
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (answer,) = (line for line in done.stdout.splitlines() if line.startswith("ANSWER "))
        left = on(state, "nancy.grid5000.fr", "oarstat")
    out = json.loads(answer.removeprefix("ANSWER "))
    assert out["hosts"] == [f"graphene-{n}-kavlan-4.nancy.grid5000.fr" for n in (1, 2)]
    assert out["networks"] == [str(make({"nancy": 2}).vlan("nancy", 4).network)]
    assert out["environments"] == ["debian12-min"] * 2
    assert "graphene" not in left
    assert " R " not in left
