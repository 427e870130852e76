"""The unmodified execo_g5k on the local testbed, from oarsub to oardel. Needs root.

What the unit tests show over stand-ins is shown here over real OAR, real databases and real machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from localbed import MARKS, temporary_testbed

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.state import State

pytest.importorskip("execo_g5k", reason="execo is not installed")
pytestmark = MARKS

DESCRIPTION = make({"nancy": 3, "rennes": 2})

SETTINGS = """
import json, sys, time
import execo
from execo.config import default_connection_params
from execo_g5k.config import default_frontend_connection_params, g5k_configuration
uri, ssh_config = sys.argv[1:]
for params in (default_connection_params, default_frontend_connection_params):
    params['ssh_options'] = ('-F', ssh_config)
g5k_configuration.update(api_uri=uri, polling_interval=0.5, tiny_polling_interval=0.25, default_timeout=60)
execo.logger.setLevel('CRITICAL')
from execo_g5k import *
from execo_g5k import api_utils, planning
out = {}
"""
CYCLE = """
wanted = {'nancy': "{type='kavlan-global'}/vlan=1+slash_22=1+nodes=2", 'rennes': 'slash_21=1+nodes=1'}
jobs = {site: job for job, site in oarsub([
    (OarSubmission(resources=words, walltime='0:10:00', job_type='deploy', name='cycle'), site)
    for site, words in wanted.items()])}
try:
    out['started'] = [wait_oar_job_start(job, site, timeout=60) for site, job in jobs.items()]
    out['jobs'] = sorted(site for _, site in get_current_oar_jobs(list(jobs)))
    hosts = [host for site, job in jobs.items() for host in get_oar_job_nodes(job, site)]
    out['hosts'] = sorted(host.address for host in hosts)
    out['subnets'] = {site: get_oar_job_subnets(job, site) for site, job in jobs.items()}
    out['vlans'] = {site: get_oar_job_kavlan(job, site) for site, job in jobs.items()}
    vlan = out['vlans']['nancy'][0]

    found = planning.get_planning(list(jobs), vlan=True)
    out['busy'] = sorted(host for clusters in found.values() for name, hosts_ in clusters.items()
                         for host, slots in hosts_.items() if slots['busy'])
    out['slot'] = planning.compute_slots(found, '0:05:00')[0][2]

    deployed, undeployed = deploy(Deployment(hosts, env_name='debian12-min', vlan=vlan), check_timeout=20)
    out['deployed'], out['undeployed'] = sorted(deployed), sorted(undeployed)
    names = [get_kavlan_host_name(host, vlan) for host in out['deployed']]
    remote = execo.Remote('hostname; hostname -I', names, {'user': 'root'}).run()
    out['inside'] = {p.host.address: p.stdout.split() for p in remote.processes}

    first = execo.Host(out['hosts'][0])
    out['moved'] = api_utils.set_nodes_vlan('nancy', [first], 'eth0', 'DEFAULT').status_code
    process = execo.SshProcess('hostname', first, {'user': 'root'})
    out['back'] = process.run().stdout.split()

    everyone = {api_utils.get_host_longname(host) for host in api_utils.get_site_hosts('nancy')}
    others = sorted(everyone - set(out['hosts']))
    kadeployer = Kadeployer(Deployment([first, *others[:1]], env_name='debian12-min')).run()
    out['others'] = others
    out['mixed'] = [sorted(kadeployer.deployed_hosts), sorted(kadeployer.undeployed_hosts)]
    kadeployer = Kadeployer(Deployment([first], env_name='nonsense')).run()
    process = kadeployer.processes[0]
    out['nonsense'] = [len(kadeployer.deployed_hosts), process.exit_code, process.stderr]
finally:
    oardel([(job, site) for site, job in jobs.items()])
"""


@pytest.fixture(scope="module")
def state() -> Iterator[State]:
    with temporary_testbed("execo", DESCRIPTION) as state:
        yield state


def execo(state: State, home: Path, code: str) -> Any:
    """Run code with execo_g5k configured for the testbed; returns the variable ``out``."""
    secret = f"{quote(state.api_user, safe='')}:{quote(state.api_password, safe='')}@"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c"),
            f"{SETTINGS}{code}\nprint('ANSWER ' + json.dumps(out, default=str))\n",
            state.api_uri.replace("//", f"//{secret}", 1),
            str(state.ssh_config),
        ],
        env={"HOME": str(home), "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.rpartition("ANSWER ")[2])


def test_complete_cycle_on_two_sites(state: State, tmp_path: Path) -> None:
    out = execo(state, tmp_path, CYCLE)
    assert out["started"] == [True, True]
    assert out["jobs"] == ["nancy", "rennes"]
    assert len(out["hosts"]) == 3
    assert out["vlans"] == {"nancy": [14], "rennes": []}

    addresses, parameters = out["subnets"]["nancy"]
    assert len(addresses) == len({mac for _, mac in addresses}) == 1022
    assert parameters["gateway"] == str(DESCRIPTION.site("nancy").subnet_gateway)
    assert parameters["ip_prefix"].endswith("/22")
    assert len(out["subnets"]["rennes"][0]) == 2 * 1022

    assert out["busy"] == sorted([*out["hosts"], "kavlan-14"])
    assert out["slot"]["grid5000"] == 2
    assert out["slot"]["kavlan"] == ["rennes"]

    assert (out["deployed"], out["undeployed"]) == (out["hosts"], [])
    for name, (hostname, *addresses) in out["inside"].items():
        assert hostname == name.partition("-kavlan")[0]
        assert str(DESCRIPTION.names()[name]) in addresses
    assert len(out["inside"]) == 3

    assert (out["moved"], out["back"]) == (200, [out["hosts"][0].partition(".")[0]])
    assert out["mixed"] == [out["hosts"][:1], out["others"][:1]]
    deployed, status, message = out["nonsense"]
    assert (deployed, status != 0) == (0, True)
    assert "the environment nonsense of deploy does not exist" in message


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("slash_17=1", "use slash_18 to slash_22"),
        ("nodes=1", "add -t deploy"),
        ("nodes=4 -t deploy", "There are not enough resources"),
        ("\"{type='kavlan-global'}/vlan=2\" -t deploy", "There are not enough resources"),
    ],
)
def test_oar_rejects_invalid_requests(state: State, resources: str, message: str) -> None:
    command = f"oarsub -l {resources} 'sleep 60'"
    done = subprocess.run(
        ["ssh", "-F", str(state.ssh_config), "nancy.grid5000.fr", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 0
    assert message.lower() in (done.stdout + done.stderr).lower()
