"""The local testbed: a miniature Grid'5000 on one machine, built from real components."""

from g5kvirt.testbeds.local.driver import local

__all__ = ["local"]
