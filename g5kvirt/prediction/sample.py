"""A part of an experiment that behaves like all of it: every n-th host, with its VMs.

What the hosts have of their own (cores, link, VMs per core) stays as it is. What all of them share is
divided: links of servers and sites, windows, and the number of VMs. So each VM meets the load that it would
meet in the whole experiment, and a million VMs cost as much as some thousands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from g5kvirt.inventory import Host
from g5kvirt.phases.reservation_request import request_for, with_sites
from g5kvirt.planning.checks import check_against
from g5kvirt.planning.forecast import room
from g5kvirt.planning.services import services_per_site
from g5kvirt.spec.spec import Spec, Windows
from g5kvirt.testbeds.simulated.driver import Simulated
from g5kvirt.testbeds.simulated.recorded import inventory_of

__all__ = ["VMS", "Sample", "sample"]

#: VMs of a sample, about.
VMS = 1000
#: Slots of a window that are left at least. Each transfer stands for as many at once, which with few slots
#: slows down more than it should: 25 of 100 slots make 4,552 boots 3 % slower, 11 make them 11 % slower.
_SLOTS = 25


@dataclass(frozen=True)
class Sample:
    """An experiment and a testbed for it, ``factor`` times smaller than those they stand for.

    ``whole``: the VMs of the whole experiment, if this is only a part.
    """

    spec: Spec
    testbed: Simulated
    factor: float = 1.0
    whole: int | None = None

    def size(self, vms: int) -> int:
        """The VMs of the sample that stand for so many."""
        return vms if self.whole is None else max(1, round(vms * self.spec.vms / self.whole))


def sample(spec: Spec, testbed: Simulated, vms: int = VMS) -> Sample:
    """A sample of about so many VMs, or all of the experiment if it has no more or cannot be divided.

    It cannot where all machines share the same cores, or where its servers would be at other sites; and
    windows bound the factor.
    Raises SpecError, CapacityError and TestbedError for what does not fit on the testbed.
    """
    spec = replace(with_sites(spec, testbed), start="now")
    check_against(spec, testbed.hosts())
    most = min(spec.vms // vms, _largest_factor(spec.windows))
    if most < 2 or testbed.real_cores is not None:
        return Sample(spec, testbed)
    request = request_for(replace(spec.with_vms(1), min_hosts=None), "sample")  # the machines alone
    reserved = testbed.reserve(request, lambda *_: None).hosts
    services = services_per_site(spec.sites, spec.services)
    own = {site: [host for host in reserved if host.site == site] for site in services}
    chosen = {site: _every(own[site][number:], most) for site, number in services.items()}
    sites = {site: len(hosts) for site, hosts in chosen.items()}
    if services_per_site(sites, spec.services) != services:  # its servers would be elsewhere
        return Sample(spec, testbed)
    machines: list[Host] = []
    for site, number in services.items():
        share = (len(own[site]) - number) / sites[site]
        machines += [replace(host, nic_rate=host.nic_rate / share) for host in own[site][:number]]
        machines += chosen[site]
    capacity = int(room(spec, [host for hosts in chosen.values() for host in hosts]).sum())
    factor = spec.hosts / sum(sites.values())
    smaller = replace(
        spec.with_vms(max(1, min(capacity, round(spec.vms / factor)))),
        sites=sites,
        min_hosts=None,
        clusters=None,
        properties=None,
        windows=_divided(spec.windows, factor),
    )
    return Sample(smaller, testbed.sample(inventory_of(machines, testbed.name), factor), factor, spec.vms)


def _every(hosts: Sequence[Host], most: int) -> Sequence[Host]:
    """Every so many of them; from the middle of each group, since they are in order of size."""
    return hosts[min(most // 2, len(hosts) - 1) :: most]


def _largest_factor(windows: Windows) -> int:
    """By how much the windows can be divided."""
    return min((size // (1 if sleep else _SLOTS) for size, sleep in _pairs(windows) if size), default=1 << 30)


def _pairs(windows: Windows) -> Iterator[tuple[int | None, float | None]]:
    yield windows.boot, windows.sleep
    yield windows.reboot, windows.reboot_sleep
    yield windows.check, windows.check_sleep


def _divided(windows: Windows, factor: float) -> Windows:
    """The same rates and slots for a part of the VMs."""
    boot, reboot, check = (_smaller(size, sleep, factor) for size, sleep in _pairs(windows))
    return replace(
        windows,
        boot=boot[0],
        sleep=boot[1],
        reboot=reboot[0],
        reboot_sleep=reboot[1],
        check=check[0],
        check_sleep=check[1],
    )


def _smaller(size: int | None, sleep: float | None, factor: float) -> tuple[int | None, float | None]:
    """A window of whole VMs; with a sleep, of the same rate."""
    if size is None:
        return size, sleep
    smaller = max(1, math.floor(size / factor + 0.5))
    return smaller, None if sleep is None else sleep * smaller * factor / size
