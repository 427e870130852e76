"""Kadeploy3's steps by the names of this project.

A step that is the same thing as one of the built-in workflow has the same name there, so that
the figures of both kinds of deployment are next to each other; the others keep Kadeploy3's, with hyphens. A
step of ours belongs to one macro-step only, so some of Kadeploy3's, which stand in two, have a second name
there.

Source: the steps of each variant in Kadeploy 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "LOGIN",
    "MACROS",
    "VARIANTS",
    "WAITS",
    "WITH_IDENTITY",
    "ahead",
    "instance",
    "order",
    "step_name",
    "workflow",
]

#: In the order in which a node goes through them.
MACROS = ("SetDeploymentEnv", "BroadcastEnv", "BootNewEnv")

#: Micro-steps that end for a node when it is there, though its set continues together.
WAITS = ("wait_reboot",)

#: The operation of our own behind ``send_key``: what is deployed is written into it (`environment`).
WITH_IDENTITY = "send_key-identity"
#: Our own last step, which is none of Kadeploy3's: a login that finds what was deployed (`logins`).
LOGIN = "login"

_PREPARE = (
    "send_key_in_deploy_env",
    "create_partition_table",
    "format_deploy_part",
    "mount_deploy_part",
    "format_tmp_part",
    "format_swap_part",
)
_INSTALL = (
    "manage_admin_post_install",
    "manage_user_post_install",
    "check_kernel_files",
    "send_key",
    WITH_IDENTITY,
    "install_bootloader",
    "sync",
)
_UNPACK = ("send_environment", "decompress_environment", "mount_deploy_part", *_INSTALL)

#: macro-step → variant → its micro-steps in their order. Those that an environment or a request does not need
#: are left out by Kadeploy3.
VARIANTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "SetDeploymentEnv": {
        "Untrusted": ("switch_pxe", "set_vlan", "reboot", "wait_reboot", *_PREPARE),
        "Kexec": ("set_vlan", "send_deployment_kernel", "sync", "kexec", "wait_reboot", *_PREPARE),
        "Nfsroot": ("switch_pxe", "set_vlan", "reboot", "wait_reboot", *_PREPARE),
        "Prod": ("check_nodes", "format_deploy_part", "mount_deploy_part", "format_tmp_part"),
        "UntrustedCustomPreInstall": (
            *("switch_pxe", "set_vlan", "reboot", "wait_reboot"),
            *("send_key_in_deploy_env", "manage_admin_pre_install"),
        ),
    },
    "BroadcastEnv": {
        **dict.fromkeys(("Chain", "Tree", "Kastafior", "Kascade", "Custom"), _UNPACK),
        "Bittorrent": ("mount_tmp_part", *_UNPACK),
    },
    "BootNewEnv": {
        "Classical": (
            *("switch_pxe", "umount_deploy_part", "reboot_from_deploy_env", "set_vlan", "wait_reboot"),
        ),
        "Kexec": (
            *("switch_pxe", "umount_deploy_part", "mount_deploy_part", "kexec", "set_vlan", "wait_reboot"),
        ),
        "HardReboot": ("switch_pxe", "reboot", "set_vlan", "wait_reboot"),
    },
}

_NAMES: Mapping[tuple[str, str], str] = {
    ("SetDeploymentEnv", "wait_reboot"): "minimal-system",
    ("SetDeploymentEnv", "create_partition_table"): "partition",
    ("SetDeploymentEnv", "format_deploy_part"): "format",
    ("SetDeploymentEnv", "mount_deploy_part"): "mount",
    ("SetDeploymentEnv", "kexec"): "deploy-kexec",
    ("SetDeploymentEnv", "sync"): "deploy-sync",
    ("BroadcastEnv", "send_environment"): "image",
    ("BroadcastEnv", "mount_deploy_part"): "mount-image",
    ("BroadcastEnv", "manage_user_post_install"): "postinstall",
    ("BroadcastEnv", WITH_IDENTITY): "identity",
    ("BroadcastEnv", "install_bootloader"): "bootloader",
    ("BootNewEnv", "switch_pxe"): "boot-switch-pxe",
    ("BootNewEnv", "set_vlan"): "boot-set-vlan",
    ("BootNewEnv", "umount_deploy_part"): "umount",
    ("BootNewEnv", "mount_deploy_part"): "boot-mount",
    ("BootNewEnv", "kexec"): "boot",
    ("BootNewEnv", "reboot_from_deploy_env"): "boot",
    ("BootNewEnv", "reboot"): "reset",
    ("BootNewEnv", "wait_reboot"): "ready",
    ("BootNewEnv", LOGIN): LOGIN,
}


def instance(name: str) -> tuple[str, str]:
    """``BroadcastEnvKascade`` → ``("BroadcastEnv", "Kascade")``; a name that is no macro-step's: itself,
    ""."""
    for macro in MACROS:
        if name.startswith(macro):
            return macro, name.removeprefix(macro)
    return name, ""


def order(name: str) -> tuple[str, ...]:
    """The micro-steps of a macro-step such as ``BroadcastEnvKascade``; none if it is not known."""
    macro, variant = instance(name)
    return VARIANTS.get(macro, {}).get(variant, ())


def ahead(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether ``now`` (macro-step with its variant, micro-step) comes after ``before`` if nothing failed in
    between."""
    ranks = [MACROS.index(m) if (m := instance(p[0])[0]) in MACROS else -1 for p in (before, now)]
    if before[0] != now[0]:
        return ranks[0] < ranks[1]
    steps = order(now[0])
    if before[1] not in steps or now[1] not in steps:
        return True  # a user-defined operation: Kadeploy3 starts a new try with a known step
    return steps.index(before[1]) < steps.index(now[1])


def step_name(macro: str, micro: str) -> str:
    """Our name of a micro-step; one that is not known here (an operation of a user's own) gets its
    macro-step's in front, so that it is unlike any other."""
    if (macro, micro) in _NAMES:
        return _NAMES[macro, micro]
    plain = micro.replace("_", "-")
    known = any(micro in steps for steps in VARIANTS.get(macro, {}).values())
    return plain if known else f"{macro}-{plain}"


def workflow() -> dict[str, list[str]]:
    """Macro-step → all its steps by our names, for the first event of a deployment."""
    known = {
        macro: list(dict.fromkeys(step_name(macro, micro) for steps in variants.values() for micro in steps))
        for macro, variants in VARIANTS.items()
    }
    known[MACROS[-1]].append(LOGIN)
    return known
