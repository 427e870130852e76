"""Sending one image to many hosts."""
