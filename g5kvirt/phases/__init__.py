"""The steps of an experiment, one module each: what each verb does, over a testbed and the planners."""
