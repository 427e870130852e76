"""The specification of an experiment, and how its values are read and checked."""
