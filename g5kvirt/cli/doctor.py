"""Finds out what this machine can do: which testbeds it can use, and how many VMs fit.

Every probe tries the feature itself (a file that exists proves nothing), in namespaces of its own that vanish
with it, and ends within a few seconds.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from g5kvirt.cli.memory import available_memory
from g5kvirt.errors import SpecError
from g5kvirt.hostagent import bundle
from g5kvirt.inventory import GIB
from g5kvirt.testbeds.local.shared_limits import SharedLimits, too_small
from g5kvirt.views.formatting import count, size

__all__ = ["ProbeResult", "able", "examine", "report", "verdict", "vms_by_memory"]

State = Literal["ok", "warn", "fail", "unknown"]

#: Measured for a VM of 112 MiB that netboots Debian's kernel.
VM_MEMORY = 155 * 10**6  #: bytes resident
VM_BOOT_EMULATED = 6.8  #: CPU seconds from power-on to the minimal system
TESTBED_MEMORY = 1 * GIB  #: two sites, their services and the machine itself

#: Program → the Debian package that contains it.
PROGRAMS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "taktuk": "taktuk",
    "mksquashfs": "squashfs-tools",
    "unshare": "util-linux",
    "mount": "mount",
    "apt-get": "apt",
}

#: Works without these, only slower: many hosts are reached by ssh in windows instead of a tree.
OPTIONAL = ("taktuk",)

_LIMIT = 15.0  #: seconds per probe at most


@dataclass(frozen=True)
class ProbeResult:
    """The result of one probe. ``fail``: the local testbed cannot run without it."""

    name: str
    state: State
    found: str
    advice: str = ""
    value: int | None = None  #: what was measured: bytes of free memory, number of cores


def examine() -> list[ProbeResult]:
    """All findings, in the order in which they are shown. Takes up to four seconds if KVM hangs."""
    if sys.platform != "linux":
        return [system()]
    with ThreadPoolExecutor(3) as pool:  # each waits for programs, so run them in parallel
        kernel = pool.submit(kernel_features)
        guests = pool.submit(kvm)
        first = [system(), root(), programs(), *memory_and_cores(), kernel_tables(SharedLimits())]
        return [*first, *kernel.result(), guests.result(), *grid5000_settings()]


def able(findings: Sequence[ProbeResult]) -> bool:
    """True if the local testbed can run here."""
    return not any(finding.state == "fail" for finding in findings)


def report(findings: Sequence[ProbeResult]) -> dict[str, Any]:
    """The findings as JSON."""
    return {"local": able(findings), "verdict": verdict(findings), "findings": [asdict(f) for f in findings]}


def verdict(findings: Sequence[ProbeResult]) -> str:
    """Two or three sentences: which testbeds, how many VMs."""
    remote = (
        "Grid'5000 itself needs an account and ssh access; it was not probed, which"
        " `g5kvirt check spec.yaml --testbed grid5000` does."
    )
    if not able(findings):
        missing = ", ".join(f.name for f in findings if f.state == "fail")
        return f"The local testbed cannot run here: {missing}. {remote}"
    measured = {f.name: f.value or 0 for f in findings}  # what the table shows: memory changes all the time
    available, cores = measured.get("memory", 0), max(1, measured.get("cores", 1))
    kvm_works = any(f.name == "KVM" and f.state == "ok" for f in findings)
    pace = (
        "they use KVM."
        if kvm_works
        else f"emulated on {count(cores, 'core')}, 16 boot in about {16 * VM_BOOT_EMULATED / cores:.0f} s."
    )
    fits = f"up to about {count(vms_by_memory(available), 'VM')} in {size(available)}"
    return f"The local testbed can run here, with {fits}; {pace} {remote}"


def vms_by_memory(available: int) -> int:
    """How many VMs with Debian's kernel fit into ``available`` bytes next to a small testbed."""
    return max(0, (available - TESTBED_MEMORY) // VM_MEMORY)


# ---- probes ------------------------------------------------------------------------------------------


def system() -> ProbeResult:
    """The operating system: Debian, as the testbed's layers are made of its packages."""
    name = platform.system()
    if name != "Linux":
        return ProbeResult("system", "fail", name, "use Debian 12 or newer; a virtual machine will do")
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    found = f"{release.get('PRETTY_NAME', 'Linux')}, kernel {platform.release()}"
    if shutil.which("apt-get") and shutil.which("dpkg-query"):
        return ProbeResult("system", "ok", found)
    return ProbeResult(
        "system", "fail", found, "the local testbed needs Debian packages: use Debian 12 or newer"
    )


def root() -> ProbeResult:
    """The permission to create namespaces and mounts."""
    if os.geteuid() == 0:
        return ProbeResult("root", "ok", "yes")
    return ProbeResult("root", "fail", f"no, user {os.geteuid()}", "use sudo for the local testbed")


def grid5000_settings() -> list[ProbeResult]:
    """Whether the settings for Grid'5000, if there are any, can be used. Nothing is contacted."""
    # not on Windows, where this cannot be imported
    from g5kvirt.testbeds.grid5000.settings import KEYS, load_settings, settings_file

    path = settings_file()
    if not path.exists():
        return []
    try:
        settings = load_settings(path)
    except SpecError as error:
        return [ProbeResult("Grid'5000", "warn", error.message, error.advice)]
    keys = [key for key in KEYS if getattr(settings, key) is not None]
    return [ProbeResult("Grid'5000", "ok", f"{path} sets {', '.join(keys) or 'nothing'}")]


def programs(which: Callable[[str], str | None] = shutil.which) -> ProbeResult:
    """The programs that run on this machine itself."""
    missing = [program for program in PROGRAMS if which(program) is None]
    if not missing:
        return ProbeResult("programs", "ok", "all found")
    packages = " ".join(sorted({PROGRAMS[program] for program in missing}))
    return ProbeResult(
        "programs",
        "warn" if set(missing) <= set(OPTIONAL) else "fail",
        f"missing: {', '.join(missing)}",
        f"run ./bootstrap, or apt-get install --no-install-recommends {packages}",
    )


def memory_and_cores() -> list[ProbeResult]:
    """Free memory and usable cores, within the limits of a container."""
    available, cores = available_memory(), _cores()
    number = vms_by_memory(available)
    state: State = "ok" if number >= 8 else "warn" if number >= 1 else "fail"
    advice = "" if number >= 8 else "the demo needs about 2.5 GiB"
    return [
        ProbeResult(
            "memory", state, f"{size(available)} free: about {count(number, 'VM')}", advice, available
        ),
        ProbeResult("cores", "ok", str(cores), value=cores),
    ]


def kernel_tables(limits: SharedLimits) -> ProbeResult:
    """The tables that all hosts of a local testbed share: it raises them while it is up."""
    small, overflows = too_small(limits.current()), limits.overflows()
    found = "large enough" if not small else f"{len(small)} are increased while a testbed is up"
    if not overflows:
        return ProbeResult("kernel tables", "ok", found)
    full = "; ".join(f"{what}: {times:,}" for what, times in overflows.items())
    return ProbeResult("kernel tables", "warn", f"{found}; {full}", "start fewer VMs at once (windows)")


#: A shell script for a mount, network, pid and uts namespace of its own: tries one feature after the other
#: and prints for each ``name<TAB>ok`` or ``name<TAB>`` and the error message.
_TRY = r"""
try() {
    name=$1; shift
    if message=$("$@" 2>&1); then printf '%s\tok\n' "$name"
    else printf '%s\t%s\n' "$name" "$(printf '%s' "$message" | head -n 1)"; fi
}
printf 'namespaces\tok\n'
squash() { mksquashfs /mnt/a /mnt/s -quiet -no-progress && mount -t squashfs -o loop,ro /mnt/s /mnt/b; }
try tmpfs mount -t tmpfs none /mnt
mkdir /mnt/a /mnt/b /mnt/u /mnt/w /mnt/r
try overlay mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r
try squashfs squash
try bridge ip link add b0 type bridge
try veth ip link add v0 type veth peer name v1
try tap ip tuntap add t0 mode tap
try vxlan ip link add x0 type vxlan id 7 local 127.0.0.1 dstport 4789
for kind in 'htb' 'netem delay 1ms'; do
    try "${kind%% *}" tc qdisc add dev v0 root $kind
    tc qdisc del dev v0 root 2>/dev/null
done
exit 0
"""


def kernel_features() -> list[ProbeResult]:
    """Kernel features: each is really used, in namespaces of its own."""
    command = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
    code, out, err = _run([*command, "--propagation", "private", "sh", "-c", _TRY])
    tried = dict(line.split("\t", 1) for line in out.splitlines() if "\t" in line)
    if "namespaces" not in tried:
        message = err.strip().splitlines()[-1] if err.strip() else f"unshare ended with {code}"
        # Without root it fails anyway, which tells nothing about the kernel.
        state: State = "fail" if os.geteuid() == 0 else "unknown"
        advice = "in a container: start it with --privileged" if state == "fail" else ""
        return [ProbeResult("namespaces", state, f"cannot be created: {message}", advice)]
    return judge(tried)


def judge(tried: Mapping[str, str]) -> list[ProbeResult]:
    """Findings from the features tried: name → ``ok`` or the error message."""
    found = [ProbeResult("namespaces", "ok", "mount, net, pid, uts, ipc")]
    needed = {
        "file systems": ("tmpfs", "overlay", "squashfs"),
        "network": ("bridge", "veth", "tap", "vxlan", "htb"),
    }
    for name, parts in needed.items():
        bad = [f"{p}: {tried.get(p, 'not tried')}" for p in parts if tried.get(p) != "ok"]
        good = ", ".join(p for p in parts if tried.get(p) == "ok")
        if bad:
            found.append(
                ProbeResult(name, "fail", "; ".join(bad), "not supported by this kernel or container")
            )
        else:
            found.append(ProbeResult(name, "ok", good))
    if tried.get("netem") == "ok":
        found.append(ProbeResult("link latency", "ok", "netem"))
    else:
        found.append(
            ProbeResult(
                "link latency",
                "warn",
                "this kernel has no netem",
                "links between sites get no added latency",
            )
        )
    return found


#: Puts the node layer (its squashfs is $1) over / and runs the host agent, which comes on stdin, in it.
_IN_LAYER = r"""
set -e
mount -t tmpfs none /mnt
mkdir /mnt/l /mnt/u /mnt/w /mnt/r
mount -t squashfs -o loop,ro "$1" /mnt/l
mount -t overlay overlay -o lowerdir=/mnt/l:/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r
mount --rbind /dev /mnt/r/dev
mount --bind /proc /mnt/r/proc
mount -t tmpfs none /mnt/r/run
mkdir /mnt/r/run/agent
tar -x -z -m -f - -C /mnt/r/run/agent
exec chroot /mnt/r python3 -I -S /run/agent "$2"
"""


def kvm() -> ProbeResult:
    """Whether a guest really runs with KVM: the host agent starts one and waits three seconds for it.

    QEMU is taken from the local testbed's node layer, or from this machine; without either it is unknown.
    """
    if not Path("/dev/kvm").exists():
        return ProbeResult("KVM", "warn", "no /dev/kvm: guests are emulated")
    home = "/run/g5kvirt-doctor"
    request = json.dumps({"home": home, "requests": [{"op": "facts", "kvm_limit": 3.0}]})
    layer = _node_layer()
    private = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    if os.geteuid() != 0:
        return ProbeResult("KVM", "unknown", "/dev/kvm exists; only root can test whether it works")
    if layer is not None:
        words = [*private, "sh", "-c", _IN_LAYER, "sh", str(layer), request]
    elif shutil.which("qemu-system-x86_64"):
        script = "mount -t tmpfs none /run && mkdir /run/agent && tar -x -z -m -f - -C /run/agent"
        script += ' && exec python3 -I -S /run/agent "$1"'
        words = [*private, "sh", "-c", script, "sh", request]
    else:
        return ProbeResult(
            "KVM",
            "unknown",
            "/dev/kvm exists, but there is no QEMU to test it with",
            "g5kvirt local up builds a layer with QEMU; run this again afterwards",
        )
    _, out, err = _run(words, stdin=bundle.archive())
    return judge_kvm(out, err)


def judge_kvm(out: str, err: str) -> ProbeResult:
    """The finding from the host agent's output (lines of JSON) and its error output."""
    for line in out.splitlines():
        try:
            detail = json.loads(line)["detail"]
            works, reason = bool(detail["kvm"]), str(detail.get("kvm_reason", ""))
        except (ValueError, KeyError, TypeError):
            continue
        if works:
            return ProbeResult("KVM", "ok", "a guest ran")
        return ProbeResult("KVM", "warn", f"does not work, so guests are emulated: {reason}")
    message = err.strip().splitlines()[-1] if err.strip() else "the host agent did not answer"
    return ProbeResult("KVM", "unknown", f"could not be tested: {message}")


# ---- inside ------------------------------------------------------------------------------------------


def _run(command: Sequence[str], stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a probe for at most `_LIMIT`: exit code, output, error output. Nothing that it started is left."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        return 124, "", f"no answer within {_LIMIT:g} s"
    except OSError as error:
        return 127, "", f"{command[0]}: {error.strerror}"
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _node_layer() -> Path | None:
    from g5kvirt.errors import MachineError
    from g5kvirt.testbeds.local import layers

    try:
        image = layers.path("node")
    except MachineError:  # no dpkg: another finding reports that
        return None
    return image if image.exists() else None


def _cores() -> int:
    return len(os.sched_getaffinity(0))
