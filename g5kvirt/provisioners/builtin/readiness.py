"""Whether a VM that answered a check is what was deployed, and what is known of one that did not. Pure."""

from __future__ import annotations

import re

from g5kvirt.images.environments import Image
from g5kvirt.provisioners.builtin import tasks
from g5kvirt.remote import Result
from g5kvirt.remote.result import Failure, classify_failure

__all__ = ["not_ready_reason", "shows_console", "with_console"]

_KERNEL_TIME = re.compile(r"^\[ *\d+\.\d+\] ")

#: What a login from its host shows about a VM, where it failed; of other failures ssh's own words are given.
_SEEN: dict[Failure, str] = {
    "refused": "its network is up, but no ssh server takes connections yet",
    "timeout": "it does not answer on the network yet",
    "key": "its ssh server does not let root in with the key in /root/.ssh/authorized_keys",
}


def not_ready_reason(result: Result, deployment: str, image: Image, root: str) -> str:
    """Why a VM is not ready yet, from the result of `tasks.READY_COMMAND`; empty if it is.

    ``root``: how the device of its root file system must begin.
    """
    if result.reason:
        if _is_unanswered(result):
            return _SEEN.get(classify_failure(result.stderr)[0], result.reason)
        return result.reason
    identity = tasks.read_ready(result.text)
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
