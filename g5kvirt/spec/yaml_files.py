"""YAML without surprises: plain data only, no numbers in base 60, no key given twice."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from g5kvirt.errors import SpecError

__all__ = ["load_yaml"]

#: Bytes of a file: ours have some hundred.
LARGEST = 1 << 20
#: Values of a document: a few lines with aliases can stand for millions.
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """YAML without its traps.

    1:30 is no number in base 60 and 010 none in base 8: they are texts. A key given twice is an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_WHOLE = r"(?:0|[1-9][0-9]*)"
_PLAIN = {
    "tag:yaml.org,2002:int": rf"[-+]?{_WHOLE}",
    "tag:yaml.org,2002:float": rf"[-+]?(?:{_WHOLE}?\.[0-9]+(?:e[-+]?[0-9]+)?|{_WHOLE}e[-+]?[0-9]+)",
}
_DROPPED = {*_PLAIN, "tag:yaml.org,2002:timestamp"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _DROPPED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))


def load_yaml(path: Path) -> Any:
    """The plain data in a YAML file; raises SpecError with one sentence if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe might never end, nor give anything
            raise SpecError(f"{path} is not a file", advice="name a YAML file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise SpecError(f"{path} is larger than {LARGEST >> 20} MiB", advice="name a g5kvirt YAML file")
        text = data.decode("utf-8")
    except OSError as error:
        raise SpecError(
            f"cannot read {path} ({error.strerror or error})", advice="name a YAML file"
        ) from error
    except ValueError as error:  # not UTF-8, or a name that no file can have
        raise SpecError(f"{path} is not text in UTF-8", advice="write it as YAML") from error
    try:
        # _Loader is a SafeLoader: it makes plain data only
        found = yaml.load(text, Loader=_Loader)  # noqa: S506
        if _size(found, {}) > _MOST_VALUES:
            raise ValueError("its aliases repeat too much")
        return found
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "characters that YAML does not allow"
        raise SpecError(
            f"{path} cannot be read as YAML ({where}{problem})", advice="correct that line"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # what PyYAML's constructors raise for a value that its tag (!!bool, !!timestamp, …) does not fit
        raise SpecError(
            f"{path} cannot be read as YAML ({str(error)[:100]})", advice="write plain numbers and text"
        ) from error


def _size(value: object, known: dict[int, int]) -> int:
    """The values in it, those of an alias each time. Raises ValueError if it is inside of itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = -1  # until it is counted
        children = value if isinstance(value, list) else value.values()
        known[id(value)] = 1 + sum(_size(child, known) for child in children)
    elif known[id(value)] < 0:
        raise ValueError("an alias refers to itself")
    return known[id(value)]
