"""A person's ssh configuration does not change what our logins do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from g5kvirt.provisioners.kadeploy3.ssh_tunnel import SSHTunnel
from g5kvirt.remote.access import PLAIN_LOGIN, Access

HOSTILE = """
Host *
  RemoteCommand tmux attach
  RequestTTY force
  PermitLocalCommand yes
  LocalCommand touch /tmp/never
  LocalForward 8888 localhost:8888
  RemoteForward 9999 localhost:22
  DynamicForward 1080
  ExitOnForwardFailure yes
  ForwardX11 yes
  Tunnel yes
  LogLevel QUIET
  ControlMaster auto
  ControlPath /tmp/%C
  ControlPersist yes
  BatchMode no
  StrictHostKeyChecking ask
  User somebody
"""


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
def test_no_command_forwarding_or_shared_connection_of_the_users_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(HOSTILE)
    access = Access(ssh_config=config)
    done = subprocess.run(
        [*access.prefix(), "-G", "--", "host"], capture_output=True, text=True, check=True, timeout=30
    )
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert found.get("remotecommand", "none") == "none"
    assert "localforward" not in found
    assert "remoteforward" not in found
    assert "dynamicforward" not in found
    assert found["permitlocalcommand"] == "no"
    assert found["requesttty"] in ("no", "false")
    assert found["controlmaster"] in ("no", "false")
    assert found.get("controlpath", "none") == "none"
    assert found["batchmode"] == "yes"
    assert found["forwardx11"] == "no"
    assert found["tunnel"] in ("no", "false")
    words = [word for option in PLAIN_LOGIN for word in ("-o", option)]  # those of commands on frontends
    done = subprocess.run(
        ["ssh", "-F", str(config), *words, "-G", "host"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert "loglevel ERROR" in done.stdout.splitlines(), "a failure says why"
    assert found["user"] == "root"


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
def test_many_keys_and_a_jump_host_of_the_users_own(tmp_path: Path) -> None:
    """The run's key is the first that its machines are offered, from no agent; the way there stays."""
    config = tmp_path / "config"
    keys = "".join(f"  IdentityFile ~/.ssh/key-{n}\n" for n in range(8))
    config.write_text(
        f"Host *\n{keys}  AddKeysToAgent yes\n  SendEnv LANG LC_*\n  ProxyJump me@home.example\n"
    )
    (tmp_path / "run").write_text("")  # ssh leaves out keys that do not exist
    access = Access(key=tmp_path / "run", ssh_config=config)
    done = subprocess.run(
        [*access.prefix(), "-G", "--", "host"], capture_output=True, text=True, check=True, timeout=30
    )
    lines = done.stdout.splitlines()
    assert "identitiesonly yes" in lines
    assert next(line for line in lines if line.startswith("identityfile ")).endswith("/run")
    assert "proxyjump me@home.example" in lines
    assert access.identity("host").proxied


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
def test_a_tunnel_keeps_its_own_forwarding() -> None:
    words = SSHTunnel(Access(), "host", 25300).argv(12345)
    done = subprocess.run(
        [words[0], "-G", *words[1:]], capture_output=True, text=True, check=True, timeout=30
    )
    assert "localforward [127.0.0.1]:12345 [localhost]:25300" in done.stdout.splitlines()
