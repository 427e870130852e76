"""Kadeploy3's REST API against a stand-in for its server: what is asked, what comes back, what is refused."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from kadeploymaker import cluster
from kadeployserver import Kadeploy, serving

from g5kvirt.errors import TestbedError
from g5kvirt.images.environments import Environment
from g5kvirt.provisioners.kadeploy3 import bounded
from g5kvirt.provisioners.kadeploy3.client import KadeployClient, RefusedError
from g5kvirt.provisioners.kadeploy3.environment import LOCAL_BOOT, describe
from g5kvirt.provisioners.kadeploy3.records import (
    LogLine,
    read_log,
    read_states,
    read_statistics,
    read_status,
)

NODES = [node.name for node in cluster(4).nodes]
DEBIAN = describe(Environment("debian", "/e.tgz", compression="gzip"), "/srv/e.tgz")


@pytest.fixture
def kadeploy() -> Kadeploy:
    return Kadeploy(NODES)


@pytest.fixture
def client(kadeploy: Kadeploy) -> Iterator[KadeployClient]:
    with serving(kadeploy) as url:
        yield KadeployClient(url, timeout=20)


def test_an_environment_is_registered_once(client: KadeployClient, kadeploy: Kadeploy) -> None:
    assert client.version() == "3.3.1.stable"
    client.grant()
    client.grant()  # again: nothing to change is no error
    client.register(DEBIAN)
    client.register(DEBIAN)
    assert [e["name"] for e in kadeploy.environments] == ["debian"]


def test_a_deployment_from_its_request_to_its_statistics(client: KadeployClient, kadeploy: Kadeploy) -> None:
    client.grant()
    client.register(DEBIAN)
    wid = client.deploy(NODES, "debian", authorized_keys="/root/key.pub", profile=LOCAL_BOOT)
    asked = kadeploy.requests[-1][2]
    assert asked["ssh_authorized_keys"] == "server:///root/key.pub"
    assert asked["pxe"]["profile"].startswith("#!ipxe\nsanboot")
    assert (asked["force"], asked["verbose_level"]) == (True, 5)
    kadeploy.now += 5
    assert {s.micro for s in client.states(wid).values()} == {"reboot"}
    assert not client.status(wid).done
    assert [line.text for line in client.log(wid)][:2] == [
        "Performing a Deploy[SetDeploymentEnvUntrusted] step",
        "  switch_pxe",
    ]
    assert client.log(wid) == [], "what was told is forgotten"
    assert client.statistics(wid) == []
    kadeploy.now += 1000
    progress = client.status(wid)
    assert (progress.done, progress.error, set(progress.ok)) == (True, False, set(NODES))
    assert client.error(wid) == ""
    rows = client.statistics(wid)
    assert [row.node for row in rows] == NODES
    assert rows[0].steps == ("SetDeploymentEnvUntrusted", "BroadcastEnvKascade", "BootNewEnvKexec")
    assert all(row.success and row.durations[0] > 60 and row.start == 1_700_000_000 for row in rows)
    client.stop(wid)
    client.stop(wid)  # it is gone: that was wanted
    with pytest.raises(RefusedError, match="no such operation"):
        client.status(wid)


@pytest.mark.parametrize(
    ("nodes", "environment", "code", "why"),
    [
        (["node-99.kadeploy"], "debian", 2, "node-99.kadeploy"),
        ([], "debian", 2, "mandatory"),
        (NODES, "plan9", 7, "does not exist"),
    ],
)
def test_refusals_carry_their_number_and_reason(
    client: KadeployClient, nodes: list[str], environment: str, code: int, why: str
) -> None:
    client.grant()
    client.register(DEBIAN)
    with pytest.raises(RefusedError, match=why) as error:
        client.deploy(nodes, environment)
    assert error.value.code == code


def test_deployment_needs_a_user_with_rights(client: KadeployClient) -> None:
    client.register(DEBIAN)
    with pytest.raises(RefusedError, match="no permission") as error:
        client.deploy(NODES, "debian")
    assert error.value.code == 6
    with pytest.raises(RefusedError, match="status 401"):
        KadeployClient(client.url, "").grant()


def test_request_above_the_size_limit_is_not_sent(client: KadeployClient, kadeploy: Kadeploy) -> None:
    with pytest.raises(TestbedError, match="more parts"):
        client.deploy([f"node-{i:060d}" for i in range(20_000)], "debian")
    assert kadeploy.requests == []


def test_a_request_that_takes_too_long_leaves_no_deployment_behind(
    client: KadeployClient, kadeploy: Kadeploy
) -> None:
    client.grant()
    client.register(DEBIAN)
    other = client.deploy(NODES[2:], "debian")
    begun = client.deploy(NODES[:2], "debian")  # as if its answer had been lost
    kadeploy.hold.clear()
    with pytest.raises(TestbedError, match="Timeout"):
        client.deploy(NODES[:2], "debian", timeout=0.2)
    assert other in kadeploy.workflows
    assert begun not in kadeploy.workflows


def test_a_deployment_that_the_server_lists_after_the_time_out_is_ended(
    client: KadeployClient, kadeploy: Kadeploy
) -> None:
    client.grant()
    client.register(DEBIAN)
    kadeploy.hold.clear()
    threading.Timer(1.2, kadeploy.hold.set).start()
    with pytest.raises(TestbedError, match="Timeout"):
        client.deploy(NODES, "debian", timeout=0.8)
    assert len(kadeploy.log) == 1, "the server started it, though nobody waited any more"
    assert kadeploy.workflows == {}


def test_a_deployment_whose_connection_broke_is_ended(client: KadeployClient, kadeploy: Kadeploy) -> None:
    client.grant()
    client.register(DEBIAN)
    kadeploy.hangs_up = True
    with pytest.raises(TestbedError, match="ConnectionError"):
        client.deploy(NODES, "debian", timeout=10)
    assert len(kadeploy.log) == 1
    assert kadeploy.workflows == {}


def test_a_server_that_is_down_is_not_searched() -> None:
    start = time.monotonic()
    with pytest.raises(TestbedError, match="ConnectionError"):
        KadeployClient("http://127.0.0.1:9").deploy(NODES, "debian", timeout=20)
    assert time.monotonic() - start < 5


def test_a_deployment_that_is_never_listed_is_looked_for_within_bounds(
    client: KadeployClient, kadeploy: Kadeploy, caplog: pytest.LogCaptureFixture
) -> None:
    kadeploy.hold.clear()
    start = time.monotonic()
    with pytest.raises(TestbedError, match="Timeout"):
        client.deploy(NODES, "debian", timeout=0.5)
    assert time.monotonic() - start < 5
    assert "lists no deployment" in caplog.text


def test_other_refusals_to_stop_are_raised(client: KadeployClient, kadeploy: Kadeploy) -> None:
    kadeploy.deaf = {"/D-1"}
    with pytest.raises(RefusedError, match="status 500"):
        client.stop("D-1")


def test_unreachable_server_raises_where_to_look() -> None:
    with pytest.raises(TestbedError, match="look at its log"):
        KadeployClient("http://127.0.0.1:9", timeout=2).version()


@contextmanager
def answering(head: str, pieces: Iterator[bytes], pause: float = 0.0) -> Iterator[str]:
    """A server that answers one request with these pieces."""

    def answer() -> None:
        with suppress(OSError), listening.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(f"HTTP/1.1 {head}\r\n\r\n".encode())
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread.join(10)


def test_an_answer_that_drips_is_given_up_in_time() -> None:
    start = time.monotonic()
    drops = itertools.repeat(b"x", 60)
    with (
        answering("200 OK\r\nContent-Length: 1000", drops, pause=0.1) as url,
        pytest.raises(TestbedError, match="ReadTimeout"),
    ):
        KadeployClient(url, timeout=0.5).version()
    assert time.monotonic() - start < 4


def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MOST_ANSWER", 1 << 20)
    endless = itertools.repeat(bytes(65536), 10_000)
    with answering("200 OK", endless) as url, pytest.raises(TestbedError, match="ConnectionError"):
        KadeployClient(url).version()


def test_a_redirection_is_a_refusal() -> None:
    head = "302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0"
    with answering(head, iter([])) as url, pytest.raises(RefusedError, match="status 302"):
        KadeployClient(url).version()


def test_the_log_is_read_line_by_line() -> None:
    text = (
        "1700000000.12345|Launching a deployment on node-[1-2].x\n"
        "1700000001.00000|[c1.2]   wait_reboot\n1700000002.5|[3]    * node-1.x is here after 9s\n"
        "and a second line\n\n1700000003.0|[vms] ---\n"
    )
    assert read_log("no time here\n" + text) == [
        LogLine(1700000000.12345, "", "Launching a deployment on node-[1-2].x"),
        LogLine(1700000001.0, "2", "  wait_reboot"),
        LogLine(1700000002.5, "3", "   * node-1.x is here after 9s\nand a second line"),
        LogLine(1700000003.0, "vms", "---"),
    ]


def test_errors_in_statistics_may_hold_commas_and_newlines() -> None:
    wid = "D-9a87115b-eb7f-45e4-90f2-bec00ccc5dab"
    head = wid + ",node-{}.x,SetDeploymentEnvUntrusted,,,1,0,0,165,0,0,1389347228"
    text = (
        head.format(1)
        + ",false,SetDeploymentEnvUntrusted-reboot: no, really\nnot\n"
        + head.format(2)
        + ",true,\n"
    )
    first, second = read_statistics(text)
    assert first.failed_at == ("SetDeploymentEnvUntrusted", "reboot", "no, really\nnot")
    assert (second.node, second.success, second.failed_at) == ("node-2.x", True, ("", "", ""))
    assert read_statistics("") == []


@pytest.mark.parametrize("text", ["<html>", "D-9a87115b-eb7f,node,a,b,c,x,y,z,1,2,3,4,true,"])
def test_broken_statistics_raise(text: str) -> None:
    with pytest.raises(TestbedError, match="statistics"):
        read_statistics(text)


def test_answers_of_another_shape_raise() -> None:
    for read in (read_states, read_status):
        with pytest.raises(TestbedError, match="expected"):
            read(["nonsense"])
    assert read_states(None) == {}
    assert read_status({"done": False, "error": False, "nodes": ["a"]}).processing == ("a",)
