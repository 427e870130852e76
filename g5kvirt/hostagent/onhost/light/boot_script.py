"""What an iPXE script of g5kvirt tells a guest to do. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class BootScript:
    """Files to fetch, and the kernel's arguments; or ``from_disk``."""

    __slots__ = ("arguments", "from_disk", "initrd", "kernel", "tries")

    def __init__(
        self, kernel: str, initrd: str, arguments: Sequence[str], tries: int, from_disk: bool
    ) -> None:
        self.kernel = kernel
        self.initrd = initrd
        self.arguments = list(arguments)
        self.tries = tries
        self.from_disk = from_disk


def read_script(text: str) -> BootScript:
    """The script of `netboot.services.ipxe_script`. Raises ValueError if it is none."""
    if not text.startswith("#!ipxe"):
        raise ValueError(f"not an iPXE script: {text[:60]!r}")
    kernel, initrd, tries, from_disk = "", "", 1, False
    arguments: list[str] = []
    for line in text.splitlines():
        words = line.split(" || ")[0].split()
        if words[:1] == ["kernel"] and len(words) > 1:
            kernel, arguments = words[1], words[2:]
        elif words[:1] == ["initrd"] and len(words) > 1:
            initrd = words[-1]
        elif words[:1] == ["sanboot"]:
            from_disk = True
        elif words[:2] == ["iseq", "${tries}"] and len(words) > 2:
            tries = int(words[2])
    if not from_disk and not (kernel and initrd):
        raise ValueError("the script names no kernel and no initrd")
    return BootScript(kernel, initrd, arguments, tries, from_disk)


def argument(arguments: Sequence[str], name: str, default: str = "") -> str:
    """The value of ``name=…`` among a kernel's arguments."""
    return next((word[len(name) + 1 :] for word in arguments if word.startswith(name + "=")), default)
