"""The steps of an experiment, one module each: what each verb does, over a testbed and the planners."""

from g5kvirt.phases.context import Context

__all__ = ["Context"]
