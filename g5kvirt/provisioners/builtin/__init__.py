"""The built-in provisioner: Kadeploy3's workflow, carried out by host agents, task files and ssh. ::

    deployment = Deployment("d1", vms, default_workflow(), reboots=SlotWindow(50), checks=SlotWindow(100))
    outcomes = drive(deployment, driver, clock=time.time, write=journal.extend)

Decisions (no I/O, no clock, no threads), each module on top of those before it: `workflow` (the steps),
`meter` (how long they may take), `orders` (what is ordered and reported), `positions` (how far each VM has
come), `window_queue` (who waits for a window), `deadlines` (who is late), `host_broadcasts` (the broadcast to
each host), `recorder` (what happened, as events), `state` (all of that for one deployment), `transitions`
(how a VM proceeds, goes back, or ends), `reports` (what a report means), `expiry` (what silence means),
`dispatch` (which orders are due), `engine` (`Deployment`, the whole), `tasks` (task files).

I/O: `loop` (the loop, and the `Driver` protocol), `driver` (host agents, ssh), `task_server` (task files on
nginx's hosts), `transport` (broadcasts), `provisioner` (the door).

Orders name the ``attempt`` of each VM; a report that answers an order, or comes from a task, names the same
one, and a report about another attempt is ignored. Reports may come late, twice, in the wrong order or never:

- a report about a later step means that the steps before it are done, unless one of them needs an order;
- a report without an attempt counts from the VM's last reboot order on (less `reports.CLOCK_SLACK`);
- silence ends at a time-out that is measured (`Meter`) and never applies to time spent waiting for a window;
- a VM that reports its minimal system in the middle of its task, or instead of its environment, has failed.

A failure goes back to a reboot of the next kind (soft, hard, relaunch), then to another try of the variant,
then to the next variant, then ends the VM as failed at that step with its last report; a permanent one ends
it at once. VMs wait for nothing but their own steps and the windows. Every event costs constant time (checks:
a heap), whatever the number of VMs: those in a step are in the order of their deadlines, because all have the
same time-out.
"""
