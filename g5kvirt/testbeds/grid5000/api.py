"""The testbed's REST API, read by execo, and errors in a form that may be shown."""

from __future__ import annotations

import re
from typing import Any

from g5kvirt.errors import TestbedError

__all__ = ["error_summary", "get", "hide_password"]


def get(path: str) -> dict[str, Any]:
    """The document at ``path``, such as ``sites/nancy``. Raises TestbedError if the API does not give it."""
    from execo_g5k import api_utils

    try:
        document: dict[str, Any] = api_utils.get_resource_attributes(path)
    except (api_utils.APIException, ValueError, OSError) as error:
        raise TestbedError(
            f"the testbed's API does not answer at /{path.lstrip('/')} ({error_summary(error)})",
            advice="check that it is up, and from outside that ~/.execo.conf.py has your api_username",
        ) from error
    return document


def error_summary(error: Exception) -> str:
    """An error in at most 200 characters, without passwords."""
    cause = getattr(error, "exception", None) or error
    text = str(cause)
    return hide_password(text if len(text) < 200 else text[:200] + "…") or type(error).__name__


def hide_password(text: str) -> str:
    """``text`` with user names and passwords removed from its URLs."""
    return re.sub(r"//[^/@\s]*@", "//", text)
