"""What every phase works with: the spec, the testbed, the run and its journal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from g5kvirt.errors import reason_of
from g5kvirt.inventory import Facts
from g5kvirt.planning.windows import check_window_size
from g5kvirt.remote import Access, Fanout, jumps
from g5kvirt.remote.fanout import TREE_FROM
from g5kvirt.run.directory import Run
from g5kvirt.run.events import Event
from g5kvirt.run.journal import Journal
from g5kvirt.run.keys import make_key
from g5kvirt.run.recovery import deployment_ends
from g5kvirt.run.vocabulary import Kind
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds import Testbed

__all__ = ["Context", "login_allowance", "way_in"]

#: Seconds per machine and core of this machine by which a login may take longer when all are called at once.
#: One costs this machine 15 ms of a core, 90 ms if the other end is on it as well (measured).
LOGIN_SECONDS = 0.1


def login_allowance(machines: int, cores: int) -> float:
    """Seconds by which the bound for one login grows with the number of machines."""
    return LOGIN_SECONDS * machines / cores


def way_in(access: Access, journal: Journal) -> Access:
    """``access`` as it is for machines in the KaVLAN that was reserved: through its gateway, if need be."""
    granted = journal.state.reservation
    if granted is None or granted.vlan is None or not granted.vlan_site:
        return access
    # The host's own name contains the site's domain.
    domain = next(h.name.partition(".")[2] for h in granted.hosts if h.site == granted.vlan_site)
    return access.through(*jumps.gateways(granted.vlan, domain))


@dataclass(frozen=True)
class Context:
    """One run in progress."""

    spec: Spec
    testbed: Testbed
    run: Run
    journal: Journal

    @property
    def key(self) -> str:
        """The run's private ssh key file."""
        return str(self.run.path / "ssh" / "id_ed25519")

    @cached_property
    def check_key(self) -> Path:
        """The private key that deployed VMs let in for nothing but to print what they are.

        For VMs RSA, which dropbear verifies in a tenth of the time that it takes for others; for other
        guests Ed25519, which costs their host less to sign.
        Raises MachineError if it cannot be made.
        """
        path = self.run.path / "ssh" / "check"
        if not path.with_name("check.pub").exists():  # ssh-keygen writes it last
            path.unlink(missing_ok=True)
            kind = ("-t", "rsa", "-b", "2048") if self.spec.guest == "vm" else ("-t", "ed25519")
            make_key(path, f"g5kvirt {self.run.name} check", *kind)
        return path

    @property
    def access(self) -> Access:
        """Root on the run's machines, on the way that `g5kvirt.guests.ssh` writes down, too."""
        access = way_in(self.testbed.access(self.key), self.journal)
        granted = self.journal.state.reservation
        if granted is None:
            return access
        timeout = access.connect_timeout + login_allowance(len(granted.hosts), os.cpu_count() or 1)
        return replace(access, connect_timeout=timeout)

    @cached_property
    def fanout(self) -> Fanout:
        """Commands and files for the run's machines; one for all steps, as it learns which way works.

        Where all machines share this one's cores, a tree of logins only costs twice as much as one by one.
        """
        return Fanout(self.access, tree_from=TREE_FROM if self.testbed.real_cores is None else None)

    def disconnect(self) -> None:
        """Close the connections to the run's machines that are kept for further calls."""
        made: Fanout | None = self.__dict__.get("fanout")
        if made is not None:
            made.close()

    @property
    def checks_at_once(self) -> int:
        """How many VMs are reached by ssh at once, if this machine does it itself."""
        cores = len(os.sched_getaffinity(0))
        return check_window_size(self.spec.windows, cores, relayed=bool(self.access.jump))

    def host_checks_at_once(self, hosts: Iterable[Facts]) -> int:
        """How many VMs are reached by ssh at once, if their hosts do it."""
        cores = self.testbed.real_cores or sum(facts.cores for facts in hosts)
        return check_window_size(self.spec.windows, cores, by_hosts=True)

    def now(self) -> float:
        """Seconds since the epoch, by the clock of the testbed: a model has one of its own."""
        world = self.testbed.world
        return time.time() if world is None else world.now()

    @contextmanager
    def span(
        self, phase: str, step: str, kind: Kind = "run", subject: str = "", **detail: Any
    ) -> Iterator[dict[str, Any]]:
        """Journal what happens inside as ``start`` and ``ok`` or ``failed``.

        What is put into the dictionary that it yields becomes the detail of the closing event. The opening
        one names this process, for others that would like to write.
        """
        name = subject or self.run.name
        if self.testbed.world is None:  # a prediction is the same wherever it is made
            detail = {"process": {"pid": os.getpid(), "host": os.uname().nodename}, **detail}
        self.journal.append(phase, step, kind, name, "start", t=self.now(), **detail)
        result: dict[str, Any] = {}
        try:
            yield result
        except BaseException as error:
            reason = reason_of(error)
            end = Event(phase, step, kind, name, "failed", self.now(), detail={"reason": reason})
            # together with those of deployments whose own could not be written: all of them, or none
            ends = deployment_ends(self.journal.state, reason) if end.is_phase else []
            self.journal.extend([*ends, end])
            raise
        self.journal.append(phase, step, kind, name, "ok", t=self.now(), **result)
