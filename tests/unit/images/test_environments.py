"""Descriptions of environments, the images behind them, and every mistake's one sentence."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import socketserver
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from zstdmaker import stored

from g5kvirt.errors import G5kvirtError, MachineError, SpecError
from g5kvirt.images import debian, environments, mini

GOOD: dict[str, Any] = {
    "name": "mine",
    "version": 1,
    "description": "my software",
    "author": "me",
    "os": "linux",
    "image": {"file": "mine.tgz", "kind": "tar", "compression": "gzip"},
    "boot": {"kernel": "/vmlinuz", "initrd": "/initrd.img", "kernel_params": "quiet"},
    "filesystem": "ext3",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def described(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = {**GOOD, **changes}
    path = folder / f"{data['name']}.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}), encoding="utf-8")
    return path


def archive(content: bytes = b"x" * 5000) -> bytes:
    """A tar with one file."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def with_image(folder: Path) -> bytes:
    data = gzip.compress(archive(), mtime=0)
    (folder / "mine.tgz").write_bytes(data)
    return data


def test_a_description_as_kadeploy3_has_them(home: Path) -> None:
    found = environments.load(described(home))
    assert found == environments.Environment(
        "mine",
        str(home / "mine.tgz"),
        "",
        "my software",
        "tar",
        "gzip",
        "ext3",
        "/vmlinuz",
        "/initrd.img",
        "quiet",
    )


def test_keys_of_today_that_demand_nothing_are_accepted(home: Path) -> None:
    plain = environments.load(described(home))
    more = {"alias": "own", "arch": "x86_64", "multipart": False, "postinstalls": [], "destructive": False}
    assert environments.load(described(home, **more)) == plain


def test_omitted_keys_have_defaults(home: Path) -> None:
    path = described(home, image={"file": "/srv/a.tar"}, boot=None, filesystem=None, description=None)
    found = environments.load(path)
    assert (found.compression, found.filesystem, found.kernel, found.initrd) == (
        "none",
        "ext4",
        "/boot/vmlinuz",
        "",
    )
    assert found.image == "/srv/a.tar"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "my env"}, "name must be at most 100 letters"),
        ({"image": None}, "image.file must be a path or an http(s) URL"),
        ({"image": {"kind": "tar"}}, "image.file"),
        ({"image": {"file": "x", "kind": "dd"}}, "image.kind must be 'tar', not 'dd'"),
        (
            {"image": {"file": "x", "compression": "zip"}},
            "image.compression must be 'none' or 'gzip' or 'bzip2' or 'xz' or 'zstd', not 'zip'",
        ),
        ({"image": {"file": "x", "sha256": "12"}}, "64 hexadecimal digits"),
        ({"image": {"file": "http://h/x"}}, "image.sha256"),
        ({"image": {"file": "server:///x"}}, "image.file must be a path or an http(s) URL"),
        ({"image": {"file": "x", "unpacked": -1}}, "image.unpacked"),
        ({"image": {"file": "x", "sha512": "1"}}, "unknown key 'sha512' in image: did you mean 'sha256'?"),
        ({"filesystem": "btrfs"}, "filesystem must be 'ext4' or 'ext3' or 'ext2', not 'btrfs'"),
        ({"filesystem": ["ext4"]}, "filesystem must be"),
        ({"boot": {"kernel": "vmlinuz"}}, "boot.kernel"),
        ({"boot": {"kernel": "/a b"}}, "boot.kernel"),
        ({"boot": {"kernel_params": "a\nb"}}, "boot.kernel_params"),
        ({"boot": {"kernel_params": 3}}, "boot.kernel_params"),
        ({"boot": []}, "boot must be a mapping"),
        ({"postinstalls": [{"archive": "x"}]}, "postinstalls is not supported: VMs run no postinstalls"),
        ({"preinstall": {"archive": "x"}}, "preinstall is not supported"),
        ({"multipart": True}, "multipart is not supported: the disk of a VM has one partition"),
        ({"arch": "aarch64"}, "arch must be 'x86_64', not 'aarch64'"),
        ({"postinstall": []}, "unknown key 'postinstall' in the description: did you mean"),
    ],
)
def test_each_mistake_is_named_in_one_sentence(home: Path, changes: dict[str, Any], says: str) -> None:
    path = (
        described(home, **{"name": "mine", **changes})
        if "name" not in changes
        else described(home, **changes)
    )
    with pytest.raises(SpecError) as error:
        environments.load(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "3", "a: [", "name: a\nname: b"])
def test_other_files_are_refused_as_descriptions(home: Path, text: str) -> None:
    path = home / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError):
        environments.load(path)


def test_an_image_is_checked_and_measured(home: Path) -> None:
    data = with_image(home)
    described(home, image={**GOOD["image"], "sha256": hashlib.sha256(data).hexdigest()})
    image = environments.obtain("mine", [home])
    assert (image.path, image.size) == (home / "mine.tgz", len(data))
    assert image.environment.unpacked == len(archive())
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert environments.look_up("mine", [home]) == (environments.load(home / "mine.yaml"), image)


def test_looking_up_neither_builds_nor_fetches(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    assert environments.look_up("mini", [home]) == (None, None)
    address = {**GOOD["image"], "file": "http://example.invalid/mine.tgz", "sha256": "0" * 64}
    environment, image = environments.look_up(str(described(home, image=address)))
    assert environment is not None
    assert image is None
    assert not (home / "cache").exists()


def test_looking_up_refuses_a_corrupt_image(home: Path) -> None:
    with_image(home)
    described(home, image={**GOOD["image"], "sha256": "0" * 64})
    with pytest.raises(SpecError, match="is corrupt"):
        environments.look_up("mine", [home])


def test_an_unknown_environment_names_the_known(home: Path) -> None:
    described(home)
    with pytest.raises(
        SpecError, match="no environment 'other': choose from mini, light, debian12-min, mine"
    ):
        environments.obtain("other", [home])


def test_a_missing_image(home: Path) -> None:
    with pytest.raises(SpecError, match=r"image of mine cannot be read .*mine\.tgz: No such file"):
        environments.obtain(str(described(home)))


def test_image_that_differs_from_its_description_is_refused(home: Path) -> None:
    with_image(home)
    path = described(home, image={**GOOD["image"], "sha256": "0" * 64})
    with pytest.raises(SpecError, match="corrupt"):
        environments.obtain(str(path))


def test_image_that_is_not_gzip_is_refused(home: Path) -> None:
    spoilt = bytearray(gzip.compress(archive(random.Random(1).randbytes(50_000))))
    spoilt[30_000:30_500] = b"\xff" * 500
    for content in (bytes(spoilt), gzip.compress(archive())[:-12]):
        (home / "mine.tgz").write_bytes(content)
        with pytest.raises(SpecError, match="gzip cannot read it"):
            environments.obtain(str(described(home)))


@pytest.mark.parametrize("compression", ["none", "gzip", "bzip2", "xz", "zstd"])
def test_image_that_is_not_an_archive_is_refused_first(home: Path, compression: str) -> None:
    if compression == "zstd" and shutil.which("zstd") is None:
        pytest.skip("needs the program zstd to look inside")
    packed = {"none": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
    packed |= {"zstd": stored}
    path = str(described(home, image={"file": "image", "compression": compression}))
    (home / "image").write_bytes(packed[compression](archive()))
    environments.check(path)
    assert environments.obtain(path).sha256
    others = [pack(archive()) for name, pack in packed.items() if name != compression]
    words = "is not a tar archive " if compression == "none" else f"is not a tar archive in {compression} "
    for bad in (
        *others,
        packed[compression](b"not an archive" * 100),
        packed[compression](bytes(10_240)),
        b"x",
    ):
        (home / "image").write_bytes(bad)
        for look in (environments.check, environments.obtain):
            with pytest.raises(SpecError, match=words):
                look(path)


def test_image_that_is_not_a_file_is_refused(home: Path) -> None:
    os.mkfifo(home / "pipe")
    (home / "empty").touch()
    for file, words in (
        ("pipe", r"is not a file \(.*pipe\)"),
        ("/dev/zero", "is not a file"),
        ("/", "is not a file"),
        ("empty", "is empty"),
        ("~nobody-of-this-name/mine.tgz", "No such file"),
    ):
        with pytest.raises(SpecError, match=words):
            environments.obtain(str(described(home, image={**GOOD["image"], "file": file})))


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"",
    ],
)
def test_server_that_does_not_speak_http_is_refused(home: Path, answer: bytes) -> None:
    class Nonsense(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Nonsense) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/mine.tgz"
        image = {**GOOD["image"], "file": url, "sha256": "0" * 64}
        try:
            with pytest.raises(SpecError, match="cannot be fetched from"):
                environments.obtain(str(described(home, image=image)))
        finally:
            server.shutdown()
    image["file"] = "http://127.0.0.1:port/"
    with pytest.raises(SpecError, match="cannot be fetched from"):
        environments.obtain(str(described(home, image=image)))


def test_url_is_fetched_once_and_kept_only_with_the_right_checksum(home: Path) -> None:
    import http.server
    import threading

    data = with_image(home)

    class Handler(http.server.SimpleHTTPRequestHandler):
        requested = 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(home))

        def do_GET(self) -> None:
            Handler.requested += 1
            super().do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        about = {"file": f"{url}/mine.tgz", "compression": "gzip", "sha256": hashlib.sha256(data).hexdigest()}
        path = str(described(home, image=about))
        assert environments.obtain(path).path.read_bytes() == data
        assert environments.obtain(path).size == len(data)
        assert Handler.requested == 1
        with pytest.raises(SpecError, match="does not have the SHA-256"):
            environments.obtain(str(described(home, image={**about, "sha256": "1" * 64})))
        with pytest.raises(SpecError, match="cannot be fetched"):
            environments.obtain(
                str(described(home, image={**about, "file": f"{url}/no", "sha256": "2" * 64}))
            )
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_list_has_built_in_user_and_broken_environments(home: Path) -> None:
    folder = environments.user_directory()
    described(folder)
    with_image(folder)
    described(home / "more", name="broken", filesystem="btrfs")
    listed = {k.name: k for k in environments.known([home / "more", home / "absent"])}
    assert list(listed)[:3] == ["mini", "light", "debian12-min"]
    assert not listed["mini"].ready
    assert listed["mine"].ready
    assert "btrfs" in listed["broken"].description
    with pytest.raises(SpecError, match="btrfs"):
        environments.obtain("broken", [home / "more"])


def test_a_built_environment_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []

    def write(work: Path, progress: Any) -> dict[str, str]:
        builds.append(work)
        (work / "image").write_bytes(archive())
        return {"busybox-static": "1"}

    monkeypatch.setattr(mini, "write", write)
    first = environments.obtain("mini")
    assert environments.obtain("mini") == first
    assert len(builds) == 1
    assert (first.environment.kernel, first.environment.unpacked) == ("/boot/vmlinuz", len(archive()))
    environments.obtain("mini", refresh=True)
    assert len(builds) == 2
    ready = {k.name: k.ready for k in environments.known()}
    assert ready == {"mini": True, "light": False, "debian12-min": False}


def test_a_build_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(work: Path, progress: Any) -> dict[str, str]:
        (work / "image").write_bytes(b"half")
        raise MachineError("no network")

    monkeypatch.setattr(mini, "write", write)
    with pytest.raises(G5kvirtError):
        environments.obtain("mini")
    assert list((home / "cache" / "g5kvirt" / "environments").iterdir()) == []


def test_debian_is_built_by_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MachineError, match="sudo"):
        debian.write(tmp_path, lambda _: None)


def test_an_image_in_zstd_needs_no_program_on_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    path = str(described(home, image={"file": "image", "compression": "zstd"}))
    (home / "image").write_bytes(stored(archive()))
    assert environments.obtain(path).environment.unpacked == len(archive())
    (home / "image").write_bytes(stored(archive())[:-7])
    with pytest.raises(SpecError, match=r"is not a tar archive in zstd \(.*: it is truncated\)"):
        environments.obtain(path)
