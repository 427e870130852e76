"""What a network does to a connection."""

from __future__ import annotations

#: What a network does to one connection; it never ends the relay.
NETWORK_ERRORS = (OSError, ValueError)


def error_text(error: BaseException) -> str:
    """The message of an error, without its number."""
    return str(getattr(error, "strerror", None) or error)
