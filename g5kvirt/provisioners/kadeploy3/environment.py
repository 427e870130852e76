"""An environment as Kadeploy3 describes it.

Source: the descriptions of environments and of custom operations in the manual of Kadeploy 3.3, and the
widths of the columns of its database.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from g5kvirt.errors import SpecError
from g5kvirt.images.environments import Environment
from g5kvirt.provisioners.kadeploy3 import keys
from g5kvirt.provisioners.kadeploy3.steps import WITH_IDENTITY
from g5kvirt.provisioners.readiness import IDENTITY

__all__ = ["COMPRESSIONS", "LOCAL_BOOT", "describe", "identity_operation", "version_of"]

COMPRESSIONS = ("gzip", "bzip2", "xz")

#: The profile with which a VM boots its own disk, for `Client.deploy`: Kadeploy3's own for iPXE chains to a
#: program (``chain.c32``) that it does not bring.
LOCAL_BOOT = "#!ipxe\nsanboot --no-describe --drive 0x80 || reboot\n"


def version_of(sha256: str) -> int:
    """The version under which an image is registered: another image, another version."""
    return int(sha256[:7], 16)


def describe(environment: Environment, path: str, *, version: int = 1) -> dict[str, Any]:
    """The description to register; ``path``: where the image is on the server's machine.

    Raises SpecError for what Kadeploy3 cannot deploy: images that are not compressed, texts that are too long
    for its database.
    """
    if environment.compression not in COMPRESSIONS:
        packed = environment.compression != "none"
        how = f"compressed with {environment.compression}" if packed else "not compressed"
        raise SpecError(
            f"Kadeploy3 3.3 deploys images compressed with {', '.join(COMPRESSIONS)} only, and that of "
            f"{environment.name} is {how}",
            advice="compress it with one of them and set image.compression in its description",
        )
    for what, text, most in (
        ("the name", environment.name, 60),
        ("the kernel's path", environment.kernel, 255),
        ("the initrd's path", environment.initrd, 255),
        ("the kernel's arguments", environment.kernel_arguments, 255),
        ("the image's path", path, 400),
    ):
        if len(text) > most:
            raise SpecError(
                f"{what} of {environment.name} has more than the {most} characters that Kadeploy3 keeps"
            )
    boot = {"kernel": environment.kernel, "initrd": environment.initrd}
    described: dict[str, Any] = {
        "name": environment.name,
        "version": version,
        # without one, kaenv3 -l fails
        "description": environment.description or environment.name,
        "visibility": "private",
        "os": "linux",
        "image": {"file": f"server://{path}", "kind": "tar", "compression": environment.compression},
        "boot": {k: v for k, v in boot.items() if v} | {"kernel_params": environment.kernel_arguments},
        "filesystem": environment.filesystem,
    }
    found = keys.problems(described, keys.ENVIRONMENT)
    if found:
        raise SpecError(f"Kadeploy3 would reject the environment {environment.name}: {found[0]}")
    return described


def identity_operation(fields: Mapping[str, str]) -> dict[str, Any]:
    """The ``custom_operations`` of a request: what is deployed is written into the image on each node.

    ``fields``: those of `readiness.identity_fields`. It follows ``send_key``, when the image is unpacked, and
    costs one command by TakTuk.
    """
    step, _, name = WITH_IDENTITY.partition("-")
    words = " ".join(f"echo {shlex.quote(f'{key}={value}')};" for key, value in fields.items())
    # a shell that has the variables, but not in its environment
    target = f'"$KADEPLOY_ENV_EXTRACTION_DIR{IDENTITY}"'
    command = f"mkdir -p $(dirname {target}) && {{ {words} }} > {target}"
    return {"BroadcastEnv": {step: {"post-ops": [{"name": name, "action": "exec", "command": command}]}}}
