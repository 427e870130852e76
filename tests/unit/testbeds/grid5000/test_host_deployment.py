"""Deploying hosts with Kadeploy3: how often it is tried, and how long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.grid5000 import kadeploy

NAMES = ("gros-1.nancy.grid5000.fr", "gros-2.nancy.grid5000.fr")


def failure_reasons(text: str) -> dict[str, str]:
    """The nodes that Kadeploy3's client lists as failed, each with the reason."""
    return kadeploy.listed_nodes(text.splitlines())[1]


class Client:
    """Kadeploy3's client: it takes ``seconds``, or until its time-out, and deploys all but ``failing``."""

    seconds = 0.0
    failing: tuple[str, ...] = ()
    made: list[Client]

    def __init__(self, site: str, command: str, timeout: float, *, live: bool) -> None:
        assert live, "what a client that is killed has printed must have come"
        self.names = command.split()
        self.timeout, self.timeouted = timeout, False
        self.stdout = self.stderr = ""
        self.exit_code, self.running = 0, False
        self.made.append(self)

    def wait(self, timeout: float) -> None:
        time.sleep(min(self.seconds, self.timeout, timeout))
        self.timeouted = self.seconds > self.timeout
        done = [name for name in self.names if name not in self.failing]
        failed = [f"{name} (no disk)" for name in self.names if name in self.failing]
        lines = ["The deployment is successful on nodes", *done, "The deployment failed on nodes", *failed]
        end = [] if self.timeouted else [*lines, "g5kvirt-end:0"]
        self.stdout = "\r\n".join(["2 users", "g5kvirt-begin:", *end, "bye", ""])


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    monkeypatch.setattr(Client, "made", [], raising=False)
    monkeypatch.setattr(kadeploy, "start_on_frontend", Client)
    return Client


def deploy(timeout: float) -> tuple[dict[str, str], float]:
    """The nodes that failed, and the seconds that it took."""
    start = time.monotonic()

    failed = kadeploy.deploy({"nancy": NAMES}, " ".join, tries=2, timeout=timeout)
    return failed, time.monotonic() - start


def test_nodes_that_fail_are_tried_once_more(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "failing", NAMES[:1])
    failed, _ = deploy(60.0)
    assert failed == {NAMES[0]: "no disk"}
    assert [list(one.names) for one in client.made] == [list(NAMES), [NAMES[0]]]
    assert client.made[1].timeout == pytest.approx(58.0, abs=0.5), (
        "2 s after the first: sshd may be restarting"
    )


def test_site_that_hangs_costs_the_time_out_once(
    client: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "seconds", 60.0)
    failed, took = deploy(1.0)
    assert set(failed) == set(NAMES)
    assert all("did not finish within 1 s" in reason for reason in failed.values())
    assert took < 1.5
    assert len(client.made) == 1


def test_second_try_has_what_is_left(client: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "seconds", 1.0)
    monkeypatch.setattr(client, "failing", NAMES)
    failed, took = deploy(8.5)
    assert set(failed) == set(NAMES)
    first, second = (one.timeout for one in client.made)
    assert first == pytest.approx(8.5, abs=0.3)
    assert second == pytest.approx(5.5, abs=0.3), "2 s after the first has ended"
    assert took < 9


# ---- what the client prints -------------------------------------------------------------------------------

NODE = st.builds(
    "{}-{}.{}.grid5000.fr".format,
    st.sampled_from(["gros", "dahu", "abacus12", "x5-beta"]),
    st.integers(1, 130),
    st.sampled_from(["nancy", "grenoble"]),
)
#: What may stand in a reason: parentheses that match, newlines, nothing like the client's own lines.
REASON = st.lists(
    st.sampled_from(
        ["the node is", "(code 1)", "\n", " ", "mkfs: no space", "\r\n", "\n\n", "stderr: a, b", "(x (y))\n"]
    ),
    max_size=6,
).map("".join)
REAL = """Deployment #D-9a87115b started
Launching a deployment of debian12-min:2024091117 on gros-[1-2].nancy.grid5000.fr
Performing a Deploy[SetDeploymentEnvUntrusted] step
  End of deployment for gros-1.nancy.grid5000.fr after 268s
The deployment is successful on nodes
gros-1.nancy.grid5000.fr
The deployment failed on nodes
gros-2.nancy.grid5000.fr (BroadcastEnvKascade-send_environment: KASCADE-ERROR: 3
stderr: tar (child): short read
)
Connection to nancy.grid5000.fr closed.
"""


def test_a_reason_may_go_over_several_lines() -> None:
    assert failure_reasons(REAL) == {
        "gros-2.nancy.grid5000.fr": "BroadcastEnvKascade-send_environment: KASCADE-ERROR: 3 "
        "stderr: tar (child): short read"
    }
    assert kadeploy.deployed_nodes(REAL) == {"gros-1.nancy.grid5000.fr"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(a-b: it hung :( )", "a-b: it hung :("),
        ("(a-b: cut in the\nmiddle", "a-b: cut in the"),
        ("(a-b: 1) or\n2)\nMore, later", "a-b: 1) or 2"),
        ("(a-b: \x1b[31mred\x1b[0m)", r"a-b: \x1b[31mred\x1b[0m"),
        ("()", ""),
        ("", ""),
        ("(" + "long " * 1000 + ")", ("long " * 1000)[:300]),
    ],
)
def test_reasons_with_odd_parentheses_are_read_as_far_as_they_go(text: str, reason: str) -> None:
    lines = f"The deployment failed on nodes\n{NAMES[0]} {text}\n"
    assert failure_reasons(lines) == {NAMES[0]: reason}


@given(st.dictionaries(NODE, REASON, max_size=6), st.sets(NODE), st.sampled_from(["\n", "\r\n"]))
def test_every_reason_is_read_back(failed: dict[str, str], done: set[str], newline: str) -> None:
    text = "\n".join(
        [
            "The deployment is successful on nodes",
            *done,
            "The deployment failed on nodes",
            *(f"{name} (Macro-micro: {reason})" for name, reason in failed.items()),
            "",
        ]
    ).replace("\n", newline)
    found = failure_reasons(text)
    assert list(found) == list(failed)
    for name, reason in failed.items():
        expected = " ".join(f"Macro-micro: {reason}".split())
        assert expected.startswith(found[name])
        # a line inside a reason may look like its end
        assert found[name] == expected or ")" in reason


@given(st.lists(st.one_of(st.sampled_from(REAL.splitlines(keepends=True)), st.text(max_size=30))), st.data())
def test_mangled_output_is_read_without_an_error(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    if text:
        cut = data.draw(st.integers(0, len(text)))
        text = text[cut:] + text[:cut]
    known = {"gros-1.nancy.grid5000.fr", "gros-2.nancy.grid5000.fr"}
    reasons = failure_reasons(text)
    assert all(reason.isprintable() and len(reason) <= 300 for reason in reasons.values())
    assert set(reasons) <= known | {name for name in reasons if "grid5000.fr" in name}
    kadeploy.deployed_nodes(text)


def test_ranges_that_no_cluster_has_cost_nothing() -> None:
    endless = "End of deployment for gros-[1-999999].nancy.grid5000.fr after 3s\n"
    assert len(kadeploy.deployed_nodes(endless)) == 1001
    digits = f"End of deployment for gros-[{'9' * 5000}-²].nancy.grid5000.fr after 3s\n"
    assert len(kadeploy.deployed_nodes(digits)) == 1


def test_a_node_that_the_reason_of_another_names_is_not_failed() -> None:
    one, two, three = (f"gros-{n}.nancy.grid5000.fr" for n in (1, 2, 3))
    lines = [
        "The deployment is successful on nodes",
        one,
        "The deployment failed on nodes",
        f"{two} (BroadcastEnv-send: the chain is broken (after",
        one,
        "))",
        three,
    ]
    assert kadeploy.listed_nodes(lines) == (
        {one},
        {two: f"BroadcastEnv-send: the chain is broken (after {one} )", three: ""},
    )
