"""Deploying an environment on real VMs by the Kadeploy workflow, again and again, and with faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from localbed import MARKS, below, command_line, on, process_name, temporary_testbed, wait
from scripts import LAUNCHED, start

from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.events import Event
from g5kvirt.run.journal import read_events
from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]


RUN = "import json\nfrom pathlib import Path\n" + LAUNCHED % ("%s", "m", "%s")


@pytest.fixture(scope="module")
def slow() -> Iterator[State]:
    """Two sites whose links take seconds for an image, so that something can happen meanwhile."""
    with temporary_testbed("slow", make({"nancy": 2, "rennes": 1}, nic_gbps=0.05)) as state:
        yield state


def journal(runs: Path) -> list[Event]:
    path = runs / "m" / "journal.jsonl"
    return read_events(path) if path.exists() else []


def seen(runs: Path, what: Callable[[Event], bool], process: subprocess.Popen[str]) -> None:
    """Wait until an event is in the journal."""

    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return any(what(event) for event in journal(runs) if event.phase == "measure")

    wait(there, timeout=600)


def running(state: State, start_of_command: str) -> list[int]:
    """The processes of the testbed whose command begins so."""
    return [pid for pid in below(state.pid) if command_line(pid).startswith(start_of_command)]


def kill(state: State, start_of_command: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to these processes."""
    pids = running(state, start_of_command)
    assert pids, f"no {start_of_command}"
    for pid in pids:
        os.kill(pid, number)


def qemu(vm: str) -> str:
    """How the command of a VM's process begins."""
    return f"qemu-system-x86_64 -name {vm} "


def relays(state: State) -> list[tuple[int, int]]:
    """The host agents that keep a relay running, each with its relay."""
    agents = [pid for pid in below(state.pid) if process_name(pid) == "g5kvirt-service"]
    families = [below(pid) for pid in agents]
    return [
        (family[0], family[1])
        for family in families
        if len(family) > 1 and process_name(family[1]) == "g5kvirt-relay"
    ]


def at(deployment: str, subject: str, step: str) -> Callable[[Event], bool]:
    """An event: a VM has come through a step of a deployment."""

    def is_it(e: Event) -> bool:
        key = (e.detail.get("deployment"), e.subject, e.step, e.status)
        return key == (deployment, subject, step, "ok")

    return is_it


def test_vms_are_deployed_repeatedly_and_reached_by_ssh(slow: State, tmp_path: Path) -> None:
    """The second time the HTTP server, a relay and a host agent are killed while the image is on its way."""
    (tmp_path / "own").mkdir()
    with tarfile.open(tmp_path / "own" / "some.tar", "w") as archive:
        archive.add(__file__, "some.py")
    for name, about in {
        "gone": "image: {file: gone.tar}",
        "corrupt": f"image: {{file: some.tar, sha256: '{'0' * 64}'}}",
        "other": "image: {file: some.tar, compression: xz}",
        "strange": "image: {file: some.tar}\nfilesystem: zfs",
    }.items():
        (tmp_path / "own" / f"{name}.yaml").write_text(f"name: {name}\n{about}\n")
    script = RUN % (
        "vms=2",
        """
    result = exp.measure(environment="mini", sizes=[1, 2], repeat=1)
    assert "<" in result._repr_html_()
    own = Path(runs) / "own"
    assert {"mini", "gone"} <= set(exp.environments(own)["name"])
    said = []
    for bad in (
        dict(environment="nothing"), dict(environment="gone", folder=own),
        dict(environment=own / "corrupt.yaml"), dict(environment="strange", folder=own),
        dict(environment="other", folder=own),
        dict(folder=own / "none"), dict(broadcast="torrent"),
        dict(sizes=[3]), dict(sizes=[0]), dict(sizes=3), dict(repeat=0),
    ):
        events = len(exp.journal)
        try:
            exp.measure(**bad)
        except G5kvirtError as error:
            assert error.exit_code == 2, error
            said.append(str(error))
        assert events == len(exp.journal), "what is refused is no try of the phase"
    rows = exp.run("cat /etc/g5kvirt-environment; hostname; grep ' / ' /proc/mounts | tail -n 1")
    import subprocess
    service, host = (h.name for h in exp.reservation.hosts if h.site == "nancy")
    ssh = []
    for name in ("vm-2", service, host, "nancy.grid5000.fr"):
        words = ["ssh", "-F", str(exp.ssh_config()), name, "hostname"]
        ssh.append(subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.strip())
    config = str(exp.ssh_config())
    (Path(runs) / "sent").write_text("over there")
    copies = [["scp", "-q", "-F", config, str(Path(runs) / "sent"), "vm-1:/root/by-scp"],
        ["sftp", "-q", "-b", "/dev/stdin", "-F", config, "vm-1"]]
    put = [f"put {Path(runs) / 'sent'} /root/by-sftp".encode(), b""]
    codes = [subprocess.run(words, input=put[words[0] == "scp"], timeout=60).returncode for words in copies]
    exp.put(Path(runs) / "sent", "/root/by-put")
    copies = [codes, exp.run("cat by-scp by-sftp by-put", ["vm-1"])["out"][0]]
    ssh = [ssh, ["vm-2", service.partition(".")[0], host.partition(".")[0], "nancy"]]
    exp.figures.save(exp.path / "figures")
    print(json.dumps({"out": dict(zip(rows["vm"], rows["out"])), "ssh": ssh, "said": said,
        "copies": copies}))
""".strip(),
    )

    def begun(e: Event) -> bool:
        return (e.step, e.kind, e.status) == ("broadcast", "host", "start") and e.detail["deployment"] == "d2"

    process = start(script, slow, tmp_path)
    try:
        seen(tmp_path, begun, process)
        wait(lambda: len(relays(slow)) == 2)
        kill(slow, "nginx: master")
        (_, relay), (agent, _) = relays(slow)
        os.kill(relay, signal.SIGKILL)
        os.kill(agent, signal.SIGKILL)
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    said = json.loads(out.splitlines()[-1])
    assert said["ssh"][0] == said["ssh"][1]
    assert said["copies"] == [[0, 0], "over there" * 3], "scp and sftp have a server in mini"
    assert set(said["out"]) == {"vm-1", "vm-2"}
    for name, text in said["out"].items():
        assert "name=mini" in text
        assert "deployment=d2" in text, "the deployment before left its trace"
        assert f"{name}\n/dev/vda1 / " in text
    tables = Measurements.of(journal(tmp_path))
    assert list(tables.deployments["deployed"]) == [1, 2]
    assert list(tables.deployments["fresh"]) == [0, 0], "deployments of one call begin alike"
    assert tables.summary().failed == 0
    words = [
        "no environment 'nothing'",
        "gone.tar: No such file",
        "is corrupt",
        "filesystem must be 'ext4'",
        "is not a tar archive in xz",
    ]
    words += ["no folder", "'torrent'", "only 2 are up", "sizes must be", "sizes must be", "repeat must be"]
    for sentence, word in zip(said["said"], words, strict=True):
        assert word in sentence
        assert "\n" not in sentence


@pytest.mark.slow  # minutes of emulated guests; the cells of tests/faults show it with light ones
def test_failed_vms_do_not_keep_others_from_being_deployed(slow: State, tmp_path: Path) -> None:
    """First an image that becomes corrupt on its way. Then a VM is killed in each macro-step, and one boots
    but never reports. Three others are as many as it takes to know how long a step may last."""
    limits = {"deployment_retries": 0, "set_deployment_env": 100, "broadcast_env": 45}
    script = RUN % (
        f"vms=7, windows={{'boot': 7, 'reboot': 7}}, timeouts={limits}",
        """
    from g5kvirt.errors import PhaseError
    from g5kvirt.provisioners.builtin import provisioner
    put = provisioner.put_image
    def corrupted(context, machines, image, tools):
        put(context, machines, image, tools)
        head = next(m.host.address for m in machines if "http" in m.roles)
        file = f"{provisioner.services.WWW}/{provisioner.IMAGES}/{image.sha256}"
        command = ["sh", "-c", f"printf G5K | dd conv=notrunc bs=1 seek=1000000 of={file}"]
        assert all(r.ok for r in context.fanout.run([head], command, timeout=60).values())
    provisioner.put_image = corrupted
    try:
        exp.measure(sizes=[1])
    except PhaseError as error:
        print(error)
    provisioner.put_image = put
    result = exp.measure(sizes=[7])
    print(result, result._repr_html_())
""".strip(),
    )
    process = start(script, slow, tmp_path)
    try:
        # vm-1 is not fresh any more, so all of them are rebooted first
        for vm, step, number in (
            ("vm-1", "reboot", signal.SIGSTOP),
            ("vm-2", "partition", signal.SIGKILL),
            ("vm-3", "format", signal.SIGKILL),
            ("vm-4", "sync", signal.SIGKILL),
        ):
            seen(tmp_path, at("d2", vm, step), process)
            kill(slow, qemu(vm), number)
        out, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    assert "none of 1 VMs was deployed" in out
    tables = Measurements.of(journal(tmp_path))
    vms = tables.vms[tables.vms["deployment"] == "d2"].set_index("vm")
    assert set(vms["outcome"]) == {"deployed", "failed"}
    assert (vms.loc[["vm-5", "vm-6", "vm-7"], "outcome"] == "deployed").all()
    first = tables.vms[tables.vms["deployment"] == "d1"].iloc[0]
    assert "SHA-256" in first["reason"]
    assert vms.loc["vm-1", "failed_at"] == "minimal-system"
    assert "took longer than 100 s" in vms.loc["vm-1", "reason"]
    assert vms.loc["vm-2", "failed_macro"] in ("SetDeploymentEnv", "BroadcastEnv")
    lost = tables.vms[tables.vms["outcome"] == "failed"]
    assert lost["reason"].all()
    fetched = {
        (event.detail["deployment"], event.subject)
        for event in journal(tmp_path)
        if (event.step, event.status) == ("console", "ok")
    }
    assert fetched == set(zip(lost["deployment"], lost["vm"], strict=True))


@pytest.mark.slow  # more than a minute, as the failures above
def test_a_job_that_ends_in_the_middle(slow: State, tmp_path: Path) -> None:
    """Deleted from outside, during the second deployment; the first one stays."""
    script = RUN % (
        "vms=2",
        """
    from g5kvirt.errors import PhaseError
    try:
        exp.measure(sizes=[1, 2])
    except PhaseError as error:
        print(error)
""".strip(),
    )

    def begun(e: Event) -> bool:
        return (e.step, e.kind, e.status) == ("broadcast", "host", "start") and e.detail["deployment"] == "d2"

    process = start(script, slow, tmp_path)
    try:
        seen(tmp_path, begun, process)
        [granted] = [event for event in journal(tmp_path) if event.step == "granted"]
        job = granted.detail["jobs"]["rennes"]
        on(slow, "rennes.grid5000.fr", f"oardel {job}")
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    why = f"job {job} at rennes ended at "
    assert out.startswith(f"during measure() {why}")
    assert out.count("\n") == 1
    tables = Measurements.of(journal(tmp_path))
    assert list(tables.deployments["deployed"]) == [1, 0]
    lost = tables.vms[tables.vms["deployment"] == "d2"]
    assert list(lost["outcome"]) == ["failed", "failed"]
    assert all(reason.startswith(why) and "deleted by g5k" in reason for reason in lost["reason"])
    assert tables.summary().unfinished == 0


@pytest.mark.slow  # a VM for one sentence; that a permanent failure ends the VM is tested without
def test_a_disk_that_is_too_small_is_named(slow: State, tmp_path: Path) -> None:
    process = start(RUN % ('vms=1, vm={"disk": 8}', 'exp.measure(environment="mini")'), slow, tmp_path)
    try:
        _, err = process.communicate(timeout=400)
    finally:
        process.kill()
    assert "PhaseError" in err
    (failure,) = Measurements.of(journal(tmp_path)).summary().failures
    assert failure[2] == "partition"
    assert "the disk is too small" in failure[3]
