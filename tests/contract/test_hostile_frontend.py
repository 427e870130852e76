"""A frontend whose start-up files print whatever they like, in bash, fish and tcsh, and whose programs answer
slowly, in lines that end with CR LF: OAR's answer counts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import loginshells
import pytest
from localbed import MARKS, inside, on, temporary_testbed
from scripts import answer, start

from g5kvirt.errors import MachineError
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.state import State

pytestmark = MARKS

SITE = "nancy.grid5000.fr"
#: On standard output and error; before, between and after; with numbers and names that look like answers.
NOISE = r"""
printf 'Welcome to \033[1mnancy\033[0m: 12 users, 3 nodes down\n7\n'
echo "graphene-9.nancy.grid5000.fr (no vlan found)"
echo "OAR_JOB_ID=99" >&2
echo "4242  motd  g5k  Running"
printf '10.1.0.0/22\t10.1.3.255\t255.252.0.0\t10.3.255.254\t10.0.0.0\tdns\t10.0.0.1\n'
(for n in 1 2 3 4 5 6; do echo "news: $n of 6 backups are late"; sleep 0.1; done) &
printf 'g5k@fnancy:~$ '
"""
#: In the place of a program: its answer with carriage returns, in two pieces with a pause between them.
SLOW = r"""#!/bin/sh
answer=$(mktemp) || exit 1
REAL "$@" > "$answer" 2> "$answer.err"
code=$?
sleep 0.2
sed 's/$/\r/' "$answer" | { IFS= read -r first && printf '%s\n' "$first"; sleep 0.2; cat; }
sed 's/$/\r/' "$answer.err" >&2
echo "$0 $*" >> ~/slowly
rm -f "$answer" "$answer.err"
exit $code
"""
PROGRAMS = "oarsub oarstat oardel kavlan kaenv3 kadeploy3 g5k-subnets"
#: Login shell → its start-up file. The locale is not installed: bash and perl warn of it.
STARTUP = {
    "bash": (
        ".bashrc",
        "export LC_ALL=fr_FR.UTF-8 LANG=fr_FR.UTF-8 PATH=~/slow:$PATH\n. ~/noise\n"
        "trap 'echo \"bye, 5 jobs are left\"' EXIT\n",
    ),
    "fish": (
        ".config/fish/config.fish",
        "set -gx LC_ALL fr_FR.UTF-8\nset -gx PATH ~/slow $PATH\nsh ~/noise\n"
        "function bye --on-event fish_exit; echo bye, 5 jobs; end\n",
    ),
    "tcsh": (".tcshrc", "setenv LC_ALL fr_FR.UTF-8\nset path = (~/slow $path)\nsh ~/noise\nset echo\n"),
}
RUN = """
import contextlib, io
from g5kvirt import cli
from g5kvirt.testbeds.grid5000 import jobs
spec = Spec(sites={"nancy": 1}, vms=1, job_types=["exotic"])
exp = Experiment(spec, testbed=testbed, name=shell, runs=runs)
out = {}
try:
    exp.reserve()
    granted = exp.reservation
    [(site, job)] = granted.jobs.items()
    from execo_g5k import get_oar_job_kavlan, get_oar_job_nodes
    try:
        nodes = sorted(host.address for host in get_oar_job_nodes(job, site))
        out["execo"] = [nodes, get_oar_job_kavlan(job, site)]
    except Exception as error:  # tcsh: "Ambiguous output redirect."
        out["execo"] = str(error)
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
        on(state, SITE, f"printf %s {shlex.quote(NOISE)} > noise; mkdir -p .config/fish")
        for file, text in STARTUP.values():
            on(state, SITE, f"printf %s {shlex.quote(text)} > {file}")
        on(state, SITE, "cp .bashrc .profile; mkdir slow")
        for name in PROGRAMS.split():
            text = shlex.quote(SLOW)
            command = f'real=$(command -v {name}) && printf %s {text} | sed "s,REAL,$real," > slow/{name}'
            on(state, SITE, f"{command} && chmod +x slow/{name}")
        yield state


#: Real fish and tcsh answer in test_login_shells.py too; the whole run through them takes most of a minute.
SHELLS = [shell if shell == "bash" else pytest.param(shell, marks=pytest.mark.slow) for shell in STARTUP]


@pytest.mark.parametrize("shell", SHELLS)
def test_run_through_a_frontend_that_prints_words_of_its_own(
    noisy: State, tmp_path: Path, shell: str
) -> None:
    if shell != "bash":
        try:
            loginshells.give(shell, Path(f"/proc/{inside(noisy, 'nancy')}/root"), "g5k")
        except MachineError as error:
            pytest.skip(f"apt gives no {shell}: {error.message}")
    on(noisy, SITE, ": > slowly")
    out = answer(start(f"shell = {shell!r}\n{RUN}", noisy, tmp_path))
    slowly = {Path(word).name for word in on(noisy, SITE, "cat slowly").split()}
    assert slowly >= {"oarsub", "oarstat", "oardel", "kaenv3", "kadeploy3", "g5k-subnets"}
    nodes = sorted(node.fqdn for node in noisy.description.site("nancy").nodes)
    assert out["hosts"] == nodes
    assert out["execo"] != [nodes, [out["vlan"]]], "execo's own readers were not misled: no noise was there"
    assert out["vlan"] == noisy.description.site("nancy").global_vlan.id
    assert out["network"].startswith("10.144.")
    assert "exotic" in out["types"][0]
    assert (out["info"], out["deployed"]) == ("Running", 2)
    assert out["ended"] in ("Terminated", "Error", "Finishing")
    rows = {row["what"]: row for row in out["check"]}
    assert (rows["login shell"]["status"], rows["environment"]["status"]) == ("warning", "ok")
    assert ("cannot change locale" if shell == "bash" else "Welcome to") in rows["login shell"]["message"]
    assert rows["frontend"]["message"] == f"answers, login shell {shell}"
    assert "\x1b" not in json.dumps(out, ensure_ascii=False)
