"""The local testbed from the perspective of a user: OAR, deployments, KaVLANs, execo. Needs root."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import localbed
from localbed import MARKS, Job, children, command_line, kavlan, on, ssh, wait

from g5kvirt.guests.ssh import configuration
from g5kvirt.inventory import Host
from g5kvirt.remote import Access, Fanout, jumps
from g5kvirt.testbeds.local import layers
from g5kvirt.testbeds.local.capabilities import BASIC, NAMESPACES, NETWORK
from g5kvirt.testbeds.local.state import State

pytestmark = MARKS


def test_frontend_has_user_hostname_and_oar(bed: State) -> None:
    assert on(bed, "nancy.grid5000.fr", "id -un; hostname; date +%Z").split()[:2] == ["g5k", "nancy"]
    assert "paradent-2.rennes.grid5000.fr" in on(bed, "rennes.grid5000.fr", "oarnodes -l")


def test_unknown_host_name_is_rejected(bed: State) -> None:
    for host in ("grenoble.grid5000.fr", "graphene-3.nancy.grid5000.fr", "debian.org", "10.0.7.2"):
        began = time.monotonic()
        done = ssh(bed, host, "true")
        assert done.returncode != 0
        assert f"{host} is not a name of the local testbed" in done.stderr
        assert time.monotonic() - began < 5


SHELL = """
import subprocess, sys
from dataclasses import replace
from g5kvirt.remote import Fanout
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend

testbed, site = open_testbed("local:" + sys.argv[1]), "nancy.grid5000.fr"
testbed.connect()
access = replace(testbed.access(sys.argv[2]), user="g5k")
print(run_on_frontend("nancy", "hostname", 30).text.strip())
print(Fanout(access).run([site], ["hostname"], timeout=30)[site].text.strip())
print(Fanout(access, tree_from=1).run([site], ["hostname"], timeout=30)[site].text.strip())
written = ["ssh", "-F", str(access.ssh_config), site, "hostname"]
print(subprocess.run(written, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip())
"""


def test_no_ssh_runs_the_users_bashrc(bed: State, tmp_path: Path) -> None:
    """bash reads it for a ProxyCommand with a socket as its input, unless another shell is above it."""
    mark = tmp_path / "read"
    (tmp_path / ".bashrc").write_text(f"echo >>{mark}\n")
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash", "SHLVL": "0"}
    argv = [sys.executable, "-c", SHELL, bed.name, str(bed.key)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["nancy"] * 4, done.stderr
    assert not mark.exists()
    trap = ["ssh", "-F", str(bed.ssh_config), "-o", "ProxyUseFdpass=yes", "nancy.grid5000.fr", "hostname"]
    caught = subprocess.run(trap, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert (caught.stdout, mark.exists()) == (b"nancy\n", True), "this machine's bash does not do it: no test"


def test_connection_meant_for_an_earlier_testbed_is_refused(bed: State, tmp_path: Path) -> None:
    text = bed.ssh_config.read_text()
    file = tmp_path / "config"
    file.write_text(text.replace(f" {bed.pid} {bed.start_time} ", f" {bed.pid} {bed.start_time - 1} "))
    argv = ["ssh", "-F", str(file), "nancy.grid5000.fr", "true"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert f"testbed '{bed.name}' is no longer up" in done.stderr
    assert done.returncode == 255


def test_ssh_of_a_killed_run_ends_with_it(bed: State) -> None:
    run = """
import sys
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.grid5000.frontends import run_on_frontend
testbed = open_testbed("local:" + sys.argv[1])
testbed.connect()
run_on_frontend("nancy", "touch /tmp/begun; sleep 4; touch /tmp/went-on", 60)
"""
    process = subprocess.Popen([sys.executable, "-c", run, bed.name])
    try:
        wait(lambda: ssh(bed, "nancy.grid5000.fr", "test -e /tmp/begun").returncode == 0)
        for child in children(process.pid):  # execo forks a process that ends its children after it
            if "sys.argv[1]" in command_line(child):
                os.kill(child, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(10)
    time.sleep(5)
    assert ssh(bed, "nancy.grid5000.fr", "test -e /tmp/went-on").returncode == 1


def test_node_without_deployment_rejects_ssh(bed: State) -> None:
    done = ssh(bed, "graphene-1.nancy.grid5000.fr", "true")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


def test_nodes_without_a_job_are_not_deployed(bed: State) -> None:
    command = "kadeploy3 -k -d -e debian12-min -m graphene-1.nancy.grid5000.fr"
    done = ssh(bed, "nancy.grid5000.fr", command)
    assert "is successful on nodes" not in done.stdout
    assert ssh(bed, "graphene-1.nancy.grid5000.fr", "true").returncode == 255


def test_shorthand_that_users_type_on_a_frontend(bed: State) -> None:
    """On real OAR: a bare cluster, a start now, the nodes of the job's own shell."""
    front = "nancy.grid5000.fr"
    refused = ssh(bed, front, "oarsub -p nowhere -l nodes=1,walltime=0:10:0 -t deploy 'sleep 60' 2>&1").stdout
    assert "not enough resources" in refused
    assert "Bad resource request" not in refused, "it was no condition for PostgreSQL"
    kadeploy = "kadeploy3 debian12-min > deployed 2>&1; kaenv3 >> deployed; touch done; sleep 600"
    asked = f"rm -f done; oarsub -r now -p graphene -l nodes=1,walltime=0:10:0 -t deploy '{kadeploy}'"
    printed = on(bed, front, asked)
    found = re.search(r"^OAR_JOB_ID=(\d+)", printed, re.M)
    assert found, printed
    try:
        wait(lambda: ssh(bed, front, "test -e done").returncode == 0, timeout=120)
        text = on(bed, front, "cat deployed")
        assert "is successful on nodes" in text, text
        assert "Minimal" in text or "minimal" in text
    finally:
        on(bed, front, f"oardel {found[1]}; rm -f deployed done")
        wait(lambda: f"\n{found[1]} " not in on(bed, front, "oarstat"))


def test_oarwalltime_lengthens_a_job(bed: State) -> None:
    with Job(bed, "nancy", "nodes=1") as job:
        on(bed, "nancy.grid5000.fr", f"oarwalltime {job.id} +0:5:0")
        wait(lambda: "walltime = 0:35:0" in on(bed, "nancy.grid5000.fr", f"oarstat -fj {job.id}"))


def test_deployment_cleans_a_node_and_so_does_the_end_of_the_job(bed: State) -> None:
    with Job(bed, "nancy", "nodes=1") as job:
        [node] = job.nodes
        assert "is successful on nodes" in job.deploy([node])
        on(bed, node, "touch /root/mark /usr/mark; setsid sleep 4242 >/dev/null 2>&1 </dev/null &")
        assert "sleep" in on(bed, node, "ps -e -o comm=")
        job.deploy([node])
        assert on(bed, node, "ls /root /usr | grep -c mark || true").strip() == "0"
        assert "sleep" not in on(bed, node, "ps -e -o comm=")
    wait(lambda: "Permission denied" in ssh(bed, node, "true").stderr)


def test_node_looks_as_described_and_hides_the_machine(bed: State) -> None:
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
        assert on(bed, node, "find /etc -type f ! -perm -o=r ! -name 'ssh_host_*_key'").split() == [
            "/etc/shadow"
        ]
        assert on(bed, node, "ls -A /opt /var/backups /var/mail | grep -v : | xargs").strip() == ""
        assert int(on(bed, node, "ps -e | wc -l")) < 12
        for program in ("qemu-system-x86_64", "dnsmasq", "nginx", "taktuk", "nft", "busybox", "python3"):
            on(bed, node, f"command -v {program}")
        assert ssh(bed, node, "test -e /dev/net/tun").returncode == 0
        names = bed.description.names()
        found = on(bed, node, f"for n in {' '.join(names)}; do getent ahostsv4 $n | head -n 1; done").split()
        assert found[::3] == [str(address) for address in names.values()]
        assert ssh(bed, node, "getent hosts debian.org").returncode != 0


def test_root_of_a_node_and_users_of_a_frontend_have_the_privileges_that_they_need(bed: State) -> None:
    with Job(bed, "nancy", "{type='kavlan-global'}/vlan=1+nodes=1") as job:
        vlan = int(on(bed, "nancy.grid5000.fr", f"kavlan -j {job.id} -V").split()[0])
        [node] = job.nodes
        job.deploy([node], f"--vlan {vlan}")
        inside = kavlan(node, vlan)
        bounds = int(on(bed, inside, "sed -n 's/^CapBnd:\\s*//p' /proc/self/status"), 16)
        status = Path("/proc/self/status").read_text()
        ours = int(next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16)
        # Where there are no user namespaces, it has at most what this machine itself has.
        apart = (
            str(Path("/proc/self/ns/user").readlink())
            != on(bed, inside, "readlink /proc/self/ns/user").strip()
        )
        wanted = {n for n in BASIC | NETWORK | NAMESPACES if apart or ours >> n & 1}
        assert {n for n in range(64) if bounds >> n & 1} == wanted
        confined = (
            "mount -o remount,rw /proc/sys",
            "mount -o remount,rw,bind /sys",
            "umount /proc/sys",
            "mkdir /tmp/p && mount -t proc p /tmp/p",
            "mkdir /tmp/s && mount -t sysfs s /tmp/s && test -w /tmp/s/kernel/uevent_seqnum",
            "mkdir /tmp/c && unshare --cgroup mount -t cgroup2 c /tmp/c",
            "mkdir /tmp/d && mount -t devtmpfs d /tmp/d",
            "mknod /tmp/memory c 1 1 && head -c 1 /tmp/memory",
            "sysctl -w kernel.hostname=x",
        )
        for refused in (
            "echo x > /proc/sys/kernel/core_pattern",  # a program that the machine would run as root
            "test -s /proc/kcore",
            "mknod /tmp/disk b 8 0",
            "date -s 2020-01-01",
            *(confined if apart else ()),
        ):
            assert ssh(bed, inside, refused).returncode != 0, refused
        on(bed, inside, "echo 1 > /proc/sys/net/ipv4/ip_forward")
        gateway = bed.description.vlan("nancy", vlan).gateway
        opened = f"timeout 3 bash -c 'echo > /dev/tcp/{gateway}/%d'"
        assert ssh(bed, inside, opened % 22).returncode == 0
        for port in (6666, 6667, 5432):
            assert ssh(bed, inside, opened % port).returncode != 0, f"port {port} is OAR's own"
        assert frames_in_a_tunnel(bed, inside, str(gateway)) == {"nancy": 0, "rennes": 0}
    frontend = "nancy.grid5000.fr"
    assert on(bed, frontend, "id -u; id -g").split() == [str(layers.USER_ID)] * 2
    assert "Peer authentication failed" in ssh(bed, frontend, "psql -U postgres -d oar -c ''").stderr
    command = "PGPASSWORD=oar psql -h 127.0.0.1 -U oar -d oar -c 'select 1'"
    assert "password authentication failed" in ssh(bed, frontend, command).stderr
    assert "1" in on(bed, frontend, "PGPASSWORD=read psql -h 127.0.0.1 -U oarreader -d oar -c 'select 1'")
    assert ssh(bed, frontend, "cat /etc/oar/oar.conf").returncode != 0


def frames_in_a_tunnel(bed: State, node: str, gateway: str) -> dict[str, int]:
    """How many frames come into another KaVLAN at each site, if a node sends them to the tunnels' ends."""
    frame = r"\x08\0\0\0\0\0\x63\0" + r"\xff" * 6 + r"\x02\0\0\0\0\x99\x08\x06" + "x" * 46  # of KaVLAN 99
    routers = {site.name: localbed.inside(bed, site.name) for site in bed.description.sites}
    for site in bed.description.sites:
        made = f"ip link add vx99 type vxlan id 99 local {site.wan_ip} dstport 4789 && ip link set vx99 up"
        subprocess.run(["nsenter", "-t", str(routers[site.name]), "-n", "sh", "-c", made], check=True)
    ends = [str(address) for site in bed.description.sites for address in (site.wan_ip, site.gateway)]
    for address in (gateway, *ends):
        send = f"for i in 1 2 3; do printf '{frame}' > /dev/udp/{address}/4789; done"
        ssh(bed, node, f'bash -c "{send}"')
    found = {}
    for name, pid in routers.items():
        look = "ip -j -s link show vx99; ip link del vx99"
        argv = ["nsenter", "-t", str(pid), "-n", "sh", "-c", look]
        text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        found[name] = json.loads(text)[0]["stats64"]["rx"]["packets"]
    return found


def own_lease(bed: State, node: str, address: str, job: int) -> None:
    """A node gets its address from the DHCP server of its KaVLAN, on another site, unless that is off."""
    hook = "printf '#!/bin/sh\\necho $1 $ip $serverid\\n' >/tmp/lease; chmod +x /tmp/lease;"
    client = f"{hook} busybox udhcpc -f -n -q -t 2 -T 1 -i eth0 -s /tmp/lease"
    gateway = bed.description.site("nancy").global_vlan.gateway
    assert f"bound {address} {gateway}" in on(bed, node, client)
    on(bed, "nancy.grid5000.fr", f"kavlan -d -j {job}")
    assert "bound" not in ssh(bed, node, client).stdout
    on(bed, "nancy.grid5000.fr", f"kavlan -e -j {job}")
    assert f"bound {address} {gateway}" in on(bed, node, client)


def test_global_vlan_joins_sites_and_a_local_one_does_not(bed: State, tmp_path: Path) -> None:
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
        own_lease(bed, second, str(bed.description.kavlan_ip(bed.description.node(two), vlan)), here.id)
        # The same network: no router in between, so the neighbour's own hardware address is known.
        assert bed.description.node(two).mac in on(bed, first, "ip neigh show dev eth0")
        assert "0% packet loss" in on(bed, second, "ping -c 1 -W 5 -M do -s 1472 " + first)
        on(bed, "nancy.grid5000.fr", f"kavlan -s -i DEFAULT -m {one} -j {here.id}")
        assert on(bed, one, "hostname").strip() == bed.description.node(one).uid
        own = int(on(bed, "rennes.grid5000.fr", f"kavlan -j {there.id} -V").split()[0])
        there.deploy([three], f"--vlan {own}")
        inside = bed.description.kavlan_ip(bed.description.node(three), own)
        assert ssh(bed, second, f"ping -c 1 -W 2 {inside}").returncode != 0
        assert (
            ssh(bed, "rennes.grid5000.fr", f"timeout 3 bash -c 'echo > /dev/tcp/{inside}/22'").returncode == 0
        )
        # Into it through its gateway: directly, and with the ssh configuration that a run writes.
        host = Host(three, "rennes", "c", 3, 1, address=kavlan(three, own))
        closed = Access(ssh_config=bed.ssh_config, key=bed.key, connect_timeout=5)
        access = closed.through(*jumps.gateways(own, "rennes.grid5000.fr"))
        assert (
            Fanout(access).run([host.address], ["hostname"], timeout=60)[host.address].text.strip()
            == host.uid
        )
        file = tmp_path / "config"
        file.write_text(configuration(access, "", [host], []))
        argv = ["ssh", "-F", str(file), three, "hostname"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert (done.stdout.strip(), done.stderr) == (host.uid, "")


def test_interface_has_the_described_rate(bed: State) -> None:
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
        wait(lambda: job.state_is("Running"))
        assert (
            0 <= time.time() - start < 20
        )  # allows for a busy machine; without the trigger OAR takes up to a minute
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


def test_unmodified_execo_g5k_completes_a_cycle(bed: State, tmp_path: Path) -> None:
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
