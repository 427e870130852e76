"""A frontend whose start-up files print whatever they like: what counts is what OAR gave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from localbed import MARKS, on, temporary_testbed
from scripts import answer, start

from g5kvirt.testbeds.local.description import make
from g5kvirt.testbeds.local.state import State

pytestmark = MARKS

SITE = "nancy.grid5000.fr"
#: On standard output and error; before, between and after; with numbers and names that look like answers.
BASHRC = r"""
export LC_ALL=fr_FR.UTF-8 LANG=fr_FR.UTF-8  # which is not installed: bash and perl warn of it
printf 'Welcome to \033[1mnancy\033[0m: 12 users, 3 nodes down\n7\n'
echo "graphene-9.nancy.grid5000.fr (no vlan found)"
echo "OAR_JOB_ID=99" >&2
echo "4242  motd  g5k  Running"
printf '10.1.0.0/22\t10.1.3.255\t255.252.0.0\t10.3.255.254\t10.0.0.0\tdns\t10.0.0.1\n'
(for n in 1 2 3 4 5 6; do echo "news: $n of 6 backups are late"; sleep 0.1; done) &
trap 'echo "bye, 5 jobs are left"' EXIT
printf 'g5k@fnancy:~$ '
"""
RUN = """
import contextlib, io
from g5kvirt import cli
from g5kvirt.testbeds.grid5000 import jobs
spec = Spec(sites={"nancy": 1}, vms=1, job_types=["exotic"])
exp = Experiment(spec, testbed=testbed, name="noisy", runs=runs)
out = {}
try:
    exp.reserve()
    granted = exp.reservation
    [(site, job)] = granted.jobs.items()
    from execo_g5k import get_oar_job_kavlan, get_oar_job_nodes
    nodes = sorted(host.address for host in get_oar_job_nodes(job, site))
    out["execo"] = [nodes, get_oar_job_kavlan(job, site)]
    out["hosts"] = sorted(host.name for host in granted.hosts)
    out["vlan"], out["job"] = granted.vlan, job
    out["network"] = str(granted.subnetworks[0].network)
    out["types"] = [line for line in jobs.oarstat(site, job).lines if " types = " in line]
    out["info"] = jobs.info(site, job)["state"]
    exp.deploy()
    out["deployed"] = len(exp.journal.state.deployed_hosts)
finally:
    exp.release()
out["ended"] = jobs.info(site, job)["state"]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    Path = __import__("pathlib").Path
    (Path(runs) / "spec.yaml").write_text("{sites: {nancy: 1}, vms: 1}")
    cli.main(["check", str(Path(runs) / "spec.yaml"), "--testbed", testbed, "--runs", runs + "/x", "--json"])
out["check"] = json.loads(printed.getvalue())["findings"]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def noisy() -> Iterator[State]:
    with temporary_testbed("hostile", make({"nancy": 2})) as state:
        quoted = BASHRC.replace("'", "'\\''")
        on(state, SITE, f"printf %s '{quoted}' > .bashrc; cp .bashrc .profile")
        yield state


def test_run_through_a_frontend_that_prints_words_of_its_own(noisy: State, tmp_path: Path) -> None:
    out = answer(start(RUN, noisy, tmp_path))
    nodes = sorted(node.fqdn for node in noisy.description.site("nancy").nodes)
    assert out["hosts"] == nodes
    assert out["execo"] != [nodes, [out["vlan"]]], "execo's own readers were not misled: no noise was there"
    assert out["vlan"] == noisy.description.site("nancy").global_vlan.id
    assert out["network"].startswith("10.144.")
    assert out["job"] == 1
    assert "exotic" in out["types"][0]
    assert (out["info"], out["deployed"]) == ("Running", 2)
    assert out["ended"] in ("Terminated", "Error", "Finishing")
    rows = {row["what"]: row for row in out["check"]}
    assert (rows["login shell"]["status"], rows["environment"]["status"]) == ("warning", "ok")
    assert "cannot change locale" in rows["login shell"]["message"]
    assert rows["frontend"]["message"] == "answers, login shell bash"
    assert "\x1b" not in json.dumps(out, ensure_ascii=False)
