"""The testbed's REST API, read by execo, and errors in a form that may be shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any, TypeVar

from g5kvirt.errors import TestbedError
from g5kvirt.run.printable import short
from g5kvirt.testbeds.grid5000 import documents

__all__ = ["error_summary", "get", "hide_password", "items", "read", "uids"]

T = TypeVar("T")

_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_ADVICE = "check that it is up, and from outside that ~/.execo.conf.py has your api_username"


def get(path: str) -> dict[str, Any]:
    """The document at ``path``, such as ``sites/nancy``. Raises TestbedError if the API does not give it."""
    from execo_g5k import api_utils

    try:
        document = api_utils.get_resource_attributes(path)
    except (api_utils.APIException, ValueError, OSError, RecursionError) as error:
        raise TestbedError(
            f"the testbed's API does not answer at /{path.lstrip('/')} ({error_summary(error)})",
            advice=_ADVICE,
        ) from error
    return read(path, lambda: documents.mapping(document, "the document"))


def items(path: str) -> list[dict[str, Any]]:
    """The documents of the collection at ``path``. Raises TestbedError."""
    collection = get(path)
    return read(path, lambda: documents.items(collection))


def uids(path: str) -> list[str]:
    """The names of the sites or clusters of the collection at ``path``. Raises TestbedError."""
    found = items(path)
    return read(path, lambda: [documents.uid(item) for item in found])


def read(path: str, part: Callable[[], T]) -> T:
    """A part of the answer at ``path``. Raises TestbedError where ``part`` raises ValueError."""
    try:
        return part()
    except ValueError as error:
        raise TestbedError(
            f"the API's answer at /{path.partition('?')[0].lstrip('/')} cannot be read ({short(str(error))})",
            advice="look at it with a browser, and report it to the site",
        ) from error


def error_summary(error: Exception) -> str:
    """An error on one line of at most 200 characters, without passwords: why, or what came instead."""
    cause = getattr(error, "exception", None) or error
    response = getattr(error, "response", None)
    if isinstance(cause, RecursionError):
        text = "its answer is nested too deeply"
    elif isinstance(cause, KeyError):
        text = f"its answer has no {cause}"
    elif isinstance(cause, AttributeError | TypeError):
        text = "its answer has an unexpected structure"
    elif isinstance(cause, JSONDecodeError):
        shown = short(cause.doc, 80)
        text = f'its answer is not JSON: "{shown}"' if cause.doc.strip() else "its answer is empty"
    elif response is not None:
        text = f"status {response.status_code}{_explanation(response)}"
    else:
        text = str(cause)
    return short(hide_password(text)) or type(error).__name__


def _explanation(response: Any) -> str:
    """What an answer that is an error says of itself: its message in JSON, or the title of a page."""
    try:
        document = response.json()
    except (ValueError, RecursionError, AttributeError):
        document = {}
    document = document if isinstance(document, dict) else {}
    text = str(getattr(response, "text", "") or "")
    title = found[1] if (found := _TITLE.search(text)) else text
    words = short(str(document.get("message") or document.get("title") or title), 120)
    return f', "{words}"' if words else ""


def hide_password(text: str) -> str:
    """``text`` with user names and passwords removed from its URLs."""
    return re.sub(r"//[^/@\s]*@", "//", text)
