"""Machines that are raised on hosts: how to reach them, and what their consoles printed."""
