"""The local testbed: a Grid'5000 in small on one machine, made of real parts."""

from g5kvirt.testbeds.local.driver import local

__all__ = ["local"]
