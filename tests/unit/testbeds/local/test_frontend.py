from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml
from localfakes import FakeDatabase, FakeMachines, job

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.grid5000 import kadeploy
from g5kvirt.testbeds.local import frontend
from g5kvirt.testbeds.local.permissions import RequestRefusedError

PROGRAM = Path(frontend.__file__).with_name("bin") / "g5k"
GRAPHENE = [f"graphene-{n}.nancy.grid5000.fr" for n in range(1, 5)]


def quoted(node: str) -> str:
    return f"'{node}.SITE.grid5000.fr'"


# execo's patterns for the output of kadeploy3
SUCCESS = re.compile(r"^The \w+ is successful on nodes\s*$")
FAILURE = re.compile(r"^The \w+ failed on nodes\s*$")
GOOD_NODE = re.compile(r"^(\w+-\d+\.\w+\.grid5000\.fr)\s*$")
BAD_NODE = re.compile(r"^(\w+-\d+\.\w+\.grid5000\.fr)(\s+\(.*)?\s*$")


class Bed:
    """The frontend of a site over fakes, with the client program under its four names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.description = make({"nancy": 4, "rennes": 2})
        self.machines = FakeMachines()
        self.databases = {
            "nancy": FakeDatabase(
                [
                    job(1, *GRAPHENE[:3], vlans=(4,), subnets=("10.144.4.0/22",)),
                    job(2, GRAPHENE[3], user="eve", vlans=(5,)),
                    job(3, GRAPHENE[3], state="Waiting", vlans=(6,)),
                    job(4, subnets=("10.144.8.0/22", "10.144.12.0/22")),
                ]
            ),
            "rennes": FakeDatabase([job(1, vlans=(16,))]),
        }
        self.user: str | None = "g5k"
        self.home = directory / "home"
        (self.home / ".ssh").mkdir(parents=True)
        (self.home / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAA mine\n")
        for name in ("kadeploy3", "kaenv3", "kavlan", "g5k-subnets", "oarsub"):
            (directory / name).symlink_to(PROGRAM)

    @property
    def handle(self) -> Callable[..., dict[str, object]]:
        site = frontend.Frontend("nancy", self.description, self.databases.__getitem__, self.machines)
        return site.handle

    def run(
        self, command: str, *arguments: str, stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.directory / command), *arguments],
            env={"HOME": str(self.home), "G5K_SOCKET": str(self.directory / "socket"), **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@contextmanager
def listening(bed: Bed) -> Iterator[None]:
    server = frontend.serve(bed.directory / "socket", bed.handle, lambda _: bed.user)
    try:
        yield
    finally:
        server.stop()


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    made = Bed(tmp_path)
    with listening(made):
        yield made


def sections(text: str) -> tuple[set[str], set[str]]:
    """Deployed and undeployed nodes, parsed as by execo."""
    found: tuple[set[str], set[str]] = (set(), set())
    where = None
    for line in text.splitlines():
        if SUCCESS.search(line):
            where = 0
        elif FAILURE.search(line):
            where = 1
        elif where is not None and (match := (GOOD_NODE, BAD_NODE)[where].search(line)):
            found[where].add(match[1])
    return found


def test_deployment_with_the_options_of_execo(bed: Bed) -> None:
    words = ["-k", "-d", "-e", "debian12-min", "--vlan", "4"]
    done = bed.run("kadeploy3", *words, *(word for node in GRAPHENE[:2] for word in ("-m", node)))
    assert (done.returncode, done.stderr) == (0, "")
    assert sections(done.stdout) == (set(GRAPHENE[:2]), set())
    assert bed.machines.deployed == dict.fromkeys(
        ("graphene-1", "graphene-2"), ("debian12-min", 4, "ssh-ed25519 AAAA mine\n")
    )


def test_deployment_without_vlan_and_with_another_key_file(bed: Bed, tmp_path: Path) -> None:
    key = tmp_path / "other.pub"
    key.write_text("ssh-ed25519 BBBB other\n")
    done = bed.run(
        "kadeploy3", "-k", str(key), "-e", "debian12-min", "-m", "graphene-[1-2,3].nancy.grid5000.fr"
    )
    assert done.returncode == 0
    assert set(bed.machines.deployed.values()) == {("debian12-min", None, "ssh-ed25519 BBBB other\n")}
    assert len(bed.machines.deployed) == 3


def test_deployment_without_key_and_with_nodes_from_standard_input(bed: Bed) -> None:
    done = bed.run("kadeploy3", "-e", "debian12-min", "-f", "-", stdin="\n".join(GRAPHENE[:2]))
    assert done.returncode == 0
    assert set(bed.machines.deployed.values()) == {("debian12-min", None, "")}


def test_nodes_are_deployed_in_parallel(bed: Bed) -> None:
    bed.machines.together = threading.Barrier(3)
    done = bed.run(
        "kadeploy3", "-e", "debian12-min", *(word for node in GRAPHENE[:3] for word in ("-m", node))
    )
    assert done.returncode == 0


def test_failed_node_does_not_affect_the_others(bed: Bed, tmp_path: Path) -> None:
    bed.machines.broken = {"graphene-2"}
    ok, ko = tmp_path / "ok", tmp_path / "ko"
    nodes = [word for node in GRAPHENE[:3] for word in ("-m", node)]
    done = bed.run("kadeploy3", "-e", "debian12-min", "-o", str(ok), "-n", str(ko), *nodes)
    assert done.returncode == 0, "as the real client, whose list tells"
    assert sections(done.stdout) == ({GRAPHENE[0], GRAPHENE[2]}, {GRAPHENE[1]})
    assert f"{GRAPHENE[1]} (BootNewEnvClassical-wait_reboot: graphene-2 does not\ncome up)\n" in done.stdout
    _, reasons = kadeploy.listed_nodes(done.stdout.splitlines())
    assert reasons == {GRAPHENE[1]: "BootNewEnvClassical-wait_reboot: graphene-2 does not come up"}
    assert ok.read_text().split() == [GRAPHENE[0], GRAPHENE[2]]
    assert ko.read_text().split() == [GRAPHENE[1]]


def test_only_nodes_of_a_running_deploy_job_of_the_user(bed: Bed) -> None:
    bed.databases["nancy"].known.append(job(9, GRAPHENE[3], types=()))
    done = bed.run("kadeploy3", "-e", "debian12-min", "-m", GRAPHENE[0], "-m", GRAPHENE[3])
    assert done.returncode == 0
    assert sections(done.stdout) == ({GRAPHENE[0]}, {GRAPHENE[3]})
    assert "permission denied" in done.stdout
    assert set(bed.machines.deployed) == {"graphene-1"}
    bed.user = "eve"
    done = bed.run("kadeploy3", "-e", "debian12-min", "-m", GRAPHENE[0], "-m", GRAPHENE[3])
    assert sections(done.stdout) == ({GRAPHENE[3]}, {GRAPHENE[0]})


def test_two_deployments_do_not_share_a_node(bed: Bed) -> None:
    started, finish = threading.Event(), threading.Event()

    class Slow(FakeMachines):
        def deploy(self, *args: object) -> None:
            started.set()
            assert finish.wait(10)

    slow = frontend.Frontend("nancy", bed.description, bed.databases.__getitem__, Slow())
    request = {"command": "kadeploy3", "options": {"env-name": "debian12-min", "machine": [GRAPHENE[0]]}}
    answers: list[dict[str, object]] = []
    first = threading.Thread(target=lambda: answers.append(slow.handle("g5k", request, lambda _: None)))
    first.start()
    assert started.wait(10)
    second = slow.handle("g5k", request, lambda _: None)
    finish.set()
    first.join(10)
    assert second["ko"] == [GRAPHENE[0]]
    assert answers[0]["ok"] == [GRAPHENE[0]]
    assert slow.handle("g5k", request, lambda _: None)["ok"] == [GRAPHENE[0]]


def test_a_global_vlan_is_reserved_on_its_own_site(bed: Bed) -> None:
    words = ("kadeploy3", "-e", "debian12-min", "-m", GRAPHENE[0], "--vlan")
    assert bed.run(*words, "16").returncode == 0
    assert bed.machines.deployed["graphene-1"][1] == 16
    for vlan in ("14", "5", "6"):  # nobody's, eve's, of a job that waits
        done = bed.run(*words, vlan)
        assert done.returncode == 1
        assert f"vlan {vlan} is in no running job of g5k" in done.stderr
    for vlan in ("11", "99", "x"):
        assert f"nancy has no vlan {vlan}" in bed.run(*words, vlan).stderr
    bed.databases["rennes"].known.clear()
    assert bed.run(*words, "16").returncode == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-e debian99-min -m graphene-1", "Invalid environment specification: the environment debian99-min"),
        ("-e debian12-min -u eve -m graphene-1", "the environment debian12-min of eve does not exist"),
        ("-e debian12-min -m graphene-9.nancy.grid5000.fr", "Invalid node list: graphene-9"),
        ("-e debian12-min -m paradent-1.rennes.grid5000.fr", "Invalid node list: paradent-1"),
        ("-e debian12-min -m graphene-[1-x]", "Invalid node list"),
        ("-e debian12-min", "give nodes"),
        ("-m graphene-1", "give an environment"),
        ("-e debian12-min -m graphene-1 --colour", "invalid option: --colour"),
        ("-m graphene-1 -e", "missing argument: -e"),
        ("-e debian12-min -m graphene-1 -k /no/such/file", "/no/such/file cannot be read"),
        ("-a /no/such/file -m graphene-1", "/no/such/file cannot be read"),
    ],
)
def test_invalid_requests_are_rejected(bed: Bed, words: str, message: str) -> None:
    done = bed.run("kadeploy3", *words.split())
    assert done.returncode == 1
    assert message in done.stderr
    assert not bed.machines.deployed


def test_environment_from_a_file(bed: Bed, tmp_path: Path) -> None:
    file = tmp_path / "mine.env"
    file.write_text("name: mine\nimage: {file: /home/g5k/mine.tgz, kind: tar, compression: gzip}\n")
    assert bed.run("kadeploy3", "-a", str(file), "-m", "graphene-1").returncode == 0
    assert bed.machines.deployed["graphene-1"][0] == "mine"
    for text in ("name: mine", "[", "image: {file: x}", "just words", "name: ../x\nimage: {file: x}"):
        file.write_text(text)
        done = bed.run("kadeploy3", "-a", str(file), "-m", "graphene-1")
        assert "Invalid environment specification" in done.stderr


def test_vlans_of_a_job(bed: Bed) -> None:
    assert bed.run("kavlan", "-j", "1", "-V").stdout == "4\n"
    assert bed.run("kavlan", "-V", OAR_JOB_ID="1").stdout == "4\n"
    names = bed.run("kavlan", "-l", "-j", "1").stdout.split()
    assert names == [f"graphene-{n}-kavlan-4.nancy.grid5000.fr" for n in (1, 2, 3)]
    none = bed.run("kavlan", "-j", "4", "-V")
    assert (none.returncode, none.stdout) == (1, "no vlan found\n")
    assert "job 77 does not exist" in bed.run("kavlan", "-j", "77", "-V").stderr
    assert "has not started" in bed.run("kavlan", "-j", "3", "-V").stderr
    assert "give the job" in bed.run("kavlan", "-V").stderr
    assert bed.run("kavlan").returncode == 1


def test_environment_alone_deploys_the_nodes_of_the_job_s_shell(bed: Bed, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text(f"{GRAPHENE[0]}\n{GRAPHENE[0]}\n{GRAPHENE[1]}\n")  # one line for each core
    done = bed.run("kadeploy3", "debian12-min", OAR_NODE_FILE=str(nodes))
    assert sections(done.stdout) == (set(GRAPHENE[:2]), set())
    done = bed.run("kadeploy3", "debian12-min", "-m", "graphene-3", OAR_NODE_FILE=str(nodes))
    assert sections(done.stdout) == ({GRAPHENE[2]}, set())
    assert "give nodes" in bed.run("kadeploy3", "debian12-min").stderr
    assert "invalid option: twice" in bed.run("kadeploy3", "debian12-min", "twice").stderr
    assert "cannot be read" in bed.run("kadeploy3", "debian12-min", OAR_NODE_FILE="/none").stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-p", "gros", "-l", "nodes=1"], ["-p", "cluster='gros'", "-l", "nodes=1"]),
        (["--property=gros"], ["--property=cluster='gros'"]),
        (["-p", "cluster='gros' or x > 1", "sleep now"], ["-p", "cluster='gros' or x > 1", "sleep now"]),
        (["-p", "cluster=gros & memnode>=1024"], ["-p", "cluster='gros'  and  memnode>=1024"]),
        (["-p", "gros|gras"], ["-p", "cluster='gros' or cluster='gras'"]),
        (["-p", "not gros and exotic=NO"], ["-p", "not cluster='gros' and exotic='NO'"]),
        (["-p", "cluster in (gros, 'gras')"], ["-p", "cluster in ('gros', 'gras')"]),
        (["-p", "cluster not in ('gros')"], ["-p", "cluster not in ('gros')"]),
        (
            ["-p", "host like 'gros-1.%' and deploy is null"],
            ["-p", "host like 'gros-1.%' and deploy is null"],
        ),
        (["-p", "gros-4"], ["-p", "host='gros-4.SITE.grid5000.fr'"]),
        (["-p", "host in ('gros-4',gros-5)"], ["-p", f"host in ({quoted('gros-4')},{quoted('gros-5')})"]),
        (["-p", "host='gros-4.nancy.grid5000.fr'"], ["-p", "host='gros-4.nancy.grid5000.fr'"]),
        (
            ["-l", "{gros}/host=2+{type='kavlan'}/vlan=1,walltime=2"],
            ["-l", "{cluster='gros'}/host=2+{type='kavlan'}/vlan=1,walltime=2"],
        ),
        (["--resource={type=kavlan}/vlan=1"], ["--resource={type='kavlan'}/vlan=1"]),
        (["-r", "2099-01-01 10:00:00", "now"], ["-r", "2099-01-01 10:00:00", "now"]),
        (["-r", "now", "-n", "gros"], ["-r", None, "-n", "gros"]),
        (["-l", "nodes=1,walltime=1", "-t", "deploy"], ["-l", "nodes=1,walltime=1", "-t", "deploy"]),
    ],
)
def test_shorthand_of_oarsub_is_written_out(bed: Bed, words: list[str], expected: list[str | None]) -> None:
    own = bed.directory / "own"
    own.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 5\n")
    own.chmod(0o755)
    done = bed.run("oarsub", *words, G5K_OARSUB=str(own))
    assert (done.returncode, done.stderr) == (5, "")
    for got, known in zip(done.stdout.splitlines(), expected, strict=True):
        if known is None:
            assert abs(datetime.fromisoformat(got).timestamp() - time.time()) < 60
        else:
            assert got == known.replace("SITE", os.uname().nodename.partition(".")[0])


def test_dhcp_server_of_a_vlan_is_switched_off_and_on(bed: Bed) -> None:
    done = bed.run("kavlan", "-d", "-i", "4", "-j", "1")
    assert (done.returncode, done.stdout) == (0, "vlan 4: the DHCP server is off\n")
    assert bed.machines.dhcp == {("nancy", 4): False}
    done = bed.run("kavlan", "-e", "-j", "1")
    assert (done.returncode, done.stdout) == (0, "vlan 4: the DHCP server is on\n")
    assert bed.machines.dhcp == {("nancy", 4): True}
    assert "in no running job" in bed.run("kavlan", "-d", "-i", "5").stderr
    assert "give the vlan" in bed.run("kavlan", "-d").stderr
    assert "Invalid VLAN" in bed.run("kavlan", "-d", "-i", "DEFAULT").stderr


def test_set_vlan_moves_nodes(bed: Bed) -> None:
    assert bed.run("kavlan", "-s", "-i", "4", "-j", "1").returncode == 0
    assert bed.machines.vlans == {"graphene-1": 4, "graphene-2": 4, "graphene-3": 4}
    assert bed.run("kavlan", "-s", "-i", "DEFAULT", "-m", "graphene-1-eth0.nancy.grid5000.fr").returncode == 0
    assert bed.machines.vlans["graphene-1"] is None
    bed.machines.broken = {"graphene-2"}
    done = bed.run("kavlan", "-s", "-i", "4", "-m", "graphene-1", "-m", "graphene-2", "-m", GRAPHENE[3])
    assert done.returncode == 1
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == [
        "vlan 4 is set",
        "no such device",
        f"{GRAPHENE[3]} is not in a running deploy job of yours",
    ]
    assert "in no running job" in bed.run("kavlan", "-s", "-i", "5", "-j", "1").stderr


def test_subnets_with_the_options_of_execo(bed: Bed) -> None:
    addresses = [line.split() for line in bed.run("g5k-subnets", "-i", "-m", "-j", "1").stdout.splitlines()]
    network = IPv4Network("10.144.4.0/22")
    assert [IPv4Address(address) for address, _ in addresses] == list(network.hosts())
    assert addresses[0] == ["10.144.4.1", "00:16:3E:90:04:01"]
    assert len({mac for _, mac in addresses}) == len(addresses)
    fields = bed.run("g5k-subnets", "-a", "-j", "1").stdout.rstrip().split("\t")
    assert fields == [
        "10.144.4.0/22",
        "10.147.255.255",
        "255.252.0.0",
        "10.147.255.254",
        "10.144.0.0",
        "dns.nancy.grid5000.fr",
        "172.16.79.254",
    ]


def test_other_options_of_subnets(bed: Bed, tmp_path: Path) -> None:
    assert bed.run("g5k-subnets", "-j", "4").stdout.split() == ["10.144.8.0", "10.144.12.0"]
    assert bed.run("g5k-subnets", "-p", "-j", "4").stdout.split() == ["10.144.8.0/22", "10.144.12.0/22"]
    assert bed.run("g5k-subnets", "-sp", OAR_JOB_ID="4").stdout.split() == ["10.144.8.0/21"]
    first = bed.run("g5k-subnets", "-ingbm", "-j", "1").stdout.splitlines()[0].split("\t")
    assert first == ["10.144.4.1", "10.147.255.255", "255.252.0.0", "10.147.255.254", "00:16:3E:90:04:01"]
    done = bed.run("g5k-subnets", "-im", "-j", "1", "-o", str(tmp_path / "out"))
    assert done.stdout == ""
    assert len((tmp_path / "out").read_text().splitlines()) == 1022
    empty = bed.run("g5k-subnets", "-im", "-j", "2")
    assert (empty.returncode, empty.stdout) == (0, "")


def test_database_down_and_unknown_user(bed: Bed) -> None:
    bed.databases["nancy"].down = True
    done = bed.run("kadeploy3", "-e", "debian12-min", "-m", "graphene-1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "database does not respond" in done.stderr
    bed.user = None
    assert "unknown user" in bed.run("kavlan", "-V", "-j", "1").stderr


def test_no_server(bed: Bed, tmp_path: Path) -> None:
    done = bed.run("kavlan", "-V", "-j", "1", G5K_SOCKET=str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "the testbed does not respond" in done.stderr


def test_users_by_their_id(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\ng5k:x:1000:1000::/home/g5k:/bin/bash\n"
    )
    user_of = frontend.users_in(tmp_path)
    assert (user_of(1000), user_of(0), user_of(7)) == ("g5k", "root", None)


@pytest.mark.parametrize("request_", [{}, {"options": {}}, {"command": "rm", "options": {}}])
def test_malformed_requests_raise(bed: Bed, request_: dict[str, object]) -> None:
    with pytest.raises(RequestRefusedError):
        bed.handle("g5k", request_, lambda _: None)


def test_node_patterns_are_expanded() -> None:
    assert frontend.expand(["a-[1-3,7].b", "c-1.b", "a-2.b"]) == ["a-1.b", "a-2.b", "a-3.b", "a-7.b", "c-1.b"]
    for pattern in ("a-[1-", "a-]", "a-[]", "a-[1-2][3]", "a-[1-999999]"):
        with pytest.raises(RequestRefusedError):
            frontend.expand([pattern])


def test_environments_are_listed_and_printed(bed: Bed) -> None:
    assert "debian12-min" in bed.run("kaenv3", "-l").stdout
    assert bed.run("kaenv3").stdout == bed.run("kaenv3", "-l").stdout
    for words in (["-p", "debian12-min"], ["-u", "deploy", "-p", "debian12-min"]):
        done = bed.run("kaenv3", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert yaml.safe_load(done.stdout)["name"] == "debian12-min"
    whole = bed.run("kaenv3", "-p", "debian12-min@deploy:1%x86_64").stdout
    assert {"version": 1, "arch": "x86_64"}.items() <= yaml.safe_load(whole).items()
    others = ("debian12-min@g5k", "debian12-min:2", "debian12-min%aarch64", "-x")
    for words in (
        *(["-p", other] for other in others),
        ["-p", "nothere"],
        ["-u", "g5k", "-p", "debian12-min"],
        ["-l", "-p", "debian12-min"],
    ):
        done = bed.run("kaenv3", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "[ERROR]" in done.stderr
