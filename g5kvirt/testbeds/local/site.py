"""A site: router and frontend in one container, with PostgreSQL, OAR and sshd."""

from __future__ import annotations

import time
from pathlib import Path

from g5kvirt.errors import TestbedError
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local import network, oarsql, sshd
from g5kvirt.testbeds.local.capabilities import BASIC, NETWORK
from g5kvirt.testbeds.local.container_spec import ContainerSpec
from g5kvirt.testbeds.local.model import SiteDescription
from g5kvirt.testbeds.local.oardb import connector
from g5kvirt.testbeds.local.spawner import Container

__all__ = [
    "COMMANDS",
    "container_spec",
    "database_socket",
    "load_resources",
    "start_oar",
    "trigger_scheduling",
]

#: Commands on the frontend, besides those of OAR; oarsub only writes shorthand out and becomes OAR's own.
COMMANDS = ("kadeploy3", "kaenv3", "kavlan", "g5k-subnets", "oarsub")
USER = "g5k"
_ALMIGHTY_PORT = 6666

#: Almighty and OAR's sshd listen on all addresses, also in KaVLANs; only OAR connects to them, from here.
#: Tunnels between sites carry KaVLANs: whoever could speak to their ends would be in all of them.
_OWN_PORTS = (
    "add chain inet local in { type filter hook input priority 0; };"
    ' add rule inet local in iifname != "lo" tcp dport { 6666, 6667 } reject with tcp reset;'
    f' add rule inet local in iifname != "uplink" udp dport {network.VXLAN_PORT} drop;'
    f" add rule inet local in ip daddr != 10.0.0.0/16 udp dport {network.VXLAN_PORT} drop;"
    " add chain inet local through { type filter hook forward priority 0; };"
    f" add rule inet local through ip daddr 10.0.0.0/16 udp dport {network.VXLAN_PORT} drop"
)


def container_spec(
    site: SiteDescription,
    *,
    mount_point: Path,
    layer: Path,
    hosts: Path,
    sockets: Path,
    log: Path,
    public_key: str,
) -> ContainerSpec:
    """The container of a site. ``sockets`` is mounted on ``/run/g5k``, ``hosts`` on ``/etc/hosts``."""
    command = Path(__file__).with_name("bin") / "g5k"
    text = command.read_text()
    sysctl = [f"{name}={value}" for name, value in network.router_sysctl().items()]
    return ContainerSpec(
        name=site.name,
        mount_point=str(mount_point),
        layer=str(layer),
        log=str(log),
        files={
            "/etc/hostname": (0o644, f"{site.name}\n"),
            "/etc/resolv.conf": (
                0o644,
                "# All host names of the testbed are in /etc/hosts.\n",
            ),
            "/etc/ssh/sshd_config": (0o644, sshd.config(USER)),
            f"/home/{USER}/.ssh/authorized_keys": (0o600, f"{public_key}\n"),
            f"/home/{USER}/.profile": (0o644, "export TZ=Europe/Paris\n"),
            **{f"/usr/local/bin/{name}": (0o755, text) for name in COMMANDS},
        },
        binds=((str(hosts), "/etc/hosts"),),
        shares=((str(sockets), "/run/g5k"),),
        owners={f"/home/{USER}": USER, "/run/postgresql": "postgres", "/run/oar": "oar"},
        commands=(
            ("sysctl", "-q", "-e", "-w", *sysctl),
            ("nft", f"add table inet local; {_OWN_PORTS}"),
            sshd.HOST_KEY,
        ),
        capabilities=BASIC | NETWORK,
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
    """Path of the socket of the site's PostgreSQL, as seen from the daemon."""
    return Path(f"/proc/{container.pid}/root/run/postgresql/.s.PGSQL.5432")


def load_resources(container: Container, site: SiteDescription) -> None:
    """Write the resources of the site to its database."""
    import pg8000.exceptions

    connect = connector(database_socket(container), "postgres")
    deadline = time.monotonic() + 30
    while True:  # PostgreSQL listens shortly before it accepts connections
        try:
            connection = connect()
            break
        except pg8000.exceptions.Error as error:
            if time.monotonic() > deadline:
                raise TestbedError(f"{site.name}: PostgreSQL does not respond ({error})") from error
            time.sleep(0.02)
    try:
        connection.run(oarsql.resources(site))
    except pg8000.exceptions.Error as error:
        raise TestbedError(
            f"{site.name}: writing the resources to OAR's database failed ({error})"
        ) from error
    finally:
        connection.close()


def start_oar(container: Container, timeout: float = 60.0) -> None:
    """Start Almighty and wait until it listens."""
    container.call(service=["almighty", ["/usr/sbin/Almighty"], "root"])
    deadline = time.monotonic() + timeout
    while not ns.is_listening(_ALMIGHTY_PORT, container.pid):
        if time.monotonic() > deadline or not container.alive:
            raise TestbedError(f"{container.name}: Almighty does not listen after {timeout:.0f} s")
        time.sleep(0.02)


def trigger_scheduling(container: Container) -> None:
    """Make Almighty schedule now: by itself it may notice a due reservation up to a minute late.

    :raises OSError: it does not respond.
    """
    with network.connect_inside(container.pid, "127.0.0.1", _ALMIGHTY_PORT, timeout=5.0) as link:
        link.sendall(b"Scheduling\n")
