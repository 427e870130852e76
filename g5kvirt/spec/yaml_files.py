"""YAML without surprises: plain data only, no numbers in base 60, no key given twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from g5kvirt.errors import SpecError

__all__ = ["load_yaml"]


class _Loader(yaml.SafeLoader):
    """YAML without its traps: 1:30 is no number in base 60, and a key given twice is an error."""

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


_PLAIN = {
    "tag:yaml.org,2002:int": r"[-+]?[0-9]+",
    "tag:yaml.org,2002:float": r"[-+]?[0-9]*\.?[0-9]+(e[-+]?[0-9]+)?",
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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"cannot read {path} ({error.strerror or error})", advice="name a YAML file"
        ) from error
    except ValueError as error:  # not UTF-8, or a name that no file can have
        raise SpecError(f"{path} is not text in UTF-8", advice="write it as YAML") from error
    try:
        # _Loader is a SafeLoader: it makes plain data only
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "characters that YAML does not allow"
        raise SpecError(
            f"{path} cannot be read as YAML ({where}{problem})", advice="correct that line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SpecError(
            f"{path} cannot be read as YAML ({str(error)[:100]})", advice="write plain numbers and text"
        ) from error
