"""The provisioner that deploys by a Kadeploy3 server on a service machine. ::

    installer = Kadeploy3Provisioner().prepare(context, cluster, vms, image, "chain")
    outcomes = installer.deploy(DeploymentRequest("d1", vms, about))

Decisions, each module on top of those before it: `keys` (what Kadeploy3's files may hold), `splitting` (what
it costs itself, and how large a deployment it is given), `configuration` (its files), `environment` (how an
environment is described to it), `server` (the steps that make a machine the server), `steps` (its steps by
our names), `records` (its answers), `event_mapping` (its answers as events).

I/O: `system` (what nodes boot into to be deployed), `server_machine` (the server's machine), `client` (its
REST API), `ssh_tunnel` (the way to it), `loop` (one deployment), `provisioner` (the door).
"""
