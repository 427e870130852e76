"""Requests, answers and errors of the REST API, without a socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

__all__ = ["Answer", "HttpError", "Request", "error_document", "fields_of"]


@dataclass(frozen=True)
class Request:
    """What a client wants."""

    user: str  #: authenticated
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None  #: of JSON or a form


@dataclass(frozen=True)
class Answer:
    """What it gets."""

    document: Any
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpError(Exception):
    """The request fails with ``status``; the message is for the user."""

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def error_document(status: HTTPStatus, message: str) -> dict[str, Any]:
    """The body of an answer that reports an error."""
    return {"code": int(status), "title": status.phrase, "message": message}


def fields_of(body: Any) -> dict[str, Any]:
    """The fields of a body that has to be a JSON object or a form. Raises HttpError."""
    if not isinstance(body, dict):
        raise HttpError(HTTPStatus.BAD_REQUEST, "the body must be a JSON object or a form")
    return body
