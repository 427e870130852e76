"""Milestones of VMs, read from the logs of their servers. Pure: lines in, `Milestone` out.

=================  ===============================================  ==========================
milestone          HTTP netboot                                     TFTP netboot
=================  ===============================================  ==========================
``dhcp``           dnsmasq's ``DHCPACK``                            the same
``script``         nginx: GET ``/boot/MAC``                         dnsmasq: ``sent …/boot-….ipxe``
``kernel``         nginx: GET ``/kernel``                           dnsmasq: ``sent …/kernel``
``initrd``         nginx: GET ``/initrd``                           dnsmasq: ``sent …/initrd``
``minimal-system`` nginx: GET ``/report?step=minimal-system&…``     the same
=================  ===============================================  ==========================

The steps of a deployment (`tasks.STEPS`, then ``environment`` from what was deployed) are reports too; their
`Milestone` has a ``task``, a ``status`` and, if it failed, a ``reason``, and may be ``permanent``.

The time of a transfer is that of its end, by the server's clock; ``seconds`` in the detail is its
duration (HTTP only). A VM requests an address at least twice in a boot, by iPXE and by the minimal system:
each is a line and so a `Milestone`; which one counts depends on when the VM was powered on.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from g5kvirt.inventory import VM
from g5kvirt.netboot.reports import parse_report
from g5kvirt.netboot.task_id import TaskId

__all__ = ["BootLog", "Milestone"]

log = logging.getLogger(__name__)

_STAMPED = re.compile(r"(\d+\.\d+) (?:\S+ )*?dnsmasq(?:-\w+)?(?:\[\d+\])?: (.*)")
_ACK = re.compile(r"DHCPACK\(\S+\) (\S+) ((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\b")
_SENT = re.compile(r"sent (\S+) to (\S+)")
_OK = frozenset({200, 206})


@dataclass(frozen=True)
class Milestone:
    """A VM did ``step`` at ``t``, seconds since the epoch by its server's clock."""

    vm: str
    step: str
    t: float
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> TaskId | None:
        """The deployment and attempt that a report belongs to; None for a boot's own milestones."""
        text = str(self.detail.get("deployment", ""))
        return TaskId.parse(text) if text else None

    @property
    def status(self) -> Literal["ok", "failed"]:
        """Whether the step succeeded; "ok" unless it was reported otherwise."""
        return "failed" if self.detail.get("status") == "failed" else "ok"

    @property
    def reason(self) -> str:
        """Why it failed, as the VM reported it; empty if it did not."""
        return str(self.detail.get("reason") or "no reason given") if self.status == "failed" else ""

    @property
    def permanent(self) -> bool:
        """Whether the VM reported that another try would fail in the same way."""
        # "hopeless" is its name in logs of older versions of the guest's script.
        return self.status == "failed" and "1" in (self.detail.get("permanent"), self.detail.get("hopeless"))


class BootLog:
    """Reads lines of dnsmasq's log (stamped by the host agent) and of nginx's (JSON), in any order."""

    def __init__(self, vms: Iterable[VM]) -> None:
        machines = list(vms)
        self._by_mac = {vm.mac: vm.name for vm in machines}
        self._by_ip = {str(vm.ip): vm.name for vm in machines}
        self._names = frozenset(self._by_mac.values())
        self.refused = 0  #: reports that were none: see `g5kvirt.netboot.reports`

    def warn_of_refused(self) -> None:
        """Log how many reports were refused, if any were: a VM may be up to something."""
        if self.refused:
            log.warning("%d malformed reports of VMs were ignored (see SECURITY.md)", self.refused)

    def read(self, line: str) -> Milestone | None:
        """The milestone that a line shows; None if it shows none, or is about a VM that is not ours."""
        return self._access(line) if line.startswith("{") else self._dnsmasq(line)

    def _dnsmasq(self, line: str) -> Milestone | None:
        stamped = _STAMPED.fullmatch(line)
        if not stamped:
            return None
        t, text = float(stamped[1]), stamped[2]
        if not math.isfinite(t):
            return None
        if ack := _ACK.match(text):
            return self._milestone(self._by_mac.get(ack[2]), "dhcp", t, {"ip": ack[1]})
        if sent := _SENT.match(text):
            return self._milestone(self._by_ip.get(sent[2]), _step_of(sent[1].rpartition("/")[2]), t, {})
        return None

    def _access(self, line: str) -> Milestone | None:
        try:
            entry = json.loads(line)
            t, took, status = float(entry["t"]), float(entry["took"]), int(entry["status"])
            vm, uri, size = self._by_ip.get(entry["from"]), urlsplit(str(entry["uri"])), int(entry["bytes"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None  # torn, or an unrelated request
        if status not in _OK or not (math.isfinite(t) and math.isfinite(took)):
            return None
        if uri.path == "/report":
            return self._report(vm, uri.query, t)
        step = "script" if uri.path.startswith("/boot/") else _step_of(uri.path[1:])
        return self._milestone(vm, step, t, {"seconds": took, "bytes": size})

    def _report(self, vm: str | None, query: str, t: float) -> Milestone | None:
        """A report of a VM about itself; others of these VMs are counted as `refused`.

        The run may have more VMs than these, whose reports are in the same log.
        """
        report = parse_report(query)
        if vm is None and (report is None or report[1].get("name") not in self._names):
            return None
        if vm is None or report is None or report[1].get("name", vm) != vm:
            self.refused += 1
            log.debug("a report was refused: %s from %s", query[:200], vm)
            return None
        step, values = report
        return self._milestone(vm, step, t, values)

    @staticmethod
    def _milestone(vm: str | None, step: str | None, t: float, detail: Mapping[str, Any]) -> Milestone | None:
        return Milestone(vm, step, t, detail) if vm and step else None


def _step_of(file: str) -> str | None:
    """Which step the transfer of a file ends."""
    if file in ("kernel", "initrd"):
        return file
    return "script" if file.endswith(".ipxe") else None
