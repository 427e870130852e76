"""Files of users stay where they were: the paths of before, written out, for each setting of XDG."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from g5kvirt import paths
from g5kvirt.images import environments
from g5kvirt.testbeds.grid5000 import settings


@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize("home", ["/root", "/home/jdoe"])
@pytest.mark.parametrize("xdg", [None, "", "/srv/xdg"])
@pytest.mark.parametrize("runtime", [None, "/run/user/1000"])
def test_paths_follow_xdg_variables(
    user: int, home: str, xdg: str | None, runtime: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getuid", lambda: user)
    monkeypatch.setenv("HOME", home)
    changes = {"XDG_CACHE_HOME": xdg, "XDG_CONFIG_HOME": xdg, "XDG_RUNTIME_DIR": runtime}
    for name, value in changes.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    assert paths.cache() == Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "g5kvirt"
    assert paths.config() == config / "g5kvirt"
    assert settings.settings_file() == config / "g5kvirt" / "grid5000.yaml"
    assert environments.user_directory() == config / "g5kvirt" / "environments"
    assert Path("/run/g5kvirt") == paths.RUNTIME
