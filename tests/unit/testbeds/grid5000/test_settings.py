"""A person's own settings of Grid'5000 are read from a file, and said to be wrong in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt.errors import SpecError
from g5kvirt.testbeds import open_testbed
from g5kvirt.testbeds.grid5000 import settings
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings


def test_without_a_file_the_settings_are_the_usual_ones(tmp_path: Path) -> None:
    assert settings.settings(tmp_path / "none.yaml") == Settings()
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert settings.settings(tmp_path / "empty.yaml") == Settings()


def test_the_testbed_that_is_opened_by_its_name_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        ("ssh_config: /no/such/file", "no file"),
        ("just words", "the file"),
        ("- a list", "the file"),
        ("user: [", "cannot be read as YAML"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(text: str, word: str, tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as raised:
        settings.settings(file)
    assert str(file) in str(raised.value)
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)
