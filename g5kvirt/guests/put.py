"""Files onto VMs: each link carries them once, down a chain of hosts, and each host writes to its own VMs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from g5kvirt.broadcast import chain, relays
from g5kvirt.context import Context
from g5kvirt.errors import RunError
from g5kvirt.guests.archive import Archive, check_path, packed, sources_of
from g5kvirt.guests.commands import GuestCommands, HostFiles
from g5kvirt.guests.run import check_timeout, chosen_vms
from g5kvirt.inventory import VM
from g5kvirt.netboot import services
from g5kvirt.planning.cluster import cluster_state
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.remote import Result
from g5kvirt.run import file_lock

__all__ = ["COLUMNS", "put"]

#: Of `put`'s rows.
COLUMNS = ("vm", "ok", "seconds", "reason")

#: Below nginx's root on the service machine; and where hosts keep the archive meanwhile: on their disk, as
#: their RAM disk belongs to the VMs.
FILES = "files"
STORE = f"{services.ROOT}/files"
#: Beside that of images, which may be on their way at the same time.
PORT = chain.PORT + 1
SERVICE = "relay-files"

#: Writes its input into a file, if it is what it should be.
_SAVE = """\
set -e
mkdir -p -- "${1%/*}"
trap 'rm -f -- "$1.new"' EXIT
cat >"$1.new"
echo "$2  $1.new" | sha256sum -c >/dev/null
chmod 644 -- "$1.new"
mv -f -- "$1.new" "$1"
"""
_UNPACK = 'mkdir -p -- "$1" && tar -x -f - -C "$1"'


def put(
    context: Context, source: object, target: object, names: Sequence[str] | None, timeout: float
) -> list[dict[str, object]]:
    """Copy files or directories to VMs (default: those whose last deployment succeeded); one row per VM.

    Raises SpecError for what cannot be copied and for unknown VMs; PhaseOrderError without deployed VMs;
    RunError while another `put` of this run is under way.
    """
    path, sources = check_path("target", target), sources_of(source)
    check_timeout(timeout)
    vms = chosen_vms(context, names, "put")
    if not vms:  # an empty list
        return []
    with _alone(context), packed(sources, path) as archive:
        failed = _to_hosts(context, archive, vms, timeout)
        try:
            results = _to_vms(context, archive, [vm for vm in vms if vm.host not in failed], timeout)
        finally:
            _clear(context, archive, vms, timeout)
    return [_row(vm, results, failed) for vm in vms]


@contextmanager
def _alone(context: Context) -> Iterator[None]:
    """The relays of a run's hosts carry one archive at a time."""
    with (context.run.path / "put.lock").open("wb") as file:
        try:
            file_lock.lock(file.fileno())
        except BlockingIOError:
            raise RunError(
                f"another put() of run {context.run.name!r} is under way",
                advice="call it again when the other has ended",
            ) from None
        yield


def _row(vm: VM, results: Mapping[str, Result], failed: Mapping[str, str]) -> dict[str, object]:
    if vm.host in failed:
        reason = f"its host {vm.host}: {failed[vm.host]}"
        return {"vm": vm.name, "ok": False, "seconds": 0.0, "reason": reason}
    result = results[vm.name]
    return {"vm": vm.name, "ok": result.ok, "seconds": result.duration, "reason": result.reason}


def _head(context: Context) -> ServiceMachine:
    """The service machine from which the chain begins."""
    machines = cluster_state(context.spec, context.journal.state).layout.machines
    return next(m for m in machines if "http" in m.roles and m.host.site in m.addresses)


def _plan(context: Context, archive: Archive, vms: Sequence[VM], timeout: float) -> chain.ChainPlan:
    """The chain of the hosts of these VMs, along the cables, from one service machine."""
    head = _head(context)
    used = {vm.host for vm in vms}
    cluster = cluster_state(context.spec, context.journal.state)
    return chain.chain(
        [host for host in cluster.hosts if host.name in used],
        chain.Payload(archive.sha256, archive.size),
        head_url=f"http://{head.addresses[head.host.site]}:80/{FILES}/{archive.sha256}",
        head_name=head.host.name,
        head_site=head.host.site,
        port=PORT,
        store=STORE,
        limits={"deadline": timeout},
        real_cores=context.testbed.real_cores,
        service=SERVICE,
    )


def _to_hosts(context: Context, archive: Archive, vms: Sequence[VM], timeout: float) -> dict[str, str]:
    """Bring the archive to every host of these VMs; host → reason, for those that do not have it."""
    fanout, head = context.fanout, _head(context).host
    plan = _plan(context, archive, vms, timeout)
    path = f"{services.WWW}/{FILES}/{archive.sha256}"
    saved = fanout.run(
        [head.address],
        ["sh", "-c", _SAVE, "sh", path, archive.sha256],
        stdin=archive.path,
        timeout=timeout,
        idempotent=True,
    )[head.address]
    if not saved.ok:
        reason = f"the service machine {head.name} could not store the files: {saved.reason}"
        return {stop.host.name: reason for stop in plan.stops}
    lost = relays.start(fanout, plan)
    reached = relays.collect(fanout, plan, timeout=timeout, failed=lost)
    return {host: progress.reason for host, progress in reached.items() if not progress.ok}


def _to_vms(context: Context, archive: Archive, vms: Sequence[VM], timeout: float) -> dict[str, Result]:
    """Have each host unpack the archive on its VMs."""
    if not vms:
        return {}
    return GuestCommands(context, vms).run(
        [vm.name for vm in vms],
        ["sh", "-c", _UNPACK, "sh", archive.folder],
        timeout=timeout,
        idempotent=True,
        files=HostFiles(input=f"{STORE}/{archive.sha256}", here=archive.path),
    )


def _clear(context: Context, archive: Archive, vms: Sequence[VM], timeout: float) -> None:
    """Remove the archive from hosts and service machine; what cannot be reached goes with the reservation."""
    plan = _plan(context, archive, vms, timeout)
    stops = tuple(stop for stop in plan.stops if not context.fanout.is_gone(stop.host.address))
    relays.stop(context.fanout, replace(plan, stops=stops), timeout=timeout)
    path = f"{services.WWW}/{FILES}/{archive.sha256}"
    context.fanout.run([_head(context).host.address], ["rm", "-f", "--", path], timeout=timeout)
