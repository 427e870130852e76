"""What is wrong with execo_g5k's planning and charter, each fault shown, beside what we do about it.

When one of these tests fails, execo has mended that fault, and g5kvirt/testbeds/grid5000/calendar.py can
become simpler.
Everything is asked of a local testbed's REST API over fakes, in one process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from localfakes import FakeDatabase, job
from test_rest_execo import Bed

from g5kvirt.testbeds.local.oardb import Job

CODE = """
import os, time, types
from dataclasses import asdict
from execo_g5k import charter, planning
NOW = int(sys.argv[2])
sites = ['nancy', 'rennes', 'lyon']
out['method'] = planning._retrieve_method
found = planning.get_planning(sites, vlan=True, subnet=True, starttime=NOW)
out['sites'], out['kinds'] = sorted(found), {site: sorted(kinds) for site, kinds in found.items()}
out['lyon'] = sorted(planning.get_planning(['lyon'], starttime=NOW))
nodes = planning.get_planning(['nancy', 'rennes'], starttime=NOW)
out['nested'] = nodes['nancy']['graphene']['graphene-1.nancy.grid5000.fr']
slots = planning.compute_slots(found, 600)
out['any'] = planning.find_first_slot(slots, {'nancy': 3})[2]['nancy']
out['absent'] = planning.find_free_slot(slots, {'nancy': 1, 'rennes': 2})[2].get('rennes')
one = planning.get_planning(['nancy'], vlan=True, starttime=NOW)
out['one site'] = planning.compute_slots(one, 600)[0][2]['kavlan']
specs = planning.get_jobs_specs({'nancy': 1, 'rennes': 1, 'kavlan': ['nancy']})
out['specs'] = {site: spec.resources for spec, site in specs}

# what we make of the same
from g5kvirt.planning.availability import Need, first_slot
from g5kvirt.testbeds.grid5000 import calendar as ours
sites_calendar = ours.calendar(sites, start=float(NOW))
def when(walltime, **needs):
    t = first_slot(sites_calendar, {site: Need(**words) for site, words in needs.items()}, walltime)
    return None if t is None else t - NOW
out['ours'] = {
    'sites': sorted(sites_calendar.sites),
    'vlans': {site: sorted(own.vlans) for site, own in sites_calendar.sites.items()},
    'hosts': sorted(sites_calendar.sites['nancy'].hosts),
    'any machine': when(600, nancy=dict(machines=1)),
    'three': when(600, nancy=dict(machines=3)),
    'with a vlan': when(600, nancy=dict(machines=1, vlan=True)),
    'with a network': when(600, nancy=dict(machines=1, prefix=22)),
    'nested': when(600, nancy=dict(machines=1, among=['graphene-1.nancy.grid5000.fr'])),
}
out['rennes'] = [
    sorted(ours.calendar(['rennes'], job_types=types, start=float(NOW)).sites['rennes'].hosts)
    for types in ([], ['night'], ['exotic'])
]
out['put back'] = planning.get_resource_attributes is api_utils.get_resource_attributes

# with a database's client at hand, REST is no way any more
sys.modules['psycopg2'] = types.ModuleType('psycopg2')
import importlib
out['with psycopg2'] = importlib.reload(planning)._retrieve_method
out['ours with psycopg2'] = sorted(ours.calendar(['nancy'], start=float(NOW)).sites)

# charter time, for somebody in Japan: Monday, 23 November 2026, at noon in Paris
out['remaining'] = hasattr(charter, 'g5k_charter_remaining')
os.environ['TZ'] = 'Asia/Tokyo'
time.tzset()
out['charter'] = charter.get_next_charter_period(1795431600, 1795431600 + 86400)
"""

NANCY = [f"graphene-{number}.nancy.grid5000.fr" for number in range(1, 5)]


class Vanishing(FakeDatabase):
    """Lists a job that has ended when it is asked for."""

    def job(self, job: int) -> Job | None:
        return None


class Faulty(Bed):
    """Three sites with what execo's planning stumbles over."""

    def __init__(self, home: Path, now: float) -> None:
        super().__init__(home, now)
        nancy = self.databases["nancy"]
        for number, vlan in enumerate((4, 14), 100):
            kind = "kavlan" if vlan < 10 else "kavlan-global"
            nancy.rows.append(_resource(number, kind, vlan=str(vlan)))
        nancy.rows.append(_resource(102, "subnet", subnet_address="10.144.0.0", subnet_prefix=22))
        nancy.known = [
            job(1, NANCY[0], vlans=(14,), subnets=("10.144.0.0/22",), start=self.now - 60),
            replace(job(2, NANCY[0], start=self.now - 30), walltime=300),
            job(3, NANCY[1], state="Waiting", start=self.now + 300),
        ]
        # graphene-4 is dead already; OAR suspects the third
        nancy.rows[2]["state"] = "Suspected"
        self.databases["rennes"].rows[1]["exotic"] = "YES"
        # a KaVLAN that the site's router does not list, which another site's job may well hold
        self.databases["rennes"].known = [job(4, vlans=(99,), start=self.now)]
        lyon = Vanishing(rows=self.databases["lyon"].rows)
        lyon.known = [job(5, start=self.now)]
        self.databases["lyon"] = lyon


def _resource(number: int, kind: str, **more: Any) -> dict[str, Any]:
    row = {"resource_id": number, "type": kind, "state": "Alive", "maintenance": "NO", "network_address": ""}
    return {**row, **more}


NOW = int(time.time())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    bed = Faulty(tmp_path_factory.mktemp("home"), NOW)
    try:
        yield bed.execo(CODE.replace("int(sys.argv[2])", str(NOW)))
    finally:
        bed.thread.stop()


def test_sites_vanish(out: Any) -> None:
    if out["method"] == "API":
        assert out["sites"] == ["nancy"], "rennes by its KaVLAN, lyon by its job"
        assert out["lyon"] == []
    assert out["ours"]["sites"] == ["lyon", "nancy", "rennes"]


def test_vanished_site_is_reported_as_free(out: Any) -> None:
    assert out["absent"] is None


def test_find_first_slot_ignores_the_number_of_machines(out: Any) -> None:
    assert 0 < out["any"] < 3
    assert out["ours"]["three"] is None, "two work, one is suspected and one is dead"


def test_sub_networks_are_not_in_the_planning(out: Any) -> None:
    assert "subnets" not in out["kinds"]["nancy"]
    assert out["ours"]["with a network"] == -60 + 3600 + 121


def test_kavlans_are_the_routers(out: Any) -> None:
    assert out["ours"]["vlans"] == {"nancy": [14], "rennes": [], "lyon": []}


def test_one_site_alone_is_thought_to_want_a_routed_kavlan(out: Any) -> None:
    assert out["one site"] == 6, "the routed ones, though the only global one is taken"
    assert out["ours"]["with a vlan"] == -60 + 3600 + 121


def test_a_machine_is_free_while_a_longer_job_holds_it(out: Any) -> None:
    until = NOW - 60 + 3600 + 121
    assert any(begin < until - 600 for begin, _ in out["nested"]["free"])
    assert out["ours"]["nested"] == until - NOW


def test_suspected_machines_are_thought_to_be_free(out: Any) -> None:
    assert out["ours"]["hosts"] == NANCY[:2]
    assert out["any"] == 1, "the suspected one: the first is taken, and the second is in five minutes"


def test_exotic_machines_are_free_for_jobs_of_that_type_only(out: Any) -> None:
    assert [len(hosts) for hosts in out["rennes"]] == [1, 1, 2]


def test_a_kavlan_leaves_a_plus(out: Any) -> None:
    assert out["specs"]["nancy"].endswith("/vlan=1+")


def test_a_database_s_client_turns_rest_off(out: Any) -> None:
    assert out["with psycopg2"] == "PostgreSQL"
    assert out["ours with psycopg2"] == ["nancy"]
    assert out["put back"]


def test_charter_quota_is_read_by_sql_only(out: Any) -> None:
    if out["method"] == "API":
        assert not out["remaining"]


def test_charter_time_ends_by_the_machine_s_clock(out: Any) -> None:
    end = out["charter"][1]
    assert end != 1795431600 + 7 * 3600, "seven o'clock in the evening, in Paris"
