"""The local testbed for real: OAR, sshd, deployments, KaVLANs, faults. Needs root."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.testbeds.local import layers, lifecycle
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local.description import make
from g5kvirt.testbeds.local.state import State, directory

needs = [
    tool for tool in ("ssh", "ssh-keygen", "mksquashfs", "nsenter", "ip", "apt-get") if not shutil.which(tool)
]
pytestmark = [
    pytest.mark.root,
    pytest.mark.local,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(bool(needs), reason=f"missing on this machine: {', '.join(needs)}"),
]

PREFIX = f"t{os.getpid()}"
DESCRIPTION = make({"nancy": 2, "rennes": 2}, cores=3, memory_gib=5, nic_gbps=0.2)
SMALL = make({"lyon": 1})


def ssh(state: State, host: str, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    words = ["ssh", "-F", str(state.ssh_config), "-o", "BatchMode=yes", host, command]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def on(state: State, host: str, command: str, timeout: float = 60) -> str:
    """What ``command`` prints on ``host``; the test fails if it fails."""
    done = ssh(state, host, command, timeout)
    assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
    return done.stdout


def wait(what: Callable[[], object], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def below(pid: int) -> list[int]:
    """``pid`` and everything below it: only of such processes does a test kill any."""
    try:
        return [pid, *(found for child in children(pid) for found in below(child))]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def nothing_left(name: str) -> bool:
    gone = not lifecycle._processes(directory(name)) and not directory(name).exists()
    return gone and name not in Path("/proc/self/mountinfo").read_text()


class Job:
    """A deploy job on a frontend, deleted at the end."""

    def __init__(self, state: State, site: str, resources: str, *more: str) -> None:
        self.state, self.frontend = state, f"{site}.grid5000.fr"
        words = " ".join((f'oarsub -l "{resources},walltime=0:30:00" -t deploy -t origin=test', *more))
        text = on(state, self.frontend, f"{words} 'sleep 3600'")
        found = re.search(r"^OAR_JOB_ID=(\d+)", text, re.M)
        assert found, text
        self.id = int(found[1])

    def state_is(self, word: str) -> bool:
        return word in on(self.state, self.frontend, f"oarstat -sj {self.id}")

    def __enter__(self) -> Job:
        wait(lambda: self.state_is("Running"))
        return self

    def __exit__(self, *_: object) -> None:
        on(self.state, self.frontend, f"oardel {self.id}")
        wait(lambda: self.state_is("Error") or self.state_is("Terminated"))

    @property
    def nodes(self) -> list[str]:
        command = f"oarstat -pj {self.id} | oarprint network_address -f - | sort"
        return on(self.state, self.frontend, command).split()

    def deploy(self, nodes: list[str], vlan: str = "") -> str:
        words = " ".join(f"-m {node}" for node in nodes)
        return on(self.state, self.frontend, f"kadeploy3 -k -d -e debian12-min {vlan} {words}")


@pytest.fixture(scope="module")
def bed() -> Iterator[State]:
    name = f"{PREFIX}-bed"
    try:
        yield lifecycle.up(name, DESCRIPTION)
    finally:
        lifecycle.down(name)
        assert nothing_left(name)


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a testbed of one's own, which is down at the end."""
    word = f"{PREFIX}-own"
    yield word
    lifecycle.down(word)
    assert nothing_left(word)


def kavlan(node: str, vlan: int) -> str:
    return node.replace(".", f"-kavlan-{vlan}.", 1)


# --- the testbed as a user of Grid'5000 sees it ------------------------------------------------------------


def test_frontend_is_a_frontend(bed: State) -> None:
    assert on(bed, "nancy.grid5000.fr", "id -un; hostname; date +%Z").split()[:2] == ["g5k", "nancy"]
    assert "paradent-2.rennes.grid5000.fr" in on(bed, "rennes.grid5000.fr", "oarnodes -l")


def test_unknown_name_is_refused(bed: State) -> None:
    for host in ("grenoble.grid5000.fr", "graphene-3.nancy.grid5000.fr", "debian.org", "10.0.7.2"):
        began = time.monotonic()
        done = ssh(bed, host, "true")
        assert done.returncode != 0
        assert f"{host} is not a name of the local testbed" in done.stderr
        assert time.monotonic() - began < 5


def test_nobody_gets_into_a_node_that_is_not_deployed(bed: State) -> None:
    done = ssh(bed, "graphene-1.nancy.grid5000.fr", "true")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_nodes_of_others_are_not_deployed(bed: State) -> None:
    words = "kadeploy3 -k -d -e debian12-min -m graphene-1.nancy.grid5000.fr"
    done = ssh(bed, "nancy.grid5000.fr", words)
    assert "is successful on nodes" not in done.stdout
    assert ssh(bed, "graphene-1.nancy.grid5000.fr", "true").returncode == 255


def test_deployment_gives_a_clean_node_and_the_job_s_end_takes_it_back(bed: State) -> None:
    with Job(bed, "nancy", "nodes=1") as job:
        [node] = job.nodes
        assert "is successful on nodes" in job.deploy([node])
        on(bed, node, "touch /root/mark /usr/mark; setsid sleep 4242 >/dev/null 2>&1 </dev/null &")
        assert "sleep" in on(bed, node, "ps -e -o comm=")
        job.deploy([node])
        assert on(bed, node, "ls /root /usr | grep -c mark || true").strip() == "0"
        assert "sleep" not in on(bed, node, "ps -e -o comm=")
    wait(lambda: "Permission denied" in ssh(bed, node, "true").stderr)


def test_a_node_looks_as_described_and_hides_the_machine(bed: State) -> None:
    with Job(bed, "rennes", "nodes=1") as job:
        [node] = job.nodes
        job.deploy([node])
        what = bed.description.node(node)
        assert on(bed, node, "hostname").strip() == what.uid
        assert on(bed, node, "cat /sys/class/net/eth0/address").strip() == what.mac
        assert on(bed, node, "grep -c ^processor /proc/cpuinfo").strip() == "3"
        assert on(bed, node, "awk '/MemTotal/ {print $2}' /proc/meminfo").strip() == str(5 << 20)
        assert on(bed, node, "ls -A /home /mnt /tmp | grep -v : | xargs").strip() == ""
        assert on(bed, node, "ls -A /root").split() == [".ssh"]
        assert on(bed, node, "ls /dev | grep -c '^vd\\|^sd\\|^loop' || true").strip() == "0"
        assert on(bed, node, "cut -d: -f2 /etc/shadow | sort -u").split() == ["*"]
        assert int(on(bed, node, "ps -e | wc -l")) < 12
        for program in ("qemu-system-x86_64", "dnsmasq", "nginx", "taktuk", "nft", "busybox", "python3"):
            on(bed, node, f"command -v {program}")
        assert ssh(bed, node, "test -e /dev/net/tun && getent hosts rennes.grid5000.fr").returncode == 0
        assert ssh(bed, node, "getent hosts debian.org").returncode != 0


def test_global_vlan_joins_sites_and_a_local_one_does_not(bed: State) -> None:
    with (
        Job(bed, "nancy", "{type='kavlan-global'}/vlan=1+nodes=1") as here,
        Job(bed, "rennes", "{type='kavlan-local'}/vlan=1+nodes=2") as there,
    ):
        vlan = int(on(bed, "nancy.grid5000.fr", f"kavlan -j {here.id} -V").split()[0])
        [one], [two, three] = here.nodes, there.nodes
        here.deploy([one], f"--vlan {vlan}")
        there.deploy([two], f"--vlan {vlan}")
        first, second = kavlan(one, vlan), kavlan(two, vlan)
        assert "0% packet loss" in on(bed, first, f"ping -c 2 -W 5 {second}")
        # The same network: no router in between, so the neighbour's own hardware address is known.
        assert bed.description.node(two).mac in on(bed, first, "ip neigh show dev eth0")
        assert "0% packet loss" in on(bed, second, "ping -c 1 -W 5 -M do -s 1472 " + first)
        own = int(on(bed, "rennes.grid5000.fr", f"kavlan -j {there.id} -V").split()[0])
        there.deploy([three], f"--vlan {own}")
        inside = bed.description.kavlan_ip(bed.description.node(three), own)
        assert ssh(bed, second, f"ping -c 1 -W 2 {inside}").returncode != 0
        assert (
            ssh(bed, "rennes.grid5000.fr", f"timeout 3 bash -c 'echo > /dev/tcp/{inside}/22'").returncode == 0
        )


def test_card_is_as_slow_as_described(bed: State) -> None:
    size = 10_000_000
    with Job(bed, "nancy", "nodes=2") as job:
        one, two = job.nodes
        job.deploy([one, two])
        listen = f"""import socket
s=socket.create_server(('', 5001)).accept()[0]; n=0
while n<{size}: n+=len(s.recv(65536))"""
        on(bed, two, f'setsid python3 -c "{listen}" >/dev/null 2>&1 </dev/null &')
        send = f"""import socket, time
for _ in range(100):
    try: s=socket.create_connection(('{two}', 5001)); break
    except OSError: time.sleep(.05)
t=time.time(); s.sendall(bytes({size})); s.shutdown(1); s.recv(1); print(time.time()-t)"""
        seconds = float(on(bed, one, f'python3 -c "{send}"'))
    least = size * 8 / 0.2e9
    assert seconds > 0.8 * least


def test_reservation_starts_in_time(bed: State) -> None:
    start = int(time.time()) + 8
    when = on(bed, "nancy.grid5000.fr", f"date -d @{start} '+%F %T'").strip()
    job = Job(bed, "nancy", "nodes=1", f"-r '{when}'")
    try:
        wait(lambda: job.state_is("Running"), 30)
        assert 0 <= time.time() - start < 6
    finally:
        job.__exit__()


CYCLE = """
import sys, execo
from execo.config import default_connection_params
from execo_g5k import *
from execo_g5k.config import default_frontend_connection_params, g5k_configuration
config, key, api, user, password = sys.argv[1:]
g5k_configuration.update(api_uri=api.replace("//", f"//{user}:{password}@"), default_frontend="nancy",
                         polling_interval=1, tiny_polling_interval=0.3)
for params in default_connection_params, default_frontend_connection_params:
    params["ssh_options"] = ("-F", config)
default_frontend_connection_params["user"] = "g5k"
resources = "{type='kavlan-global'}/vlan=1+slash_22=1+nodes=2"
[(job, site)] = oarsub([(OarSubmission(resources=resources, walltime="1:00:00", job_type="deploy"), "nancy")])
try:
    assert wait_oar_job_start(job, site)
    hosts = get_oar_job_nodes(job, site)
    addresses, subnet = get_oar_job_subnets(job, site)
    [vlan] = get_oar_job_kavlan(job, site)
    root = {"user": "root", "keyfile": key}
    done, undone = deploy(Deployment(hosts, env_name="debian12-min", vlan=vlan), node_connection_params=root,
                          check_timeout=10)
    assert not undone, undone
    names = [get_kavlan_host_name(host, vlan) for host in done]
    there = execo.Remote("hostname", names, connection_params=root).run()
    assert there.ok
    print(len(hosts), len(addresses), vlan, *sorted(p.stdout.strip() for p in there.processes))
finally:
    oardel([(job, site)])
"""


def test_unmodified_execo_g5k_goes_through_its_cycle(bed: State, tmp_path: Path) -> None:
    script = tmp_path / "cycle.py"
    script.write_text(CYCLE)
    arguments = (bed.ssh_config, bed.key, bed.api_uri, bed.api_user, bed.api_password)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    vlan = bed.description.site("nancy").global_vlan.id
    assert done.stdout.split() == ["2", "1022", str(vlan), "graphene-1", "graphene-2"]


# --- raising, taking down, faults --------------------------------------------------------------------------


def test_up_again_finds_it_up(bed: State) -> None:
    again = lifecycle.up(bed.name)
    assert (again.pid, again.start_time) == (bed.pid, bed.start_time)
    with pytest.raises(SpecError, match="another description"):
        lifecycle.up(bed.name, SMALL)
    assert lifecycle.status(bed.name).state == "up"


def test_two_callers_raise_one_testbed(name: str) -> None:
    states: list[State] = []
    threads = [threading.Thread(target=lambda: states.append(lifecycle.up(name, SMALL))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(states) == 3
    assert len({state.pid for state in states}) == 1


def test_two_testbeds_side_by_side(bed: State, name: str) -> None:
    other = lifecycle.up(name, make({"nancy": 1}))
    assert on(other, "nancy.grid5000.fr", "oarnodes -l").split() == ["graphene-1.nancy.grid5000.fr"]
    assert ssh(other, "rennes.grid5000.fr", "true").returncode != 0
    assert lifecycle.down(name)
    assert on(bed, "nancy.grid5000.fr", "hostname").strip() == "nancy"


def test_down_of_nothing(name: str) -> None:
    assert lifecycle.down(name) is False
    assert lifecycle.status(name).state == "down"
    with pytest.raises(TestbedError, match="not up"):
        State.load(name)


@pytest.mark.parametrize("victim", ["init", "daemon"])
def test_sudden_death_leaves_nothing_and_up_repairs(name: str, victim: str) -> None:
    state = lifecycle.up(name, SMALL)
    every = below(state.pid)
    assert len(every) > 10
    target = state.pid if victim == "init" else children(state.pid)[0]
    os.kill(target, signal.SIGKILL)
    wait(lambda: not any(ns.start_time(pid) for pid in every))
    assert lifecycle.status(name).state == "broken"
    new = lifecycle.up(name, SMALL)
    assert new.pid != state.pid
    assert on(new, "lyon.grid5000.fr", "hostname").strip() == "lyon"


def test_down_without_state_file(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    (state.directory / "state.json").unlink()
    assert lifecycle.status(name).state == "broken"
    assert lifecycle.down(name)
    assert ns.start_time(state.pid) is None


def test_down_does_not_trust_a_pid_that_is_another_s_now(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    file = state.directory / "state.json"
    text = file.read_text().replace(f'"pid": {state.pid}', f'"pid": {os.getpid()}')
    assert f'"pid": {os.getpid()}' in text
    file.write_text(text)
    assert lifecycle.down(name)  # and this test still runs
    assert ns.start_time(state.pid) is None


@pytest.mark.parametrize("word", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("after", [0.0, 0.2, 0.4])
def test_the_raiser_is_killed_or_interrupted(name: str, after: float, word: str) -> None:
    program = "import sys; from g5kvirt.testbeds.local import lifecycle, description\n"
    program += "lifecycle.up(sys.argv[1], description.make({'lyon': 1}), lambda *a: None)"
    root = str(Path(lifecycle.__file__).parents[3])
    raiser = subprocess.Popen(
        [sys.executable, "-c", program, name], env={**os.environ, "PYTHONPATH": root}, start_new_session=True
    )
    wait(lambda: (directory(name) / "id_ed25519").exists() or raiser.poll() is not None)
    time.sleep(after)
    raiser.send_signal(signal.Signals[word])
    code = raiser.wait(20)
    if word == "SIGKILL":
        lifecycle.down(name)
        assert nothing_left(name)
    elif code:  # it was interrupted before it was ready, and cleared away what was there
        assert nothing_left(name)


def test_failure_leaves_nothing_and_names_the_log(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = layers.ensure()
    broken = {**images, "node": Path("/nonexistent.sqfs")}
    monkeypatch.setattr(layers, "ensure", lambda *_: broken)
    with pytest.raises(TestbedError, match=r"could not be raised .*nonexistent.*its logs: /"):
        lifecycle.up(name, SMALL)
    assert nothing_left(name)


def test_oar_and_its_database_come_back(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    for program in ("/usr/lib/oar/Almighty", "postgres -D"):
        every = below(state.pid)
        victims = [pid for pid in every if program in command_line(pid)]
        assert victims, program
        os.kill(victims[0], signal.SIGKILL)
        wait(lambda victim=victims[0]: ns.start_time(victim) is None)  # type: ignore[misc]
        time.sleep(2)
        with Job(state, "lyon", "nodes=1") as job:
            assert "is successful on nodes" in job.deploy(job.nodes)


def test_a_node_that_died_is_started_again(name: str) -> None:
    state = lifecycle.up(name, SMALL)
    [node] = state.description.nodes
    inits = [pid for pid in below(state.pid) if _hostname(pid) == node.uid and "daemon" in command_line(pid)]
    os.kill(inits[0], signal.SIGKILL)
    wait(lambda: ns.start_time(inits[0]) is None)
    wait(lambda: "Permission denied" in ssh(state, node.fqdn, "true").stderr)


def _hostname(pid: int) -> str:
    """Of the UTS namespace that ``pid`` is in."""
    words = ["nsenter", f"--uts=/proc/{pid}/ns/uts", "hostname"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()
