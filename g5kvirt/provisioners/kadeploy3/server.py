"""What makes a service machine a Kadeploy3 server: packages, files, commands, in their order; nothing is
run here.

`setup_steps` gives them for one machine. Commands are lists of words, what they read comes on their standard
input, so no value passes through a shell. All of it is idempotent.

Source: Debian packages ``kadeploy`` and ``kadeploy-client`` of Kadeploy 3.3 (user ``deploy``,
``/etc/kadeploy3``, ``/var/log/kadeploy3``, ``kadeploy3d``), tables as its database layer reads and writes
them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from g5kvirt.errors import SpecError
from g5kvirt.hostagent import protocol
from g5kvirt.provisioners.kadeploy3.configuration import (
    CACHE,
    ETC,
    KEY,
    LOGS,
    POWER,
    NodeCluster,
    Server,
    render,
    shell_file,
)

__all__ = ["PACKAGES", "Command", "FileContent", "Packages", "SetupStep", "schema", "service", "setup_steps"]

PACKAGES = ("kadeploy", "kadeploy-client", "mariadb-server", "taktuk", "openssh-client")
USER = "deploy"
#: Runs a command while no service of a package is started (`files/without-services`).
_WITHOUT_SERVICES = "/usr/local/sbin/g5kvirt-without-services"
_MARIADB = "/etc/mysql/mariadb.conf.d/90-g5kvirt-kadeploy3.cnf"
#: Succeeds if all packages named are installed.
_INSTALLED = (
    'for name; do dpkg-query -W -f "\\${db:Status-Status}\\n" "$name" 2>/dev/null '
    "| grep -qx installed || exit 1; done"
)

#: Table → its columns, as Kadeploy 3.3 names them; indexes on what it searches by are added.
_TABLES: Mapping[str, tuple[str, ...]] = {
    "environments": (
        "id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY",
        "name VARCHAR(255) NOT NULL",
        "version INT UNSIGNED NOT NULL DEFAULT 0",
        "description TEXT",
        *(
            f"{column} VARCHAR(512) NOT NULL DEFAULT ''"
            for column in ("tarball", "preinstall", "postinstall")
        ),
        *(
            f"{column} VARCHAR(255) NOT NULL DEFAULT ''"
            for column in (
                "author",
                "hypervisor",
                "hypervisor_params",
                "initrd",
                "kernel",
                "kernel_params",
            )
        ),
        "fdisk_type VARCHAR(2)",
        "filesystem VARCHAR(9)",
        "user VARCHAR(255) DEFAULT 'nobody'",
        "allowed_users VARCHAR(512) NOT NULL DEFAULT ''",
        "environment_kind VARCHAR(10) NOT NULL DEFAULT ''",
        "visibility VARCHAR(8) NOT NULL DEFAULT ''",
        "demolishing_env BOOLEAN NOT NULL DEFAULT FALSE",
        "multipart BOOLEAN NOT NULL DEFAULT FALSE",
        "options TEXT",
    ),
    "log": (
        "wid VARCHAR(41) NOT NULL",
        "hostname VARCHAR(255) NOT NULL",
        *(f"step{n} VARCHAR(45) NOT NULL DEFAULT ''" for n in (1, 2, 3)),
        *(f"timeout_step{n} SMALLINT UNSIGNED NOT NULL DEFAULT 0" for n in (1, 2, 3)),
        *(f"retry_step{n} TINYINT UNSIGNED NOT NULL DEFAULT 0" for n in (1, 2, 3)),
        "start INT UNSIGNED NOT NULL DEFAULT 0",
        *(f"step{n}_duration INT UNSIGNED NOT NULL DEFAULT 0" for n in (1, 2, 3)),
        "env VARCHAR(64) NOT NULL DEFAULT ''",
        "anonymous_env VARCHAR(6) NOT NULL DEFAULT ''",
        "md5 VARCHAR(35) NOT NULL DEFAULT ''",
        "success VARCHAR(6) NOT NULL DEFAULT ''",
        "error TEXT NOT NULL",
        "user VARCHAR(16) NOT NULL DEFAULT ''",
        "INDEX (wid)",
    ),
    "nodes": (
        "hostname VARCHAR(255) NOT NULL",
        "state VARCHAR(16) NOT NULL DEFAULT ''",
        "env_id INT NOT NULL DEFAULT -1",
        "date INT UNSIGNED NOT NULL DEFAULT 0",
        "user VARCHAR(16) NOT NULL DEFAULT ''",
        "INDEX (hostname)",
    ),
    "rights": (
        "user VARCHAR(30) NOT NULL",
        "node VARCHAR(255) NOT NULL",
        "part VARCHAR(50) NOT NULL",
        "INDEX (user)",
    ),
}


@dataclass(frozen=True)
class FileContent:
    """A file to be put on the machine."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Command:
    """A command to be run there as root."""

    argv: tuple[str, ...]
    stdin: str = ""
    timeout: float = 120.0  #: seconds


@dataclass(frozen=True)
class SetupStep:
    """One step of the setup: first its files are put there, then its commands run, one after the other.

    If ``unless`` succeeds there is nothing to do.
    """

    name: str
    files: tuple[FileContent, ...] = ()
    commands: tuple[Command, ...] = ()
    unless: Command | None = None


@dataclass(frozen=True)
class Packages:
    """Where packages come from: ``source`` is a line of sources.list (one for Kadeploy3's own, which Debian
    does not have), ``proxy`` an HTTP proxy; "" where the machine knows already."""

    names: tuple[str, ...] = PACKAGES
    source: str = ""
    proxy: str = ""


def setup_steps(
    server: Server, cluster: NodeCluster, addresses: Mapping[str, str], packages: Packages | None = None
) -> list[SetupStep]:
    """Everything but the daemon itself (`service`), in order. Raises SpecError as `configuration.render`."""
    files = render(server, cluster, addresses)
    return [_install(packages or Packages()), _database(server), _directories(server), _configure(files)]


def service(server: Server, limit: float = 120.0) -> dict[str, Any]:
    """The order for the host agent that keeps the server running; ready when it listens.

    It runs as ``deploy`` in the foreground, so that stopping the service stops the server; its output
    goes to the service's log. An ssh agent of its own holds its key: only with the key forwarded can nodes
    hand commands and images on to each other. ``limit``: seconds; thousands of nodes take it a while to read.
    """
    with_key = 'key=$1; shift; ssh-add -q "$key" && exec "$@"'
    return protocol.serve(
        "kadeploy3d",
        command=[
            *("runuser", "-u", USER, "--"),
            *("env", f"KADEPLOY3_CONFIG_DIR={ETC}", f"KADEPLOY3_LOG_DIR={LOGS}"),
            *("ssh-agent", "sh", "-c", with_key, "sh", KEY),
            *("kadeploy3d", "--no-stdout-redirect", "--no-stderr-redirect", "--no-dh-seeds"),
        ],
        ready_tcp=("127.0.0.1", server.port),
        limit=limit,
    )


def _install(packages: Packages) -> SetupStep:
    options = ["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
    if packages.proxy:
        if not re.fullmatch(r"https?://[A-Za-z0-9._:\[\]-]+/?", packages.proxy):
            raise SpecError(
                f"{packages.proxy!r} is not an HTTP proxy", advice="write it as http://proxy:3128/"
            )
        options += ["-o", f"Acquire::http::Proxy={packages.proxy}"]
    for name in packages.names:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
            raise SpecError(f"{name!r} is not the name of a Debian package")
    if "\n" in packages.source:
        raise SpecError("the packages' source must be one line of sources.list")
    apt = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options)
    source = FileContent("/etc/apt/sources.list.d/g5kvirt-kadeploy3.list", packages.source + "\n")
    script = FileContent(_WITHOUT_SERVICES, shell_file("without-services"), 0o755)
    return SetupStep(
        "packages",
        (script, source) if packages.source else (script,),
        (
            Command((*apt, "update"), timeout=300),
            Command(
                (
                    *(_WITHOUT_SERVICES, *apt),
                    *("install", "--yes", "--no-install-recommends", "--", *packages.names),
                ),
                timeout=900,
            ),
        ),
        unless=Command(("sh", "-c", _INSTALLED, "sh", *packages.names)),
    )


def _database(server: Server) -> SetupStep:
    # an error message longer than its column must not end the log of a whole deployment
    settings = '[mysqld]\nbind-address = 127.0.0.1\nskip-name-resolve\nsql_mode = ""\n'
    return SetupStep(
        "database",
        (FileContent(_MARIADB, settings),),
        (Command(("systemctl", "restart", "mariadb")), Command(("mariadb", "--batch"), schema(server))),
    )


def schema(server: Server) -> str:
    """The database, its user and its tables, in SQL that may be run twice."""
    # the password has been checked to be hexadecimal
    account, separator = "'kadeploy3'@'localhost'", ",\n"
    return "".join(
        [
            "CREATE DATABASE IF NOT EXISTS kadeploy3 CHARACTER SET utf8;\n",
            f"CREATE USER IF NOT EXISTS {account};\n",
            f"ALTER USER {account} IDENTIFIED BY '{server.password}';\n",
            f"GRANT ALL PRIVILEGES ON kadeploy3.* TO {account};\n",
            "USE kadeploy3;\n",
            *(
                f"CREATE TABLE IF NOT EXISTS {name} (\n{separator.join(columns)}\n);\n"
                for name, columns in _TABLES.items()
            ),
        ]
    )


def _directories(server: Server) -> SetupStep:
    netboot = server.netboot
    owned = [LOGS, CACHE, netboot.profiles, f"{netboot.repository}/userfiles"]
    return SetupStep(
        "directories and key",
        commands=(
            Command(("install", "-d", "-m", "0755", "--", ETC, netboot.repository)),
            Command(("install", "-d", "-m", "0755", "-o", USER, "-g", USER, "--", *owned)),
            Command(("install", "-d", "-m", "0700", "-o", USER, "-g", USER, "--", posixpath.dirname(KEY))),
            # a key that is there is kept: hosts and the deployment environment know it
            Command(("sh", "-c", 'test -s "$1" || exec ssh-keygen -q -t ed25519 -N "" -f "$1"', "sh", KEY)),
            Command(("chown", f"{USER}:{USER}", "--", KEY, f"{KEY}.pub")),
        ),
    )


def _configure(files: Mapping[str, str]) -> SetupStep:
    def mode(path: str) -> int:
        if path in (POWER, f"{ETC}/partition", f"{ETC}/bootloader"):
            return 0o755
        # server.conf holds the password of the database
        return 0o640 if path.startswith(ETC) else 0o644

    contents = tuple(FileContent(path, text, mode(path)) for path, text in files.items())
    private: Sequence[str] = [c.path for c in contents if c.mode == 0o640]
    # for people logged in on the machine; it holds no secret
    public = [path for path in private if path.endswith("/client.conf")]
    return SetupStep(
        "configuration",
        contents,
        (
            Command(("chgrp", USER, "--", *private)),
            Command(("chmod", "0644", "--", *public)),
            # Kadeploy3 answers with what stands in this file and does not start without it; the package
            # brings it
            Command(("test", "-s", f"{ETC}/version")),
        ),
    )
