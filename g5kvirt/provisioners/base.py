"""What every provisioner has: it prepares the machines for an image, and deploys that image on VMs.

A new one is a folder (or file) with a class of the shape of `Provisioner` and a line in
`g5kvirt.provisioners.registry`. Provisioners do not import each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from g5kvirt.broadcast import chain
from g5kvirt.context import Context
from g5kvirt.images.environments import Environment, Image
from g5kvirt.inventory import VM
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.provisioners.outcome import Outcome

__all__ = ["DeploymentRequest", "Installer", "Provisioner"]


@dataclass(frozen=True)
class DeploymentRequest:
    """One deployment. ``name`` is its id in the journal, ``about`` goes into its first event."""

    name: str
    vms: Sequence[VM]
    about: Mapping[str, Any]
    #: names of VMs that are in their minimal system and need no reboot first
    fresh: Sequence[str] = ()
    #: names of VMs on which nothing was deployed yet: no ssh server is there to reboot them through
    without_ssh: Sequence[str] = ()


class Installer(Protocol):
    """A provisioner that is ready to deploy one image on VMs of one run, any number of times."""

    def deploy(self, request: DeploymentRequest) -> list[Outcome]:
        """One deployment, to its end; all of it is in the journal.

        Single VMs never raise. However it ends, every VM has an end in the journal.
        """


class Provisioner(Protocol):
    """A way to deploy environments on VMs."""

    #: The kinds of broadcast that it has.
    broadcasts: Sequence[chain.Kind]
    #: Whether it can deploy on VMs that are in their minimal system without a reboot first.
    skips_reboot: bool

    def check(self, environment: Environment) -> None:
        """Raises SpecError for an environment that it cannot deploy. Touches nothing."""

    def prepare(
        self, context: Context, cluster: ClusterState, vms: Sequence[VM], image: Image, broadcast: chain.Kind
    ) -> Installer:
        """Make the machines ready to deploy ``image`` on some of ``vms``. Nothing is rebooted.

        Raises SpecError as `check`; PhaseError naming what could not be done.
        """
