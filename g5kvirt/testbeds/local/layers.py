"""The two file system layers of the local testbed, built once and cached.

A layer is a squashfs image between the (empty) upper layer of a container and this machine's `/`: it holds
the files that Debian packages would have added to this machine, which remains unchanged.

=======  ==========================================================================================
site     OAR (2.5 of Debian 12, 2.6 of 13) with PostgreSQL and its database, sshd, ISC dhcpd
node     the host environment: sshd, QEMU, iPXE, dnsmasq, nginx, TakTuk, busybox, nftables
=======  ==========================================================================================

Images are ``$XDG_CACHE_HOME/g5kvirt/layers/<layer>-<key>.sqfs``. The key is a hash of the recipe (this file)
and the versions of those packages of this machine that are visible through a layer.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from g5kvirt import paths
from g5kvirt.errors import MachineError
from g5kvirt.testbeds.local import namespaces as ns
from g5kvirt.testbeds.local import oarsql

__all__ = ["PACKAGES", "Progress", "ensure", "missing", "path", "python_path"]

#: Called with a finished step and its duration in seconds.
Progress = Callable[[str, float], None]

PACKAGES: dict[str, tuple[str, ...]] = {
    "site": (
        "oar-server",
        "oar-server-pgsql",
        "oar-user",
        "oar-user-pgsql",
        "oar-node",
        "isc-dhcp-server",
        "postgresql",
        "openssh-server",
        "iproute2",
        "nftables",
        "procps",
        "tzdata",
        "python3",
    ),
    "node": (
        "openssh-server",
        "qemu-system-x86",
        "qemu-utils",
        "ipxe",
        "ipxe-qemu",
        "dnsmasq-base",
        "nginx-light",
        "taktuk",
        "libssh-4",
        "busybox-static",
        "nftables",
        "iproute2",
        "iputils-ping",
        "procps",
        "python3",
    ),
}

#: Packages of this machine that are visible through the layers: with another version, a layer is rebuilt.
_HOST_PACKAGES = (
    "base-files",
    "libc6",
    "libgcc-s1",
    "libssl3",
    "libssl3t64",
    "libpam0g",
    "libsystemd0",
    "openssh-client",
    "openssh-server",
    "perl",
    "perl-base",
    "postgresql",
    "postgresql-15",
    "postgresql-17",
    "python3",
    "python3-minimal",
    "zlib1g",
)

_OAR_CONF = {
    "DB_BASE_PASSWD_RO": "oar_ro",
    "SERVER_HOSTNAME": "127.0.0.1",
    "FINAUD_FREQUENCY": "0",
    "LOG_LEVEL": "2",
    "SCHEDULER_JOB_SECURITY_TIME": "1",
    "SCHEDULER_MIN_TIME_BETWEEN_2_CALLS": "0",
    "WALLTIME_CHANGE_ENABLED": "YES",
    "WALLTIME_MAX_INCREASE": "-1",  # no limit, as long as no other job has the nodes
}
_OAR_CONF_OFF = ("JOB_RESOURCE_MANAGER_PROPERTY_DB_FIELD", "PINGCHECKER_SENTINELLE_SCRIPT_COMMAND")
# Commits have to survive a killed database process, but not a power failure: each commit is written
# immediately (a buffered commit would be lost with its process), but never synced to the disk.
_POSTGRESQL = """\
fsync = off
full_page_writes = off
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 16MB
unix_socket_directories = '/run/postgresql'
jit = off
autovacuum_naptime = 60
"""
# Users of the frontend have no business in the database: by its socket it lets in the testbed's own
# processes, by TCP those who know a password.
_POSTGRESQL_USERS = """\
local all all peer map=testbed
host all all 127.0.0.1/32 scram-sha-256
"""
_POSTGRESQL_NAMES = """\
testbed root postgres
testbed root oar_ro
testbed postgres postgres
"""
#: Of the user on the frontends: no person and no service here has it (https://systemd.io/UIDS-GIDS).
USER_ID = 61_001
#: What the packages have changed, with what this machine had in it: passwords, and all it ever installed.
_OF_THE_MACHINE = (
    *("etc/shadow-", "etc/gshadow", "etc/gshadow-", "etc/passwd-", "etc/group-", "etc/.pwd.lock"),
    *("var/log/dpkg.log", "var/log/alternatives.log"),
)
_BUILD_TIMEOUT = 1200.0  # seconds; packages are downloaded over a network of unknown speed


def _installed() -> dict[str, str]:
    """Versions of the packages of this machine."""
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Version}\n"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError(
            "this machine has no dpkg: the local testbed needs Debian 12 or 13, or a derivative."
        ) from error
    rows = (line.split("\t") for line in done.stdout.splitlines())
    return {package: version for status, package, version in rows if status.startswith("ii")}


def path(layer: str) -> Path:
    """Path of the image of ``layer``, which may not exist yet."""
    installed = _installed()
    relevant = {*_HOST_PACKAGES, *PACKAGES[layer]}
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(oarsql.schema().encode())
    digest.update(json.dumps({p: v for p, v in sorted(installed.items()) if p in relevant}).encode())
    return paths.cache() / "layers" / f"{layer}-{digest.hexdigest()[:16]}.sqfs"


def missing() -> list[str]:
    """Names of the layers that have not been built yet."""
    return [layer for layer in PACKAGES if not path(layer).exists()]


def ensure(progress: Progress | None = None) -> dict[str, Path]:
    """Build missing layers in parallel; returns the images by layer name.

    The first time takes about a minute and needs a network. Images are created atomically, so concurrent
    builders do no harm.

    :raises MachineError: a package cannot be fetched or installed, a tool is missing; names the log.
    """
    images = {layer: path(layer) for layer in PACKAGES}
    unbuilt = {layer: image for layer, image in images.items() if not image.exists()}
    if unbuilt:
        for tool in ("mksquashfs", "apt-get"):
            if shutil.which(tool) is None:
                raise MachineError(
                    f"{tool} is missing on this machine: run apt-get install squashfs-tools apt."
                )
        with ThreadPoolExecutor(len(unbuilt)) as pool:
            list(pool.map(lambda layer: _build(layer, unbuilt[layer], progress), unbuilt))
    return images


def _build(layer: str, image: Path, progress: Progress | None) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    log = image.parent / f"{layer}-build.log"
    start = time.monotonic()
    environment = dict(os.environ, PYTHONPATH=python_path(), DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    with log.open("wb") as output:
        builder = subprocess.Popen(
            [sys.executable, "-m", "g5kvirt.testbeds.local.layers", layer, str(image)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            failed = builder.wait(_BUILD_TIMEOUT)
        except BaseException:
            builder.kill()  # its namespaces end with it, and so do all processes in them
            builder.wait()
            raise
    if failed:
        raise MachineError(f"the {layer} layer could not be built ({_reason(log)}); see the log {log}.")
    old = sorted(image.parent.glob(f"{layer}-*.sqfs"), key=lambda p: p.stat().st_mtime, reverse=True)
    for stale in old[3:]:
        stale.unlink(missing_ok=True)
    if progress:
        progress(f"layer {layer} built ({image.stat().st_size >> 20} MiB)", time.monotonic() - start)


def python_path() -> str:
    """PYTHONPATH with which a child process finds this package, installed or not."""
    return os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])])


def _reason(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E: ") or "Error" in line]
    return (errors or lines or ["no output"])[-1]


# The rest runs in the builder, a separate process in its own namespaces.


def _chroot(root: Path, command: Sequence[str], user: str | None = None) -> None:
    print("+", *command, flush=True)
    argv = ["chroot", *([f"--userspec={user}"] if user else []), str(root), *command]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _build_image(layer: str, image: Path) -> None:
    """Mount, install, configure, squash. All mounts vanish with the mount namespace of this process."""
    ns.private_mounts()
    ns.mount("proc", "/proc", "proc")  # of the new pid namespace
    work = Path("/mnt")
    ns.mount("tmpfs", work, "tmpfs", data="mode=755")
    for name in ("upper", "work", "root"):
        (work / name).mkdir()
    root = work / "root"
    options = f"lowerdir=/,upperdir={work}/upper,workdir={work}/work"
    ns.mount("overlay", root, "overlay", data=options)
    for name in ("dev", "sys", "proc"):
        ns.mount(f"/{name}", root / name, None, ns.MS_BIND | ns.MS_REC)
    for name in ("run", "tmp"):
        ns.mount("tmpfs", root / name, "tmpfs", data="mode=755" if name == "run" else "mode=1777")
    (root / "run/lock").mkdir()
    _show_resolver(root)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # packages must not start their services
    policy.chmod(0o755)
    apt = ["apt-get", "-q", "-y", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
    _chroot(root, [*apt, "update"])
    _chroot(root, [*apt, "install", "--no-install-recommends", *PACKAGES[layer]])
    policy.unlink()
    ns.unshare(ns.NEWNET)  # no network from here on: a database of this machine may use the same port
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if layer == "site":
        _set_up_site(root)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    _chroot(root, ["apt-get", "clean"])
    for name in ("var/lib/apt/lists", "var/cache/apt", "var/log/apt", "run", "tmp", "root", "home", "mnt"):
        shutil.rmtree(work / "upper" / name, ignore_errors=True)
    for name in _OF_THE_MACHINE:
        (work / "upper" / name).unlink(missing_ok=True)
    partial = image.with_suffix(f".{time.time_ns()}.part")
    squash = ["mksquashfs", str(work / "upper"), str(partial), "-noappend", "-no-progress", "-quiet"]
    try:
        subprocess.run([*squash, "-comp", "zstd", "-Xcompression-level", "3"], check=True)
        partial.rename(image)
    finally:
        partial.unlink(missing_ok=True)


def _show_resolver(root: Path) -> None:
    """If resolv.conf is a link into /run, which the overlay hides, copy the file there."""
    real = Path("/etc/resolv.conf").resolve()
    if real.is_relative_to("/run") and real.exists():
        copy = root / real.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(real.read_bytes())


def _set_up_site(root: Path) -> None:
    """Set up the database with OAR's schema and properties, oar.conf, the time zone, the user."""
    zone = root / "etc/localtime"
    zone.unlink(missing_ok=True)
    zone.symlink_to("/usr/share/zoneinfo/Europe/Paris")  # execo reads OAR's dates in this zone
    (root / "etc/timezone").write_text("Europe/Paris\n")
    number = str(USER_ID)
    _chroot(root, ["groupadd", "-g", number, "g5k"])
    user = ["useradd", "--home-dir", "/home/g5k", "-s", "/bin/bash", "-p", "*", "-u", number, "-g", number]
    _chroot(root, [*user, "g5k"])
    conf = root / "etc/oar/oar.conf"
    conf.write_text(oar_conf(conf.read_text(), secrets.token_urlsafe(16)))
    binaries = sorted((root / "usr/lib/postgresql").iterdir())[-1] / "bin"
    (root / "usr/lib/postgresql/current").symlink_to(binaries.parent.name)
    data, run = root / "srv/pg", root / "run/postgresql"
    for directory in (data, run):
        directory.mkdir(parents=True, exist_ok=True)
        _chroot(root, ["chown", "postgres:", f"/{directory.relative_to(root)}"])
    program = "/usr/lib/postgresql/current/bin"
    initdb = [f"{program}/initdb", "-D", "/srv/pg", "--auth-local=peer", "--auth-host=scram-sha-256"]
    _chroot(root, [*initdb, "-U", "postgres", "--no-sync", "--locale=C.UTF-8"], "postgres:postgres")
    with (data / "postgresql.conf").open("a") as file:
        file.write(_POSTGRESQL)
    (data / "pg_hba.conf").write_text(_POSTGRESQL_USERS)
    (data / "pg_ident.conf").write_text(_POSTGRESQL_NAMES)
    control = [f"{program}/pg_ctl", "-D", "/srv/pg", "-w", "-t", "60"]
    _chroot(root, [*control, "-l", "/srv/pg/log", "start"], "postgres:postgres")
    try:
        _chroot(root, ["oar-database", "--create", "--db-is-local", "-y"])
        psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "oar"]
        _chroot(root, [*psql, "-c", oarsql.schema()])
    finally:
        _chroot(root, [*control, "-m", "fast", "stop"], "postgres:postgres")


def oar_conf(text: str, password: str) -> str:
    """The packaged configuration file of OAR with our settings; ``password``: of the database's owner."""
    lines = []
    remaining = {"DB_BASE_PASSWD": password, **_OAR_CONF}
    for line in text.splitlines():
        key = line.lstrip("# ").partition("=")[0]
        if not line.startswith("#") and key in _OAR_CONF_OFF:
            lines.append(f"#{line}")
        elif not line.startswith("#") and key in remaining:
            lines.append(f'{key}="{remaining.pop(key)}"')
        else:
            lines.append(line)
    lines += [f'{key}="{value}"' for key, value in remaining.items()]
    return "\n".join(lines) + "\n"


def _main(layer: str, image: str) -> int:
    """Build in new pid and mount namespaces, so that nothing can be left behind."""
    ns.die_with_parent(9)
    ns.unshare(ns.NEWNS | ns.NEWPID)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ns.die_with_parent(9)
    try:
        _build_image(layer, Path(image))
    except subprocess.CalledProcessError as error:
        print(f"Error: {' '.join(map(str, error.cmd[2:]))} exited with {error.returncode}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
