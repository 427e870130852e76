"""A site: its router and frontend in one container, with PostgreSQL, OAR and sshd."""

from __future__ import annotations

import time
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local import network, oarsql, sshd
from g5kvirt.testbeds.local.container import Spec
from g5kvirt.testbeds.local.model import SiteDescription
from g5kvirt.testbeds.local.oardb import connector
from g5kvirt.testbeds.local.spawner import Container

__all__ = [
    "COMMANDS",
    "FRONTEND_SOCKET",
    "ask_scheduling",
    "database_socket",
    "load_resources",
    "spec",
    "start_oar",
]

COMMANDS = ("kadeploy3", "kaenv3", "kavlan", "g5k-subnets")  #: the frontend's, besides OAR's own
FRONTEND_SOCKET = "/run/g5k/socket"  #: where they find their server, seen from the site
USER = "g5k"
_ALMIGHTY_PORT = 6666


def spec(
    site: SiteDescription,
    *,
    box: Path,
    layer: Path,
    hosts: Path,
    sockets: Path,
    log: Path,
    public_key: str,
) -> Spec:
    """The site's container. ``sockets`` becomes ``/run/g5k``, ``hosts`` ``/etc/hosts``."""
    command = Path(__file__).with_name("bin") / "g5k"
    text = command.read_text()
    sysctl = [f"{name}={value}" for name, value in network.router_sysctl().items()]
    return Spec(
        name=site.name,
        box=str(box),
        layer=str(layer),
        log=str(log),
        files={
            "/etc/hostname": (0o644, f"{site.name}\n"),
            "/etc/resolv.conf": (
                0o644,
                "# The names of the testbed are in /etc/hosts; there are no others.\n",
            ),
            "/etc/ssh/sshd_config": (0o644, sshd.config(USER)),
            f"/home/{USER}/.ssh/authorized_keys": (0o600, f"{public_key}\n"),
            f"/home/{USER}/.profile": (0o644, "export TZ=Europe/Paris\n"),
            **{f"/usr/local/bin/{name}": (0o755, text) for name in COMMANDS},
        },
        binds=((str(hosts), "/etc/hosts"),),
        shares=((str(sockets), "/run/g5k"),),
        owners={f"/home/{USER}": USER, "/run/postgresql": "postgres", "/run/oar": "oar"},
        commands=(("sysctl", "-q", "-e", "-w", *sysctl), sshd.HOST_KEY),
        services=(
            ("postgres", ("/usr/lib/postgresql/current/bin/postgres", "-D", "/srv/pg"), "postgres"),
            ("sshd", ("/usr/sbin/sshd", "-D", "-e"), "root"),
            (
                "oar-sshd",
                (
                    *("/usr/sbin/sshd", "-D", "-e", "-f", "/etc/oar/sshd_config"),
                    *("-o", "PidFile=none", "-o", sshd.KEY_EXCHANGE),
                ),
                "root",
            ),
        ),
        ports=(22, 6667, 5432),
    )


def database_socket(container: Container) -> Path:
    """The site's PostgreSQL, reached from the daemon."""
    return Path(f"/proc/{container.pid}/root/run/postgresql/.s.PGSQL.5432")


def load_resources(container: Container, site: SiteDescription) -> None:
    """Tell the database what the site has."""
    import pg8000.exceptions

    connect = connector(database_socket(container), "postgres", password=None)
    deadline = time.monotonic() + 30
    while True:  # PostgreSQL listens a little before it answers
        try:
            connection = connect()
            break
        except pg8000.exceptions.Error as error:
            if time.monotonic() > deadline:
                raise TestbedError(f"{site.name}: PostgreSQL does not answer ({error}).") from error
            time.sleep(0.02)
    try:
        connection.run(oarsql.resources(site))
    except pg8000.exceptions.Error as error:
        raise TestbedError(
            f"{site.name}: the resources cannot be written to OAR's database ({error})."
        ) from error
    finally:
        connection.close()


def start_oar(container: Container, timeout: float = 60.0) -> None:
    """Start Almighty and wait until it listens."""
    container.ask(service=["almighty", ["/usr/sbin/Almighty"], "root"])
    deadline = time.monotonic() + timeout
    while not listening(container.pid, _ALMIGHTY_PORT):
        if time.monotonic() > deadline or not container.alive:
            raise TestbedError(f"{container.name}: Almighty does not listen after {timeout:.0f} s.")
        time.sleep(0.02)


def listening(pid: int, port: int) -> bool:
    """Does a TCP socket listen on ``port`` in the network namespace of ``pid``?"""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for words in map(str.split, lines):
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                return True
    return False


def ask_scheduling(container: Container) -> None:
    """Have Almighty look for jobs to start now: by itself it may look at a reservation up to a minute late.

    :raises OSError: it does not answer.
    """
    with network.connect_inside(container.pid, "127.0.0.1", _ALMIGHTY_PORT, timeout=5.0) as link:
        link.sendall(b"Scheduling\n")
