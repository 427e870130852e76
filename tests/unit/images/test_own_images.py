"""Images of one's own: what may be asked for, what is run for it, what it becomes, what is refused."""

from __future__ import annotations

import gzip
import io
import os
import shlex
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt import cli
from g5kvirt.errors import G5kvirtError, MachineError, SpecError
from g5kvirt.images import custom, debian, debian_system, environments, repository
from g5kvirt.images.custom import ImageRequest, package_names
from g5kvirt.images.debian_system import System, SystemRecipe


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what may be asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("python3,iperf3", ("python3", "iperf3")),
        (" a1, b2\n b2 ", ("a1", "b2")),
        ("", ()),
        (["g++"], ("g++",)),
    ],
)
def test_packages_are_named_with_commas_or_blanks(given: str | list[str], names: tuple[str, ...]) -> None:
    assert package_names(given) == names


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"packages": ("Python",)},
            "packages must be names of Debian packages such as python3, not 'Python'",
        ),
        ({"packages": ("--yes",)}, "packages must be names"),
        ({"packages": ("a;b",)}, "packages must be names"),
        ({"debian": 11}, "debian must be 12 or 13, not 11"),
        ({"name": "mini"}, "mini is a built-in environment"),
        ({"name": "a b"}, "name must be at most 100 letters"),
        ({"compression": "zip"}, "compression must be 'gzip' or 'xz' or 'zstd' or 'none'"),
        ({"script": "x"}, "script must be the path of a file"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        ImageRequest(**{"name": "mine", **fields})
    assert message in str(error.value)


def test_a_script_must_be_there_and_say_who_runs_it(home: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        ImageRequest(name="mine", script=home / "none").script_text()
    with pytest.raises(SpecError, match="is not a file"):  # read to its end, it would fill the memory
        ImageRequest(name="mine", script=Path("/dev/zero")).script_text()
    (home / "plain").write_text("echo hello\n")
    with pytest.raises(SpecError, match="has no interpreter line"):
        ImageRequest(name="mine", script=home / "plain").script_text()


# ---- what is run for it --------------------------------------------------------------------------------


@given(
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)
)
def test_no_folders_name_reaches_a_shell_unquoted(name: str) -> None:
    scratch = Path("/cache") / name.replace("/", "_")
    recipe = SystemRecipe("trixie", "image mine", script=b"#!/bin/sh\n")
    argv = debian_system._command("mmdebstrap", recipe, scratch, ["deb x trixie main"], Path("/image.tar"))
    hooks = [word.partition("=")[2] for word in argv if "-hook=" in word]
    assert len(hooks) == 2
    for hook in hooks:
        words = shlex.split(hook)
        assert any(str(scratch) in word for word in words)
    assert argv[-3:] == ["trixie", "/image.tar", "deb x trixie main"]


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        (
            ["E: no space", "I: end", "E: mmdebstrap failed to run"],
            MachineError,
            "mmdebstrap failed (E: no space)",
        ),
        ([], MachineError, "mmdebstrap failed (no output)"),
        (
            ["pip: no such thing", "", "g5kvirt: the script ended with exit code 3", "E: hook failed"],
            SpecError,
            "the script ended with exit code 3 (pip: no such thing)",
        ),
    ],
)
def test_a_failed_build_says_whose_fault_it_was(
    lines: list[str], kind: type[G5kvirtError], message: str
) -> None:
    error = debian_system._failure(lines)
    assert type(error) is kind
    assert message in str(error)


def test_installed_packages_are_counted_once_each(tmp_path: Path) -> None:
    assert debian_system._installed_so_far(tmp_path, 10) == ""
    log = tmp_path / "mmdebstrap.x/var/log/dpkg.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "1 2 status installed a:amd64 1\n1 2 status unpacked b 1\n1 2 status installed a:amd64 1\n"
    )
    assert debian_system._installed_so_far(tmp_path, 10) == "installing packages: 1 of 10 (10 %)"


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_the_image_is_compressed_with_progress(compression: str, tmp_path: Path) -> None:
    source, target = tmp_path / "image.tar", tmp_path / "image"
    source.write_bytes(os.urandom(1 << 20))
    data, told = source.read_bytes(), []
    debian_system._compress(source, target, compression, tmp_path, told.append)
    assert (gzip.decompress(target.read_bytes()) if compression == "gzip" else target.read_bytes()) == data
    assert not source.exists()
    if compression == "gzip":
        assert told[-1] == "compressing the image: 1.0 of 1.0 MiB (100 %)"


def test_apt_says_what_it_would_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    out = "'http://d/pool/a/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 1000 SHA256:00\nsomething else\n"
    monkeypatch.setattr(repository, "_output", lambda *_: out)
    (archive,) = repository._archives([], ["a"], "trixie")
    assert (archive.name, archive.file, archive.size) == ("a", "a_1%3a2_amd64.deb", 1000)


def test_packages_that_were_fetched_before_are_among_the_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apt(argv: list[str], _: float) -> str:
        """apt lists, and fetches, what is not in its folder of archives yet."""
        if "install" not in argv:
            return ""
        place = Path([word for word in argv if word.startswith("Dir::Cache::archives=")][-1].split("=")[1])
        new = [] if (place / "a_1_amd64.deb").exists() else ["a_1_amd64.deb"]
        if "--download-only" in argv:
            (place / "a_1_amd64.deb").write_bytes(b"12345")
        return "".join(f"'http://d/{name}' {name} 5 SHA256:00\n" for name in new)

    monkeypatch.setattr(repository, "_output", apt)
    for _ in range(2):
        _, files = repository.fetch_all("bookworm", ["a"], lambda _: None)
        assert [file.name for file in files] == ["a_1_amd64.deb"]
        assert files[0].read_bytes() == b"12345"


def test_an_unknown_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def output(*_: Any) -> str:
        raise MachineError("apt-get failed (E: Unable to locate package iperf9)")

    monkeypatch.setattr(repository, "_output", output)
    with pytest.raises(SpecError, match="Debian trixie has no package 'iperf9'"):
        repository._archives([], ["iperf9"], "trixie")


def test_mirrors_are_those_of_this_machine_if_they_have_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = "bookworm http://near/debian/\nbookworm-security http://near/security/\n"
    monkeypatch.setattr(repository, "_output", lambda *_: targets)
    uris = {
        release: [line.split()[-3] for line in repository.sources(release)]
        for release in ("bookworm", "trixie")
    }
    assert uris["bookworm"] == ["http://near/debian", "http://near/debian", "http://near/security"]
    assert uris["trixie"][:2] == ["http://deb.debian.org/debian"] * 2
    assert uris["trixie"][2] == "http://deb.debian.org/debian-security"


def test_progress_is_told_when_it_is_new_and_at_the_end() -> None:
    told: list[str] = []
    texts = iter(["", "1 %", "1 %", *["2 %"] * 1000])
    with repository.reported(lambda: next(texts), told.append, every=0.005):
        subprocess.run(["sleep", "0.3"], check=True)
    assert told == ["1 %", "2 %"]
    with pytest.raises(ZeroDivisionError), repository.reported(lambda: "3 %", told.append, every=9):
        raise ZeroDivisionError
    assert told[-1] == "2 %", "an end with an error is no progress"


# ---- what it becomes -----------------------------------------------------------------------------------


class Builder:
    """In the place of apt and mmdebstrap."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recipes: list[SystemRecipe] = []
        monkeypatch.setattr(debian_system, "write", self.write)

    def write(self, recipe: SystemRecipe, work: Path, progress: Any) -> System:
        self.recipes.append(recipe)
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            entry = tarfile.TarInfo("vmlinuz")
            entry.size = 6
            tar.addfile(entry, io.BytesIO(b"kernel"))
        (work / "image").write_bytes(gzip.compress(made.getvalue()))
        return System({"iperf3": "3.12"}, len(made.getvalue()))


def test_an_image_is_built_once_and_found_by_its_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(monkeypatch)
    request = ImageRequest(name="mine", packages=package_names("iperf3,udev"), debian=13)
    folder = home / "environments"
    made = custom.build(request, folder)
    assert custom.build(request, folder) == made
    (recipe,) = builder.recipes
    assert recipe.release == "trixie"
    assert list(recipe.include).count("udev") == 1
    image = environments.obtain("mine", [folder])
    assert (image.environment.kernel, image.environment.initrd) == ("/vmlinuz", "/initrd.img")
    assert image.environment.unpacked == made.unpacked > 0
    assert sorted(path.name for path in folder.iterdir()) == ["mine.tar.gz", "mine.yaml"]
    custom.build(request, folder, refresh=True)
    assert len(builder.recipes) == 2


def test_another_script_is_another_image(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(monkeypatch)
    for text in ("echo 1", "echo 2", "echo 1"):
        (home / "setup").write_text(f"#!/bin/sh\n{text}\n")
        custom.build(ImageRequest(name="mine", script=home / "setup"), home)
    other = custom.build(ImageRequest(name="other", script=home / "setup"), home)
    assert [recipe.script.split()[-1] for recipe in builder.recipes] == [b"1", b"2"]
    assert other.name == "other", "the same image under another name"


def test_the_command_says_where_it_is_and_how_large_a_disk_it_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Builder(monkeypatch)
    assert cli.main(["image", "build", "--packages", "iperf3", "mine"]) == 0
    out = capsys.readouterr().out
    assert "environments/mine.yaml: " in out
    assert "vm.disk of at least 33 MiB" in out
    assert cli.main(["image", "build", "--debian", "11", "mine"]) == 2
    assert "debian must be 12 or 13" in capsys.readouterr().err


def test_debian12_min_is_such_a_system(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(monkeypatch)
    assert debian.write(home, lambda _: None) == {"iperf3": "3.12"}
    (recipe,) = builder.recipes
    assert [2, recipe.release, list(recipe.include), dict(recipe.before), dict(recipe.after)] == debian.RECIPE


def test_only_network_cards_get_an_address_by_dhcp() -> None:
    """Not the bridges and taps of an experiment with containers or VMs of its own."""
    page = (Path(__file__).parents[3] / "docs/howto/environment.md").read_text(encoding="utf-8")
    for text in (debian_system.AFTER["etc/systemd/network/10-g5kvirt.network"], page):
        assert "Type=ether\nKind=!*\n" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_an_installation_that_is_killed_leaves_nothing_mounted(tmp_path: Path) -> None:
    script = f"mount -t tmpfs none {tmp_path} && touch {tmp_path}/inside && kill -9 $$"
    with pytest.raises(MachineError, match="failed"):
        debian_system._run(["sh", "-c", script], tmp_path)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert not list(tmp_path.iterdir()), "and so it can be removed"
