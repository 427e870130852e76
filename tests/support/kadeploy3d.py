"""The stand-in for Kadeploy3's server with nodes that are real: run as ``kadeploy3d`` on a service machine.

It answers as `kadeployserver` does, and reads the configuration that was written for the real one; its
micro-steps are carried out on the VMs in the order of Kadeploy 3.3, with the programs that it runs there, by
the power commands of the configuration, by TakTuk (here the image only: emulated VMs are slow to start Perl)
and ssh. Sets of nodes are not split: who fails once has failed. Only for tests.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kadeployserver import Handler, Kadeploy, Workflow, in_states

from g5kvirt.provisioners.kadeploy3.steps import MACROS, VARIANTS, WITH_IDENTITY

ETC = Path("/etc/kadeploy3")
DEST = "/mnt/dest"
LEFT_OUT = {"set_vlan", "format_tmp_part", "format_swap_part", "decompress_environment"} | {
    "manage_admin_post_install",
    "manage_user_post_install",
}


class NodeError(Exception):
    """Why a node did not come through a step."""


def value(text: str, key: str) -> str:
    """The first value of a key in one of the files."""
    found = re.search(rf"^\s*(?:- )?{key}: (.*)$", text, re.M)
    assert found, f"no {key}"
    return found[1].strip("'\"")


class Real(Kadeploy):
    """The server of the configuration in `ETC`; its time is the machine's."""

    def __init__(self) -> None:
        self.conf = (ETC / "server.conf").read_text()
        self.cluster = (ETC / "vms-cluster.conf").read_text()
        nodes = re.findall(r"- name: (\S+)\n\s+address: (\S+)", (ETC / "clusters.conf").read_text())
        super().__init__([name for name, _ in nodes])
        self.address = dict(nodes)
        self.stopped: set[str] = set()

    @property
    def now(self) -> float:
        return time.time()

    @now.setter
    def now(self, _: float) -> None:
        pass

    # ---- the nodes ------------------------------------------------------------------------------------
    def each(self, nodes: Sequence[str], do: Callable[[str], None]) -> dict[str, str]:
        """Do something for each node at once; node → why it failed."""
        failed: dict[str, str] = {}

        def one(node: str) -> None:
            try:
                do(node)
            except (NodeError, OSError, subprocess.SubprocessError) as error:
                failed[node] = str(error)

        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(one, nodes))
        return failed

    def ssh(self, node: str, command: str, file: Path = Path("/dev/null")) -> None:
        with file.open("rb") as stdin:
            done = subprocess.run(
                [*value(self.conf, "connector").split(), self.address[node], command],
                capture_output=True,
                text=True,
                stdin=stdin,
                timeout=120,
            )
        if done.returncode:
            raise NodeError(f"{command[:40]}: {done.stderr.strip()[-200:]}")

    def chain(self, nodes: Sequence[str], command: str, file: Path) -> dict[str, str]:
        """Run a command on all nodes by TakTuk; a file, its standard input, goes from one to the next."""
        words = ["taktuk", "-s", "-c", value(self.conf, "connector"), "-d", "1"]
        words += [word for node in nodes for word in ("-m", self.address[node])]
        words += ["broadcast", "exec", "[", command, "];", "broadcast", "input", "file", "[", str(file), "]"]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
        well = set(re.findall(r"^(\S+?)-\d+: .*status > Exited with status 0$", done.stdout, re.M))
        said = (done.stdout + done.stderr)[-300:]
        return {node: said for node in nodes if self.address[node] not in well}

    def variables(self, about: dict[str, Any]) -> str:
        """Assignments for a shell."""
        disk, number = value(self.cluster, "block_device"), value(self.cluster, "deploy")
        context = {
            "BLOCK_DEVICE": disk,
            "DEPLOY_PART": f"{disk}{number}",
            "DEPLOY_PART_NUM": number,
            "ENV_EXTRACTION_DIR": DEST,
            "ENV_KERNEL": about["boot"]["kernel"],
            "ENV_INITRD": about["boot"].get("initrd", ""),
            "ENV_KERNEL_PARAMS": about["boot"]["kernel_params"],
            "OS_KIND": about["os"],
        }
        return " ".join(f'KADEPLOY_{key}="{word}"' for key, word in context.items())

    def script(self, about: dict[str, Any]) -> str:
        """The command that runs the script on its standard input."""
        words = self.variables(about)
        return f'file=$(mktemp) && cat > "$file" && chmod +x "$file" && env {words} "$file"'

    def power(self, node: str, level: str) -> None:
        levels = ("soft", "hard", "very_hard")
        said = ""
        for which in levels[levels.index(level) :]:
            command = re.search(
                rf"- name: {which}\n\s+cmd: (.* reboot .*)", self.cluster[self.cluster.index("reboot:") :]
            )
            assert command
            words = command[1].replace("HOSTNAME_FQDN", node).split()
            done = subprocess.run(words, capture_output=True, text=True, timeout=90)
            if not done.returncode:
                return
            said = done.stderr.strip()
        raise NodeError(said)

    def wait(self, node: str, *, deployed: bool, said: Callable[[str], None]) -> None:
        began = time.monotonic()
        limit = float(re.search(r"timeouts:\n\s+reboot: (\d+)", self.cluster)[1])  # type: ignore[index]
        while time.monotonic() - began < limit:
            up = []
            for port in (22, 25300):
                try:
                    socket.create_connection((self.address[node], port), 1).close()
                    up.append(True)
                except OSError:
                    up.append(False)
            if up == [True, not deployed]:
                said(f"   * {node} is here after {int(time.monotonic() - began)}s")
                return
            time.sleep(0.5)
        raise NodeError("Unreachable after the reboot")

    # ---- the course of a deployment -------------------------------------------------------------------
    def _deploy(self, asked: Any, user: str) -> Any:
        self.requested = dict(asked)
        return super()._deploy(asked, user)

    def run(self, workflow: Workflow) -> None:
        """Begin it; who asks meanwhile sees how far it has come."""
        workflow.end = float("inf")
        workflow.begin()
        request = self.requested
        threading.Thread(target=self.course, args=(workflow, request), daemon=True).start()

    def course(self, w: Workflow, request: dict[str, Any]) -> None:
        good = list(w.nodes)
        for m, macro in enumerate(MACROS):
            part = self.cluster[self.cluster.index(f"{macro}:") :]
            variant = value(part, "type")
            name, began = f"{macro}{variant}", self.now
            self.say(w, 1, f"Performing a Deploy[{name}] step")
            for node in good:
                w.rows[node]["steps"][m] = name
            for micro in VARIANTS[macro][variant]:
                if micro in LEFT_OUT or (macro == "BroadcastEnv" and micro == "mount_deploy_part"):
                    continue
                if w.wid in self.stopped or not good:
                    break
                if "-" in micro and micro not in w.operations:
                    continue
                with self.lock:
                    w.marks.append(
                        (self.now, list(good), {"macro": name, "micro": in_states(micro), "state": "ok"})
                    )
                self.say(w, 3, f"  {micro}")
                failed = self.micro(w, macro, micro, good, request)
                with self.lock:
                    for node, why in failed.items():
                        w.rows[node]["error"] = f"{name}-{in_states(micro)}: {why}"
                        w.marks.append((self.now, [node], {"state": "ko", "error": w.rows[node]["error"]}))
                        w.ko.append(node)
                good = [node for node in good if node not in failed]
            for node in w.nodes:
                w.rows[node]["durations"][m] = int(self.now - began)
        with self.lock:
            w.marks.append((self.now, good, {"macro": None, "micro": None, "state": "ok", "error": None}))
            w.ok += good
            w.end = self.now
        self.say(w, 1, f"End of deployment for {''.join(good)} after {int(self.now - w.start)}s")

    def say(self, w: Workflow, level: int, text: str) -> None:
        with self.lock:
            w.lines.append((self.now, level, text))

    def micro(
        self, w: Workflow, macro: str, micro: str, nodes: list[str], request: dict[str, Any]
    ) -> dict[str, str]:
        """One micro-step on all ``nodes``; node → why it failed."""
        about = next(e for e in self.environments if e["name"] == w.environment["name"])
        disk = value(self.cluster, "block_device")
        part, key = f"{disk}1", Path(request["ssh_authorized_keys"].removeprefix("server://"))
        boot = about["boot"]

        def ssh(command: str, file: Path = Path("/dev/null")) -> dict[str, str]:
            return self.each(nodes, lambda node: self.ssh(node, command, file))

        def wait(node: str) -> None:
            self.wait(node, deployed=macro == "BootNewEnv", said=lambda text: self.say(w, 5, text))

        def detached(command: str) -> str:
            return f"nohup sh -c 'sleep 1 && {command}' </dev/null >/dev/null 2>&1 &"

        match micro:
            case "switch_pxe":
                return self.switch(nodes, request if macro == "BootNewEnv" else None)
            case "reboot":
                level = "soft" if macro == "SetDeploymentEnv" else "hard"
                return self.each(nodes, lambda node: self.power(node, level))
            case "wait_reboot":
                return self.each(nodes, wait)
            case "send_key_in_deploy_env":
                return ssh("cat - >>/root/.ssh/authorized_keys", key)
            case "create_partition_table":
                return ssh(self.script(about), ETC / "partition")
            case "format_deploy_part":
                options = re.search(r"- fstype: ext4\n\s+args: (.*)", self.conf)
                assert options
                kind = about["filesystem"]
                return ssh(f"mkdir -p {DEST} && mkfs -t {kind} {options[1]} {part}")
            case "mount_deploy_part":
                return ssh(f"mount {part} {DEST}")
            case "umount_deploy_part":
                return ssh(f"umount -l {part}")
            case "send_environment":
                path = Path(about["image"]["file"].removeprefix("server://"))
                return self.chain(nodes, f"tar  -C {DEST} -xz", path)
            case "check_kernel_files":
                return ssh(f"test -e {DEST}{boot['kernel']} && test -e {DEST}{boot['initrd']}")
            case "send_key":
                command = f"mkdir -p {DEST}/root/.ssh; cat - >> {DEST}/root/.ssh/authorized_keys"
                return ssh(command, key)
            case _ if micro == WITH_IDENTITY:
                (own,) = request["custom_operations"]["BroadcastEnv"]["send_key"]["post-ops"]
                return ssh(f"{self.variables(about)} && {own['command']}")
            case "install_bootloader":
                return ssh(self.script(about), ETC / "bootloader")
            case "sync":
                return ssh("sync")
            case "kexec":
                failed = ssh(
                    f"/sbin/kexec -l {DEST}/{boot['kernel']} --initrd={DEST}/{boot['initrd']} "
                    f'--append="root={part} {boot["kernel_params"]}"'
                )
                return failed or ssh(detached("/sbin/reboot"))
            case "reboot_from_deploy_env":
                return ssh(detached("/sbin/reboot -f"))
        raise AssertionError(micro)

    def switch(self, nodes: Sequence[str], request: dict[str, Any] | None) -> dict[str, str]:
        """Profiles: the one of the request, or into the deployment environment."""
        base = f"http://{value(self.conf, 'server')}"
        deploy = self.cluster[self.cluster.index("    deploy:\n") :]
        text = (
            request["pxe"]["profile"]
            if request
            else f"#!ipxe\ninitrd {base}/{value(deploy, 'initrd')}\n"
            f"chain {base}/{value(deploy, 'vmlinuz')} {value(deploy, 'params')}"
        )
        folder = re.search(r"profiles:\n\s+directory: (\S+)", self.conf)
        assert folder

        def write(node: str) -> None:
            path = Path(folder[1]) / self.address[node]
            path.unlink(missing_ok=True)
            path.write_text(text)

        return self.each(nodes, write)

    def answer(self, method: str, path: list[str], user: str, asked: Any) -> Any:
        """As the other one; a deployment that is deleted goes no further."""
        if method == "DELETE" and path[:1] == ["deployment"]:
            self.stopped.add(path[1])
        return super().answer(method, path, user, asked)


def main() -> None:
    # the real one writes its log where this says; without it, where it may not write
    (Path(os.environ["KADEPLOY3_LOG_DIR"]) / "server.log").write_text("here\n")
    real = Real()
    handler = type("OurHandler", (Handler,), {"kadeploy": real})
    server = ThreadingHTTPServer(("127.0.0.1", int(value(real.conf, "kadeploy_server"))), handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
