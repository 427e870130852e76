"""The testbed's REST API, read by execo, and errors in a form that may be shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any, TypeVar
from urllib.parse import urlsplit

from g5kvirt.errors import TestbedError
from g5kvirt.run.printable import short
from g5kvirt.testbeds.grid5000 import documents

__all__ = [
    "CHECK_THAT_IT_IS_UP",
    "error_summary",
    "get",
    "hide_password",
    "items",
    "read",
    "uids",
    "unanswered",
]

T = TypeVar("T")

_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
CHECK_THAT_IT_IS_UP = "check that it is up: https://www.grid5000.fr/status/"
_IS_LOCAL_UP = "check that it is up: g5kvirt local status"
_THIS_MACHINE = ("127.0.0.1", "::1", "localhost")
_NO_CONNECTION = "check the network of this machine, and then the API: https://www.grid5000.fr/status/"
_NO_LOGIN = (
    "from outside Grid'5000 it needs a login: api_username in ~/.execo.conf.py, or password_file in"
    " ~/.config/g5kvirt/grid5000.yaml (docs/grid5000.md)"
)
_REJECTED = "check the login and the password; one that execo stored can be corrected in the keyring"


def get(path: str) -> dict[str, Any]:
    """The document at ``path``, such as ``sites/nancy``. Raises TestbedError if the API does not give it."""
    from execo_g5k import api_utils

    try:
        document = api_utils.get_resource_attributes(path)
    except (api_utils.APIException, ValueError, OSError, RecursionError) as error:
        raise unanswered(path, error) from error
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


def unanswered(path: str, error: Exception) -> TestbedError:
    """The error for a request of the document at ``path`` that failed with ``error``."""
    from execo_g5k.config import g5k_configuration

    uri = hide_password(str(getattr(error, "uri", None) or f"/{path.lstrip('/')}"))
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        username = g5k_configuration["api_username"]
        login = f"the login {username}" if username else "requests without a login"
        return TestbedError(
            f"the API rejects {login} at {uri} ({error_summary(error)})",
            advice=_REJECTED if username else _NO_LOGIN,
        )
    cause = getattr(error, "exception", None) or error
    advice = _NO_CONNECTION if _connection_failure(cause) else CHECK_THAT_IT_IS_UP
    if urlsplit(uri).hostname in _THIS_MACHINE:
        advice = _IS_LOCAL_UP
    return TestbedError(f"the testbed's API does not answer at {uri} ({error_summary(error)})", advice=advice)


def _connection_failure(error: BaseException) -> str:
    """Why there is no connection, in a few words; "" for any other error.

    Its own text is the representation of several nested errors, in which the reason comes last.
    """
    import requests
    import urllib3.exceptions as urllib3

    inner = getattr(error.args[0] if error.args else None, "reason", None)
    if isinstance(error, requests.exceptions.SSLError):
        return f"its certificate is not accepted: {short(str(inner or error), 100)}"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy in HTTPS_PROXY or HTTP_PROXY does not forward the request"
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(inner, urllib3.NewConnectionError):
        return "no connection: " + (str(inner).rpartition("] ")[2].rstrip(")") or str(inner))
    return ""


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
        text = _connection_failure(cause) or str(cause)
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
