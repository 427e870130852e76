"""Whatever a Kadeploy3 server answers, each reader gives a result or one sentence, and a deployment ends.

The answers are those of Kadeploy 3.3's REST API, with parts lost, of the wrong type and strange. 300 for each
reader with ``-m slow``.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import requests
import urllib3
from hypothesis import strategies as st
from kadeploymaker import cluster
from mangling import HTML, bodies, check_sentence, reader_tests, sentence_of, texts

from g5kvirt.inventory import VM
from g5kvirt.provisioners.kadeploy3.client import KadeployClient
from g5kvirt.provisioners.kadeploy3.event_mapping import EventMapper
from g5kvirt.provisioners.kadeploy3.logins import Logins
from g5kvirt.provisioners.kadeploy3.loop import DeploymentPart, drive
from g5kvirt.run.events import Event

NODES = cluster(2).nodes
NAMES = tuple(node.name for node in NODES)
WID = "D-3f8a52c1-1d1f-4a4e-8a1e-0a6d6c1f2b3c"
STATES = [
    {NAMES[0]: {"macro": macro, "micro": micro, "state": state, "error": None}, NAMES[1]: {"state": "ok"}}
    for macro, micro, state in (
        ("SetDeploymentEnvUntrusted", "reboot", "ok"),
        ("BroadcastEnvKascade", "send_environment", "ko"),
        ("BroadcastEnvKascade", "custom_post_send_key-identity", "ok"),
        ("BootNewEnvKexec", "wait_reboot", "reboot_in_progress"),
    )
]
STATES.append({name: {"macro": None, "micro": None, "state": "ok"} for name in NAMES})
STATUS: list[Any] = [
    {"wid": WID, "user": "root", "done": done, "error": error, "nodes": nodes, "time": 12.5}
    for done, error, nodes in (
        (False, False, {"ok": [], "ko": [], "processing": list(NAMES)}),
        (True, False, {"ok": [NAMES[0]], "ko": [NAMES[1]], "processing": []}),
        (True, True, {"ok": [], "ko": list(NAMES), "processing": []}),
    )
]
LOG = f"""\
1700000000.12|Launching a deployment on {NAMES[0]}, {NAMES[1]}
1700000001.50|Performing a Deploy[SetDeploymentEnvUntrusted] step
1700000002.25|[vms.1]   switch_pxe
1700000003.00|[vms.1]   reboot
1700000063.75|[vms.1]    * {NAMES[0]} is here after 60s
1700000064.00|[vms.2]   wait_reboot
no space left
1700000164.00|End of deployment for {NAMES[0]} after 164 s
"""
STEPS = "SetDeploymentEnvUntrusted,BroadcastEnvKascade"
STATISTICS = f"""\
{WID},{NAMES[0]},{STEPS},BootNewEnvKexec,0,0,0,85,33,40,1700000000,true,
{WID},{NAMES[1]},{STEPS},,0,1,0,85,33,0,1700000000,false,BroadcastEnvKascade-sync: no
space, left
"""
JSON, TEXT = "application/json", "text/plain"
#: The end of a request → what type and bodies answers to it have.
ANSWERS: dict[str, tuple[str, st.SearchStrategy[str]]] = {
    "GET /version": (TEXT, texts(["3.3.11.stable"])),
    "POST /rights": (JSON, bodies([None])),
    "POST /environments": (JSON, bodies([{"name": "mini"}])),
    "POST /deployment": (JSON, bodies([{"wid": WID, "resources": {}}])),
    "GET /deployment": (JSON, bodies([STATUS, []])),
    f"GET /deployment/{WID}": (JSON, bodies(STATUS)),
    f"GET /deployment/{WID}/state": (JSON, bodies(STATES)),
    f"GET /deployment/{WID}/logs": (TEXT, texts([LOG])),
    f"GET /deployment/{WID}/error": (JSON, bodies([None])),
    "GET /stats/deploy": (TEXT, texts([STATISTICS])),
    f"DELETE /deployment/{WID}": (JSON, bodies([{"wid": WID}])),
}
REFUSALS = [
    (400, {"X-Application-Error-Code": "1"}, "the workflow does not exist\n"),
    (400, {"X-Application-Error-Code": "9" * 5000}, "x" * 5000),
    (405, {}, ""),
    (502, {"Content-Type": "text/html"}, HTML),
]

Came = tuple[int, dict[str, str], str] | Exception


@st.composite
def came(draw: st.DrawFn, request: str) -> Came:
    kind, answers = ANSWERS[request]
    trouble = draw(st.integers(0, 9))
    if trouble == 0:
        return draw(st.sampled_from([requests.ConnectionError("refused\n"), requests.ReadTimeout("30 s")]))
    if trouble < 3:
        return draw(st.sampled_from(REFUSALS))
    return 200, {"Content-Type": draw(st.sampled_from([kind, kind, kind, JSON, "text/html"]))}, draw(answers)


def whole(client: KadeployClient) -> None:
    """A deployment from its request to its end: every VM has one, whatever the server says."""
    events = EventMapper("d-1", NODES)
    now, written = 1_700_000_000.0, list[Event]()

    def sleep(seconds: float) -> None:
        nonlocal now
        time.sleep(0.002)  # parts are submitted in a thread
        now += 20

    events.start(now, {})

    def log_in(vms: Sequence[VM], report: Callable[[str, str], object]) -> None:
        for vm in vms:
            report(vm.name, "")

    with Logins(log_in, lambda _: None, clock=lambda: now) as logins:
        outcomes = drive(
            client, events, [DeploymentPart(NAMES, timeout=0.01)], {"environment": "mini"}, logins,
            clock=lambda: now, sleep=sleep, write=written.extend, limit=600,
        )  # fmt: skip
    assert [outcome.state in ("deployed", "failed") for outcome in outcomes] == [True, True]
    assert all(math.isfinite(event.t) for event in written)
    for outcome in outcomes:
        if outcome.state == "failed":
            check_sentence(outcome.reason)
    json.dumps([event.detail for event in written], allow_nan=False)


def version(client: KadeployClient) -> None:
    if program := client.version():
        check_sentence(program)


def prepared(client: KadeployClient) -> None:
    client.grant()
    client.register({"name": "mini"})


def statistics(client: KadeployClient) -> None:
    for row in client.statistics(WID):
        assert all(0 <= number < 1 << 63 for number in (*row.durations, *row.retries, row.start))
        assert all(isinstance(part, str) for part in row.failed_at)


def error(client: KadeployClient) -> None:
    if why := client.error(WID):
        check_sentence(why)


STATE, LOGS = f"GET /deployment/{WID}/state", f"GET /deployment/{WID}/logs"
READERS: dict[str, tuple[Callable[[KadeployClient], object], tuple[str, ...]]] = {
    "version": (version, ("GET /version",)),
    "prepared": (prepared, ("POST /rights", "POST /environments")),
    "deploy": (
        lambda client: client.deploy(NAMES, "mini", timeout=0.01),
        ("POST /deployment", "GET /deployment"),
    ),
    "status": (lambda client: client.status(WID), (f"GET /deployment/{WID}",)),
    "states": (lambda client: client.states(WID), (STATE,)),
    "log": (lambda client: client.log(WID), (LOGS,)),
    "error": (error, (f"GET /deployment/{WID}/error",)),
    "statistics": (statistics, ("GET /stats/deploy",)),
    "stop": (lambda client: client.stop_those_of(NAMES), ("GET /deployment", f"DELETE /deployment/{WID}")),
    "whole": (
        whole,
        (f"GET /deployment/{WID}", STATE, LOGS, "GET /stats/deploy", f"GET /deployment/{WID}/error"),
    ),
}
GOOD = {
    "POST /deployment": json.dumps({"wid": WID}),
    "GET /deployment": "[]",
    f"GET /deployment/{WID}/error": "null",
    f"GET /deployment/{WID}": json.dumps(STATUS[1]),
    STATE: json.dumps(STATES[-1]),
}


def check(name: str, data: st.DataObject) -> None:
    reader, parts = READERS[name]
    odd = {part: data.draw(came(part), part) for part in parts}

    def request(self: Any, method: str, url: str, **_: Any) -> requests.Response:
        about = f"{method} {url.partition('test')[2]}"
        answer = odd.get(about, (200, {"Content-Type": JSON}, GOOD.get(about, "null")))
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code, headers, body = answer
        response.headers.update(headers)
        content = io.BytesIO(body.encode(errors="surrogatepass"))
        response.raw = urllib3.HTTPResponse(content, preload_content=False)
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "request", request)
        sentence_of(lambda: reader(KadeployClient("http://test")))


test_what_a_server_answers_is_read_or_refused_in_a_sentence, test_300_answers_of_a_server_for_each_reader = (
    reader_tests(check, READERS)
)
