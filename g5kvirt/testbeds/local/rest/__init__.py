"""The REST API of a local testbed, in the forms of Grid'5000's 3.11.

`server` speaks HTTP and authenticates the client, `api` maps a request to its answer. What an answer contains
is decided by pure functions: `jobs` (documents and lists of jobs), `submission` (a request for a job),
`status` (what the nodes do). `writes` submits, deletes and prolongs jobs with OAR's own commands,
`deployments` deploys nodes with the frontends' Kadeploy, `vlans` moves them.

- GET of any reference path: the document (`g5kvirt.testbeds.local.reference`)
- ``sites/S/jobs`` (GET, POST), ``sites/S/jobs/J`` (GET, DELETE), ``sites/S/jobs/J/walltime`` (GET, POST)
- ``sites/S/deployments`` (GET, POST), ``sites/S/deployments/D`` (GET, DELETE)
- ``sites/S/status``, ``sites/S/clusters/C/status``
- ``sites/S/vlans/V`` (GET, POST), ``sites/S/vlans/V/nodes`` (GET, POST), ``sites/S/vlans/V/users``,
  ``sites/S/vlans/nodes`` and ``sites/S/vlansnodes`` (GET, POST), ``sites/S/vlans/users``
- ``sites/S/internal/oarapi/resources.json``, ``…/resources/details.json``: OAR's resources
"""

from __future__ import annotations

from g5kvirt.testbeds.local.rest.api import Api
from g5kvirt.testbeds.local.rest.server import RestServer, serve
from g5kvirt.testbeds.local.rest.services import OarReader, Services

__all__ = ["Api", "OarReader", "RestServer", "Services", "serve"]
