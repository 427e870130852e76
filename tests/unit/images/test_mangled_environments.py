"""Mangled descriptions of environments: an `Environment` or one clear sentence, in no time.

As people write them, with any part lost, exchanged or strange, and as text with torn lines. 10,000 with
``-m slow``.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mangling import examples

from g5kvirt.errors import SpecError
from g5kvirt.images.descriptions import Environment, load

GOOD: dict[str, Any] = {
    "name": "mine",
    "version": 1,
    "description": "my software",
    "alias": "own",
    "arch": "x86_64",
    "multipart": False,
    "postinstalls": [],
    "image": {"file": "mine.tgz", "kind": "tar", "compression": "gzip", "sha256": "1f" * 32, "unpacked": 10},
    "boot": {"kernel": "/vmlinuz", "initrd": "/initrd.img", "kernel_params": "quiet"},
    "filesystem": "ext3",
}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
)
strange = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(
        [
            *(
                "../../etc/shadow",
                "/etc/shadow",
                "http://",
                "https://x\n",
                "ftp://a/b",
                "~nobody/x",
                "x" * 9000,
            ),
            *(
                "ext4; reboot",
                "$(reboot)",
                "/vm linuz",
                "/../..",
                "console=ttyS0\ninit=/bin/sh",
                "\x1b[2J",
                "zstd",
            ),
            *([], {}, ["a"], {"file": {}}, {1: 2}, {"file": "x", "files": "y"}, "1f" * 31, "G" * 64),
        ]
    ),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    document = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(0, 3))):
        inner = [document, *(value for value in document.values() if isinstance(value, dict) and value)]
        where = draw(st.sampled_from(inner))
        key = draw(st.sampled_from([*map(str, where), *GOOD, "multipart", "postinstalls", "0"]))
        if draw(st.booleans()):
            where.pop(key, None)
        else:
            where[key] = copy.deepcopy(draw(strange))
    text: str = yaml.safe_dump(document, allow_unicode=True)
    lines = text.splitlines()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(lines)))
        lines.insert(
            place,
            draw(
                st.sampled_from(
                    [
                        "  :",
                        "- x",
                        "\t",
                        "? [",
                        "<<: *no",
                        "!!python/object:os.system",
                        "---",
                        "...",
                        "a: b: c",
                        BOMB,
                    ]
                )
            ),
        )
    return "\n".join(lines)


def described(text: str, folder: Path) -> None:
    file = folder / "own.yaml"
    file.write_text(text, encoding="utf-8")
    start = time.monotonic()
    try:
        assert isinstance(load(file), Environment)
    except SpecError as error:
        sentence = str(error)
        assert len(sentence.splitlines()) == 1, sentence
        assert len(sentence) < 700, sentence
        assert "object at 0x" not in sentence
    assert time.monotonic() - start < 5


@examples(600)
@given(text=texts())
def test_a_mangled_description_gets_a_sentence(text: str, tmp_path: Path) -> None:
    described(text, tmp_path)


@pytest.mark.slow
@examples(10_000)
@given(text=texts())
def test_ten_thousand_mangled_descriptions(text: str, tmp_path: Path) -> None:
    described(text, tmp_path)


def test_aliases_that_multiply_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(f"{BOMB}name: x\ndescription: *i\nimage: {{file: x.tar}}\n", encoding="utf-8")
    start = time.monotonic()
    with pytest.raises(SpecError):
        load(file)
    assert time.monotonic() - start < 1


def test_every_real_description_is_understood_up_to_what_vms_cannot_honour(tmp_path: Path) -> None:
    """Environments of Grid'5000 as its API gave them; the sample is beside the checkout, not in it."""
    sample = Path(__file__).resolve().parents[4] / "shared" / "data" / "environments-2021.json"
    if not sample.exists():
        pytest.skip(f"there is no sample of real environments beside the checkout ({sample.name})")
    environments = json.loads(sample.read_text())["environments"]
    assert environments
    file = tmp_path / "own.yaml"
    for environment in environments:
        whole = {key: value for key, value in environment.items() if key != "user"}
        file.write_text(yaml.safe_dump(whole))
        with pytest.raises(
            SpecError, match=r"(postinstalls|boot\.hypervisor) is not supported|arch must be|server://"
        ):
            load(file)
        described(yaml.safe_dump(environment), tmp_path)
        own = {**whole, "postinstalls": [], "arch": "x86_64"}
        own["image"] = {**environment["image"], "file": "image.tar.zst"}
        if "hypervisor" not in environment["boot"]:
            file.write_text(yaml.safe_dump(own))
            assert load(file).compression == environment["image"]["compression"]
