"""A deployment as the VM sees it: the task file that the minimal system's agent fetches. Pure.

The file only sets variables; the procedure is `guest/deploy`, in the archive of `g5kvirt.images.tools`. Both
ends:

- the server puts the file at ``WWW/task/VM-NAME`` (`task_path`) and the tools at ``WWW/tools``;
- the agent looks there every few seconds; a file whose first line it has done already (in this boot) is left
  alone, so every attempt of every deployment has an id of its own (`TaskId`);
- each of `STEPS` is reported by ``GET /report?step=…&deployment=…&status=ok`` or ``…status=failed&reason=…``,
  after which nothing follows, with ``hopeless=1`` if the failure is permanent; ``boot`` is
  reported just before the minimal system leaves;
- ``boot="kexec"`` starts the kernel at once. ``boot="reboot"`` resets the VM, which netboots: its own iPXE
  script (`netboot.vm_script_path`) must be ``netboot.ipxe_script(…, profile="disk")`` before ``boot`` is
  reported, and must be gone before the VM shall come back to its minimal system. The boot loader is
  installed either way, so that a kexec that fails can be followed by a reset to the disk;
- ready is a VM that answers `READY_COMMAND` by ssh with what `read_ready` understands as this deployment.

Least memory, measured with Debian's cloud kernel and ``mini``: 144 MiB by kexec, which must fit the unpacked
kernel and initrd into half of the memory; 80 MiB by reboot (64 do not even boot the minimal system).
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import jinja2

from g5kvirt.errors import SpecError
from g5kvirt.netboot.task_id import TaskId

if TYPE_CHECKING:  # it imports this module
    from g5kvirt.images.environments import Image

__all__ = [
    "COMPRESSIONS",
    "FILESYSTEMS",
    "READY_COMMAND",
    "STEPS",
    "Identity",
    "TaskFile",
    "read_ready",
    "render",
    "task_file",
    "task_path",
]

#: What the minimal system reports in a deployment, in this order.
STEPS = ("partition", "format", "image", "postinstall", "bootloader", "sync", "boot")

#: What the minimal system can unpack, and the file systems that it can make and boot from.
COMPRESSIONS = ("none", "gzip", "bzip2", "xz")
FILESYSTEMS = ("ext4", "ext3", "ext2")

#: Asked by ssh: which deployment runs, and from where.
READY_COMMAND = "cat /etc/g5kvirt-environment && grep ' / ' /proc/mounts"

_CHECKS = {
    "id": r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
    "environment": r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}",
    "sha256": r"[0-9a-f]{64}",
    "image": r"http://[\x21-\x7e]+",
    "server": r"http://[\x21-\x7e]+",
    "tools": r"(http://[\x21-\x7e]+)?",
    "kernel": r"(/[A-Za-z0-9._+-]+)+",
    "initrd": r"((/[A-Za-z0-9._+-]+)+)?",
    "arguments": r"[\x20-\x7e]{0,1500}",
    "disk": r"/dev/[a-z]+",
}


@dataclass(frozen=True)
class TaskFile:
    """One deployment of one environment on one VM. Raises SpecError for values that it cannot hold."""

    id: TaskId  #: its deployment is of letters, digits, ``.``, ``_``, ``-``
    environment: str  #: the environment's name
    image: str  #: http://…, the address on the VM's own host
    sha256: str
    authorized_keys: tuple[str, ...]
    server: str  #: http://…, where reports go and the tools are
    boot: Literal["kexec", "reboot"] = "kexec"
    compression: str = "none"
    filesystem: str = "ext4"
    kernel: str = "/boot/vmlinuz"  #: in the environment
    initrd: str = ""  #: in the environment; empty if it needs none
    arguments: str = "console=ttyS0"  #: for its kernel, besides root=
    least_disk: int = 0  #: bytes; 0 if not known
    tools: str = ""  #: http://…, by default on the server
    disk: str = "/dev/vda"
    patience: int = 600  #: seconds for one attempt to fetch the image

    def __post_init__(self) -> None:
        for field, pattern in _CHECKS.items():
            value = str(getattr(self, field))
            if not re.fullmatch(pattern, value):
                raise SpecError(f"{value!r} cannot be the {field} of a deployment: it must match {pattern}")
        for field, allowed in (
            ("boot", ("kexec", "reboot")),
            ("compression", COMPRESSIONS),
            ("filesystem", FILESYSTEMS),
        ):
            if getattr(self, field) not in allowed:
                raise SpecError(
                    f"{getattr(self, field)!r} is not a known {field} of a deployment: "
                    f"choose from {', '.join(allowed)}"
                )
        if not self.authorized_keys or not all(
            re.fullmatch(r"[^\x00-\x1f\x7f]+", k) for k in self.authorized_keys
        ):
            raise SpecError("a deployment needs at least one public key, each on one line")


@dataclass(frozen=True)
class Identity:
    """What a deployed VM is."""

    environment: str
    sha256: str
    task: TaskId  #: that deployed it
    root: str  #: the device of its root file system


def task_file(
    image: Image, *, task_id: TaskId, url: str, server: str, authorized_keys: Iterable[str], **more: Any
) -> TaskFile:
    """The deployment of ``image``, which the VM fetches from ``url``; ``more``: further fields."""
    environment = image.environment
    # ext4's tables, the boot loader and the last block of every file come on top
    least = environment.unpacked + environment.unpacked // 10 + (4 << 20) if environment.unpacked else 0
    return TaskFile(
        id=task_id,
        environment=environment.name,
        image=url,
        sha256=image.sha256,
        authorized_keys=tuple(authorized_keys),
        server=server,
        compression=environment.compression,
        filesystem=environment.filesystem,
        kernel=environment.kernel,
        initrd=environment.initrd,
        arguments=environment.kernel_arguments,
        least_disk=least,
        **more,
    )


def render(task: TaskFile) -> str:
    """The task file of one VM."""
    values = {
        "deployment": str(task.id),
        "environment": task.environment,
        "image": task.image,
        "sha256": task.sha256,
        "compression": task.compression,
        "least_disk": str(int(task.least_disk)),
        "filesystem": task.filesystem,
        "kernel": task.kernel,
        "initrd": task.initrd,
        "arguments": task.arguments,
        "boot": task.boot,
        "authorized_keys": "\n".join(task.authorized_keys),
        "server": task.server,
        "tools": task.tools or f"{task.server}/tools",
        "disk": task.disk,
        "patience": str(int(task.patience)),
    }
    quoted: Mapping[str, str] = {name: shlex.quote(value) for name, value in values.items()}
    return _template().render(id=task.id, values=quoted)


def task_path(vm: str, www: str) -> str:
    """Where the task file of the VM named ``vm`` goes on its HTTP server."""
    return posixpath.join(www, "task", vm)


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


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("g5kvirt.provisioners.builtin", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  a shell script, not HTML; values are quoted for the shell
    )
    return environment.get_template("task.sh.j2")
