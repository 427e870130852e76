"""Files from VMs: each host collects those of its own VMs, then all hosts send them here side by side."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from g5kvirt.context import Context
from g5kvirt.errors import SpecError
from g5kvirt.guests.archive import Unpacked, check_path, unpack
from g5kvirt.guests.commands import GuestCommands, HostFiles
from g5kvirt.guests.run import check_timeout, chosen_vms
from g5kvirt.inventory import VM
from g5kvirt.netboot import services
from g5kvirt.remote import Result
from g5kvirt.remote.download import download
from g5kvirt.remote.envelope import new_token
from g5kvirt.remote.tar_members import UNREADABLE, BoundedMember
from g5kvirt.run.printable import short
from g5kvirt.spec.fields import show

__all__ = ["COLUMNS", "get"]

#: Of `get`'s rows.
COLUMNS = ("vm", "ok", "path", "bytes", "seconds", "reason")

#: Hosts that send at once.
WINDOW = 8


def get(
    context: Context, source: object, target: object, names: Sequence[str] | None, timeout: float
) -> list[dict[str, object]]:
    """Copy a file or directory of each VM to ``target/VM/``; one row per VM.

    Raises SpecError for paths that cannot be copied and unknown VMs; PhaseOrderError without deployed VMs.
    """
    path = check_path("source", source).rstrip("/")
    name = posixpath.basename(path)
    if name in ("", ".", ".."):
        raise SpecError(f"source {show(source)} names no file", advice="give a path such as '/root/results'")
    if not isinstance(target, str | Path):
        raise SpecError(f"target must be a directory such as 'results', not {show(target)}")
    check_timeout(timeout)
    vms = chosen_vms(context, names, "get")
    if not vms:  # an empty list
        return []
    folder = Path(target).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{folder} cannot be made ({error.strerror}): choose another target") from error
    results, files = _fetch(context, vms, path, folder, timeout)
    return [_row(vm, name, folder, results[vm.name], files.get(vm.name)) for vm in vms]


def _row(
    vm: VM, name: str, folder: Path, result: Result, found: Unpacked | BaseException | None
) -> dict[str, object]:
    reason = result.reason
    if result.returncode and (messages := result.stderr.decode(errors="replace").strip()):
        reason = f"exit code {result.returncode} ({messages.splitlines()[0][:200]})"  # the last says no more
    if not reason and isinstance(found, BaseException):
        reason = f"what came is no whole archive ({short(str(found)) or type(found).__name__})"
    elif not reason and found is None:
        reason = "its host did not send it"
    elif not reason and isinstance(found, Unpacked) and found.left_out:
        reason = f"left out, being no files and no links to any: {short(', '.join(found.left_out[:3]))}"
        reason += ", …" * (len(found.left_out) > 3)
    whole = isinstance(found, Unpacked)
    return {
        "vm": vm.name,
        "ok": result.ok and whole and not reason,
        "path": str(folder / vm.name / name) if whole and result.ok else "",
        "bytes": found.size if isinstance(found, Unpacked) else 0,
        "seconds": result.duration,
        "reason": reason,
    }


def _fetch(
    context: Context, vms: Sequence[VM], path: str, folder: Path, timeout: float
) -> tuple[dict[str, Result], dict[str, Unpacked | BaseException]]:
    """How each VM's command ended, and what was written here of each VM."""
    collected = f"{services.ROOT}/collected/{new_token()}"
    where, name = posixpath.dirname(path) or ("/" if path.startswith("/") else "."), posixpath.basename(path)
    hosts = {host.name: host for host in context.journal.state.deployed_hosts}
    used = list(dict.fromkeys(hosts[vm.host].address for vm in vms))
    files: dict[str, Unpacked | BaseException] = {}
    try:
        results = GuestCommands(context, vms).run(
            [vm.name for vm in vms],
            ["tar", "-c", "-f", "-", "-C", where, "--", name],
            timeout=timeout,
            idempotent=True,
            files=HostFiles(output=collected),
        )
        known = {vm.name for vm in vms}
        for vm_name, result in results.items():
            if result.ok and result.via != "host":  # it came straight from the VM
                files[vm_name] = _unpacked(io.BytesIO(result.stdout), folder / vm_name)
        keep = {vm.name for vm in vms if results[vm.name].ok and vm.name not in files}
        sending = dict.fromkeys(hosts[vm.host].address for vm in vms if vm.name in keep)
        command = ["tar", "-c", "-f", "-", "-C", collected, "."]
        sent = download(
            context.access,
            dict.fromkeys(sending, command),
            lambda _, stream: _read(stream, folder, known & keep),
            timeout=timeout,
            window=WINDOW,
        )
    finally:
        context.fanout.run(used, ["rm", "-rf", "--", collected], timeout=timeout, idempotent=True)
    for _, value in sent.values():
        if isinstance(value, Mapping):
            files |= value
    reasons = {address: result.reason for address, (result, _) in sent.items() if not result.ok}
    for vm in vms:
        if vm.name in keep and (why := reasons.get(hosts[vm.host].address)):
            files[vm.name] = OSError(f"its host {vm.host}: {why}")
    return results, files


def _read(stream: IO[bytes], folder: Path, names: set[str]) -> dict[str, Unpacked | BaseException]:
    """Unpack what a host sends: an archive with an archive of each of its VMs."""
    found: dict[str, Unpacked | BaseException] = {}
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=BoundedMember) as tar:
        for member in tar:
            name = posixpath.basename(member.name)
            if member.isreg() and name in names:
                content = tar.extractfile(member)
                assert content is not None
                found[name] = _unpacked(content, folder / name)
    return found


def _unpacked(stream: IO[bytes], folder: Path) -> Unpacked | BaseException:
    try:
        return unpack(stream, folder)
    except UNREADABLE as error:
        return error
