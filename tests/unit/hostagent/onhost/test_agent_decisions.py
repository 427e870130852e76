"""The host agent's pure decisions: names, QEMU's command line, routes, apt's errors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.hostagent.onhost import facts, niceness
from g5kvirt.hostagent.onhost.bridge import assign_commands, default_nic, link_named, without_metrics
from g5kvirt.hostagent.onhost.facts import describe_end
from g5kvirt.hostagent.onhost.packages import apt_error
from g5kvirt.hostagent.onhost.processes import start_time
from g5kvirt.hostagent.onhost.qemu import qemu_argv
from g5kvirt.hostagent.onhost.records import check_name

MAC = "02:00:00:00:00:01"


@given(st.text(max_size=80))
def test_check_name_lets_only_safe_names_through(name: str) -> None:
    try:
        assert check_name(name) == name
    except ValueError:
        return
    assert not set(name) & set("/ ,;$`'\"\\\n\0*?=")
    assert name[0] not in "-."


def test_qemu_boots_from_the_network_first_and_keeps_its_monitor_private() -> None:
    vm = {"name": "vm-1", "mac": MAC, "tap": "v1", "memory": 112 << 20, "disk": 1 << 30}
    argv = qemu_argv(vm, {"monitor": 3, "tap": 4, "serial": 5, "disk": 6})
    text = " ".join(argv)
    assert f"virtio-net-pci,netdev=net0,mac={MAC},bootindex=1" in text
    assert "virtio-blk-pci,drive=disk0,bootindex=2" in text
    assert "-chardev socket,id=monitor,fd=3,server=on,wait=off -mon chardev=monitor,mode=control" in text
    assert "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in text
    assert "tcp" not in text
    assert "-m 112M" in text
    assert "-accel tcg,thread=single,tb-size=32 -cpu qemu64,+rdrand" in text
    assert "-netdev tap,id=net0,fd=4" in text
    assert "-add-fd fd=6,set=2" in text
    assert "cache=unsafe,discard=unmap,file=/dev/fdset/2" in text
    assert "-add-fd fd=5,set=1 " in text
    assert "-serial file:/dev/fdset/1" in text
    own = {**vm, "accel": "kvm", "disk": 0, "boot": "iso", "iso": "/a,b.iso"}
    kvm = " ".join(qemu_argv(own, {"monitor": 3, "tap": 4, "serial": 5, "iso": 7}))
    assert "-accel kvm -cpu host" in kvm
    assert "rdrand" not in kvm
    assert "readonly=on,format=raw,file=/dev/fdset/3" in kvm
    assert "ide-cd,drive=cd0,bootindex=1" in kvm
    assert "virtio-blk" not in kvm


def test_on_link_routes_come_before_those_that_need_them() -> None:
    routes = [
        {"dst": "default", "gateway": "192.0.2.1", "metric": 100, "flags": []},
        {"dst": "192.0.2.1", "scope": "link", "flags": []},
    ]
    assert assign_commands("br0", ["10.0.0.5/24", "fd00::5/64"], routes) == [
        "addr replace 10.0.0.5/24 brd + dev br0",
        "addr replace fd00::5/64 nodad dev br0",
        "route replace 192.0.2.1 scope link dev br0",
        "route replace default via 192.0.2.1 metric 100 dev br0",
    ]


def test_routes_of_the_bridge_win_over_those_of_a_dhcp_client() -> None:
    only = {"dst": "default", "gateway": "192.0.2.1", "metric": 1002, "flags": []}
    assert without_metrics([only]) == [{"dst": "default", "gateway": "192.0.2.1", "flags": []}]
    two = [only, {**only, "gateway": "192.0.2.2", "metric": 1003}]
    assert without_metrics(two) == two


def test_interface_may_be_called_by_another_name() -> None:
    links = [{"ifname": "lo"}, {"ifname": "eno1", "altnames": ["enp24s0f0"]}]
    for name in ("eno1", "enp24s0f0"):
        assert link_named(links, name)["ifname"] == "eno1"
    with pytest.raises(OSError, match="no interface eth7"):
        link_named(links, "eth7")


def test_nic_is_that_of_the_default_route_else_the_first_with_an_address() -> None:
    links = [
        {"ifname": "lo", "link_type": "loopback", "addr_info": [{"family": "inet"}]},
        {"ifname": "br0", "link_type": "ether", "addr_info": [{"family": "inet"}]},
        {"ifname": "eth0", "link_type": "ether", "addr_info": [{"family": "inet6"}]},
        {"ifname": "eth1", "link_type": "ether", "addr_info": [{"family": "inet6"}, {"family": "inet"}]},
    ]
    routes = [{"dst": "192.0.2.0/24", "dev": "eth1"}, {"dst": "default", "dev": "eth0"}]
    assert default_nic(routes, links, "br0") == "eth0"
    assert default_nic(routes[:1], links, "br0") == "eth1"
    with pytest.raises(OSError, match="no default route"):
        default_nic([], links[:3], "br0")


def test_apt_error_prefers_dpkg_then_the_line_that_gives_a_reason() -> None:
    fetch = "E: Failed to fetch http://x/y  Connection refused\nE: Unable to fetch some archives, maybe ...\n"
    assert apt_error(fetch) == "Failed to fetch http://x/y  Connection refused"
    assert apt_error(f"dpkg: error processing package x\n{fetch}") == "dpkg: error processing package x"
    assert apt_error("Reading lists\nlast words\n") == "last words"
    assert apt_error("") == ""


@pytest.mark.parametrize(
    ("code", "out", "sentence"),
    [
        (
            -6,
            "qemu: error: failed to set MSR\nqemu: kvm.c:3183: Assertion failed.\n",
            "QEMU was killed by signal 6 (Aborted) before the test guest had run"
            '; QEMU reported: "qemu: error: failed to set MSR qemu: kvm.c:3183: Assertion failed."',
        ),
        (1, "", "QEMU ended with code 1 before the test guest had run"),
        (
            1,
            "y" + "x" * 300,
            f'QEMU ended with code 1 before the test guest had run; QEMU reported: "…{"x" * 300}"',
        ),
    ],
)
def test_end_of_a_test_guest_is_told_before_the_words_of_qemu(code: int, out: str, sentence: str) -> None:
    assert describe_end(code, out) == sentence


def test_kvm_is_not_tried_again_on_a_kernel_where_another_host_tried_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Containers share the kernel: 361 of them would each start a QEMU, which hangs where KVM does."""
    (tmp_path / "probes").touch()
    monkeypatch.setattr("os.path.exists", lambda path: True)
    monkeypatch.setattr("shutil.which", lambda program: program)

    def probe(accel: str, home: str, limit: float) -> tuple[bool, str]:
        with (tmp_path / "probes").open("a") as file:
            file.write(accel)
        return False, "it hangs"

    monkeypatch.setattr(facts, "probe_guest_runs", probe)
    tried: dict[str, str] = {}
    for home in ("one", "two"):
        (tmp_path / home).mkdir()
        assert facts.kvm_works(str(tmp_path / home), 3.0, tried) == (False, "it hangs")
    assert (tmp_path / "probes").read_text() == "kvm"
    (boot,) = tried
    assert facts.kvm_works(str(tmp_path / "two"), 3.0, {boot: ""}) == (True, "")
    assert facts.kvm_works(str(tmp_path / "one"), 3.0, {}) == (False, "it hangs"), "its own record"
    assert (tmp_path / "probes").read_text() == "kvm"


def test_a_session_whose_turn_has_not_come_gets_its_nice_value_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace the kernel takes ten of these a second, and answers EAGAIN to others."""
    child = subprocess.Popen(["sleep", "30"], start_new_session=True)
    try:
        record = {"pid": child.pid, "born": start_time(child.pid)}
        answers = [False, False, True, True]
        taken: list[int] = []

        def set_session(pid: int, nice: int) -> bool:
            taken.append(nice)
            return answers.pop(0)

        monkeypatch.setattr(niceness, "set_session", set_session)
        niceness.set_sessions([record], 10)
        assert taken == [10, 10, 10]
        niceness.set_sessions([{**record, "born": 1}], 10)
        assert len(taken) == 3, "another process has its pid now"
    finally:
        child.kill()
        child.wait()


def test_a_busy_kernel_is_told_from_one_without_autogroups(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "write could not complete without blocking")

    monkeypatch.setattr(niceness, "open", refused, raising=False)
    monkeypatch.setattr(niceness.os.path, "exists", lambda _: True)
    assert niceness.set_session(1, 10) is False
    monkeypatch.setattr(niceness.os.path, "exists", lambda _: False)
    assert niceness.set_session(1, 10) is True
