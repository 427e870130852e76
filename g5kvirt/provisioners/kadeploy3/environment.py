"""An environment as Kadeploy3 describes it.

Source: the description of environments in the manual of Kadeploy 3.3, and the widths of the columns of its
database.
"""

from __future__ import annotations

from typing import Any

from g5kvirt.errors import SpecError
from g5kvirt.images.environments import Environment
from g5kvirt.provisioners.kadeploy3 import keys

__all__ = ["COMPRESSIONS", "LOCAL_BOOT", "describe", "version_of"]

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
