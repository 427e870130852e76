"""A person's settings of Grid'5000: read from a file, whose errors are one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt.errors import SpecError
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.grid5000.driver import Grid5000
from g5kvirt.testbeds.grid5000.settings import Settings, load_settings


def test_without_a_file_the_defaults_are_used(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "none.yaml") == Settings()
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_settings(tmp_path / "empty.yaml") == Settings()


def test_open_testbed_uses_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "g5kvirt").mkdir()
    config = tmp_path / "ssh config"
    config.touch()
    text = (
        f"user: jdoe\njump: jdoe@access.grid5000.fr\nssh_config: {config}\npackage_proxy: http://proxy:3128\n"
    )
    (tmp_path / "g5kvirt" / "grid5000.yaml").write_text(text)
    testbed = open_testbed("grid5000")
    assert isinstance(testbed, Grid5000)
    assert testbed.package_proxy == "http://proxy:3128"
    access = testbed.access("/key")
    assert (access.ssh_config, access.jump, access.login) == (config, "jdoe@access.grid5000.fr", "jdoe")
    assert access.prefix()[:5] == ("ssh", "-F", str(config), "-J", "jdoe@access.grid5000.fr")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("usr: jdoe", "'usr'"),
        ("user: [1]", "user must be text"),
        ("user: J Doe", "user must be a login"),
        ("jump: -oProxyCommand=x", "host"),
        ("package_proxy: proxy", "package_proxy must be"),
        ("package_proxy: 'http://p\"; Evil'", "package_proxy must be"),
        ("ssh_config: /no/such/file", "there is no file"),
        ("just words", "the file"),
        ("- a list", "the file"),
        ("user: [", "cannot be read as YAML"),
    ],
)
def test_errors_in_the_file_are_one_sentence(text: str, word: str, tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as raised:
        load_settings(file)
    assert str(file) in str(raised.value)
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)
