"""The broadcasts of one deployment: the image from the service machine to the hosts of its VMs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from g5kvirt.broadcast import chain, relays
from g5kvirt.broadcast.reports import Progress
from g5kvirt.context import Context
from g5kvirt.hostagent import calls, protocol
from g5kvirt.images.environments import Image
from g5kvirt.inventory import VM, Host
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.provisioners.builtin.orders import BroadcastOrder, Report, TaskOrder, merged
from g5kvirt.provisioners.transfer import image_servers
from g5kvirt.remote import Fanout

__all__ = ["IMAGES", "Transport"]

IMAGES = "images"  #: below nginx's root
#: Seconds for a host to get the image, unless the specification allows more; the engine gives it up earlier
#: by what it measures.
TIMEOUT = 900.0


class Transport:
    """Plans each kind of broadcast once and carries it out; ``report`` gets how it ended for each host.

    The tasks of a host's VMs are kept until they can fetch the image there: `ready` sorts them out, and
    ``release`` gets what was kept. A chain and plain HTTP hand the image on while it arrives, as soon as the
    host's relay runs; a tree has it on a host only as a whole.
    """

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        vms: Sequence[VM],
        image: Image,
        report: Callable[[Report], object],
        release: Callable[[TaskOrder], object],
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._used = {vm.host for vm in vms}
        self._image = image
        self._report = report
        self._release = release
        self._lost: set[str] = set()  # hosts that are gone
        self._lock = threading.Lock()
        self._plans: dict[str, chain.ChainPlan] = {}
        self._limit = max(TIMEOUT, context.spec.timeouts.broadcast_env or 0.0)
        self._open: set[tuple[str, str]] = set()  # (variant, host): its VMs may fetch, or have to give up
        self._kept: dict[tuple[str, str], list[TaskOrder]] = {}

    def url(self, variant: str, host: Host) -> str:
        """Where the VMs of a host find the image."""
        return self._plan(variant).url(host)

    @property
    def state_file(self) -> str:
        """Where the relays keep how far they are; empty while there is no plan for one."""
        with self._lock:
            return next((plan.state for plan in self._plans.values()), "")

    def _plan(self, variant: str) -> chain.ChainPlan:
        with self._lock:
            if variant not in self._plans:
                self._plans[variant] = self._planned(variant)
            return self._plans[variant]

    def _planned(self, variant: str) -> chain.ChainPlan:
        machines = image_servers(self._cluster.layout.machines)
        heads = {
            site: (m.host.name, f"http://{m.addresses[site]}:80/{IMAGES}/{self._image.sha256}")
            for site, m in machines.items()
        }
        site, (name, url) = next(iter(heads.items()))
        plan = chain.chain(
            [host for host in self._cluster.hosts if host.name in self._used],
            chain.Payload(self._image.sha256, self._image.size),
            head_url=url,
            head_name=name,
            head_site=site,
            heads=heads,
            open_at={name: str(a) for name, a in self._cluster.addresses.items()},
            limits={"deadline": self._limit},
            real_cores=self._context.testbed.real_cores,
        )
        return chain.http(plan) if variant == "http" else plan

    # ---- the broadcast ----------------------------------------------------------------------------------

    def execute(self, order: BroadcastOrder) -> None:
        """Bring the image to the hosts of ``order``; reports each in any case, and never raises."""
        open_hosts = set(order.hosts)

        def report(host: str, reason: str) -> None:
            if host in open_hosts:
                open_hosts.discard(host)
                status: Literal["ok", "failed"] = "failed" if reason else "ok"
                self._report(Report(host, order.step, status, time.time(), reason, order.attempt))
                self._let_begin(order.variant, host)

        try:
            self._broadcast(order, report)
        except Exception as error:  # noqa: BLE001 - it becomes the reason of every host that waits for it
            for host in order.hosts:
                report(host, f"{type(error).__name__}: {error}")

    def _broadcast(self, order: BroadcastOrder, report: Callable[[str, str], None]) -> None:
        fanout = self._context.fanout
        plan = self._plan(order.variant)
        wanted = set(order.hosts)
        plan = replace(plan, stops=tuple(stop for stop in plan.stops if stop.host.name in wanted))

        def on_progress(progress: Progress) -> None:
            if progress.ended:
                report(progress.host, "" if progress.ok else progress.reason)

        with self._lock:  # again, after it failed: VMs must wait again
            self._open -= {(order.variant, host) for host in wanted}
        plan, lost = self._start(plan, order.variant)
        for host in wanted - {stop.host.name for stop in plan.stops}:
            report(host, lost[host])
        if not plan.stops:
            return
        results = relays.collect(fanout, plan, timeout=self._limit, failed=lost, on_progress=on_progress)
        for progress in results.values():
            on_progress(progress)

    def _start(self, plan: chain.ChainPlan, variant: str) -> tuple[chain.ChainPlan, dict[str, str]]:
        """Start the relays: the plan with the hosts that got one, and why others have none."""
        fanout = self._context.fanout
        lost: dict[str, str] = {}
        if variant == "tree":
            # A tree even for few hosts: that is the point of the comparison.
            tree = Fanout(fanout.access, tree_from=1)
            plan, lost = relays.copy_by_tree(tree, plan, self._image.path, timeout=self._limit)
        if not plan.stops:
            return plan, lost
        return plan, lost | relays.start(fanout, plan, on_start=partial(self._let_begin, variant))

    def restart_lost_relays(self, variant: str, hosts: Collection[str]) -> None:
        """Start relays again that had succeeded and are gone: they and their supervisors were killed.

        For VMs that begin again; a relay that still does not run is reported by these VMs.
        """
        plan = self._plan(variant)
        stops = {stop.host: stop for stop in plan.stops if stop.host.name in hosts}
        document = protocol.document(protocol.services([plan.service]))
        replies = calls.call_agents(
            self._context.fanout,
            dict.fromkeys(stops, document),
            timeout=self._context.spec.timeouts.command,
        )
        gone = tuple(
            stops[reply.host]
            for reply in replies
            if any(a.ok and a.detail.get("state") != "running" for a in reply.answers)
        )
        if gone:
            self._start(replace(plan, stops=gone), variant)

    def lose(self, host: str) -> None:
        """A host is gone: nobody waits for its relay any more."""
        self._lost.add(host)

    def stop(self) -> None:
        """End the relays."""
        for plan in self._plans.values():
            stops = tuple(stop for stop in plan.stops if stop.host.name not in self._lost)
            relays.stop(self._context.fanout, replace(plan, stops=stops))

    # ---- tasks that must wait ---------------------------------------------------------------------------

    def ready(self, task: TaskOrder) -> TaskOrder:
        """The part of ``task`` for VMs that may begin now; the rest is kept until their hosts are ready."""
        variant = task.variants["BroadcastEnv"]
        now = []
        with self._lock:
            for target in task.vms:
                key = (variant, target.vm.host)
                if key in self._open:
                    now.append(target)
                else:
                    self._kept.setdefault(key, []).append(replace(task, vms=(target,)))
        return replace(task, vms=tuple(now))

    def _let_begin(self, variant: str, host: str) -> None:
        with self._lock:
            self._open.add((variant, host))
            kept = self._kept.pop((variant, host), [])
        for order in merged(kept):
            self._release(order)
