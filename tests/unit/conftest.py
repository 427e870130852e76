"""Settings for the property-based tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine must not fail a test of what is right: no time limit for a single example.
settings.register_profile("g5kvirt", deadline=None)
settings.load_profile("g5kvirt")
