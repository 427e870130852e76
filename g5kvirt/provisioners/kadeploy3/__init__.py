"""A Kadeploy3 server of one's own for the VMs of a run; `provisioner` raises and drives it. ::

    nodes = nodes_of(vms)                                         # VMs as Kadeploy3's nodes
    cluster = Cluster(nodes, timing=tuned(len(nodes)))
    for work in server.plan(machine, cluster, addresses): …       # packages, database, key, configuration
    hostagent.serve…: server.service(machine)                     # the daemon
    with Tunnel(access, host, machine.port) as url:
        client = Client(url)
        client.grant()
        client.register(describe(environment, path))
        books = Books("d1", nodes)
        drive(client, books, parts, request, …)                   # events for the journal

The modules, each on top of those before it: `keys` (what its files may hold), `splitting` (what it costs
itself, and how large a deployment it is given), `configuration` (its files), `environment`, `server` (how a
machine becomes one), `system` (what nodes boot into to be deployed), `steps` (its steps in our words),
`records` (what it says), `client` (its REST API), `ssh_tunnel` (the way to it), `event_mapping` (what it
says, as events), `loop` (the loop).
"""
