"""Grid'5000's driver on recorded answers of a real OAR, replayed by an ssh that has them in a table.

The same faults on a real OAR: tests/contract/test_contract.py. Here each takes only a moment, and so do
those that a testbed does not produce on demand: a Kadeploy3 that hangs, a site that is silent.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from g5kvirt.errors import CapacityError, TestbedError
from g5kvirt.inventory import GIB, Host, Reservation
from g5kvirt.phases.deploy import check_enough
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.grid5000 import api, jobs, kadeploy
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings
from g5kvirt.testbeds.grid5000.oar import has_ended

RECORDED = Path(__file__).parents[1] / "recorded"

#: It runs the script of `answers.marked` with what is recorded in place of the command.
SSH = r"""#!/usr/bin/python3 -IS
import json, os, re, shlex, subprocess, sys, time
here = os.path.dirname(os.path.abspath(__file__))
host, command = sys.argv[-2:]
script = re.sub(r"\\0([0-7]{3})", lambda found: chr(int(found[1], 8)), shlex.split(command)[-1])
marked = re.search(r"\( (.*) \)(?= 3>&-|; code=)", script, re.S)
command = marked[1] if marked else command
with open(here + "/calls", "a") as calls:
    calls.write(json.dumps([host, command, os.getpid()]) + "\n")
for site, pattern, text, code, pause in json.load(open(here + "/answers")):
    if host.startswith(site) and re.search(pattern, command):
        if code == 255:
            sys.stderr.write(text)
            sys.exit(code)
        if marked:
            script = script[: marked.start(1)] + "cat; exit %d" % code + script[marked.end(1) :]
            done = subprocess.run(["sh", "-c", script], input=text.encode(), stdout=subprocess.PIPE)
            text, code = done.stdout.decode(), 0
        head, end, rest = text.partition("g5kvirt-end:")
        sys.stdout.write(head)
        sys.stdout.flush()
        time.sleep(pause)
        sys.stdout.write(end + rest)
        sys.exit(code)
sys.exit("nobody recorded this: " + command)
"""
REFUSED = "ssh: connect to host rennes.grid5000.fr port 22: Connection refused\n"


def failure_reasons(text: str) -> dict[str, str]:
    """The nodes that Kadeploy3's client lists as failed, each with the reason."""
    return kadeploy.listed_nodes(text.splitlines())[1]


class Frontends:
    """What they answer, and the commands that they were sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: list[tuple[str, str, str, int, float]] = []
        (folder / "ssh").write_text(SSH)
        (folder / "ssh").chmod(0o755)
        (folder / "calls").touch()

    def say(self, site: str, pattern: str, name: str = "", code: int = 0, pause: float = 0.0) -> None:
        """To a command that looks like ``pattern``: what is recorded as ``name``."""
        text = (RECORDED / f"{name}.txt").read_text() if name else ""
        self.put(site, pattern, text, code, pause)

    def put(self, site: str, pattern: str, text: str, code: int = 0, pause: float = 0.0) -> None:
        """The same with any text; the latest one counts."""
        self.answers.insert(0, (site, pattern, text, code, pause))
        (self.folder / "answers").write_text(json.dumps(self.answers))

    @property
    def calls(self) -> list[tuple[str, str]]:
        """(host, command), in the order of asking."""
        return [(host.partition(".")[0], command) for host, command, _ in self._lines()]

    @property
    def left(self) -> list[int]:
        """Processes that still run."""
        return [pid for _, _, pid in self._lines() if Path(f"/proc/{pid}").exists()]

    def _lines(self) -> list[tuple[str, str, int]]:
        return [tuple(json.loads(line)) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def frontends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Frontends:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Frontends(tmp_path)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Grid5000:
    """One whose API is down."""
    import execo_g5k  # noqa: F401  in the main thread, as `connect` does it: execo demands that

    def down(path: str) -> dict[str, Any]:
        raise TestbedError("the API does not answer")

    monkeypatch.setattr(api, "get", down)
    return Grid5000(Settings(tiny_polling_interval=0.05, command_timeout=5, jump=""))


def host(name: str) -> Host:
    return Host(f"{name}.grid5000.fr", name.partition(".")[2], name.partition("-")[0], 4, 8 * GIB)


def reservation(**held: int) -> Reservation:
    names = {"nancy": ["graphene-1.nancy", "graphene-2.nancy"], "rennes": ["paradent-1.rennes"]}
    hosts = tuple(host(name) for site in held for name in names[site])
    return Reservation(held, hosts, (), 14, next(iter(held)), time.time(), 1800.0)


def ignore(*_: object) -> None:
    """Nobody listens."""


# ---- the states of the jobs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "clause"),
    [
        ("oarstat-running", ""),
        ("oarstat-deleted", "job 1 at nancy ended at 2026-11-22 20:01:21 (it was deleted by g5k)"),
        ("oarstat-walltime", "job 3 at nancy ended at 2026-11-22 20:02:17 (its walltime of 0:0:10 was over)"),
    ],
)
def test_ended_reads_oarstat_while_the_api_is_down(
    frontends: Frontends, driver: Grid5000, recorded: str, clause: str
) -> None:
    job = 3 if recorded == "oarstat-walltime" else 1
    frontends.say("nancy", f"oarstat -fj {job}", recorded)
    assert driver.ended(reservation(nancy=job)) == clause


def test_ended_uses_the_frontend_only_for_jobs_that_the_api_does_not_call_alive(
    frontends: Frontends, driver: Grid5000, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"sites/nancy/jobs/1": "running", "sites/rennes/jobs/2": "error"}
    monkeypatch.setattr(api, "get", lambda path: {"state": states[path]})
    text = (RECORDED / "oarstat-deleted.txt").read_text().replace("Job_Id: 1", "id: 2")
    frontends.put("rennes", "oarstat -fj 2", text)
    assert driver.ended(reservation(nancy=1, rennes=2)).startswith("job 2 at rennes ended")
    assert [site for site, _ in frontends.calls] == ["rennes"]


def test_ended_does_not_take_silence_for_the_end(frontends: Frontends, driver: Grid5000) -> None:
    frontends.put("rennes", "oarstat", REFUSED, 255)
    frontends.say("nancy", "oarstat -fj 1", "oarstat-running")
    assert driver.ended(reservation(nancy=1)) == ""
    try:
        assert driver.ended(reservation(nancy=1, rennes=2)) == ""
    except TestbedError as error:
        assert "rennes" in str(error)  # noqa: PT017  it may say so, and must not call it the end of the job


def test_waiting_for_a_kavlan_in_use_times_out_with_advice(frontends: Frontends, driver: Grid5000) -> None:
    frontends.say("nancy", "oarstat -fj 2", "oarstat-waiting")
    with pytest.raises(TestbedError, match=r"job 2 at nancy did not start .*KaVLAN.* timeouts\.reserve"):
        jobs.wait_until_running({"nancy": 2}, time.time() + 0.5, 0.1, 0.1, ignore, fixed=False)


# ---- logins --------------------------------------------------------------------------------------------


def test_job_info_uses_the_frontend_only_if_the_api_does_not_call_the_job_alive(
    frontends: Frontends, driver: Grid5000, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [
        {"state": "waiting", "started_at": 0, "scheduled_at": None},
        {"state": "waiting", "started_at": 0, "scheduled_at": 2000},
        {"state": "running", "started_at": 2001, "scheduled_at": 2000},
        {"state": "error", "started_at": 2001, "scheduled_at": 2000},
    ]
    frontends.say("nancy", "oarstat -fj 1", "oarstat-deleted")
    infos = []
    for document in documents:
        monkeypatch.setattr(api, "get", lambda path, document=document: document)
        infos.append(driver._job_info("nancy", 1))
    assert infos[:3] == [
        {"state": "Waiting"},
        {"state": "Waiting", "start_date": 2000.0},
        {"state": "Running", "start_date": 2001.0},
    ]
    assert has_ended(infos[3]["state"])
    assert frontends.calls == [("nancy", "oarstat -fj 1")]


def test_job_info_uses_the_frontend_if_the_api_is_silent(frontends: Frontends, driver: Grid5000) -> None:
    frontends.say("nancy", "oarstat -fj 1", "oarstat-running")
    assert driver._job_info("nancy", 1)["state"] == "Running"


def test_delete_finally_asks_the_frontend_about_a_job_that_the_api_calls_running(
    frontends: Frontends, driver: Grid5000
) -> None:
    frontends.put("nancy", "oardel", "")
    frontends.say("nancy", "oarstat -fj 1", "oarstat-deleted")
    jobs.delete([("nancy", 1)], 0.3, 0.05, lambda site, job: {"state": "Running"})
    assert [command for _, command in frontends.calls if "oarstat" in command] == ["oarstat -fj 1"]


# ---- deploying -----------------------------------------------------------------------------------------


def deployed(driver: Grid5000, timeout: float = 30, **held: int) -> tuple[list[str], Mapping[str, str]]:
    told: dict[str, str] = {}
    came = driver.deploy(
        reservation(**held), "debian12-min", "ssh-ed25519 AAAA run", lambda h, s, _: told.update({h: s}),
        timeout=timeout,
    )  # fmt: skip
    names = [host.name for host in came.hosts]
    assert told == {**dict.fromkeys(names, "ok"), **dict.fromkeys(came.failed, "failed")}
    return names, came.failed


def test_deploy_tries_failed_nodes_again(frontends: Frontends, driver: Grid5000) -> None:
    frontends.say("nancy", "kadeploy3", "kadeploy3-some", 1)
    frontends.say("nancy", "umask 077")
    names, failed = deployed(driver, nancy=1)
    assert names == ["graphene-1.nancy.grid5000.fr"]
    assert "Is a directory" in failed["graphene-2.nancy.grid5000.fr"]
    again = [command.count(" -m ") for _, command in frontends.calls if command.startswith("kadeploy3")]
    assert again == [2, 1]
    spec = Spec(sites={"nancy": 2}, vms=4, min_hosts=2)
    with pytest.raises(CapacityError, match="but min_hosts is 2"):
        check_enough(spec, [host("graphene-1.nancy"), host("graphene-2.nancy")])
    with pytest.raises(CapacityError, match="1 host for VMs came up, with room for only 8 of 9 VMs"):
        check_enough(Spec(sites={"nancy": 2}, vms=9), [host("graphene-1.nancy"), host("graphene-2.nancy")])
    check_enough(Spec(sites={"nancy": 2}, vms=8), [host("graphene-1.nancy"), host("graphene-2.nancy")])


def test_deploy_loses_only_the_nodes_of_a_silent_frontend(frontends: Frontends, driver: Grid5000) -> None:
    frontends.put("rennes", "", REFUSED, 255)
    frontends.say("nancy", "kadeploy3", "kadeploy3-all")
    frontends.say("nancy", "umask 077")
    names, failed = deployed(driver, nancy=1, rennes=2)
    assert len(names) == 2
    assert list(failed) == ["paradent-1.rennes.grid5000.fr"]
    assert "the run's public key could not be copied to the frontend of rennes" in str(failed)
    assert "Connection refused" in str(failed)


def test_run_continues_without_the_site_of_the_only_service_machine() -> None:
    spec = Spec(sites={"nancy": 2, "rennes": 2}, vms=8)
    check_enough(spec, [host("paradent-1.rennes"), host("paradent-2.rennes")])
    with pytest.raises(CapacityError, match="at least one service machine and one host"):
        check_enough(spec, [host("paradent-1.rennes")])


@pytest.mark.parametrize(
    ("recorded", "words"),
    [("kadeploy3-environment", "nonsense of deploy does not exist"), ("kadeploy3-over", "no running job")],
)
def test_refused_deployment_is_the_reason_of_every_node(
    frontends: Frontends, driver: Grid5000, recorded: str, words: str
) -> None:
    frontends.say("nancy", "kadeploy3", recorded, 1)
    frontends.say("nancy", "umask 077")
    names, failed = deployed(driver, nancy=1)
    assert names == []
    assert len(failed) == 2
    assert all(words in why for why in failed.values())


def test_deployment_that_hangs_is_ended_in_time(frontends: Frontends, driver: Grid5000) -> None:
    frontends.say("nancy", "kadeploy3", pause=60)
    frontends.say("nancy", "umask 077")
    names, failed = deployed(driver, timeout=1, nancy=1)
    assert names == []
    assert set(failed.values()) == {"its site's Kadeploy3 did not finish within 1 s"}
    assert not frontends.left


def test_machine_that_hangs_does_not_affect_the_others(frontends: Frontends, driver: Grid5000) -> None:
    said = "  End of deployment for graphene-1.nancy.grid5000.fr after 332s\r\n"
    frontends.put("nancy", "kadeploy3", said, pause=60)
    frontends.say("nancy", "umask 077")
    names, failed = deployed(driver, timeout=3, nancy=1)
    assert names == ["graphene-1.nancy.grid5000.fr"]
    assert failed == {"graphene-2.nancy.grid5000.fr": "its site's Kadeploy3 did not finish within 3 s"}
    asked = [command for _, command in frontends.calls if "kadeploy3" in command]
    assert len(asked) == 1, "both tries share the time, and none was left"
    assert not frontends.left


def test_execo_s_own_deployment_does_not_heed_its_time_out(frontends: Frontends) -> None:
    """Why we have another; when this fails, execo has mended it."""
    from execo_g5k import Deployment, deploy

    frontends.say("nancy", "kadeploy3", "kadeploy3-all", pause=1.5)
    nodes = ["graphene-1.nancy.grid5000.fr", "graphene-2.nancy.grid5000.fr"]
    begun = time.monotonic()
    done, _ = deploy(
        Deployment(nodes, env_name="debian12-min"), check_deployed_command=None, deploy_timeout=0.3
    )
    assert time.monotonic() - begun > 1
    assert len(done) == 2


def test_deployed_nodes_are_read_while_the_client_runs() -> None:
    text = (
        "Deployment failed for gros-4.nancy.grid5000.fr after 12s\n"
        "  End of deployment for dahu-32.grenoble.grid5000.fr after 332s\r\n"
        "End of deployment on cluster dahu after 333s\n"
        "[gros] End of deployment for gros-[1-3,7].nancy.grid5000.fr,gros-9.nancy.grid5000.fr after 3s\n"
        "End of deployment after 3.1s\n"
    )
    gros = {f"gros-{number}.nancy.grid5000.fr" for number in (1, 2, 3, 7, 9)}
    assert kadeploy.deployed_nodes(text) == {"dahu-32.grenoble.grid5000.fr", *gros}
    assert kadeploy.deployed_nodes("") == set()


def test_failure_reasons_are_read_from_the_client_s_list() -> None:
    name = "paradent-1.rennes.grid5000.fr"
    assert failure_reasons(f"The deployment is successful on nodes\r\n{name}\r\n") == {}
    assert failure_reasons(f"The deployment failed on nodes\r\n{name}\r\n") == {name: ""}
    text = (
        f"The deployment failed on nodes\n{name} (no (more) disk)\nThe deployment is successful on nodes\nx\n"
    )
    assert failure_reasons(text) == {name: "no (more) disk"}


# ---- giving back ---------------------------------------------------------------------------------------


def test_release_does_not_wait_for_a_job_unknown_to_oar(frontends: Frontends, driver: Grid5000) -> None:
    """Its testbed was taken down, and another one raised in its place."""
    frontends.put("nancy", "oarstat -fj 7", "")
    driver.release([("nancy", 7)], "run", [])
    assert frontends.calls == [("nancy", "oarstat -fj 7")]


def test_release_deletes_what_is_known_though_a_frontend_is_silent(
    frontends: Frontends, driver: Grid5000
) -> None:
    frontends.put("rennes", "", REFUSED, 255)
    frontends.say("nancy", "oarstat -fj 1", "oarstat-deleted")
    frontends.say("nancy", "oardel 1|rm -f")
    with pytest.raises(
        TestbedError,
        match=r"left at rennes cannot be listed .*Connection refused.*: try again when its frontend",
    ):
        driver.release([("nancy", 1)], "run", ["rennes"])
    assert ("nancy", "oardel 1") in frontends.calls
    assert any(command.startswith("rm -f -- .g5kvirt-nancy-1.pub") for _, command in frontends.calls)
