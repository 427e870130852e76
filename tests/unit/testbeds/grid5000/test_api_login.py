"""The login for the REST API: from a file, or typed; errors are one sentence."""

from __future__ import annotations

import getpass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from g5kvirt.errors import SpecError, TestbedError
from g5kvirt.testbeds.grid5000.api import unanswered
from g5kvirt.testbeds.grid5000.api_login import ApiLogin, ask_password, read_login, use_login
from g5kvirt.testbeds.grid5000.settings import load_settings

URI = "https://api.grid5000.fr/3.0"


def _file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "login.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_login_is_read_from_the_file_of_python_grid5000(tmp_path: Path) -> None:
    path = _file(tmp_path, "uri: https://api.grid5000.fr\nusername: jdoe\npassword: 'x: 1'\ntimeout: 60\n")
    assert read_login(path) == ApiLogin("jdoe", "x: 1")
    assert "x: 1" not in repr(read_login(path))


@pytest.mark.parametrize(
    ("text", "mode", "word"),
    [
        ("username: jdoe\npassword: x\n", 0o640, "other users may read"),
        ("username: jdoe\n", 0o600, "has no password"),
        ("password: x\n", 0o600, "has no username"),
        ("username: jdoe\npassword: 123456\n", 0o600, "has no password"),
        ("secret\n", 0o600, "has no username"),
        ("username: [\n", 0o600, "cannot be read as YAML"),
    ],
)
def test_an_unusable_file_is_refused_before_anything_is_contacted(
    text: str, mode: int, word: str, tmp_path: Path
) -> None:
    path = _file(tmp_path, text, mode)
    (tmp_path / "grid5000.yaml").write_text(f"password_file: {path}\n")
    with pytest.raises(SpecError, match=word):
        load_settings(tmp_path / "grid5000.yaml")


def test_execo_uses_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    from execo_g5k import api_utils
    from execo_g5k.config import g5k_configuration

    monkeypatch.setattr(api_utils, "_g5k_api", None)
    monkeypatch.setattr(api_utils, "_ask_password", api_utils._ask_password)
    monkeypatch.setitem(g5k_configuration, "api_username", None)
    use_login(ApiLogin("jdoe", "x"))
    connection = api_utils._get_g5k_api()
    assert connection._get_security_conf() == (("jdoe", "x"), True)  # the certificate is verified too
    assert g5k_configuration["api_username"] == "jdoe"


def test_execo_asks_for_a_password_by_our_function(monkeypatch: pytest.MonkeyPatch) -> None:
    from execo_g5k import api_utils
    from execo_g5k.config import g5k_configuration

    monkeypatch.setattr(api_utils, "_g5k_api", None)
    monkeypatch.setattr(api_utils, "_ask_password", api_utils._ask_password)
    monkeypatch.setitem(g5k_configuration, "api_username", "nobody-with-this-login")
    monkeypatch.setattr(getpass, "getpass", _nobody_types)
    use_login(None)
    with pytest.raises(TestbedError, match="no terminal"):
        api_utils._get_g5k_api()


def _nobody_types(prompt: str) -> str:
    raise EOFError


def test_typed_passwords_are_tried_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["a", "b", "c", "d"])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: next(typed))
    assert ask_password("jdoe", URI, "", lambda user, uri, password: password == "b") == "b"
    typed = iter("abcd")
    with pytest.raises(TestbedError, match="accepted none of 3 passwords of jdoe"):
        ask_password("jdoe", URI, "", lambda *_: False)
    assert next(typed) == "d"


def _failure(uri: str, **found: Any) -> Exception:
    from execo_g5k.api_utils import APIException

    error: Exception = APIException(uri, "GET", **found)
    return error


def test_an_api_without_a_connection_is_one_short_sentence() -> None:
    import requests

    with pytest.raises(requests.ConnectionError) as caught:
        requests.get("http://127.0.0.1:1/3.0/sites", timeout=5)
    error = unanswered("sites", _failure(f"{URI}/sites", exception=caught.value))
    assert error.message == (
        f"the testbed's API does not answer at {URI}/sites (no connection: Connection refused)"
    )
    assert "network" in error.advice


@pytest.mark.parametrize(
    ("username", "words"), [(None, "requests without a login"), ("jdoe", "the login jdoe")]
)
def test_a_rejected_login_is_reported_as_one(
    username: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from execo_g5k.config import g5k_configuration

    monkeypatch.setitem(g5k_configuration, "api_username", username)
    response = SimpleNamespace(status_code=401, text="<title>401 Unauthorized</title>", reason="")
    error = unanswered("sites", _failure(f"{URI}/sites", response=response))
    assert f"rejects {words}" in error.message
    assert ("password_file" in error.advice) == (username is None)
