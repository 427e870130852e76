"""Whatever a frontend prints, each reader of it gives a result or one sentence, and in no time.

Answers of a real OAR and of Kadeploy3's client (`tests/recorded`) and in their other documented forms, cut,
torn, exchanged and strange; with their marks or without. 300 for each reader with ``-m slow``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import strategies as st
from mangling import check_sentence, reader_tests, sentence_of, texts
from noise import connection

from g5kvirt.errors import TestbedError
from g5kvirt.inventory import GIB, Host, Reservation
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import api, frontends, jobs, kadeploy, preflight, walltime
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend
from g5kvirt.testbeds.grid5000.granted import Allocation

execo = pytest.importorskip("execo", reason="execo is not installed")
pytest.importorskip("execo_g5k", reason="execo is not installed")

RECORDED = Path(__file__).parents[3] / "recorded"
NAMES = ("gros-1.nancy.grid5000.fr", "gros-2.nancy.grid5000.fr")
REQUEST = ReservationRequest({"nancy": 2}, {"nancy": 22}, 600, "run", vlan_site="nancy")
HOSTS = tuple(Host(name, "nancy", "gros", 4, 8 * GIB) for name in NAMES)
RESERVATION = Reservation({"nancy": 1}, HOSTS, (), 14, "nancy", 0.0, 1800.0)


def recorded(*names: str) -> list[str]:
    return [(RECORDED / f"{name}.txt").read_text() for name in names]


JOB = """\
id: 1
    array_id = 1
    array_index = 1
    name = run
    project = default
    owner = g5k
    state = Running
    wanted_resources = -l "{type = 'default'}/network_address=2,walltime=0:10:0"
    types = deploy, origin=execo
    dependencies =
    assigned_resources = 40+41+42
    assigned_hostnames = gros-1.nancy.grid5000.fr+gros-2.nancy.grid5000.fr
    queue = default
    command = sleep 31536000
    exit_code = 31744 (124,0,0)
    start_time = 2026-11-22 19:37:21
    stop_time = 2026-11-22 19:47:21
    walltime = 0:10:0
    initial_request = oarsub -l {type='kavlan-global'}/vlan=1+slash_22=1+nodes=2,walltime=0:10:0 -t deploy
    cpuset_name = g5k_1
2026-11-22 19:37:22> SWITCH_INTO_TERMINATE_STATE:[bipbip 1] Ask to change the job state
2026-11-22 19:47:22> WALLTIME:[sarko] Job [1] from 1795372641 with 600; current time=1795373241 (Elapsed)
"""
ROW = "10.144.4.0/22\t10.147.255.255\t255.252.0.0\t10.147.255.254\t10.144.0.0\tdns.nancy\t172.16.0.1\n"
OARSUB = """\
# Filtering out exotic resources (vianden).
[ADMISSION RULE] Modify resource description with type constraints
[ADMISSION_RULE] Set default walltime to 7200.
Generate a job key...
OAR_JOB_ID=1
"""
REFUSED = """\
[ADMISSION RULE] Modify resource description with type constraints
[ADMISSION_RULE] Error: Walltime too big for this job
There are not enough resources for your request
Oarsub failed: please verify your request syntax or ask for support to your admin.
"""
WALLTIME = """\
Walltime change status for job 1 (job is running):
  Current walltime:       1:40:7
  Possible increase:  UNLIMITED
  Already granted:       +0:0:0
  Pending/unsatisfied:  +0:49:53
"""
KAENV = """\
---
name: debian12-min
version: 2026010101
arch: x86_64
alias: debian12-x64-min
description: debian 12 (bookworm) for x64 - min
visibility: public
user: deploy
image:
  file: server:///grid5000/images/debian12-x64-min-2026010101.tar.zst
  kind: tar
  compression: zstd
---
name: debian12-min
version: 2026010101
arch: aarch64
user: deploy
"""
DEPLOYED = """\
Launching a deployment of debian12-min:2026010101 on 2 nodes
Deployment #D-3f8a is started in the background
Step SetDeploymentEnv: [DONE]
End of deployment for gros-[1-2].nancy.grid5000.fr after 268 s
The deployment is successful on nodes
gros-1.nancy.grid5000.fr
The deployment failed on nodes
gros-2.nancy.grid5000.fr (BroadcastEnv-send_environment: no space
left (on device)
)
"""
#: A part of a command → what real ones print, in each form that is known.
PRINTED: dict[str, list[str]] = {
    "oarstat -fj": [
        JOB,
        *recorded("oarstat-running", "oarstat-deleted", "oarstat-walltime", "oarstat-waiting"),
    ],
    "oarstat -u": [
        "Job id     Name           User           Submission Date     S Queue\n"
        + "-" * 30
        + "\n1 run g5k R\n",
        "",
    ],
    "oarprint": ["\n".join(NAMES) + "\n"],
    "g5k-subnets": [ROW, ROW + ROW.replace(".4.", ".8."), ""],
    "kavlan -j": ["14\n", *recorded("kavlan-waiting")],
    "oarsub": [OARSUB, REFUSED],
    "oardel": ["Deleting the job = 1 ...REGISTERED.\nThe job(s) [ 1 ] will be deleted in the near future.\n"],
    "oarwalltime": [
        WALLTIME,
        "Accepted: walltime change request updated for job 1, it will be handled shortly.\n",
    ],
    "kaenv3": [
        "g5kvirt-shell bash\n" + KAENV,
        "g5kvirt-shell fish\n[ERROR] The environment debian12-min does not exist\n",
    ],
    "kadeploy3": [
        DEPLOYED,
        *recorded("kadeploy3-all", "kadeploy3-some", "kadeploy3-environment", "kadeploy3-over"),
    ],
    "umask": ["", "bash: .g5kvirt-nancy-1.pub: Disk quota exceeded\n"],
    "rm -f": [""],
}
#: Real ones, beside the checkout and not in it.
SAMPLE = Path(__file__).resolve().parents[5] / "shared" / "data" / "environments-2021.json"
if SAMPLE.exists():
    environments = json.loads(SAMPLE.read_text())["environments"]
    PRINTED["kaenv3"] += [f"g5kvirt-shell bash\n---\n{yaml.safe_dump(one)}" for one in environments]
SSH_TROUBLE = (
    "ssh: connect to host nancy port 22: Connection refused\n",
    "g5k@nancy: Permission denied (publickey).\n",
    "mux_client_request_session: session request failed: Session open refused by peer\n",
)

Came = tuple[str, str, int | None, bool]


class Process:
    """Takes the place of execo's ssh process: what ``answer`` says has come over the connection."""

    came: ClassVar[Mapping[str, Came]]  #: by a part of the command

    def __init__(self, command: str, host: Any, timeout: float, **_: Any) -> None:
        self.timeout, self.running = timeout, False
        self.stdout = self.stderr = self.unmarked_command = ""
        self.exit_code: int | None = None
        self.timeouted = False

    def start(self) -> None:
        part = next(part for part in PRINTED if part in self.unmarked_command)
        self.stdout, self.stderr, self.exit_code, self.timeouted = self.came[part]

    def wait(self, timeout: float | None = None) -> None:
        """It has ended."""


@st.composite
def connections(draw: st.DrawFn, part: str, live: bool) -> Came:
    """What comes over the connection for a command: the text, ssh's own words, how it ended, if in time."""
    text = draw(texts(PRINTED[part]))
    code = draw(st.sampled_from([0, 0, 0, 0, 1, 127, None]))
    if live:
        end = "" if code is None else f"g5kvirt-end:{code}\r\n"
        printed = f"2 users\r\ng5kvirt-begin:\r\n{text}\r\n{end}"
    else:
        printed = connection(text.splitlines(), code, errors=draw(st.sampled_from([(), ("perl: warning",)])))
    if draw(st.integers(0, 5)) == 0:
        printed = draw(texts([printed, text]))
    if draw(st.integers(0, 9)):
        return printed, "", 0, draw(st.integers(0, 9)) == 0
    return printed, draw(texts(SSH_TROUBLE)), draw(st.sampled_from([255, 65280, 15, 256, None])), False


def grid() -> Grid5000:
    return Grid5000(
        Settings(polling_interval=0.01, tiny_polling_interval=0.01, command_timeout=0.01, jump="")
    )


def allocation() -> None:
    found = jobs.allocation("nancy", 1, True)
    assert isinstance(found, Allocation)
    assert found.names
    assert isinstance(found.vlan, int)
    assert 0 < found.vlan < 10_000


def submit() -> None:
    assert 0 < jobs.submit("nancy", REQUEST, None) < 1 << 63


def find() -> None:
    assert all(site == "nancy" and 0 <= job < 1 << 63 for site, job in jobs.find(["nancy"], "run"))


def info() -> None:
    found = jobs.info("nancy", 1)
    for key in ("start_date", "scheduled_start"):
        assert math.isfinite(found.get(key, 0.0))
    if "failure" in found:
        check_sentence(found["failure"])
    jobs.matches_request(jobs.oarstat("nancy", 1).text, REQUEST, "nancy")
    assert jobs.job_name("nancy", 1, 1.0) in {None, ""} or "state" in found


def wait_until_running() -> None:
    def notify(site: str, what: str, detail: Mapping[str, Any]) -> None:
        assert what in ("running", "predicted")

    began = jobs.wait_until_running({"nancy": 1}, time.time(), 0.01, 0.01, notify, fixed=False)
    assert all(math.isfinite(t) for t in began.values())


def delete() -> None:
    jobs.delete([("nancy", 1)], 0.0, 0.001)


def extend() -> None:
    def oarwalltime(site: str, words: Sequence[str]) -> tuple[bool, str]:
        answer = run_on_frontend(site, " ".join(("oarwalltime", *words)))
        return answer.ok, answer.text if answer.ok else answer.failure

    walltime.extend_by(oarwalltime, {"nancy": 1}, 600, patience=0.0)


def ended() -> None:
    if clause := grid().ended(RESERVATION):
        check_sentence(clause)


def reserve_again() -> None:
    held = grid()._recover_jobs(
        ReservationRequest({"nancy": 2}, {}, 600, "run", earlier=(("nancy", 1),)), ["nancy"], lambda *_: None
    )
    assert set(held) <= {"nancy"}


def release() -> None:
    grid().release([("nancy", 1)], "run", ["nancy"])


def deploy() -> None:
    def notify(host: str, what: str, detail: Mapping[str, Any]) -> None:
        assert host in NAMES
        if what == "failed":
            check_sentence(detail["reason"])

    done = grid().deploy(RESERVATION, "debian12-min", "ssh-ed25519 AAAA run", notify, tries=2, timeout=5.5)
    assert {host.name for host in done.hosts} | set(done.failed) == set(NAMES)


def find_environment() -> None:
    for finding in preflight.find_environment("debian12-min", ["nancy"]):
        check_sentence(finding.message)


#: Each reader, and the commands whose answers it reads.
READERS: dict[Callable[[], object], tuple[str, ...]] = {
    allocation: ("oarprint", "g5k-subnets", "kavlan -j"),
    submit: ("oarsub",),
    find: ("oarstat -u", "oarstat -fj"),
    info: ("oarstat -fj",),
    wait_until_running: ("oarstat -fj",),
    delete: ("oardel", "oarstat -fj"),
    extend: ("oarwalltime",),
    ended: ("oarstat -fj",),
    reserve_again: ("oarstat -u", "oarstat -fj", "oardel", "rm -f"),
    release: ("oarstat -u", "oarstat -fj", "oardel", "rm -f"),
    deploy: ("kadeploy3", "umask"),
    find_environment: ("kaenv3",),
}


def check(reader: Callable[[], object], data: st.DataObject) -> None:
    came = {part: data.draw(connections(part, part == "kadeploy3"), part) for part in READERS[reader]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kadeploy, "_BETWEEN_TRIES", 0.0)
        patch.setattr(frontends, "_ATTEMPTS", 1)
        patch.setattr(Process, "came", came, raising=False)
        patch.setattr(execo, "SshProcess", Process)
        patch.setattr(jobs, "_SILENT_LIMIT", 0.0)
        patch.setattr(api, "get", down)
        begin = time.monotonic()
        sentence_of(reader)
        assert time.monotonic() - begin < 10


def down(path: str) -> dict[str, Any]:
    raise TestbedError("the API does not answer")


(
    test_what_a_frontend_prints_is_read_or_refused_in_a_sentence,
    test_300_answers_of_a_frontend_for_each_reader,
) = reader_tests(check, READERS)
