"""The configuration of a container of the local testbed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["ContainerSpec"]


@dataclass(frozen=True)
class ContainerSpec:
    """The configuration of a container: plain data, so that it can be sent as JSON."""

    name: str
    mount_point: str  #: an empty directory; only the container sees what it mounts there
    layer: str  #: mount point of the layer
    log: str  #: file for the output of the container and its services
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)  #: path → mode, text
    binds: Sequence[tuple[str, str]] = ()  #: outer path → inner path, read-only
    shares: Sequence[tuple[str, str]] = ()  #: outer path → inner path, writable
    proc: Mapping[str, str] = field(default_factory=dict)  #: name in /proc → text
    owners: Mapping[str, str] = field(default_factory=dict)  #: path → user
    services: Sequence[
        tuple[str, tuple[str, ...], str]
    ] = ()  #: name, command, user; started with the network
    ports: Sequence[int] = ()  #: TCP ports on which the services listen when they are ready
    commands: Sequence[tuple[str, ...]] = ()  #: run once before the services
    capabilities: Collection[int] = ()  #: that its root has

    def to_plain(self) -> dict[str, Any]:
        return {**asdict(self), "capabilities": sorted(self.capabilities)}
