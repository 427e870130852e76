"""Whether a VM that answered a check is what was deployed, and what is known of one that did not. Pure.

A deployment writes into the unpacked image what it is (`Identity`, in `IDENTITY`), and lets in a key for
nothing but to print that (`check_key_line`). So who logs in with it learns which image the VM runs, whoever
deployed it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from g5kvirt.images.environments import Image
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.remote import Result
from g5kvirt.remote.result import Failure, classify_failure

__all__ = [
    "IDENTITY",
    "READY_COMMAND",
    "Identity",
    "check_key_line",
    "identity_fields",
    "not_ready_reason",
    "read_ready",
    "shows_console",
    "with_console",
]

#: The file of a deployed VM that says what it is: lines ``KEY=VALUE``.
IDENTITY = "/etc/g5kvirt-environment"

#: By ssh: which deployment runs, and from where.
READY_COMMAND = f"cat {IDENTITY} /proc/mounts"

_KERNEL_TIME = re.compile(r"^\[ *\d+\.\d+\] ")

#: What a login from its host shows about a VM, where it failed; of other failures ssh's own words are given.
_SEEN: dict[Failure, str] = {
    "refused": "its network is up, but no ssh server takes connections yet",
    "timeout": "it does not answer on the network yet",
    "key": "its ssh server does not let root in with the key in /root/.ssh/authorized_keys",
}


@dataclass(frozen=True)
class Identity:
    """What a deployed VM is."""

    environment: str
    sha256: str
    task: TaskId  #: that deployed it
    root: str  #: the device of its root file system


def identity_fields(image: Image, task: TaskId) -> Mapping[str, str]:
    """What a deployment of ``image`` writes into `IDENTITY`; further lines do no harm."""
    return {"name": image.environment.name, "sha256": image.sha256, "deployment": str(task)}


def check_key_line(public_key: str) -> str:
    """The line of authorized_keys with which a key may run `READY_COMMAND` and nothing else."""
    return f'restrict,command="exec {READY_COMMAND}" {public_key}'


def read_ready(output: str) -> Identity | None:
    """Read what `READY_COMMAND` printed; None if this is not a deployed environment."""
    values: dict[str, str] = {}
    root = ""
    for line in output.splitlines():
        words = line.split()
        if len(words) >= 3 and words[1] == "/":
            root = words[0]  # the last mount at / is the one in force
        elif "=" in line:
            key, _, value = line.partition("=")
            values[key] = value.strip()
    if not root or not {"name", "sha256", "deployment"} <= values.keys():
        return None
    return Identity(values["name"], values["sha256"], TaskId.parse(values["deployment"]), root)


def not_ready_reason(result: Result, deployment: str, image: Image, root: str) -> str:
    """Why a VM is not ready yet, from the result of `READY_COMMAND`; empty if it is.

    ``root``: how the device of its root file system must begin.
    """
    if result.reason:
        if _is_unanswered(result):
            return _SEEN.get(classify_failure(result.stderr)[0], result.reason)
        return result.reason
    identity = read_ready(result.text)
    if identity is None:
        return "it answers ssh, but not as a deployed environment"
    if identity.task.deployment != deployment or identity.sha256 != image.sha256:
        return f"it runs another deployment, {identity.task} of {identity.environment}"
    if not identity.root.startswith(root):
        return f"its root is {identity.root}, not the disk"
    return ""


def _is_unanswered(result: Result) -> bool:
    """Whether its host tried to log in to the VM, and nothing ran there."""
    return result.via == "host" and not result.started and result.returncode is None


def shows_console(result: Result, turn: int) -> bool:
    """Whether the VM's console is to be looked at: it does not answer, and this is the third check, or each
    fourth after that. A check every few seconds must not cost more than a login."""
    return bool(result.reason) and _is_unanswered(result) and turn % 4 == 3


def with_console(reason: str, last_line: str) -> str:
    """A reason with the last line of the VM's serial console, if there is one; without the kernel's time, so
    that the reasons of many VMs remain the same."""
    line = _KERNEL_TIME.sub("", last_line)
    return f"{reason}; its console ends with: {line}" if line else reason
