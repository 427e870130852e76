"""How long a boot may take on the machines of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from g5kvirt.context import Context
from g5kvirt.guests.registry import GUESTS
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.windows import boot_timeout

__all__ = ["boot_limit", "environment_factor"]

#: How many times longer than the slowest link needs for it the files of a boot may take.
_LINK_SLOWDOWN = 2.0

#: Bytes up to which an environment is as quick to boot as the minimal system (``mini`` has 22 MB), and how
#: many times longer others may take, with systemd, udev and OpenSSH.
_SMALL = 64 << 20
_FULL_SYSTEM = 4.0


def environment_factor(unpacked: int) -> float:
    """How many times longer than into the minimal system a boot into an environment of so many bytes (0: not
    known) may take."""
    return 1.0 if 0 < unpacked <= _SMALL else _FULL_SYSTEM


def boot_limit(context: Context, cluster: ClusterState) -> Callable[[int, int], float]:
    """Seconds that a boot may take, as a function of how many VMs boot at once and of the attempt.

    To what the cores need (`boot_timeout`) comes what the links of the servers need: on a site with a
    gigabit a second 750 VMs at once take a minute and a half to fetch kernel and initrd, however fast they
    are.
    """
    facts = [cluster.facts[h.name] for h in cluster.hosts]
    cores = context.testbed.real_cores or sum(f.cores for f in facts)
    kind = GUESTS[context.spec.guest]
    guest = kind.label(facts)
    fixed = context.spec.timeouts.boot
    transfer = kind.boot_bytes * 8 * _slowest_share(context, cluster)

    def limit(booting: int, attempt: int) -> float:
        if fixed is not None:
            return fixed
        crowd = _LINK_SLOWDOWN * booting * transfer * attempt
        return boot_timeout(booting, cores, guest=guest, attempt=attempt) + crowd

    return limit


def _slowest_share(context: Context, cluster: ClusterState) -> float:
    """Seconds per bit and VM on the server whose link is the last to be done: its share of all VMs / rate."""
    vms = context.journal.state.placed_vms
    load = Counter(cluster.layout.server("http", vm.site, vm.index).host for vm in vms)
    return max((number / server.nic_rate for server, number in load.items()), default=0.0) / max(1, len(vms))
