"""What the relay speaks: as much of HTTP/1.1 as a file with ranges needs. Pure."""

from __future__ import annotations

import re

HEADER_LIMIT = 8 << 10  #: bytes of a request or an answer before its body
REQUEST_LINE = re.compile(rb"(GET|HEAD) (?:http://[^/ ]+)?/([^ ]*) HTTP/1\.[01]\r\n", re.ASCII)
URL = re.compile(r"http://(\[[0-9A-Fa-f:]+\]|[^/:@\s]+):(\d{1,5})(/[!-~]*)", re.ASCII)
REASONS = {200: "OK", 206: "Partial Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
REASONS.update({416: "Range Not Satisfiable", 503: "Service Unavailable"})


def header_field(header: bytes, name: bytes) -> bytes:
    """The value of a header field, empty if it is not there."""
    found = re.search(rb"(?im)^" + re.escape(name) + rb":[ \t]*([^\r\n]*?)[ \t]*\r?$", header)
    return found.group(1) if found else b""


def parse_range(value: bytes, size: int) -> tuple[int, int] | None:
    """The half-open range of bytes of a ``Range`` field; None for none or one that we do not serve."""
    found = re.fullmatch(rb"bytes=(\d{1,18})-(\d{0,18})", value)
    if not found:
        return None
    return int(found.group(1)), min(size, int(found.group(2)) + 1) if found.group(2) else size


def body_offset(code: int, header: bytes, size: int) -> int:
    """Where the body of an answer begins in the file. Raises ValueError if it is not our file."""
    if code == 206:
        found = re.fullmatch(rb"bytes (\d+)-\d+/(\d+)", header_field(header, b"Content-Range"))
        if found and int(found.group(2)) == size:
            return int(found.group(1))
    elif code == 200 and header_field(header, b"Content-Length") == b"%d" % size:
        return 0
    raise ValueError(f"it answers {code} with a file of a different size, or without one")
