"""What a VM is told to deploy, and what it says when it has."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import subprocess
import tarfile
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.errors import SpecError
from g5kvirt.images import mini, minimal, tools
from g5kvirt.images.environments import Environment, Image
from g5kvirt.netboot.task_id import TaskId
from g5kvirt.provisioners.builtin import tasks
from g5kvirt.provisioners.builtin.tasks import TaskFile

KEY = "ssh-ed25519 AAAA me@here"
TASK = TaskFile(
    TaskId("d1", 2), "mini", f"http://10.0.0.2:8080/{'a' * 64}", "a" * 64, (KEY,), "http://10.0.0.1"
)


def values(script: str, *names: str) -> list[str]:
    """What a shell makes of the assignments, without the procedure behind them."""
    head = script.partition("\nstep=")[0]
    shown = "".join(f'printf "%s\\0" "${name}"\n' for name in names)
    done = subprocess.run(["sh", "-c", f"{head}\n{shown}"], capture_output=True, check=True, timeout=10)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")[:-1]


def test_first_line_of_a_task_is_its_id() -> None:
    assert tasks.render(TASK).splitlines()[0] == "# d1.2"
    assert tasks.task_path("vm-1", "/www") == "/www/task/vm-1"


def test_the_tools_are_on_the_server_by_default() -> None:
    assert values(tasks.render(TASK), "tools", "boot", "least_disk") == [
        "http://10.0.0.1/tools",
        "kexec",
        "0",
    ]
    other = dataclasses.replace(TASK, tools="http://10.0.0.9/t")
    assert values(tasks.render(other), "tools") == ["http://10.0.0.9/t"]


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
    st.lists(
        st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=60), min_size=1, max_size=3
    ),
    st.text("$`'\"\\;&|<>(){}*?!~#", max_size=20),
)
def test_hostile_values_stay_values(arguments: str, keys: list[str], tail: str) -> None:
    task = dataclasses.replace(
        TASK, arguments=arguments, authorized_keys=tuple(keys), image=f"http://10.0.0.2/{tail}"
    )
    found = values(tasks.render(task), "arguments", "authorized_keys", "image")
    assert found == [arguments, "\n".join(keys), f"http://10.0.0.2/{tail}"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", TaskId("1\nreboot", 1)),
        ("id", TaskId("", 1)),
        ("id", TaskId("1&status=ok", 1)),
        ("environment", "a b"),
        ("sha256", "A" * 64),
        ("sha256", "a" * 64 + "\n"),
        ("image", "ftp://x/y"),
        ("image", "http://x/ y"),
        ("server", "-O/etc/passwd"),
        ("kernel", "boot/vmlinuz"),
        ("kernel", "/boot/$(reboot)"),
        ("initrd", "/a\nb"),
        ("arguments", "quiet\nAPPEND evil"),
        ("boot", "jump"),
        ("compression", "zip"),
        ("filesystem", "btrfs"),
        ("disk", "/dev/vda; true"),
        ("authorized_keys", ()),
        ("authorized_keys", ("a\nb",)),
    ],
)
def test_task_files_refuse_unsafe_values(field: str, value: object) -> None:
    with pytest.raises(SpecError, match=rf"^task\.{field} must be .*, not ") as error:
        dataclasses.replace(TASK, **{field: value})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------- the procedure
def guest(name: str) -> str:
    return resources.files("g5kvirt.images").joinpath("guest", name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["agent", "deploy", "init", "mini/initrd-init", "mini/rc", "mini/report"])
def test_scripts_are_shell(name: str) -> None:
    subprocess.run(["sh", "-n"], input=guest(name).encode(), check=True, timeout=10)
    subprocess.run(["sh", "-n"], input=tasks.render(TASK).encode(), check=True, timeout=10)


def test_the_procedure_calls_only_what_the_guest_has() -> None:
    have = set(minimal._APPLETS.split())
    code = re.sub(r"(?m)^\s*#.*$|'[^']*'|\"[^\"]*\"", "", guest("deploy"))
    called = set(re.findall(r"(?m)(?:^|[|&;]|\btry|\bnoting \w+)\s+([a-z][a-z0-9]+)(?= [-$>+\"]|$)", code))
    shell = {
        "step",
        "exit",
        "shift",
        "wait",
        "while",
        "done",
        "break",
        "esac",
        "fi",
        "else",
        "then",
        "do",
        "ok",
        "set",
        "read",
        "case",
    }
    functions = set(re.findall(r"(?m)^(\w+)\(\)", code))
    assert {"mount", "sync", "tar"} <= called  # the expression above still finds something
    assert called - shell - functions <= have


def test_escaped_reasons_arrive_unescaped(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if not busybox:
        pytest.skip("needs busybox")
    from urllib.parse import parse_qsl

    function = re.search(r"(?ms)^escaped\(\) \{.*?^\}", guest("deploy"))
    assert function is not None
    text = 'tar: "a b" & c=d; 100% <#1> \\ + ünd'
    done = subprocess.run(
        [busybox, "sh", "-c", f'{function[0]}\nprintf %s "$(escaped "$1")"', "sh", text],
        capture_output=True,
        check=True,
        timeout=10,
    )
    assert parse_qsl(f"reason={done.stdout.decode()}&x=1")[0][1] == text.replace("ü", "")


# ------------------------------------------------------------------------------------------------ archives
def test_the_tools_are_the_same_every_time_and_their_folders_come_first() -> None:
    files = {"sbin/mke2fs": b"m", "lib/x86_64-linux-gnu/libc.so.6": b"c", "deploy": b"procedure"}
    data = tools.archive(files)
    assert data == tools.archive(dict(reversed(files.items())))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert [m.mode for m in tar.getmembers() if m.isreg()] == [0o755] * 3
    assert {*files} <= set(names)
    assert all(p in names[:i] for i, n in enumerate(names) if (p := n.rpartition("/")[0]))


@pytest.mark.parametrize("fails", [0, 1, 9])
@pytest.mark.parametrize(("compression", "wanted"), [("gzip", ["tools"]), ("zstd", ["tools", "tools-zstd"])])
def test_tools_are_fetched_once_and_those_for_zstd_only_where_needed(
    tmp_path: Path, compression: str, wanted: list[str], fails: int
) -> None:
    script = tasks.render(dataclasses.replace(TASK, compression=compression))
    script = script.replace(". /deploy", "").replace("/deploy", f"{tmp_path}/deploy")
    script = script.replace("/usr/bin/zstd", f"{tmp_path}/zstd")
    script = script.replace("/tmp/tools.said", f"{tmp_path}/said")
    stubs = f"""
report() {{ echo "$2" >> {tmp_path}/reports; }}
sleep() {{ :; }}
timeout() {{ echo "$6" >> {tmp_path}/fetched; [ $(wc -l < {tmp_path}/fetched) -gt {fails} ] && echo "$6"; }}
tar() {{
    read -r url
    touch {tmp_path}/deploy
    case $url in *zstd) touch {tmp_path}/zstd ;; esac
    [ -n "$url" ]
}}
"""
    for _ in range(2):
        subprocess.run(["bash", "-c", f"{stubs}\n{script}"], check=False, timeout=20, capture_output=True)
    fetched = [url.rpartition("/")[2] for url in (tmp_path / "fetched").read_text().split()]
    if fails == 9:
        assert fetched[:4] == ["tools"] * 4
        assert "could%20not%20be%20fetched" in (tmp_path / "reports").read_text().splitlines()[0]
    else:
        assert fetched == ["tools"] * fails + wanted


def test_mini_has_what_its_scripts_call() -> None:
    texts = mini.scripts()
    data = mini.image({"bin/busybox": b"b", "boot/vmlinuz": b"k", "lib64/ld.so.2": b"l"}, texts)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = {m.name: m for m in tar.getmembers()}
    assert members["etc/rc"].mode == 0o755
    assert members["boot/vmlinuz"].mode == 0o644
    assert members["lib64/ld.so.2"].mode == 0o755
    assert members["sbin/init"].linkname == "../bin/busybox"
    assert members["tmp"].mode == 0o1777
    for program in ("mount", "ip", "udhcpc", "cat", "mkdir", "sleep", "wget", "timeout"):
        assert members[f"bin/{program}"].linkname == "busybox"
    assert {"dev", "proc", "sys", "run", "root"} <= members.keys()


def test_the_initrd_of_mini_has_the_programs_of_its_init() -> None:
    assert set(mini._applets(mini.scripts()["initrd-init"])) >= {
        "mount",
        "insmod",
        "switch_root",
        "sleep",
        "cat",
    }
    data = mini.initrd(b"busybox", {"virtio.ko": b"v"}, "init")
    assert b"lib/modules/00-virtio.ko" in data


def test_a_task_file_takes_its_values_from_the_image() -> None:
    environment = Environment("mine", "/i", compression="gzip", filesystem="ext3", unpacked=5000)
    image = Image(environment, Path("/i"), "b" * 64, 100)
    task = tasks.task_file(
        image, task_id=TaskId("d1", 1), url="http://h/x", server="http://s", authorized_keys=[KEY]
    )
    assert (task.compression, task.filesystem, task.sha256) == ("gzip", "ext3", "b" * 64)
    assert task.least_disk > 5000
    unknown = Image(dataclasses.replace(environment, unpacked=0), Path("/i"), "b" * 64, 100)
    other = tasks.task_file(
        unknown, task_id=TaskId("d1", 1), url="http://h/x", server="http://s", authorized_keys=[KEY]
    )
    assert other.least_disk == 0
