"""Whatever the REST API answers, or a proxy in its place, each reader of it gives a result or one sentence.

Documents as version 3.11 has them, real ones too where the sample beside the checkout is; with parts lost, of
the wrong type and strange, as torn JSON, HTML and errors. 300 for each reader with ``-m slow``.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from mangling import HTML, bodies, check_sentence, reader_tests, sentence_of

from g5kvirt.inventory import GIB, Host, Reservation
from g5kvirt.phases.reservation_request import with_sites
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.base import ReservationRequest
from g5kvirt.testbeds.grid5000 import api, preflight, scheduling
from g5kvirt.testbeds.grid5000.driver import Grid5000, Settings

api_utils = pytest.importorskip("execo_g5k.api_utils", reason="execo is not installed")
requests = pytest.importorskip("requests")

NOW = time.time()
NAMES = ("gros-1.nancy.grid5000.fr", "gros-2.nancy.grid5000.fr")
HOSTS = tuple(Host(name, "nancy", "gros", 18, 96 * GIB) for name in NAMES)
RESERVATION = Reservation({"nancy": 1}, HOSTS, (), 14, "nancy", NOW, 1800.0)
REQUEST = ReservationRequest({"nancy": 1}, {"nancy": 22}, 600, "run", vlan_site="nancy", start="first")


def listed(*items: Any) -> dict[str, Any]:
    links = [{"rel": "self", "href": "/3.0/sites", "type": "application/vnd.grid5000.collection+json"}]
    return {"total": len(items), "offset": 0, "items": list(items), "links": links}


def node(number: int) -> dict[str, Any]:
    return {
        "uid": f"gros-{number}",
        "type": "node",
        "architecture": {"platform_type": "x86_64", "nb_cores": 18, "nb_procs": 1, "nb_threads": 36},
        "exotic": False,
        "main_memory": {"ram_size": 103079215104},
        "network_adapters": [
            {
                "device": "eth0",
                "interface": "Ethernet",
                "kavlan": True,
                "management": False,
                "mounted": True,
                "network_address": f"gros-{number}.nancy.grid5000.fr",
                "rate": 25000000000,
                "switch": "gros-sw-1",
            },
            {"device": "bmc", "management": True, "mounted": False, "rate": 1000000000},
        ],
        "supported_job_types": {"deploy": True, "virtual": "ivt", "queues": ["admin", "default"]},
        "version": "9ebe1b1e12",
    }


def row(number: int, kind: str = "default", **more: Any) -> dict[str, Any]:
    plain = {"id": number, "type": kind, "state": "Alive", "available_upto": 2147483646, "maintenance": "NO"}
    if kind == "default":
        plain |= {"network_address": NAMES[number % 2], "cluster": "gros", "exotic": "NO", "deploy": "YES"}
    return {**plain, **more}


def job(uid: int, **more: Any) -> dict[str, Any]:
    return {
        "uid": uid,
        "user_uid": "jdoe",
        "user": "jdoe",
        "walltime": 3600,
        "queue": "default",
        "state": "running",
        "project": "default",
        "types": ["deploy"],
        "mode": "PASSIVE",
        "command": "sleep 31536000",
        "submitted_at": int(NOW) - 900,
        "scheduled_at": int(NOW) - 600,
        "started_at": int(NOW) - 600,
        "properties": "(deploy = 'YES') AND maintenance = 'NO'",
        "assigned_nodes": [NAMES[0]],
        "resources_by_type": {
            "cores": [f"{NAMES[0]}/0", f"{NAMES[0]}/1"],
            "vlans": ["14"],
            "subnets": ["10.144.0.0/22"],
        },
        "links": [{"rel": "self", "href": f"/3.0/sites/nancy/jobs/{uid}", "type": "application/json"}],
        **more,
    }


RESOURCES = listed(
    *(row(n) for n in range(4)),
    row(10, exotic="YES", network_address="yeti-1.nancy.grid5000.fr"),
    row(11, "kavlan-global", vlan="14"),
    row(12, "kavlan", vlan="4"),
    *(
        row(20 + n, "subnet", subnet_address=f"10.144.{4 * n}.0", subnet_prefix=22, slash_22=n, slash_21=n)
        for n in (0, 1)
    ),
)
SITE = {
    "uid": "nancy",
    "type": "site",
    "g5ksubnet": {"network": "10.144.0.0/14", "gateway": "10.147.255.254"},
    "kavlans": {"14": {"network": "10.17.0.0/16"}},
}
#: Path → documents as they are answered there.
ANSWERS: dict[str, list[Any]] = {
    r"": [{"uid": "grid5000", "type": "grid", "version": "9ebe1b1e12", "release": "3.11.13"}],
    r"sites": [listed(SITE)],
    r"sites/nancy": [SITE],
    r"sites/nancy/clusters": [listed({"uid": "gros", "type": "cluster", "queues": ["admin", "default"]})],
    r"sites/nancy/clusters/gros": [{"uid": "gros", "type": "cluster", "queues": ["admin", "default"]}],
    r"sites/nancy/clusters/gros/nodes": [listed(node(1), node(2))],
    r"sites/nancy/internal/oarapi/resources/details\.json": [RESOURCES],
    r"sites/nancy/jobs": [
        listed(job(2), job(1, state="waiting", started_at=0, assigned_nodes=[], resources_by_type={})),
        listed(job(3, stopped_at=int(NOW) - 60, state="terminated"), {"uid": 9, "state": "error"}),
    ],
    r"sites/nancy/jobs/\d+": [job(1), job(1, state="error", message="")],
    r"(sites/nancy/)?network_equipments/?": [
        listed({"uid": "gw", "kind": "router", "vlans": {"kavlan-14": {}}})
    ],
}
SAMPLE = Path(__file__).resolve().parents[5] / "shared" / "data" / "reference-api-2026.json.gz"
if SAMPLE.exists():
    sample = json.loads(gzip.decompress(SAMPLE.read_bytes()))
    ANSWERS["sites/nancy/clusters/gros/nodes"] += [listed(real) for real in sample["nodes"].values()]
    ANSWERS["sites/nancy"] += list(sample["sites"].values())
    ANSWERS["sites"].append(listed(*sample["sites"].values()))
NOT_OK = (
    (401, "<html><head><title>401 Authorization Required</title></head></html>"),
    (404, '{"code":404,"title":"Not Found","message":"Couldn\'t find Job with ID=1\\nHere"}'),
    (500, '{"code":500,"title":"Internal Server Error","message":"' + "x" * 5000 + '"}'),
    (502, HTML),
    (503, ""),
)

Came = tuple[int, str] | Exception


def came(path: str) -> st.SearchStrategy[Came]:
    """What comes back from a path: status and body, or the error of the connection."""
    troubles = [requests.ConnectionError("https://me:secret@api: refused"), requests.ReadTimeout("30 s\n")]
    good = bodies(ANSWERS[path]).map(lambda body: (200, body))
    return st.integers(0, 9).flatmap(
        lambda n: good if n < 8 else st.sampled_from([*NOT_OK, *troubles])  # type: ignore[misc]
    )


def grid() -> Grid5000:
    return Grid5000(Settings(polling_interval=0.01, command_timeout=0.01, jump="", user="jdoe"))


def check_hosts(hosts: Mapping[str, Any]) -> None:
    for site, own in hosts.items():
        assert re.fullmatch(r"[a-z][a-z0-9-]*", site)
        for host in own:
            assert re.fullmatch(r"[a-zA-Z0-9.-]+", host.name)
            assert (host.site, type(host.cores), type(host.memory)) == (site, int, int)
            assert 0 < host.cores < 1 << 20
            assert 0 < host.memory < 1 << 60
            assert 0 < host.nic_rate < 1e15


def document() -> None:
    assert isinstance(api.get("sites/nancy"), dict)


def machines() -> None:
    check_hosts(grid().hosts())


def inventory() -> None:
    found, findings = preflight.inventory("grid5000", ["nancy"])
    for finding in findings:
        check_sentence(finding.message)
    if found is not None:
        check_hosts({site: [one.host for one in own] for site, own in found.machines.items()})
        assert all(16 <= prefix <= 22 for prefix in found.largest.values())


def select() -> None:
    for names in grid().select("cluster = 'gros' AND available_upto > 7", ["nancy"]).values():
        assert all(isinstance(name, str) for name in names)


def sites_calendar() -> None:
    found = grid().calendar(["nancy"], None, ["exotic"])
    for busy in found.sites["nancy"].hosts.values():
        assert all(math.isfinite(a) and math.isfinite(b) for a, b in busy)


def execos_own_data() -> None:
    """Which machines there are, as execo reads it before it makes a calendar."""
    api_utils._data = None
    sites_calendar()


def first_start() -> None:
    start = scheduling.first_start(grid(), REQUEST, "jdoe")
    assert start is None or math.isfinite(start)


def charter() -> None:
    breach = scheduling.charter_check({"nancy": HOSTS}, REQUEST, "jdoe", NOW, NOW + 600)(NOW)
    if breach:
        check_sentence(breach.message)


def extension() -> None:
    scheduling.check_extension(grid(), RESERVATION, 600, "jdoe")


def site_selection() -> None:
    with_sites(Spec(hosts=1, vms=1), grid())


def findings() -> None:
    for finding in preflight.preflight(grid(), REQUEST, "jdoe"):
        check_sentence(finding.message)


def job_info() -> None:
    found = grid()._job_info("nancy", 1)
    assert math.isfinite(found.get("start_date", 0.0))
    assert isinstance(found.get("state", ""), str)


def ended() -> None:
    if clause := grid().ended(RESERVATION):
        check_sentence(clause)


MACHINES = ("sites", r"sites/nancy/clusters", r"sites/nancy/clusters/gros/nodes")
OAR, JOBS, JOB = list(ANSWERS)[6:9]
#: Each reader, and the paths that answer oddly; all others answer well.
READERS: dict[Callable[[], object], tuple[str, ...]] = {
    document: ("sites/nancy",),
    machines: MACHINES,
    inventory: (*MACHINES, OAR, "sites/nancy"),
    select: (OAR,),
    sites_calendar: (OAR, JOBS, JOB),
    execos_own_data: ("", *MACHINES, "sites/nancy", "sites/nancy/clusters/gros"),
    first_start: (OAR, JOBS, JOB),
    charter: (JOBS, JOB),
    extension: (JOBS, JOB),
    site_selection: (*MACHINES, OAR, JOBS),
    findings: (JOBS, OAR),
    job_info: (JOB,),
    ended: (JOB,),
}


def check(reader: Callable[[], object], data: st.DataObject) -> None:
    odd: dict[str, Came] = {}
    spared = data.draw(st.integers(0, len(READERS[reader]) - 1))
    for number, path in enumerate(READERS[reader]):
        if number == spared or data.draw(st.booleans()):
            odd[path] = data.draw(came(path), path)

    def get(uri: str, **_: Any) -> Any:
        path = uri.partition("/3.0")[2].partition("?")[0].strip("/")
        known = next((known for known in ANSWERS if re.fullmatch(known, path)), None)
        answer = (
            (404, NOT_OK[1][1]) if known is None else odd.get(known, (200, json.dumps(ANSWERS[known][0])))
        )
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code, body = answer
        response._content, response.encoding = body.encode(errors="surrogatepass"), "utf-8"
        return response

    known = {
        "sites": {"nancy": SITE},
        "clusters": {"gros": {"queues": ["admin", "default"]}},
        "hosts": {"gros-1": node(1), "gros-2": node(2)},
        "network": {"nancy": {}},
        "hierarchy": {"nancy": {"gros": ["gros-1", "gros-2"]}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api_utils, "requests", SimpleNamespace(**{**vars(requests), "get": get}))
        patch.setattr(api_utils, "_g5k_api", api_utils.APIConnection("http://api/3.0"))
        patch.setattr(api_utils, "_data", known)
        patch.setattr(api_utils.get_api_data, "__defaults__", (None,))
        failed: list[Any] = []
        patch.setattr(threading, "excepthook", failed.append)
        patch.setattr("g5kvirt.testbeds.grid5000.jobs.info", lambda *_: {"state": "Waiting"})
        patch.setattr(
            "g5kvirt.testbeds.grid5000.jobs.oarstat", lambda *_: SimpleNamespace(ok=True, text="", lines="x")
        )
        sentence = sentence_of(reader)
    assert "secret" not in sentence
    assert not failed, "a thread's traceback was printed"


test_what_the_api_answers_is_read_or_refused_in_a_sentence, test_300_answers_of_the_api_for_each_reader = (
    reader_tests(check, READERS)
)
