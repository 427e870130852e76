"""Deciding: pure functions on plain data. Nothing in here reads a clock, a file or a network."""
