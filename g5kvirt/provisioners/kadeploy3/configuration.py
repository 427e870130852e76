"""The files of a Kadeploy3 server for the VMs of a run: pure rendering, nothing is touched here.

`render` gives path → text for everything below `ETC` and the scripts that it names. The values are those of
the runs that once deployed 4,552 VMs (reboot window 80 VMs and 15 s, check window 100, macro-steps 900 s,
reboots 350 s, TakTuk arity 3), longer where so many VMs pass the window (`tuned`). Each file is checked
against the key tables (`g5kvirt.provisioners.kadeploy3.keys`) before it is returned.

The VMs are Kadeploy3's nodes under names of their own (`nodes_of`): it broadcasts in the order of the
number in the name, and so the chain stays inside a host, then inside a site. It reaches them by address,
not by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from ipaddress import IPv4Address
from typing import Any, Literal

import yaml

from g5kvirt.errors import SpecError
from g5kvirt.hostagent import protocol
from g5kvirt.inventory import VM
from g5kvirt.provisioners.kadeploy3 import keys
from g5kvirt.provisioners.kadeploy3.splitting import in_order, own_seconds

__all__ = [
    "ETC",
    "POWER",
    "Kernel",
    "NetbootFiles",
    "Node",
    "NodeCluster",
    "Server",
    "Timing",
    "max_duration",
    "nodes_of",
    "power_table",
    "profile_name",
    "render",
    "shell_file",
    "tuned",
    "vm_script",
]

ETC = "/etc/kadeploy3"
KEY = f"{ETC}/keys/id_deploy"
POWER = "/usr/local/sbin/g5kvirt-power"
LOGS = "/var/log/kadeploy3"
CACHE = "/var/cache/g5kvirt-kadeploy3"

_LEVELS = ("soft", "hard", "very_hard")
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._-]+)+")
_FILE = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_ARGUMENTS = re.compile(r"[A-Za-z0-9 .,:;_=/@%+-]*")  #: nothing that a shell or iPXE would take for more
_SECRET = re.compile(r"[0-9a-f]{16,128}")

#: Options with which Kadeploy3 and its TakTuk reach hosts and VMs; every deployment makes new host keys.
SSH = (
    "ssh -A -q -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    " -o PreferredAuthentications=publickey -o ConnectTimeout=10"
)

#: Seconds that the commands of one chunk of the reboot window take, beside the sleep after it.
CHUNK_COMMANDS = 5


@dataclass(frozen=True)
class Node:
    """A VM as Kadeploy3 knows it."""

    name: str
    vm: VM

    @property
    def address(self) -> IPv4Address:
        """Where it is reached."""
        return self.vm.ip


@dataclass(frozen=True)
class Kernel:
    """The deployment environment, as files in the netboot repository. It must offer DHCP, sshd with the
    deploy key, a listener on the test port, and the tools that the scripts call."""

    vmlinuz: str = "deploy-vmlinuz"
    initrd: str = "deploy-initrd"
    arguments: str = "console=ttyS0 rw"


@dataclass(frozen=True)
class NetbootFiles:
    """How nodes fetch their profiles. ``repository`` is a directory of the server's machine; ``export`` is
    the address, and for HTTP the path, under which that directory is reached."""

    repository: str
    export: str
    method: Literal["IPXE", "PXElinux"] = "IPXE"

    @property
    def profiles(self) -> str:
        """The absolute path below which Kadeploy3 writes one profile per node."""
        return f"{self.repository}/{'profiles' if self.method == 'IPXE' else 'pxelinux.cfg'}"


@dataclass(frozen=True)
class Timing:
    """Windows (nodes, seconds), time-outs (seconds) and retries."""

    reboot_window: int = 80
    reboot_sleep: int = 15
    check_window: int = 100
    macro: int = 900
    reboot: int = 350
    kexec: int = 350
    arity: int = 3
    retries: int = 1


@dataclass(frozen=True)
class NodeCluster:
    """The VMs as one of Kadeploy3's clusters, and how they are deployed."""

    nodes: tuple[Node, ...]
    name: str = "vms"
    kernel: Kernel = Kernel()
    timing: Timing = Timing()
    broadcast: tuple[str, ...] = ("Kascade", "Chain")  #: variants in the order in which they are tried
    boot: tuple[str, ...] = ("Kexec", "HardReboot")
    block_device: str = "/dev/vda"
    partition: int = 1
    console: str = "console=ttyS0"


@dataclass(frozen=True)
class Server:
    """The machine that Kadeploy3 runs on. It listens on the loopback interface only (`local_only`): whoever
    reaches that can deploy as anyone."""

    hostname: str
    netboot: NetbootFiles
    password: str  #: of its database: hexadecimal digits
    port: int = 25300
    cache: int = 4096  #: MiB for images
    user: str = "root"


def nodes_of(vms: Sequence[VM]) -> tuple[Node, ...]:
    """The VMs under the names ``node-1.kadeploy``, … in the order in which an image is to reach them.

    Source: Kadeploy3 sorts the nodes of a broadcast by all the digits of their names, as one number.
    """
    return tuple(Node(f"node-{rank}.kadeploy", vm) for rank, vm in enumerate(in_order(vms), start=1))


def tuned(nodes: int, largest: int | None = None, base: Timing | None = None) -> Timing:
    """``base`` (default: `Timing`) with macro-steps long enough for ``nodes`` nodes behind one reboot window.

    The window is the server's, so the last node waits for all the others; then the reboot may take its whole
    time-out, and the server does its own bookkeeping for the ``largest`` deployment (default: all nodes).
    Whole numbers only: an expression of ``n`` in their place ends the server.
    """
    timing = base or Timing()
    chunks = math.ceil(nodes / timing.reboot_window)
    passing = chunks * (timing.reboot_sleep + CHUNK_COMMANDS)
    needed = passing + max(timing.reboot, timing.kexec) + own_seconds(largest or nodes)
    # the log's column holds 16 bits
    return replace(timing, macro=min(65535, max(timing.macro, math.ceil(needed))))


def max_duration(cluster: NodeCluster) -> int:
    """Seconds after which a deployment is over at the latest: each try of each variant up to its time-out."""
    timing = cluster.timing
    tries = 1 + timing.retries
    ways = tries * (1 + len(cluster.broadcast)) + sum(1 if way == "Kexec" else tries for way in cluster.boot)
    return timing.macro * ways


def profile_name(node: Node, netboot: NetbootFiles) -> str:
    """The name of the node's profile: its address, for PXElinux in hexadecimal."""
    return str(node.address) if netboot.method == "IPXE" else f"{int(node.address):08X}"


def vm_script(netboot: NetbootFiles) -> str:
    """A VM's own iPXE script (`g5kvirt.netboot.services.vm_script_path`): continue with the profile
    that Kadeploy3 has written; where it has written none, boot again rather than stand still."""
    return f"#!ipxe\nchain --autofree http://{netboot.export}/profiles/${{net0/ip}} || reboot\n"


def power_table(cluster: NodeCluster, addresses: Mapping[str, str]) -> str:
    """What `POWER` reads: node → its address, its host's, and the VM's name there.

    ``addresses``: host name → where it is reached. Raises SpecError for a host that is missing there.
    """
    rows = []
    for node in cluster.nodes:
        if node.vm.host not in addresses:
            raise SpecError(
                f"the address of {node.vm.host} is not known, so {node.vm.name} cannot be rebooted"
            )
        row = [str(node.address), addresses[node.vm.host], node.vm.name]
        rows.append(f"  {json.dumps(node.name)}: {json.dumps(row)}")
    ssh = [word for word in SSH.split() if word != "-A"] + ["-i", KEY, "-l", "root"]
    words = f' "ssh": {json.dumps(ssh)},\n "agent": {json.dumps(list(protocol.COMMAND))},\n'
    listed = ",\n".join(rows)
    return f'{{\n{words} "nodes": {{\n{listed}\n }}\n}}\n'


def render(server: Server, cluster: NodeCluster, addresses: Mapping[str, str]) -> dict[str, str]:
    """All files of the server: path → text.

    ``addresses``: host name → where the server reaches that host (`power_table`). Keys are not among them:
    they are made on the machine (`g5kvirt.provisioners.kadeploy3.server`). Raises SpecError for a value that
    Kadeploy3 would reject, or that could mean more than itself in a shell.
    """
    _check(server, cluster)
    return {
        f"{ETC}/server.conf": _yaml(_server_conf(server, cluster), keys.SERVER, "server.conf"),
        f"{ETC}/clusters.conf": _yaml(_clusters_conf(cluster), keys.CLUSTERS, "clusters.conf"),
        f"{ETC}/{cluster.name}-cluster.conf": _yaml(_cluster_conf(cluster), keys.CLUSTER, "the cluster's"),
        f"{ETC}/command.conf": "# no node has commands of its own\n",
        f"{ETC}/client.conf": _yaml(_client_conf(server), keys.CLIENT, "client.conf"),
        f"{ETC}/partition": shell_file("partition"),
        f"{ETC}/bootloader": shell_file("bootloader"),
        f"{ETC}/power.json": power_table(cluster, addresses),
        POWER: shell_file("power"),
    }


@cache
def shell_file(name: str) -> str:
    """A script of this package: ``partition``, ``bootloader``, ``power``, ``without-services``."""
    return (resources.files("g5kvirt.provisioners.kadeploy3") / "files" / name).read_text(encoding="utf-8")


def _yaml(data: Mapping[str, Any], shape: keys.Shape, what: str) -> str:
    found = keys.problems(data, shape)
    if found:
        raise SpecError(f"Kadeploy3 would reject {what} file: {found[0]}")
    text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=False, width=4096)
    return f"# Written by g5kvirt.\n{text}"


def _server_conf(server: Server, cluster: NodeCluster) -> dict[str, Any]:
    netboot, timing = server.netboot, cluster.timing
    http = netboot.method == "IPXE"
    dhcp: dict[str, Any] = {
        "method": netboot.method,
        "repository": netboot.repository,
        "export": {"kind": "http" if http else "tftp", "server": netboot.export},
        "profiles": {"directory": netboot.profiles, "filename": "ip" if http else "ip_hex"},
        "userfiles": {"directory": "userfiles", "max_size": 50},
    }
    return {
        "database": {
            "kind": "mysql",
            "host": "localhost",
            "name": "kadeploy3",
            "login": "kadeploy3",
            "passwd": server.password,
        },
        "rights": {"kind": "db", "almighty_users": server.user, "purge_deployment_timer": 900},
        "authentication": {"acl": {"whitelist": ["localhost", "127.0.0.1"]}},
        "security": {"secure_server": False, "local_only": True},
        "ssh_private_key": KEY,
        "logs": {
            "logfile": f"{LOGS}/kadeploy.log",
            "debugfile": f"{LOGS}/kadeploy.debug",
            "database": True,
        },
        "verbosity": {"logs": 3, "clients": 3},
        "cache": {"size": server.cache, "directory": CACHE},
        "network": {
            "ports": {"kadeploy_server": server.port, "ssh": 22, "test_deploy_env": 25300},
            "server_hostname": server.hostname,
        },
        "windows": {
            "reboot": {"size": timing.reboot_window, "sleep_time": timing.reboot_sleep},
            "check": {"size": timing.check_window},
        },
        "pxe": {"dhcp": dhcp},
        "external": {
            "taktuk": {"connector": f"{SSH} -l root", "tree_arity": timing.arity, "auto_propagate": True},
            # extlinux reads neither 64bit nor checksummed ext4
            "mkfs": [{"fstype": "ext4", "args": "-F -m 0 -O ^64bit,^metadata_csum"}],
        },
    }


def _clusters_conf(cluster: NodeCluster) -> dict[str, Any]:
    nodes = [{"name": node.name, "address": str(node.address)} for node in cluster.nodes]
    return {"clusters": [{"name": cluster.name, "conf_file": f"{cluster.name}-cluster.conf", "nodes": nodes}]}


def _cluster_conf(cluster: NodeCluster) -> dict[str, Any]:
    timing, kernel = cluster.timing, cluster.kernel

    def commands(action: str, levels: Sequence[str] = _LEVELS) -> list[dict[str, str]]:
        return [{"name": level, "cmd": f"{POWER} {action} {level} HOSTNAME_FQDN"} for level in levels]

    def variants(names: Sequence[str]) -> list[dict[str, Any]]:
        # kexec that has failed once fails again: its retry is the next variant
        return [
            {"type": name, "timeout": timing.macro, "retries": 0 if name == "Kexec" else timing.retries}
            for name in names
        ]

    return {
        "partitioning": {
            "block_device": cluster.block_device,
            "disable_swap": True,
            "partitions": {"deploy": cluster.partition},
            "script": "partition",
        },
        "boot": {
            "install_bootloader": "bootloader",
            "kernels": {
                "user": {"params": cluster.console},
                "deploy": {"vmlinuz": kernel.vmlinuz, "initrd": kernel.initrd, "params": kernel.arguments},
            },
        },
        "remoteops": {
            "reboot": commands("reboot"),
            "power_on": commands("power_on"),
            "power_off": commands("power_off"),
            "power_status": commands("power_status", ["soft"]),
            "console": commands("console", ["soft"]),
        },
        "automata": {
            "macrosteps": {
                "SetDeploymentEnv": variants(["Untrusted"]),
                "BroadcastEnv": variants(cluster.broadcast),
                "BootNewEnv": variants(cluster.boot),
            }
        },
        "timeouts": {"reboot": timing.reboot, "kexec": timing.kexec},
        "hooks": {"use_ip_to_deploy": True},
    }


def _client_conf(server: Server) -> dict[str, Any]:
    # its client runs on the same machine: nothing else reaches the server
    about = {"name": "g5kvirt", "hostname": "localhost", "port": server.port, "secure": False}
    return {"default": "g5kvirt", "servers": [about]}


def _check(server: Server, cluster: NodeCluster) -> None:
    """Raises SpecError for the first value that cannot stand where it would."""
    netboot, kernel, timing = server.netboot, cluster.kernel, cluster.timing
    for what, value, pattern in (
        ("the server's name", server.hostname, _WORD),
        ("its user", server.user, re.compile(r"[a-z][a-z0-9_-]{0,15}")),  # the log's column: 16
        ("the database's password", server.password, _SECRET),
        ("the netboot repository", netboot.repository, _PATH),
        ("the netboot server", netboot.export, _FILE),
        ("the cluster's name", cluster.name, _WORD),
        ("the deployment kernel", kernel.vmlinuz, _FILE),
        ("the deployment initrd", kernel.initrd, _FILE),
        ("the deployment kernel's arguments", kernel.arguments, _ARGUMENTS),
        ("the console's kernel argument", cluster.console, _ARGUMENTS),
        ("the VMs' disk", cluster.block_device, _PATH),
    ):
        if not pattern.fullmatch(value):
            shown = "not" if what.endswith("password") else f"{value[:80]!r}, not"
            raise SpecError(f"{what} is {shown} what Kadeploy3 can be given: it must match {pattern.pattern}")
    if not cluster.nodes:
        raise SpecError("Kadeploy3 refuses to start without nodes", advice="give it at least one VM")
    for names in ([n.name for n in cluster.nodes], [n.address for n in cluster.nodes]):
        if len(set(names)) < len(names):
            raise SpecError(
                "two VMs would have the same name or address in Kadeploy3", advice="give each its own"
            )
    if not 0 < max(timing.reboot, timing.kexec) <= timing.macro <= 65535:
        raise SpecError(
            f"Kadeploy3 refuses macro-steps of {timing.macro} s with reboots of {timing.reboot} s and kexecs "
            f"of {timing.kexec} s: the macro-steps must be the max_duration, and at most 65,535 s"
        )
