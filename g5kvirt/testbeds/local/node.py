"""A node: a container that looks like the described machine and runs only sshd."""

from __future__ import annotations

from pathlib import Path

from g5kvirt.testbeds.described.model import NodeDescription
from g5kvirt.testbeds.local import sshd
from g5kvirt.testbeds.local.capabilities import BASIC, NAMESPACES, NETWORK
from g5kvirt.testbeds.local.container_spec import ContainerSpec

__all__ = ["container_spec", "cpuinfo", "meminfo"]


def container_spec(
    node: NodeDescription,
    *,
    mount_point: Path,
    layer: Path,
    hosts: Path,
    log: Path,
    environment: str | None = None,
    authorized_keys: str = "",
) -> ContainerSpec:
    """The container of a node; ``environment`` None is the standard one, which has no authorized keys.

    ``layer``: the mounted node layer.
    """
    keys = {"/root/.ssh/authorized_keys": (0o600, authorized_keys)} if authorized_keys else {}
    return ContainerSpec(
        name=node.uid,
        mount_point=str(mount_point),
        layer=str(layer),
        log=str(log),
        files={
            "/etc/hostname": (0o644, f"{node.uid}\n"),
            "/etc/resolv.conf": (
                0o644,
                "# All host names of the testbed are in /etc/hosts.\n",
            ),
            "/etc/ssh/sshd_config": (0o644, sshd.config("root")),
            "/etc/g5k-environment": (0o644, f"{environment or 'standard'}\n"),
            **keys,
        },
        binds=((str(hosts), "/etc/hosts"),),
        proc={
            "meminfo": meminfo(Path("/proc/meminfo").read_text(), node.memory),
            "cpuinfo": cpuinfo(Path("/proc/cpuinfo").read_text(), node.cores),
        },
        commands=(sshd.HOST_KEY,),
        capabilities=BASIC | NETWORK | NAMESPACES,
        services=(("sshd", ("/usr/sbin/sshd", "-D", "-e"), "root"),),
        ports=(22,),
    )


def meminfo(real: str, memory: int) -> str:
    """/proc/meminfo of a machine with ``memory`` bytes, hardly any in use, in the format of ``real``."""
    total = memory >> 10
    values = {"MemTotal": total, "MemFree": total * 95 // 100, "MemAvailable": total * 95 // 100}
    lines = []
    for line in real.splitlines():
        name = line.partition(":")[0]
        if name.startswith("Huge") or name == "Hugepagesize":
            lines.append(line)
        else:
            lines.append(f"{name + ':':<16}{values.get(name, 0):>8} kB")
    return "\n".join(lines) + "\n"


def cpuinfo(real: str, cores: int) -> str:
    """/proc/cpuinfo of a machine with ``cores`` cores, each like the first one of ``real``."""
    first = real.partition("\n\n")[0]
    numbers = {"siblings": cores, "cpu cores": cores}
    blocks = []
    for core in range(cores):
        values = {**numbers, "processor": core, "core id": core, "apicid": core, "initial apicid": core}
        lines = []
        for line in first.splitlines():
            name, colon, _ = line.partition(":")
            lines.append(f"{name}{colon} {values[name.strip()]}" if name.strip() in values else line)
        blocks.append("\n".join(lines) + "\n\n")
    return "".join(blocks)
