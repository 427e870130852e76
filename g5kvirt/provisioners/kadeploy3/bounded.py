"""The body of an answer over HTTP, with bounds for the whole: time-outs of requests are those of one read."""

from __future__ import annotations

import time

import requests
from urllib3.exceptions import HTTPError

__all__ = ["read_body"]

#: Bytes that an answer may have; the states and statistics of ten thousand nodes are 2 MiB each.
MOST_ANSWER = 64 << 20
_PIECE = 64 << 10


def read_body(answer: requests.Response, deadline: float) -> bytes:
    """The body of an answer that was requested with ``stream=True``, as it comes.

    ``deadline``: by `time.monotonic`. Raises requests.ReadTimeout for an answer that is not whole by then,
    requests.ConnectionError for one that breaks off or has more than `MOST_ANSWER` bytes.
    """
    pieces: list[bytes] = []
    length = 0
    # urllib3 before 2 has only a read that waits for all that it was asked for
    read = getattr(answer.raw, "read1", None) or (lambda most, **_: answer.raw.read(1, decode_content=True))
    try:
        while piece := read(_PIECE, decode_content=True):
            pieces.append(piece)
            length += len(piece)
            if time.monotonic() > deadline:
                raise requests.ReadTimeout(f"only {length} bytes in time")
            if length > MOST_ANSWER:
                raise requests.ConnectionError(f"more than {MOST_ANSWER} bytes")
    except (HTTPError, OSError) as error:
        if isinstance(error, requests.RequestException):
            raise
        raise requests.ConnectionError(str(error)) from error
    finally:
        answer.close()
    return b"".join(pieces)
