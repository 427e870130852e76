"""What makes a machine a Kadeploy3 server, the way to it, and the power script that it calls."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import agent_copy
import pytest
from kadeploymaker import SERVER, addresses, cluster, same_as_golden

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.hostagent import protocol
from g5kvirt.provisioners.kadeploy3.configuration import KEY, shell_file
from g5kvirt.provisioners.kadeploy3.records import STATISTICS
from g5kvirt.provisioners.kadeploy3.server import Packages, SetupStep, schema, service, setup_steps
from g5kvirt.provisioners.kadeploy3.ssh_tunnel import SSHTunnel
from g5kvirt.remote.access import Access


def steps(packages: Packages | None = None) -> list[SetupStep]:
    of = cluster()
    return setup_steps(SERVER, of, addresses(of), packages)


# ---- the plan ---------------------------------------------------------------------------------------------
def test_setup_steps_equal_the_golden_ones() -> None:
    lines = []
    source = "deb [trusted=yes] http://packages.example/kadeploy ./"
    for step in steps(Packages(source=source, proxy="http://proxy:3128")):
        lines.append(f"== {step.name}")
        lines += [f"{content.mode:04o} {content.path}" for content in step.files]
        lines += [json.dumps(c.argv) + (" < stdin" if c.stdin else "") for c in step.commands]
    lines += ["== service", json.dumps(service(SERVER)["command"])]
    same_as_golden("plan.txt", "\n".join(lines) + "\n")
    same_as_golden("schema.sql", schema(SERVER))


def test_password_is_in_private_files_only_and_on_no_command_line() -> None:
    arguments = [argument for step in steps() for command in step.commands for argument in command.argv]
    files = [content for step in steps() for content in step.files]
    assert arguments
    assert not [argument for argument in arguments if SERVER.password in argument]
    secret = [content for content in files if SERVER.password in content.text]
    assert secret
    assert not [content.path for content in secret if content.mode & 0o007]


def test_tables_have_every_column_of_the_statistics() -> None:
    log = schema(SERVER).split("CREATE TABLE IF NOT EXISTS log (")[1].split(");")[0]
    columns = [line.split()[0] for line in log.strip().splitlines()]
    assert STATISTICS
    assert set(STATISTICS) <= set(columns)


@pytest.mark.parametrize(
    "packages",
    [Packages(names=("taktuk; reboot",)), Packages(proxy="proxy -o x=y"), Packages(source="deb a\ndeb b")],
)
def test_packages_that_are_not_plain_names_are_refused(packages: Packages) -> None:
    with pytest.raises(SpecError):
        steps(packages)


@pytest.mark.parametrize("own", ["", "#!/bin/sh\nexit 104\n", "# of g5kvirt, while packages are installed"])
@pytest.mark.parametrize("code", [0, 100])
def test_services_do_not_start_while_packages_are_installed(tmp_path: Path, own: str, code: int) -> None:
    policy, log = tmp_path / "policy-rc.d", tmp_path / "log"
    if own:
        policy.write_text(own, encoding="utf-8")
    (step,) = [step for step in steps() if step.name == "packages"]
    path, script = next((c.path, c.text) for c in step.files if "without-services" in c.path)
    assert step.commands[-1].argv[:2] == (path, "env")
    script = script.replace("/usr/sbin/policy-rc.d", str(policy))
    command = f'sh {policy}; echo "$? $1" > {log}; exit {code}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", "sh", "-c", command, "sh", "a b"], timeout=20, check=False
    )
    assert done.returncode == code
    foreign = "exit 104" in own
    assert log.read_text(encoding="utf-8") == ("104 a b\n" if foreign else "101 a b\n")
    assert policy.exists() == foreign, "what the machine had is kept, what was ours is removed"


@pytest.mark.parametrize("name", ["partition", "bootloader"])
def test_scripts_of_the_nodes_are_shell(name: str, tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_text(shell_file(name), encoding="utf-8")
    subprocess.run(["sh", "-n", script], check=True, timeout=20)
    # nothing is done to what is not there
    shell = shutil.which("sh") or "/bin/sh"
    done = subprocess.run(
        [shell, script], env={"PATH": "/nowhere"}, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert done.stderr.strip()


def test_the_boot_loader_starts_what_was_deployed(tmp_path: Path) -> None:
    target, tools = tmp_path / "dest", tmp_path / "bin"
    target.mkdir()
    tools.mkdir()
    (tools / "extlinux").write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    (tools / "extlinux").chmod(0o755)
    variables = {
        "KADEPLOY_ENV_EXTRACTION_DIR": str(target),
        "KADEPLOY_OS_KIND": "linux",
        "KADEPLOY_ENV_KERNEL": "/vmlinuz",
        "KADEPLOY_ENV_INITRD": "/initrd.img",
        "KADEPLOY_ENV_KERNEL_PARAMS": "console=ttyS0",
        "KADEPLOY_DEPLOY_PART": "/dev/vda1",
        "PATH": f"{tools}:/usr/bin:/bin",
    }
    done = subprocess.run(
        ["sh", "-c", shell_file("bootloader")], env=variables, capture_output=True, timeout=20
    )
    assert done.returncode == 3, "what extlinux says counts"
    said = (target / "boot/extlinux/extlinux.conf").read_text(encoding="utf-8")
    assert "LINUX /vmlinuz\nINITRD /initrd.img\nAPPEND root=/dev/vda1 rw console=ttyS0\n" in said


# ---- power ------------------------------------------------------------------------------------------------
#: Instead of ssh: notes what it was called with, and answers as the host agent would, or as it was told.
FAKE = """
import json, sys
words, document = sys.argv[2:], sys.stdin.read()
with open(sys.argv[1], "a") as file:
    file.write(json.dumps([words, document]) + "\\n")
if document:
    for request in json.loads(document)["requests"]:
        for name in request["names"]:
            bad = name == "vm-2"
            detail = {"reason": "no such VM"} if bad else {"state": "running", "text": "login:"}
            answer = {"op": request["op"], "subject": name, "status": "failed" if bad else "ok", "t": 1.0}
            print(json.dumps({**answer, "detail": detail}))
elif "10.158.1.3" in words:
    sys.stderr.write("ssh: connect to host: no route\\n")
    sys.exit(255)
"""


@dataclass
class Power:
    """The real script with another table."""

    directory: Path
    table: Path = field(init=False)

    def __post_init__(self) -> None:
        self.script = self.directory / "power"
        self.script.write_text(shell_file("power"), encoding="utf-8")
        self.fake = self.directory / "fake.py"
        self.fake.write_text(FAKE, encoding="utf-8")
        self.table = self.directory / "power.json"
        self.seen = self.directory / "seen"
        of = cluster()
        step = next(w for w in setup_steps(SERVER, of, addresses(of)) if w.name == "configuration")
        table = json.loads(next(c.text for c in step.files if c.path.endswith("power.json")))
        self.ssh = [sys.executable, str(self.fake), str(self.seen)]
        self.table.write_text(json.dumps({**table, "ssh": self.ssh}), encoding="utf-8")

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-IS", self.script, "--table", self.table, *words],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def last(self) -> tuple[list[str], str]:
        """What ssh was last called with."""
        words, document = json.loads(self.seen.read_text(encoding="utf-8").splitlines()[-1])
        return words, document


@pytest.fixture
def power(tmp_path: Path) -> Power:
    return Power(tmp_path)


@pytest.mark.parametrize(
    ("action", "level", "asked"),
    [
        ("reboot", "hard", protocol.power("reset", ["vm-1"])),
        ("reboot", "very_hard", protocol.power("cycle", ["vm-1"])),
        ("power_off", "hard", protocol.power("off", ["vm-1"])),
        ("power_on", "soft", protocol.power("on", ["vm-1"])),
        ("power_status", "soft", protocol.status(["vm-1"])),
        ("console", "soft", protocol.console(["vm-1"])),
    ],
)
def test_power_commands_become_host_agent_requests(
    power: Power, action: str, level: str, asked: dict[str, object]
) -> None:
    done = power(action, level, "node-1.kadeploy")
    assert (done.returncode, done.stderr) == (0, "")
    words, document = power.last()
    assert words == ["--", "node-1-kavlan-14.nancy.grid5000.fr", *protocol.COMMAND]
    assert json.loads(document) == {"requests": [asked]}
    assert done.stdout == {"power_status": "running\n", "console": "login:\n"}.get(action, "")


def test_a_soft_reboot_goes_through_the_guest(power: Power) -> None:
    assert power("reboot", "soft", "node-1.kadeploy").returncode == 0
    words, document = power.last()
    assert words[:2] == ["--", "10.158.1.1"]
    assert "reboot -f" in words[2], "busybox has it in /bin, systemd wants no time for it"
    assert document == ""


def test_failed_power_commands_exit_with_an_error(power: Power) -> None:
    refused = power("reboot", "hard", "node-3.kadeploy")  # vm-2: the third in the chain
    assert (refused.returncode, refused.stderr) == (1, "vm-2: no such VM\n")
    silent = power("reboot", "soft", "node-4.kadeploy")
    assert silent.returncode == 1
    assert "no route" in silent.stderr
    assert power("reboot", "hard", "node-9.kadeploy; reboot").stderr.endswith(
        "is not a node of this server\n"
    )
    assert power("explode", "hard", "node-1.kadeploy").returncode == 1
    power.table.write_text("{", encoding="utf-8")
    assert power("reboot", "hard", "node-1.kadeploy").returncode == 1


def test_the_real_host_agent_understands_the_power_requests(power: Power, tmp_path: Path) -> None:
    # this machine plays the host: the words after the host's name are run here
    table = json.loads(power.table.read_text(encoding="utf-8"))
    local = tmp_path / "local"
    local.write_text('#!/bin/sh\nshift 2\nexec "$@"\n', encoding="utf-8")
    local.chmod(0o755)
    wrapper = tmp_path / "agent.py"
    wrapper.write_text(
        "import json, runpy, sys\n"
        f"document = dict(json.load(sys.stdin), home={str(tmp_path / 'home')!r})\n"
        f"sys.argv = ['agent', json.dumps(document)]\n"
        f"runpy.run_path({str(agent_copy.directory())!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    table |= {"ssh": [str(local)], "agent": [sys.executable, str(wrapper)]}
    power.table.write_text(json.dumps(table), encoding="utf-8")
    done = power("reboot", "hard", "node-1.kadeploy")
    assert (done.returncode, done.stderr) == (1, "vm-1: there is no VM vm-1 on this host\n")
    assert power("power_status", "soft", "node-1.kadeploy").stdout == "unknown\n"


# ---- the way there ----------------------------------------------------------------------------------------
#: Instead of ssh: carries connections of the local port, one byte stream each way, as ``-L`` asks.
CARRY = """#!{python}
import socket, sys, threading
words = sys.argv[1:]
assert words[-2] == "--" and "-N" in words
_, local, _, port = words[words.index("-L") + 1].split(":")
listener = socket.create_server(("127.0.0.1", int(local)))
def copy(a, b):
    while data := a.recv(65536):
        b.sendall(data)
    b.shutdown(socket.SHUT_WR)
while True:
    a, _ = listener.accept()
    try:
        b = socket.create_connection(("127.0.0.1", int(port)), 5)
    except OSError:
        a.close()
        continue
    threading.Thread(target=copy, args=(a, b), daemon=True).start()
    threading.Thread(target=copy, args=(b, a), daemon=True).start()
"""


@contextmanager
def saying(text: bytes) -> Iterator[int]:
    """A port that says ``text`` to everyone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(text)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "ssh"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_a_tunnel_leads_to_the_port_and_ends_with_its_block(ssh: Path) -> None:
    ssh.write_text(CARRY.format(python=sys.executable), encoding="utf-8")
    ssh.chmod(0o755)
    with saying(b"kadeploy") as port:
        with SSHTunnel(Access(), "paradent-9", port) as url:
            local = int(url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", local), 5) as connection:
                assert connection.recv(100) == b"kadeploy"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", local), 5)


def test_broken_tunnel_is_reopened_at_the_same_address(ssh: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    text = CARRY.format(python=sys.executable)
    note = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
    ssh.write_text(text.replace("import socket", note + "import socket", 1), encoding="utf-8")
    ssh.chmod(0o755)
    with saying(b"kadeploy") as port:
        tunnel = SSHTunnel(Access(), "paradent-9", port)
        with tunnel as url:
            local = int(url.rpartition(":")[2])
            first = pid.read_text()
            tunnel.reconnect()
            assert pid.read_text() == first, "what stands is left alone"
            os.kill(int(first), signal.SIGKILL)
            deadline = time.monotonic() + 30
            while pid.read_text() == first and time.monotonic() < deadline:
                tunnel.reconnect()
                time.sleep(0.02)
            with socket.create_connection(("127.0.0.1", local), 5) as connection:
                assert connection.recv(100) == b"kadeploy"
            ssh.unlink()
            os.kill(int(pid.read_text()), signal.SIGKILL)
            ssh.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
            ssh.chmod(0o755)
            for _ in range(3):
                tunnel.reconnect()  # in vain, and nothing is raised
                time.sleep(0.02)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", local), 5)


def test_tunnel_that_cannot_be_opened_raises_the_reason(ssh: Path) -> None:
    ssh.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n", encoding="utf-8")
    ssh.chmod(0o755)
    with pytest.raises(TestbedError, match="Permission denied"), SSHTunnel(Access(), "paradent-9", 25300):
        pass
    ssh.write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    tunnel = SSHTunnel(Access(), "paradent-9", 25300, limit=0.2)
    with pytest.raises(TestbedError, match="check that the machine is up"), tunnel:
        pass
    with pytest.raises(SpecError), SSHTunnel(Access(), "-oProxyCommand=reboot", 25300):
        pass


def test_the_key_is_made_once(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is missing: install openssh-client")
    step = next(w for w in steps() if "key" in w.name)
    words = [w for command in step.commands if command.argv[0] == "sh" for w in command.argv]
    key = tmp_path / "id"
    argv = [str(key) if word == KEY else word for word in words]
    for _ in range(2):
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=60)
        made = key.read_bytes()
    assert key.read_bytes() == made
    assert key.with_suffix(".pub").exists()
