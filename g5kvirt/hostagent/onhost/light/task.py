"""One deployment on one guest, as the task file of `provisioners.builtin.tasks` says it."""

from __future__ import annotations

import functools
import hashlib
import shlex

from ..libssh import library
from .loop import sleep
from .root import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from .image import ImageStore, Writer
    from .netns import Home

    Sink = Callable[[bytes | memoryview], object]

    class Guest(Protocol):
        """What a task needs of the guest that does it."""

        name: str
        home: Home
        images: ImageStore
        place: str
        dns: tuple[str, ...]

        def log(self, line: str) -> None: ...

        async def report(self, server: str, step: str, **values: object) -> None: ...

        async def fetch(self, url: str, sink: Sink, patience: float) -> None: ...


TRIES = 4


class TaskError(Exception):
    """The deployment failed at ``step``; ``permanent`` if another try would fail alike."""

    def __init__(self, step: str, reason: str, permanent: bool = False) -> None:
        super().__init__(reason)
        self.step = step
        self.permanent = permanent


@functools.lru_cache(maxsize=4)
def read_task(text: str) -> Mapping[str, str]:
    """The variables that a task file sets. Raises ValueError if it sets none.

    Guests of a host have the same tasks, and to read one takes 3 ms of a core.
    """
    head = text.partition("\nstep=")[0]
    values = dict(
        word.partition("=")[::2] for word in shlex.split(head, comments=True) if "=" in word.split(" ")[0]
    )
    missing = {"deployment", "environment", "image", "sha256", "server", "compression"} - values.keys()
    if missing:
        raise ValueError(f"the task lacks {', '.join(sorted(missing))}")
    return values


async def perform(guest: Guest, text: str) -> Root | None:
    """Do a task and report each step; the system to boot, or None if it failed."""
    values = read_task(text)
    server, about = values["server"], {"deployment": values["deployment"]}

    async def done(step: str, status: str = "ok", **more: object) -> None:
        guest.log(f"{step}: {status}")
        await guest.report(server, step, status=status, **about, **more)

    try:
        await done("format")  # there is no disk: it has its task, and the image is next
        tries = await _fetch(guest, values)
        await done("image", tries=tries)
        root = _install(guest, values)
        await done("postinstall")
        await done("boot")
    except TaskError as failure:
        permanent = {"permanent": 1} if failure.permanent else {}
        await done(failure.step, "failed", reason=str(failure)[:150], **permanent)
        return None
    return root


async def _fetch(guest: Guest, values: Mapping[str, str]) -> int:
    """The image from the host's relay, verified, and unpacked on this host; returns the number of tries."""
    sha256, reason = values["sha256"], ""
    for number in range(1, TRIES + 1):
        writer = guest.images.writer(sha256)
        try:
            await _fetch_once(guest, values, writer)
            reason = ""
        except OSError as error:  # the transfer, or a full disk
            reason = str(error)
        finally:
            if writer is not None:
                writer.close()
        if not reason:
            await guest.images.written(sha256)
            if guest.images.is_ready(sha256):
                return number
            reason = "the guest that unpacked it was stopped"
        guest.log(reason)
        await sleep(float(number))
    raise TaskError("image", f"{values['image']} could not be fetched in {TRIES} attempts: {reason}")


async def _fetch_once(guest: Guest, values: Mapping[str, str], writer: Writer | None) -> None:
    digest = hashlib.sha256()

    def take(data: bytes | memoryview) -> None:
        digest.update(data)
        if writer is not None:
            writer.write(data)

    await guest.fetch(values["image"], take, patience=float(values.get("patience", "600")))
    if digest.hexdigest() != values["sha256"]:
        reason = f"the image's SHA-256 is {digest.hexdigest()}, not {values['sha256']}"
        raise TaskError("image", reason, permanent=True)
    if writer is not None and (reason := await writer.unpack(values["compression"])):
        raise TaskError("image", reason, permanent=True)


def _install(guest: Guest, values: Mapping[str, str]) -> Root:
    """Key, identity and DNS servers, on top of the image, as a VM's deployment writes them."""
    fields = {
        "name": values["environment"],
        "sha256": values["sha256"],
        "deployment": values["deployment"],
        "server": values["server"],
    }
    files = {
        "root/.ssh/authorized_keys": values.get("authorized_keys", "") + "\n",
        "etc/g5kvirt-environment": "".join(f"{key}={value}\n" for key, value in fields.items()),
    }
    if guest.dns:
        files["etc/resolv.conf"] = "".join(f"nameserver {address}\n" for address in guest.dns)
    try:
        image = guest.images.directory(values["sha256"])
        root = Root(guest.home, image, f"{guest.place}.disk", guest.name, files, fields)
    except OSError as error:
        raise TaskError("postinstall", str(error)) from None
    if root.server is None:
        try:
            library()  # for a server of ours
        except OSError as error:
            reason = f"the image has no ssh server (usr/sbin/dropbear or usr/sbin/sshd), and {error}"
            raise TaskError("postinstall", reason, permanent=True) from None
    return root
