"""Answers of others as they should not be: cut, torn, of the wrong type, in place of a proxy's page of HTML.

`texts` and `documents` mangle good answers; `sentence_of` is what each reader of answers is held to, and
`reader_tests` makes the tests of a module's readers.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g5kvirt.errors import G5kvirtError

HTML = (
    '<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body bgcolor="white">\r\n'
    "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
#: What stands where an answer, or a part of it, should be.
ODD_TEXTS = (
    *(
        "",
        " ",
        "\r\n",
        "\x00",
        "\ufeff",
        "\x1b]0;title\x07\x1b[2J",
        "\u202ename",
        "\ud800",
        "é" * 200,
        "x" * 5000,
    ),
    *("-1", "0", "1e400", "NaN", "9" * 30, "9" * 5000, "٣", "0x10", "12:99:99", "null", "~", "()", "%s%n"),
    *("[" * 5000, '{"items": [', "{}", "[]", '"', "---", "- a: b: c", HTML, "../../etc/passwd", "$(reboot)"),
    *(
        "10.0.0.0/33",
        "10.0.0.1/8",
        "::/0",
        "2026-13-45 25:61:61",
        "0000-00-00 00:00:00",
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59",
        "gros-1..fr",
    ),
)
odd_texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=40)
odd_values: st.SearchStrategy[Any] = st.one_of(
    odd_texts,
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.sampled_from(
        [2**31, 2**63, 10**18, 1e300, -1e300, [], {}, [[]], [None], {"": None}, ["a", 1], {"0": {}}]
    ),
)


@st.composite
def texts(draw: st.DrawFn, samples: Sequence[str]) -> str:
    """One of ``samples``, whole or mangled, or something else."""
    text = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 3))):
        lines = text.splitlines(keepends=True) or [""]
        place = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 7)):
            case 0:
                text = text[: draw(st.integers(0, len(text)))]
            case 1:
                text = text[draw(st.integers(0, len(text))) :]
            case 2:
                lines.insert(place, draw(odd_texts) + "\n")
                text = "".join(lines)
            case 3:
                text = "".join(lines[:place] + lines[place + 1 :])
            case 4:
                text = "".join(draw(st.permutations(lines)))
            case 5:  # a word is another one
                words = re.findall(r"\w+", text) or [""]
                text = text.replace(draw(st.sampled_from(words)) or "\0", draw(odd_texts), 1)
            case 6:  # all numbers are another one
                text = re.sub(
                    r"\d+", draw(st.sampled_from(["", "-1", "9" * 25, "9" * 5000, "٣", "NaN"])), text
                )
            case 7:
                text = draw(odd_texts)
    return text


@st.composite
def documents(draw: st.DrawFn, samples: Sequence[Any]) -> Any:
    """One of ``samples``, documents as JSON has them, with some parts lost, exchanged or strange."""
    document = copy.deepcopy(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 3))):
        inner = [part for part in _parts(document) if part]
        if not inner:
            return draw(odd_values)
        part = draw(st.sampled_from(inner))
        key: Any = draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))
        match draw(st.integers(0, 4)):
            case 0:
                del part[key]
            case 1 | 2:
                part[key] = copy.deepcopy(draw(odd_values))
            case 3:
                part[key] = [part[key]]
            case 4 if isinstance(part, list):
                part.insert(key, copy.deepcopy(draw(odd_values)))
            case 4:
                part[draw(odd_texts)] = part.pop(key)
    return document


def _parts(document: Any) -> list[Any]:
    """The mappings and lists in a document, itself among them."""
    found = [document] if isinstance(document, dict | list) else []
    for part in found:
        values = part.values() if isinstance(part, dict) else part
        found += [value for value in values if isinstance(value, dict | list)]
    return found


def bodies(samples: Sequence[Any]) -> st.SearchStrategy[str]:
    """Bodies of HTTP answers with JSON: mangled documents, and mangled text."""
    written = [json.dumps(sample) for sample in samples]
    return documents(samples).map(_dumped) | texts(written)


def _dumped(document: Any) -> str:
    try:
        return json.dumps(document)
    except (ValueError, TypeError):  # a number with more digits than Python prints
        return "null"


def examples(number: int) -> settings:
    """For so many answers."""
    return settings(
        max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


def reader_tests(
    check: Callable[[Any, st.DataObject], object], readers: Collection[Any]
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Two tests for a module: ``check`` of each reader with 30 answers drawn from data, and with 300 if slow.

    ``readers``: functions, or names.
    """

    def made(number: int) -> Callable[..., None]:
        @pytest.mark.parametrize("reader", readers, ids=lambda one: getattr(one, "__name__", str(one)))
        @examples(number)
        @given(data=st.data())
        def test(reader: Any, data: st.DataObject) -> None:
            check(reader, data)

        return test

    return made(30), pytest.mark.slow(made(300))


#: What no sentence for people holds: words of Python's, addresses of objects, a type in brackets.
_STRANGE = re.compile(r"Traceback|object at 0x|<class|<built-in|<function|Error\(|NoneType|has no attribute")


def sentence_of(read: Callable[[], object]) -> str:
    """The sentence with which ``read`` refuses an answer, "" if it reads it; all else fails the test."""
    try:
        read()
    except G5kvirtError as error:
        check_sentence(str(error))
        return str(error)
    return ""


def check_sentence(text: str) -> None:
    """That is one line that a person may read."""
    assert text
    assert text.isprintable(), repr(text)
    assert len(text) < 700, text
    assert not _STRANGE.search(text), text
