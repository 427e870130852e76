"""Where every VM is on its way through a workflow. No I/O, no clock of its own, no thread a VM.

A `Deployment` is told what was heard and asked what to do next; a `Driver` does it. ::

    deployment = Deployment("d1", vms, default_workflow(), reboots=SlotWindow(50), checks=SlotWindow(100))
    outcomes = drive(deployment, driver, clock=time.time, write=journal.extend)

A driver has two methods: `Driver.carry_out` starts an order (`Reboot`, `Task`, `Broadcast`, `Check`) and
returns at once; `Driver.hear` waits for words, at most so long. Orders name the ``attempt`` of each VM; a
word that answers an order, or comes from a task, names the same one, and a word about another attempt is not
heard. Words may come late, twice, in the wrong order or never:

- a word about a later step means that the steps before it are done, unless one of them needs an order;
- a word without an attempt counts from the VM's last reboot order on (less `CLOCK_SLACK`);
- silence ends at a time-out that is measured (`Meter`) and never applies to time spent waiting for a window;
- a VM that reports its minimal system in the middle of its task, or instead of its environment, has failed.

A failure goes back to a reboot of the next kind (soft, hard, relaunch), then to another try of the variant,
then to the next variant, then ends the VM as failed at that step with what it said last; a hopeless one ends
it at once. VMs wait for nothing but their own steps and the windows. Every event costs constant time (checks:
a heap), whatever the number of VMs: who is in a step stands there in the order of deadlines, because all
have the same time-out.

The modules, each on top of those before it: `positions` (the places of a workflow, and who is in them),
`window_queue` (who waits for a window), `recorder` (what happened, as events), `hosts` (the broadcast to each
host), `deadlines` (who is late), `transitions` (how a VM goes on, back, or ends), `engine` (what words mean
and which orders follow), `loop` (the loop).
"""
