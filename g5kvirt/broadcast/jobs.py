"""What each relay of a broadcast reads, and how the host agent is to run it. Pure."""

from __future__ import annotations

import json
from typing import Any

from g5kvirt.broadcast.chain import ChainPlan, Stop
from g5kvirt.hostagent import protocol

__all__ = ["relay_job", "service_request", "watch_arguments"]

#: Seconds until a relay listens: hundreds may start on one machine.
START_LIMIT = 45.0


def relay_job(plan: ChainPlan, stop: Stop) -> dict[str, Any]:
    """What a host's relay reads; see `hostagent.onhost.relay`."""
    return {
        "host": stop.host.name,
        "sha256": plan.image.sha256,
        "size": plan.image.size,
        "token": plan.token,
        "store": plan.store,
        "source": None,
        "listen": [list(place) for place in stop.listen] if plan.kind == "chain" else [],
        "open": [list(place) for place in stop.open],
        "before": [{"host": name, "url": url} for name, url in stop.before if plan.kind != "tree"],
        "limits": dict(plan.limits),
    }


def service_request(plan: ChainPlan, stop: Stop, home: str = protocol.HOME, mark: str = "") -> dict[str, Any]:
    """The host agent's request that keeps a host's relay running: a killed one resumes where it was.

    The same request again changes nothing; with another ``mark`` the relay is restarted.
    """
    path = f"{home}/services/{plan.service}/job.json"
    return protocol.serve(
        plan.service,
        command=(*protocol.COMMAND, "relay", "run", path, plan.state),
        files=[protocol.file(path, json.dumps(relay_job(plan, stop) | {"mark": mark}), mode=0o600)],
        directories=[plan.store],
        ready_log='"op": "broadcast"',
        limit=START_LIMIT,
    )


def watch_arguments(plan: ChainPlan, timeout: float) -> tuple[str, ...]:
    """The agent's arguments to print what a host's relay reports until it ends, or ``timeout`` seconds."""
    return ("relay", "watch", plan.state, f"{timeout:g}")
