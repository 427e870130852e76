"""A deployment as the VM sees it: the task file that the minimal system's agent fetches. Pure.

The file only sets variables; the procedure is `guest/deploy`, in the archive of `images.tools`. Both ends:

- the server puts the file at ``WWW/task/VM-NAME`` (`task_path`) and the tools at ``WWW/tools``, for an image
  in zstd also those at ``WWW/tools-zstd``;
- the agent looks there every few seconds; a file whose first line it has done already (in this boot) is left
  alone, so every attempt of every deployment has an id of its own (`TaskId`);
- each of `STEPS` is reported by ``GET /report?step=…&deployment=…&status=ok`` or ``…status=failed&reason=…``,
  after which nothing follows, with ``permanent=1`` if another try would fail alike; ``boot`` is reported just
  before the minimal system is left;
- ``boot="kexec"`` starts the kernel at once. ``boot="reboot"`` resets the VM, which netboots: its own iPXE
  script (`netboot.vm_script_path`) must be ``netboot.ipxe_script(…, profile="disk")`` before ``boot`` is
  reported, and must be gone before the VM shall come back to its minimal system. The boot loader is
  installed either way, so that a kexec that fails can be followed by a reset to the disk;
- ready is a VM that answers `readiness.READY_COMMAND` by ssh with what is understood there as this
  deployment.

Least memory, measured with Debian's cloud kernel and ``mini``: 144 MiB by kexec, which must fit the unpacked
kernel and initrd into half of the memory; 80 MiB by reboot (64 do not even boot the minimal system).
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import jinja2

from g5kvirt.images.descriptions import ARGUMENTS, COMPRESSIONS, FILE, FILESYSTEMS, NAME, SHA256
from g5kvirt.images.environments import Image
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.spec.fields import check_fields, checked_by, choice, text, whole, wrong

__all__ = [
    "STEPS",
    "TaskFile",
    "announcement",
    "announcement_path",
    "least_disk",
    "render",
    "task_file",
    "task_path",
]

#: What the minimal system reports in a deployment, in this order.
STEPS = ("partition", "format", "image", "postinstall", "bootloader", "sync", "boot")

#: Pattern, and a description of what it allows.
_ID = (r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "at most 100 letters, digits and . _ -")
_URL = (r"http://[\x21-\x7e]+", "an http:// URL without spaces")


def _task_id(name: str, value: object) -> TaskId:
    if not isinstance(value, TaskId):
        wrong(name, "the id of a task", value)
    text(name, str(value), *_ID)
    return value


def _public_keys(name: str, value: object) -> tuple[str, ...]:
    lines = value if isinstance(value, tuple) else ()
    if not lines or not all(isinstance(k, str) and re.fullmatch(r"[^\x00-\x1f\x7f]+", k) for k in lines):
        wrong(name, "one public key or more, each on one line", value)
    return lines


@dataclass(frozen=True)
class TaskFile:
    """One deployment of one environment on one VM. Raises SpecError for a value that cannot be right."""

    id: TaskId = field(metadata=checked_by(_task_id))
    environment: str = field(metadata=checked_by(text, *NAME))  #: the environment's name
    #: the image's address on the VM's own host
    image: str = field(metadata=checked_by(text, *_URL))
    sha256: str = field(metadata=checked_by(text, *SHA256))
    authorized_keys: tuple[str, ...] = field(metadata=checked_by(_public_keys))
    #: where reports go and the tools are
    server: str = field(metadata=checked_by(text, *_URL))
    boot: Literal["kexec", "reboot"] = field(
        default="kexec", metadata=checked_by(choice, ("kexec", "reboot"))
    )
    compression: str = field(default="none", metadata=checked_by(choice, COMPRESSIONS))
    filesystem: str = field(default="ext4", metadata=checked_by(choice, FILESYSTEMS))
    #: in the environment
    kernel: str = field(default="/boot/vmlinuz", metadata=checked_by(text, *FILE))
    #: in the environment; None if it needs none
    initrd: str | None = field(default=None, metadata=checked_by(text, *FILE))
    #: for its kernel, besides root=
    arguments: str = field(default="console=ttyS0", metadata=checked_by(text, *ARGUMENTS))
    #: bytes; 0 if not known
    least_disk: int = field(default=0, metadata=checked_by(whole, 0, 1 << 60, "bytes"))
    #: where the tools are, by default on the server; those for zstd have ``-zstd`` behind it
    tools: str | None = field(default=None, metadata=checked_by(text, *_URL))
    disk: str = field(default="/dev/vda", metadata=checked_by(text, "/dev/[a-z]+", "a disk like /dev/vda"))
    #: seconds for one attempt to fetch the image
    patience: int = field(default=600, metadata=checked_by(whole, 1, 86400, "seconds"))

    def __post_init__(self) -> None:
        check_fields(self, "task")


def least_disk(unpacked: int) -> int:
    """Bytes of a disk for so many of an image, 0 where that is not known.

    ext4's tables, the boot loader and the last block of every file come on top.
    """
    return unpacked + unpacked // 10 + (4 << 20) if unpacked else 0


def task_file(
    image: Image, *, task_id: TaskId, url: str, server: str, authorized_keys: Iterable[str], **more: Any
) -> TaskFile:
    """The deployment of ``image``, which the VM fetches from ``url``; ``more`` are further fields."""
    environment = image.environment
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
        initrd=environment.initrd or None,
        arguments=environment.kernel_arguments,
        least_disk=least_disk(environment.unpacked),
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
        "least_disk": str(task.least_disk),
        "filesystem": task.filesystem,
        "kernel": task.kernel,
        "initrd": task.initrd or "",
        "arguments": task.arguments,
        "boot": task.boot,
        "authorized_keys": "\n".join(task.authorized_keys),
        "server": task.server,
        "tools": task.tools or f"{task.server}/tools",
        "disk": task.disk,
        "patience": str(task.patience),
    }
    quoted: Mapping[str, str] = {name: shlex.quote(value) for name, value in values.items()}
    return _template().render(id=task.id, values=quoted)


def task_path(vm: str, www: str) -> str:
    """The path of the task file of the VM named ``vm`` on its HTTP server."""
    return posixpath.join(www, "task", vm)


def announcement_path(host: str, www: str) -> str:
    """Where the tasks of a host's light guests are announced: one request for all of them while they wait."""
    return posixpath.join(www, "task", f"@{host}")


def announcement(given: Mapping[str, TaskId]) -> str:
    """VM → the task that it has now, one line each."""
    return "".join(f"{vm} {task}\n" for vm, task in given.items())


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
