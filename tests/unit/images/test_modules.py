"""Drivers out of a kernel's package: compressed or not, built in or not, in an order that loads."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from g5kvirt.errors import MachineError
from g5kvirt.images import minimal, packages
from g5kvirt.images.modules import drivers, unsigned

PACK = {".ko": bytes, ".ko.xz": lzma.compress, ".ko.gz": gzip.compress}
ROOT = "usr/lib/modules/6/kernel"


def module(name: str, *needs: str) -> bytes:
    """What matters of a module."""
    return b"\x7fELF" + f"license=GPL\0depends={','.join(needs)}\0name={name}\0".encode()


def load(modules: dict[str, tuple[str, ...]], wanted: list[str], ending: str, builtin: str = "") -> list[str]:
    """The drivers in their order, from a kernel with these modules (name → what it depends on)."""
    files = {f"{ROOT}/{n}{ending}": PACK[ending](module(n, *needs)) for n, needs in modules.items()}
    found = drivers(wanted, [*files, "boot/vmlinuz-6"], builtin, files.__getitem__)
    for name, content in found.items():
        assert content == module(name.removesuffix(".ko"), *modules[name.removesuffix(".ko")])
    return [name.removesuffix(".ko") for name in found]


@pytest.mark.parametrize("ending", PACK)
def test_modules_of_either_debian_come_after_what_they_depend_on(ending: str) -> None:
    known = {"virtio_net": ("net_failover",), "net_failover": ("failover",), "failover": (), "virtio_blk": ()}
    assert load(known, ["virtio_net", "virtio_blk"], ending) == [
        "failover",
        "net_failover",
        "virtio_net",
        "virtio_blk",
    ]


def test_what_is_built_in_needs_no_file() -> None:
    builtin = "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio-ring.ko\n"
    known = {"virtio_blk": ("virtio", "virtio_ring")}
    assert load(known, ["virtio_blk", "virtio"], ".ko.xz", builtin) == ["virtio_blk"]


def test_a_file_may_have_hyphens_where_the_kernel_has_underscores() -> None:
    files = {f"{ROOT}/virtio-rng.ko": module("virtio_rng")}
    assert list(drivers(["virtio_rng"], files, "", files.__getitem__)) == ["virtio_rng.ko"]


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        (f"{ROOT}/other.ko", module("other"), "this kernel has no module virtio_blk, neither as a file nor"),
        (f"{ROOT}/virtio_blk.ko.zst", b"", "compressed with zstd"),
        (f"{ROOT}/virtio_blk.ko.xz", b"not xz", "is corrupt"),
        (f"{ROOT}/virtio_blk.ko.gz", gzip.compress(b"x", mtime=0)[:-3], "is corrupt"),
    ],
)
def test_what_cannot_be_loaded_is_told_by_name(path: str, data: bytes, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        drivers(["virtio_blk"], [path], "", {path: data}.__getitem__)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=4)), st.data()
)
def test_any_dependencies_are_loaded_in_order(graph: dict[str, list[str]], data: st.DataObject) -> None:
    known = {name: tuple(n for n in needs if n > name and n in graph) for name, needs in graph.items()}
    wanted = data.draw(st.lists(st.sampled_from(sorted(known)), unique=True)) if known else []
    order = load(known, wanted, ".ko")
    assert len(set(order)) == len(order)
    assert set(wanted) <= set(order)
    for position, name in enumerate(order):
        assert set(known[name]) <= set(order[:position])


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_signature_is_removed_from_a_module(module: bytes, signature: bytes) -> None:
    footer = bytes(8) + len(signature).to_bytes(4, "big")  # what Linux calls struct module_signature
    signed = module + signature + footer + b"~Module signature appended~\n"
    assert unsigned(signed) == module
    assume(not module.endswith(b"~Module signature appended~\n"))
    assert unsigned(b"ELF" + module) == b"ELF" + module


# ---- packages ------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like Debian 13's kernel, which apt would fetch."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    tree, release = tmp_path / "tree", "6.12-cloud-amd64"
    folder = tree / "usr/lib/modules" / release
    files = {
        tree / "DEBIAN/control": b"Package: k\nVersion: 6.12.1-1\nArchitecture: amd64\nMaintainer: x\n"
        b"Description: x\n",
        tree / f"boot/vmlinuz-{release}": b"the kernel",
        folder / "modules.builtin": b"kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
        folder / "kernel/net/virtio_net.ko.xz": lzma.compress(module("virtio_net", "failover")),
        folder / "kernel/net/failover.ko.xz": lzma.compress(module("failover")),
        folder / "kernel/block/virtio_blk.ko.xz": lzma.compress(module("virtio_blk", "virtio")),
    }
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    package = tmp_path / "linux-image-6.12-cloud-amd64_6.12.1-1_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", "-Znone", tree, package], check=True, capture_output=True)
    monkeypatch.setattr(packages, "kernel", lambda: f"linux-image-{release}")
    monkeypatch.setattr(packages, "fetch", lambda names, _: dict.fromkeys(names, package))
    return package


def test_a_guests_kernel_is_taken_from_a_package_of_debian_13(kernel: Path, tmp_path: Path) -> None:
    found = minimal.gather({}, tmp_path)
    assert (found.release, found.kernel) == ("6.12-cloud-amd64", b"the kernel")
    assert list(found.drivers) == ["failover.ko", "virtio_net.ko", "virtio_blk.ko"]
    assert found.versions == {"linux-image-6.12-cloud-amd64": "6.12.1-1"}
    assert not kernel.exists(), "nothing of the packages stays"


@pytest.mark.parametrize(
    ("candidates", "names"),
    [
        (
            {"libext2fs2": "1", "libxenmisc4.17": "4"},
            {"libext2fs2": ("a/x.so.2",), "libxenmisc4.17": ("a/c.so.4.17",)},
        ),
        ({}, {"libext2fs2t64": ("a/x.so.2",), "libxenmisc4.20": ("a/c.so.4.20",)}),
    ],
)
def test_libraries_have_the_names_of_the_debian_at_hand(
    candidates: dict[str, str], names: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_candidates", lambda _: candidates)
    wanted = {"libext2fs2": ("a/x.so.2",), "libxenmisc4.17": ("a/c.so.4.17",), "zstd": ("z",)}
    assert packages.renamed(wanted) == {**names, "zstd": ("z",)}
