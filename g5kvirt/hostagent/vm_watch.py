"""Notices that the process of a VM has ended, which nobody reports: within half a minute, or some minutes
where hundreds of hosts share the processors of one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from g5kvirt.hostagent import calls, protocol
from g5kvirt.hostagent.watch import Watch, affordable
from g5kvirt.inventory import VM, Host
from g5kvirt.remote import Fanout

__all__ = ["INTERVAL", "VMWatch"]

#: Seconds between two looks at all hosts.
INTERVAL = 25.0
#: Seconds that the hosts have for their answers.
PATIENCE = 15.0


class VMWatch(Watch):
    """Calls ``gone(vm, reason, t)``, in a thread of its own, for VMs whose process has ended.

    ``hosts``: all that VMs are on. ``t``: when the host was called, by our clock: what has begun since is not
    meant. A VM that stays dead is reported at each look. Hosts that do not answer are left to `HostWatch`,
    and where no connections are kept (through jump hosts) nothing is watched. A context manager.
    ``real_cores``: those that all hosts share, if they do.
    """

    def __init__(
        self,
        fanout: Fanout,
        hosts: Iterable[Host],
        vms: Iterable[VM],
        gone: Callable[[str, str, float], object],
        *,
        real_cores: int | None = None,
    ) -> None:
        by_name = {host.name: host for host in hosts}
        self._vms: dict[Host, list[str]] = {}
        for vm in vms:
            self._vms.setdefault(by_name[vm.host], []).append(vm.name)
        super().__init__(fanout, "the VMs", affordable(INTERVAL, len(self._vms), real_cores))
        self._gone = gone

    def look(self) -> None:
        """Call the hosts once."""
        called = time.time()
        documents = {
            host: protocol.document(protocol.status(names))
            for host, names in self._vms.items()
            if not self.fanout.is_gone(host.address)
        }
        for reply in calls.call_agents(self.fanout, documents, timeout=PATIENCE, given_up=self.given_up):
            for answer in reply.answers:
                # a host knows of its own VMs only
                if answer.detail.get("state") == "dead" and answer.subject in self._vms[reply.host]:
                    last = str(answer.detail.get("log") or "").strip()
                    reason = f"its process on {reply.host.name} has ended" + (f": {last}" if last else "")
                    self._gone(answer.subject, reason, called)
