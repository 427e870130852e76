"""A model of a testbed: processors, links and guests that take time on a virtual clock.

It only says when something would have happened. What happens (which VM is powered on when, what is tried
again, who is given up) is decided by the same code as on machines; the drivers over this model are
`g5kvirt.netboot.simulated_boots` and `g5kvirt.provisioners.builtin.simulated_driver`.
"""
