"""The keys that Kadeploy3 understands in each of its files, and what is wrong with a file.

A shape is a type, a tuple of the only values, a list with the shape of each element, or a mapping from key
to shape; a key that ends with ``!`` must be there, ``*`` stands for any key. Kadeploy3 itself only warns of
a key that it does not know and continues with its default, so a slip of the pen would be found late or never.

Source: the administrator's manual and the configuration samples of Kadeploy 3.3, and a configuration that a
real server of that version accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CLIENT", "CLUSTER", "CLUSTERS", "COMMAND", "ENVIRONMENT", "FILES", "SERVER", "problems"]

Shape = Any

_BOOT_METHOD = ("PXElinux", "GPXElinux", "IPXE", "GrubPXE")
_PROFILES = {"directory": str, "filename": ("ip", "ip_hex", "hostname", "hostname_short")}
_EXPORT = {"kind": ("tftp", "http", "ftp"), "server": str}
_NETBOOT = {"method": _BOOT_METHOD, "repository!": str, "binary!": str} | {
    "export": _EXPORT,
    "profiles": _PROFILES,
}

#: ``server.conf``
SERVER: Shape = {
    "database!": {"kind": ("mysql",), "host!": str, "name!": str, "login!": str, "passwd!": str},
    "rights": {"kind": ("db", "dummy"), "almighty_users": str, "purge_deployment_timer": int},
    "authentication!": {
        "global": {"headers_prefix": str},
        "acl": {"whitelist!": [str]},
        "http_basic": {"dbfile!": str, "realm": str, "whitelist": [str]},
        "certificate": {
            "ca_cert": str,
            "ca_public_key": {"file": str, "algorithm": ("RSA", "DSA", "EC")},
            "whitelist": [str],
        },
        "ident": {"whitelist": [str]},
    },
    "security": {
        "secure_server": bool,
        "local_only": bool,
        "force_secure_client": bool,
        "certificate": str,
        "private_key": {"file": str, "algorithm": ("RSA", "DSA", "EC")},
    },
    "ssh_private_key": str,
    "logs": {"logfile": str, "debugfile": str, "database": bool},
    "verbosity": {"logs": (0, 1, 2, 3, 4), "clients": (0, 1, 2, 3, 4)},
    "cache!": {"disabled": bool, "directory": str, "size!": int},
    "network": {
        "vlan": {"hostname_suffix": str, "set_cmd": str},
        "ports": {"kadeploy_server": int, "ssh": int, "test_deploy_env": int},
        "tcp_buffer_size": int,
        "server_hostname": str,
    },
    "windows": {"reboot": {"size": int, "sleep_time": int}, "check": {"size": int}},
    "environments": {
        "deployment": {"extraction_dir": str, "rambin_dir": str, "tarball_dir": str},
        "max_preinstall_size": int,
        "max_postinstall_size": int,
    },
    "pxe!": {
        "dhcp!": {
            "method": _BOOT_METHOD,
            "repository!": str,
            "export": _EXPORT,
            "profiles": _PROFILES,
            "userfiles!": {"directory!": str, "max_size!": int},
        },
        "localboot": _NETBOOT,
        "networkboot": _NETBOOT,
    },
    "hooks": {"end_of_deployment": str, "end_of_reboot": str, "end_of_power": str},
    "autoclean_threshold": int,
    "external!": {
        "default_connector": str,
        "taktuk!": {"connector": str, "tree_arity": int, "auto_propagate": bool, "outputs_size": int},
        "bittorrent": {"tracker_ip!": str, "download_timeout!": int},
        "kastafior": {"binary": str},
        "kascade": {"binary": str, "args": str},
        "mkfs": [{"fstype!": str, "args!": str}],
        "tar": str,
    },
}

#: ``clusters.conf``
CLUSTERS: Shape = {
    "clusters!": [
        {"name!": str, "prefix": str, "conf_file!": str, "nodes!": [{"name!": str, "address!": str}]},
    ]
}

_COMMANDS = [{"name!": ("soft", "hard", "very_hard"), "cmd!": str, "group": str}]
_ONE_COMMAND = [{"name!": ("soft", "hard", "very_hard"), "cmd!": str}]
_ARCHIVE = {"files": [{"file!": str, "format!": ("tgz", "tbz2", "txz"), "script!": str}]}
_CUSTOM = [
    {
        "name!": str,
        "action!": ("exec", "send", "run"),
        "command": str,
        "file": str,
        "destination": str,
        "params": str,
        "timeout": int,
        "retries": int,
        "scattering": ("tree", "chain"),
    }
]


def _macro(*variants: str) -> Shape:
    return [
        {
            "type!": variants,
            "timeout": int,
            "retries": int,
            "raisable": bool,
            "breakpoint": bool,
            "microsteps": [
                {
                    "name!": str,
                    "timeout": int,
                    "retries": int,
                    "raisable": bool,
                    "breakpoint": bool,
                    "substitute": _CUSTOM,
                    "pre-ops": _CUSTOM,
                    "post-ops": _CUSTOM,
                }
            ],
        }
    ]


#: The configuration of one cluster. Time-outs are whole numbers: an expression of ``n``, which the manual
#: allows, ends the server.
CLUSTER: Shape = {
    "partitioning!": {
        "block_device!": str,
        "disable_swap": bool,
        "partitions!": {"deploy!": int, "prod": int, "tmp": int, "swap": int},
        "script!": str,
    },
    "boot!": {
        "sleep_time_before_ping": int,
        "install_bootloader!": str,
        "kernels!": {
            "user": {"params": str},
            "deploy!": {"vmlinuz!": str, "initrd!": str, "params": str, "drivers": str, "supported_fs": str},
            "nfsroot": {"vmlinuz": str, "params": str},
        },
    },
    "remoteops!": {
        "level_name": [str],
        "reboot": _COMMANDS,
        "power_on": _COMMANDS,
        "power_off": _COMMANDS,
        "power_status": _ONE_COMMAND,
        "console": _ONE_COMMAND,
    },
    "localops": {"broadcastenv": {"cmd": str, "decompress": bool}},
    "preinstall": _ARCHIVE,
    "postinstall": _ARCHIVE,
    "automata!": {
        "macrosteps!": {
            "SetDeploymentEnv!": _macro("Untrusted", "Kexec", "Nfsroot", "Prod", "Dummy"),
            "BroadcastEnv!": _macro("Chain", "Tree", "Kastafior", "Kascade", "Bittorrent", "Custom", "Dummy"),
            "BootNewEnv!": _macro("Classical", "Kexec", "HardReboot", "Dummy"),
        }
    },
    "timeouts": {"reboot": int, "kexec": int},
    "kexec": {"repository": str},
    "pxe": {"headers": {"dhcp": str, "localboot": str, "networkboot": str}},
    "hooks": {"use_ip_to_deploy": bool},
}

#: ``command.conf``: commands of single nodes.
COMMAND: Shape = {
    "*": dict.fromkeys(
        [
            f"{kind}_{level}"
            for kind in ("reboot", "power_on", "power_off")
            for level in ("soft", "hard", "very_hard")
        ]
        + ["console", "power_status"],
        str,
    )
}

#: ``client.conf``
CLIENT: Shape = {
    "default!": str,
    "servers!": [
        {"name!": str, "hostname!": str, "port!": int, "secure": bool, "auth_headers_prefix": str},
    ],
}

#: The description of an environment.
ENVIRONMENT: Shape = {
    "name!": str,
    "version": int,
    "description": str,
    "author": str,
    "visibility": ("public", "private", "shared"),
    "destructive": bool,
    "os!": ("linux", "xen", "other"),
    "image!": {"file!": str, "kind!": ("tar", "dd", "fsa"), "compression!": ("gzip", "bzip2", "xz")},
    "preinstall": {"archive!": str, "compression!": ("gzip", "bzip2", "xz"), "script": str},
    "postinstalls": [{"archive!": str, "compression!": ("gzip", "bzip2", "xz"), "script": str}],
    "boot": {"kernel": str, "initrd": str, "kernel_params": str, "hypervisor": str, "hypervisor_params": str},
    "filesystem": str,
    "partition_type": int,
    "multipart": bool,
}

#: File name → shape, for the files whose name is always the same.
FILES: Mapping[str, Shape] = {
    "server.conf": SERVER,
    "clusters.conf": CLUSTERS,
    "command.conf": COMMAND,
    "client.conf": CLIENT,
}


def problems(data: Any, shape: Shape, path: str = "") -> list[str]:
    """What is wrong with ``data``, one line each, in the order of the file; empty if nothing is."""
    where = path or "the file"
    if isinstance(shape, Mapping):
        return _mapping_problems(data, shape, path, where)
    if isinstance(shape, list):
        if not isinstance(data, list):
            return [f"{where} is not a list"]
        return [line for i, part in enumerate(data) for line in problems(part, shape[0], f"{path}[{i}]")]
    if isinstance(shape, tuple):
        # True == 1: a flag is not a number
        same = [value for value in shape if value == data and type(value) is type(data)]
        return [] if same else [f"{where} is {data!r}: it must be one of {', '.join(map(str, shape))}"]
    if not isinstance(data, shape) or (shape is int and isinstance(data, bool)):
        return [f"{where} is {data!r}: it must be of the type {shape.__name__}"]
    return []


def _mapping_problems(data: Any, shape: Mapping[str, Shape], path: str, where: str) -> list[str]:
    if not isinstance(data, Mapping):
        return [f"{where} is not a mapping"]
    known = {key.removesuffix("!"): value for key, value in shape.items()}
    found = []
    for key, value in data.items():
        name = f"{path}.{key}" if path else str(key)
        if key in known and key != "*":
            found += problems(value, known[key], name)
        elif "*" in known:
            found += problems(value, known["*"], name)
        else:
            found.append(f"{name} is unknown")
    needed = [key[:-1] for key in shape if key.endswith("!")]
    return found + [f"{path}.{key}".lstrip(".") + " is missing" for key in needed if key not in data]
