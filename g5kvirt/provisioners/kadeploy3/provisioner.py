"""measure with a Kadeploy3 of one's own: raised on a service machine, driven through its REST API.

`raise_server` makes a service machine into the server and leaves it running, so that a second measure finds
it as it is; the host agent keeps it, and it goes with the machine. `deploy` has it deploy, and writes down
what it says as the events of any other deployment.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from g5kvirt import paths
from g5kvirt.context import Context
from g5kvirt.errors import PhaseError
from g5kvirt.hostagent import calls, protocol
from g5kvirt.images import cache as build_cache
from g5kvirt.images import environments
from g5kvirt.inventory import VM, Host
from g5kvirt.netboot import services
from g5kvirt.planning.cluster import ClusterState
from g5kvirt.planning.services import ServiceMachine
from g5kvirt.provisioners.builtin.engine import Outcome
from g5kvirt.provisioners.kadeploy3 import server as recipe
from g5kvirt.provisioners.kadeploy3 import system
from g5kvirt.provisioners.kadeploy3.client import Client
from g5kvirt.provisioners.kadeploy3.configuration import (
    ETC,
    KEY,
    Cluster,
    Kernel,
    Netboot,
    Server,
    Timing,
    longest,
    nodes_of,
    tuned,
    vm_script,
)
from g5kvirt.provisioners.kadeploy3.environment import LOCAL_BOOT, describe, version_of
from g5kvirt.provisioners.kadeploy3.event_mapping import Books
from g5kvirt.provisioners.kadeploy3.loop import Part, drive
from g5kvirt.provisioners.kadeploy3.splitting import parts_for, post_seconds, split
from g5kvirt.provisioners.kadeploy3.ssh_tunnel import Tunnel
from g5kvirt.remote import File, Result

__all__ = ["KEXEC_MEMORY", "VARIANTS", "Raised", "check", "deploy", "raise_server", "timing"]

#: Our kinds of broadcast → Kadeploy3's, in the order in which it tries them. Kascade and Kastafior are
#: programs of their own, which Debian does not have.
VARIANTS: Mapping[str, tuple[str, ...]] = {"chain": ("Chain", "Tree"), "tree": ("Tree", "Chain")}

#: MiB with which a VM can start what was deployed by kexec out of the deployment environment, which is in its
#: memory all the time. Measured with Debian's cloud kernel and ``mini``: 192 is enough, 160 is not.
KEXEC_MEMORY = 192

#: Below nginx's root on the server's machine.
FOLDER = "kadeploy3"
IMAGES = f"{services.ROOT}/kadeploy3-images"
AUTHORIZED = f"{ETC}/authorized_keys"
#: What the machine was made into; written last.
MARK = f"{ETC}/g5kvirt-made"


@dataclass(frozen=True)
class Raised:
    """A server that runs, and what it may deploy."""

    machine: ServiceMachine
    server: Server
    cluster: Cluster
    environment: str
    version: int  #: of the environment
    program: str  #: the server's own version
    transfer: float  #: seconds of one copy of the image through the machine's link


def check(image: environments.Image) -> None:
    """Raises SpecError for what Kadeploy3 cannot deploy."""
    describe(_compressed_words(image.environment), "/")


def timing(context: Context, vms: int, largest: int, boot_seconds: float) -> Timing:
    """Kadeploy3's windows and time-outs: those of the large runs, unless the specification has its own.

    ``boot_seconds``: how long a boot may take here; reboots are given as long, if that is more.
    """
    spec, base = context.spec, Timing()
    bounds = spec.timeouts.macro_steps.values()
    reboot = max(base.reboot, math.ceil(boot_seconds))
    given = Timing(
        reboot_window=spec.windows.reboot or base.reboot_window,
        reboot_sleep=base.reboot_sleep
        if spec.windows.reboot_sleep is None
        else round(spec.windows.reboot_sleep),
        macro=max(base.macro, reboot, *(math.ceil(seconds) for seconds in bounds)),
        reboot=reboot,
        kexec=max(base.kexec, reboot),
        retries=spec.timeouts.deployment_retries,
    )
    return tuned(vms, largest, given)


def raise_server(
    context: Context,
    cluster: ClusterState,
    vms: Sequence[VM],
    image: environments.Image,
    variant: str,
    boot_seconds: float,
) -> Raised:
    """Make the first HTTP server a Kadeploy3 server for ``vms``, unless it is one already, and have it know
    the environment.

    Raises PhaseError naming what could not be done: nothing has been rebooted then; SpecError as `check`.
    """
    check(image)
    machine = next(m for m in cluster.layout.machines if "http" in m.roles)
    transfer = image.size * 8 / machine.host.nic_rate
    server = _server(context, machine, image)
    nodes = _cluster(context, vms, variant, transfer, boot_seconds)
    run_key = Path(context.key + ".pub").read_text(encoding="utf-8").strip()
    site = _Site(context, machine)
    deployment = system.build(progress=site.tell)
    works = recipe.plan(
        server,
        nodes,
        {name: str(address) for name, address in cluster.addresses.items()},
        recipe.Packages(source=context.spec.kadeploy3.repository, proxy=context.testbed.package_proxy or ""),
    )
    mark = hashlib.sha256(repr((works, dict(deployment.manifest), run_key)).encode()).hexdigest()
    if site.read(MARK) != mark:
        for work in works:
            site.do(work)
        keys = [site.read(f"{KEY}.pub"), run_key]
        site.let_in(cluster.hosts, keys[0])
        site.boot_files(deployment, server.netboot, keys)
        _chain(context, cluster, server.netboot, vms)
    packed = _compressed(image, site.tell)
    path = f"{IMAGES}/{packed.sha256}"
    if not site.has(path):
        site.put([File(packed.path, path)], "image")
    site.serve(recipe.service(server), mark)
    described = describe(packed.environment, path, version=version_of(packed.sha256))
    with (
        context.span("measure", "kadeploy3-environment", "service", machine.host.name),
        Tunnel(context.access, machine.host.address, server.port) as url,
    ):
        client = Client(url, server.user)
        client.grant()
        client.register(described)
        program = client.version()
    return Raised(machine, server, nodes, described["name"], described["version"], program, transfer)


def deploy(
    context: Context,
    cluster: ClusterState,
    raised: Raised,
    name: str,
    vms: Sequence[VM],
    about: Mapping[str, Any],
) -> list[Outcome]:
    """One deployment, to its end: what became of every VM. What was begun is ended on the server too, also on
    an interrupt."""
    wanted = {vm.name for vm in vms}
    nodes = [node for node in raised.cluster.nodes if node.vm.name in wanted]
    known = {node.vm.name: node.name for node in nodes}
    configured = len(raised.cluster.nodes)
    parts = [
        Part(tuple(known[vm.name] for vm in part), timeout=60 + 3 * post_seconds(len(part), configured))
        for part in split(vms, parts_for(len(vms), configured, raised.transfer))
    ]
    machine = raised.machine.host
    books = Books(name, nodes, offset=cluster.facts[machine.name].clock_offset)
    tunnel = Tunnel(context.access, machine.address, raised.server.port)

    def sleep(seconds: float) -> None:
        tunnel.mend()
        time.sleep(seconds)

    with tunnel as url:
        told = {"server": machine.name, "version": raised.program, "parts": len(parts)}
        books.begin(time.time(), {**about, "kadeploy3": told})
        return drive(
            Client(url, raised.server.user),
            books,
            parts,
            {
                "environment": raised.environment,
                "version": raised.version,
                "authorized_keys": AUTHORIZED,
                "profile": LOCAL_BOOT,
            },
            clock=time.time,
            sleep=sleep,
            write=context.journal.extend,
            limit=longest(raised.cluster) + sum(part.timeout for part in parts),
        )


# ------------------------------------------------------------------------------------------ what it is given
def _server(context: Context, machine: ServiceMachine, image: environments.Image) -> Server:
    address = next(iter(machine.addresses.values()))
    # as secret as the run's key, the same each time, and kept nowhere else
    secret = Path(context.key).read_bytes() + b"database of kadeploy3"
    return Server(
        hostname=machine.host.name,
        netboot=Netboot(f"{services.WWW}/{FOLDER}", f"{address}/{FOLDER}"),
        password=hashlib.sha256(secret).hexdigest()[:32],
        cache=max(Server.cache, 2 * image.size >> 20),
    )


def _cluster(
    context: Context, vms: Sequence[VM], variant: str, transfer: float, boot_seconds: float
) -> Cluster:
    by_kexec = context.spec.vm.memory >= KEXEC_MEMORY
    largest = math.ceil(len(vms) / parts_for(len(vms), len(vms), transfer))
    return Cluster(
        nodes_of(vms),
        kernel=Kernel(arguments=services.KERNEL_ARGUMENTS),
        timing=timing(context, len(vms), largest, boot_seconds),
        broadcast=VARIANTS[variant],
        boot=("Kexec" if by_kexec else "Classical", "HardReboot"),
    )


def _compressed_words(environment: environments.Environment) -> environments.Environment:
    return replace(environment, compression="gzip") if environment.compression == "none" else environment


def _compressed(image: environments.Image, tell: Callable[[str], None]) -> environments.Image:
    """The image as Kadeploy3 takes it: one that is not compressed is, once, and kept."""
    if image.environment.compression != "none":
        return image
    home = paths.cache() / "environments" / f"gzip-{image.sha256[:32]}"

    def compress(work: Path) -> dict[str, str]:
        tell(f"environment {image.environment.name}: compressing the image for Kadeploy3")
        data = gzip.compress(image.path.read_bytes(), 6, mtime=0)
        (work / "image").write_bytes(data)
        return {"sha256": hashlib.sha256(data).hexdigest()}

    build_cache.build(home, compress)
    data = (home / "image").read_bytes()
    words = _compressed_words(image.environment)
    return replace(
        image, environment=words, path=home / "image", sha256=hashlib.sha256(data).hexdigest(), size=len(data)
    )


# ------------------------------------------------------------------------------------------------ the machine
class _Site:
    """The machine of the server: what is put and done there, each a step of the journal."""

    def __init__(self, context: Context, machine: ServiceMachine) -> None:
        self._context, self._host = context, machine.host

    def tell(self, what: str) -> None:
        """Progress of what is built here."""
        self._context.journal.append("measure", "build", "run", self._context.run.name, "ok", what=what)

    def _run(self, run: recipe.Run) -> Result:
        at = self._host.address
        stdin = run.stdin.encode() or None
        fanout = self._context.fanout
        return fanout.run([at], run.argv, stdin=stdin, timeout=run.timeout, idempotent=True)[at]

    def read(self, path: str) -> str:
        """A short file, stripped; "" if there is none. Raises PhaseError if the machine is not reached."""
        result = self._run(recipe.Run(("sh", "-c", 'if [ -e "$1" ]; then cat "$1"; fi', "sh", path)))
        if not result.ok:
            raise self._failed(f"{path} cannot be read", "kadeploy3", result.reason)
        return result.text.strip()

    def has(self, path: str) -> bool:
        """Whether a file is there; those that we put somewhere are there whole, or not at all."""
        return self._run(recipe.Run(("test", "-s", path))).ok

    def put(self, files: Sequence[File], step: str) -> None:
        """Put files there."""
        calls.send_files(
            self._context.fanout,
            self._context.journal,
            [self._host],
            files,
            step=f"kadeploy3-{step}",
            phase="measure",
            timeout=self._context.spec.timeouts.command,
        )

    def do(self, work: recipe.Work) -> None:
        """One step of the plan; packages that are all there already are not asked for."""
        step = f"kadeploy3-{work.name.replace(' ', '-')}"
        with self._context.span("measure", step, "host", self._host.name) as found:
            if work.unless is not None and self._run(work.unless).ok:
                found["unchanged"] = True
                return
            if work.files:
                files = [File(c.text.encode(), c.path, c.mode) for c in work.files]
                at = self._host.address
                timeout = self._context.spec.timeouts.command
                result = self._context.fanout.put([at], files, timeout=timeout)[at]
                if not result.ok:
                    raise self._failed("its files cannot be put there", step, result.reason)
            for run in work.runs:
                result = self._run(run)
                if not result.ok:
                    what = f"{' '.join(run.argv[:8])} failed"
                    raise self._failed(what, step, self._said(result), work.name == "packages")

    @staticmethod
    def _said(result: Result) -> str:
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("E: ")]
        return "; ".join(errors[:3]) or result.reason

    def _failed(self, what: str, step: str, reason: str, packages: bool = False) -> PhaseError:
        asked = self._context.spec.kadeploy3.repository
        if not packages:
            advice = "nothing has been rebooted; call measure() again when it is mended"
        elif asked:
            advice = f"is {asked!r} right, and can it be reached from there?"
        else:
            advice = (
                "Debian does not have Kadeploy3: give the line of sources.list for a place that has it, such "
                "as kadeploy3={'repository': 'deb [trusted=yes] http://packages.example/kadeploy ./'} in the "
                "specification, or provisioner='g5kvirt'"
            )
        return PhaseError(
            f"{self._host.name} cannot be made a Kadeploy3 server: {what} ({reason}); {advice}",
            phase="measure",
            step=step,
        )

    def let_in(self, hosts: Sequence[Host], key: str) -> None:
        """The server may reboot VMs by the agents of their hosts."""
        script = (
            "umask 077; mkdir -p /root/.ssh; file=/root/.ssh/authorized_keys; "
            'grep -qxF -- "$1" "$file" 2>/dev/null || printf "%s\\n" "$1" >> "$file"'
        )
        timeout = self._context.spec.timeouts.command
        # its power script calls this version of the agent; they may have been configured by another one
        calls.install_agent(self._context.fanout, hosts, timeout=timeout)
        results = self._context.fanout.run(
            [h.address for h in hosts], ["sh", "-c", script, "sh", key], timeout=timeout, idempotent=True
        )
        replies = calls.replies_of(hosts, results)
        calls.require(self._context.journal, "measure", "kadeploy3-key", replies)

    def boot_files(self, deployment: system.System, boot: Netboot, keys: Sequence[str]) -> None:
        """What VMs boot into to be deployed, and whose keys open it and what is deployed."""
        kernel = Kernel()
        initrd = system.with_keys(deployment.initrd.read_bytes(), keys)
        files = [
            File(deployment.kernel, f"{boot.repository}/{kernel.vmlinuz}"),
            File(initrd, f"{boot.repository}/{kernel.initrd}"),
            File("".join(f"{key}\n" for key in keys).encode(), AUTHORIZED),
        ]
        self.put(files, "deployment-environment")

    def serve(self, order: Mapping[str, Any], mark: str) -> None:
        """Keep the server running, started anew where it was made anew; then it is as ``mark`` says."""
        files = [*order["files"], protocol.file(MARK, mark)]
        document = protocol.document({**order, "files": files})
        timeout = self._context.spec.timeouts.command + float(order["limit"])
        replies = calls.call_agents(self._context.fanout, {self._host: document}, timeout=timeout)
        calls.require(self._context.journal, "measure", "kadeploy3-server", replies)


def _chain(context: Context, cluster: ClusterState, boot: Netboot, vms: Sequence[VM]) -> None:
    """From now on VMs boot what Kadeploy3 has for them: their own scripts, each on its own HTTP server."""
    script = vm_script(boot).encode()
    for machine in cluster.layout.machines:
        own = [
            vm
            for vm in vms
            if "http" in machine.roles and cluster.layout.server("http", vm.site, vm.index) == machine
        ]
        if own:
            files = [File(script, services.vm_script_path(vm)) for vm in own]
            calls.send_files(
                context.fanout,
                context.journal,
                [machine.host],
                files,
                step="kadeploy3-scripts",
                phase="measure",
                timeout=context.spec.timeouts.command,
            )
