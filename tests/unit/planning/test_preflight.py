"""Each finding of a check: when it is a problem, and its advice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from g5kvirt.errors import PhaseError
from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.forecast import Forecast, PhaseEstimate, with_selected_sites
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.planning.preflight import Code, Finding, Preflight, filter_by_properties, names, preflight
from g5kvirt.spec.spec import Spec


def machines(site: str, number: int, cluster: str, cores: int = 4, **more: Any) -> tuple[Machine, ...]:
    able = {"virtual": True, "deploy": True, "kavlan": True, "x86": True, "queues": ("default",)} | more
    return tuple(
        Machine(Host(f"{cluster}-{i}.{site}.grid5000.fr", site, cluster, cores, 16 * GIB), **able)
        for i in range(1, number + 1)
    )


GRID = Inventory(
    "test",
    {
        "nancy": (*machines("nancy", 4, "graphene"), *machines("nancy", 3, "griffon", cores=8)),
        "rennes": machines("rennes", 5, "paradent", state="Alive"),
        "lyon": (*machines("lyon", 2, "taurus"), *machines("lyon", 6, "sagittaire", virtual=False)),
    },
    largest={"nancy": 16, "rennes": 20, "lyon": 16},
    vlans={"nancy": 1, "rennes": 0, "lyon": 1},
)


def expect(forecast: Forecast) -> list[PhaseEstimate]:
    """Six minutes and a half."""
    return [PhaseEstimate("deploy", 279.0, "assumed"), PhaseEstimate("measure", 111.0, "assumed")]


def look(inventory: Inventory | None = GRID, real_cores: int | None = None, **asked: Any) -> Preflight:
    spec = Spec(**({"sites": {"nancy": 2, "rennes": 2}, "vms": 16} | asked))
    return preflight(spec, inventory, real_cores=real_cores, expect=expect)


def finding(found: Preflight, what: str, subject: str = "") -> Finding:
    [one] = [r for r in found.findings if (r.what, r.subject) == (what, subject)]
    return one


def test_good_specification_has_only_ok_findings() -> None:
    found = look()
    assert {r.status for r in found.findings} == {"ok"}
    assert found.ok
    plan = found.plan
    assert plan is not None
    assert plan.sites == {"nancy": 2, "rennes": 2}
    assert plan.services == {"nancy": 1, "rennes": 0}
    # twice 16 (griffon) and twice 8 (paradent) on the best: a third of that is 5.3 and 2.7, so 5, 5, 3, 3
    assert (plan.room, plan.vms_per_host) == ((32, 48), (3, 5))
    assert [(b.site, b.vms, b.addresses, b.prefix) for b in plan.addresses] == [
        ("nancy", 10, 19, 22),
        ("rennes", 6, 18, 22),
    ]
    assert sum(b.vms for b in plan.addresses) == 16


def test_too_few_machines_are_a_problem() -> None:
    found = look(sites={"nancy": 7})
    assert not found.ok
    assert finding(found, "machines", "nancy") == Finding(
        "machines",
        "nancy",
        "problem",
        "too-few",
        "8 needed, 7 can carry VMs (graphene 4, griffon 3)",
        "request at most 6 there",
    )
    few = finding(look(sites={"lyon": 3}, vms=2), "machines", "lyon")
    assert "4 needed, 2 can carry VMs (taurus 2): sagittaire 6 cannot virtualize" in few.message


def test_unknown_names_get_a_suggestion() -> None:
    assert finding(look(sites={"nanci": 2}), "machines", "nanci").advice == "did you mean 'nancy'?"
    wrong = finding(look(clusters={"nancy": "grafene"}), "machines", "nancy")
    assert (wrong.status, wrong.advice) == ("problem", "did you mean 'graphene'?")
    assert finding(look(placement="balancd"), "specification").advice == "did you mean 'balanced'?"


def test_machines_that_cannot_carry_vms_get_a_warning_with_the_properties_that_exclude_them() -> None:
    found = finding(look(sites={"lyon": 1}, vms=2), "clusters", "lyon")
    assert found.status == "warning"
    assert found.message.endswith("sagittaire 6 cannot virtualize")
    assert found.advice == "exclude them: properties=\"cluster not in ('sagittaire')\""
    quiet = look(sites={"lyon": 1}, vms=2, clusters={"lyon": "taurus"})
    assert not [r for r in quiet.findings if r.what == "clusters"]
    # guests that are emulated anyway need no virtualization
    assert not [r for r in look(real_cores=2, sites={"lyon": 1}, vms=2).findings if r.what == "clusters"]


def test_only_machines_with_the_properties_count() -> None:
    taurus = frozenset(m.host.name for m in GRID.machines["lyon"] if m.host.cluster == "taurus")
    found = look(replace(GRID, matching=taurus), sites={"lyon": 1}, vms=2, properties="cluster = 'taurus'")
    assert finding(found, "machines", "lyon").message == "2 needed, 2 can carry VMs (taurus 2)"
    assert not [r for r in found.findings if r.what == "clusters"]


def test_machines_that_are_down_now_get_a_warning() -> None:
    own = GRID.machines["rennes"]
    away = (*own[:1], replace(own[1], state="Dead"), *(replace(m, state="Suspected") for m in own[2:]))
    found = finding(look(replace(GRID, machines={**GRID.machines, "rennes": away})), "machines now", "rennes")
    assert (found.status, found.message) == (
        "warning",
        "1 alive, 3 suspected, 1 dead, busy ones included; 2 needed",
    )
    assert not [r for r in look().findings if (r.what, r.subject) == ("machines now", "nancy")]  # nobody says


def test_vms_that_do_not_fit_are_a_problem() -> None:
    found = look(vms=49)
    assert finding(found, "room for VMs").status == "problem"
    assert "request at most 48 VMs" in finding(found, "room for VMs").advice
    assert finding(found, "walltime").status == "unknown"
    assert found.plan is not None
    assert found.plan.vms_per_host is None


def test_vms_that_fit_only_on_the_largest_machines_get_a_warning() -> None:
    found = finding(look(vms=40), "room for VMs")
    assert found.status == "warning"
    assert "48 if OAR assigns the machines with the most room, 32 with the least" in found.message


def test_room_depends_on_memory_and_disk() -> None:
    # 16 GiB less 1 GiB, and 4 GiB for each VM: three on a host
    assert finding(look(vm={"memory": 2048, "disk": 2048}, vms=13), "room for VMs").status == "problem"
    assert finding(look(vm={"memory": 2048, "disk": 2048}, vms=12), "room for VMs").status == "ok"


def test_min_hosts_that_could_not_carry_the_vms_gets_a_warning() -> None:
    assert finding(look(vms=32, min_hosts=1), "min_hosts").status == "warning"
    assert (
        "1 host would have room for at most 16 of 32"
        in finding(look(vms=32, min_hosts=1), "min_hosts").message
    )
    assert not [r for r in look(vms=32, min_hosts=2).findings if r.what == "min_hosts"]


def test_provisioner_kadeploy3_needs_a_repository() -> None:
    assert finding(look(provisioner="kadeploy3"), "provisioner").status == "warning"
    named = {"repository": "deb [trusted=yes] http://packages.example/kadeploy ./"}
    assert not [r for r in look(provisioner="kadeploy3", kadeploy3=named).findings if r.what == "provisioner"]
    assert not [r for r in look().findings if r.what == "provisioner"]


def test_subnetwork_must_exist_in_the_needed_size() -> None:
    large = {"capacity": {"max_per_host": 10**6, "per_core": 10**6}, "vm": {"memory": 80, "disk": 0}}
    found = look(vms=9000, **large)
    assert finding(found, "sub-network", "nancy").status == "ok"
    assert "slash_18, with 16,381" in finding(found, "sub-network", "nancy").message
    assert finding(found, "sub-network", "rennes").message.endswith("the largest there is a /20")
    assert finding(found, "sub-network", "rennes").status == "problem"
    assert "no sub-network is that large" in finding(look(vms=70_000), "sub-network", "nancy").message
    nobody = look(replace(GRID, largest={}))
    assert finding(nobody, "sub-network", "nancy").status == "unknown"
    assert nobody.ok


def test_first_site_must_have_a_global_kavlan() -> None:
    found = finding(look(sites={"rennes": 2, "nancy": 2}), "KaVLAN", "rennes")
    assert (found.status, found.advice) == ("problem", "put a site first that has one: lyon, nancy")
    assert finding(look(replace(GRID, vlans={})), "KaVLAN", "nancy").status == "unknown"


def test_walltime_is_compared_with_the_expected_time() -> None:
    short = finding(look(walltime=300), "walltime")
    assert short.status == "problem"
    assert short.advice == 'request more, such as walltime="0:13:00"'
    assert finding(look(walltime="0:10:00"), "walltime").status == "warning"
    assert finding(look(walltime="1:00:00"), "walltime").status == "ok"
    assert "mini on all VMs; assumed" in finding(look(), "walltime").message
    assert "light on all VMs" in finding(look(guest="light"), "walltime").message
    unknown = finding(preflight(Spec(sites={"nancy": 1}, vms=1), GRID), "walltime")
    assert (unknown.status, unknown.code) == ("unknown", "no-estimate")


def test_what_cannot_be_predicted_has_no_expected_time() -> None:
    def fails(_: Forecast) -> list[PhaseEstimate]:
        raise PhaseError("no VM came up", phase="launch")

    found = preflight(Spec(sites={"nancy": 1}, vms=1), GRID, expect=fails)
    assert finding(found, "walltime").message == "the expected time is not known: no VM came up"
    assert found.plan is not None
    assert found.plan.expected == ()


def test_job_names_must_fit_into_oar() -> None:
    spec = Spec(sites={"nancy": 1}, vms=3)
    assert names(spec, "first").message == "run first, jobs g5kvirt-first-…, VMs vm-1 to vm-3"
    assert names(spec, "x" * 86).status == "problem"
    assert names(spec, "x" * 85).status == "ok"


def test_unknown_machines_are_not_checked() -> None:
    found = look(None)
    assert {r.status for r in found.findings} == {"unknown"}
    assert found.plan is None
    half = look(replace(GRID, unanswered=frozenset({"rennes"}), machines={**GRID.machines, "rennes": ()}))
    assert finding(half, "machines", "nancy").status == "ok"
    assert finding(half, "machines", "rennes").status == "unknown"
    assert finding(half, "room for VMs").message == "the machines of rennes are not known"


def test_sites_are_selected_among_those_that_can_carry_the_vms() -> None:
    spec = with_selected_sites(Spec(hosts=4, sites=2, vms=8), GRID)
    assert sum(spec.sites.values()) == 4
    assert set(spec.sites) == {"nancy", "rennes"}
    assert next(iter(spec.sites)) == "nancy", "rennes has no KaVLAN to give"
    none = look(sites=3, hosts=20)
    assert finding(none, "sites").status == "problem"
    assert finding(none, "sites").advice.startswith("request at most")


def test_given_findings_are_listed_before_and_after() -> None:
    first = Finding("API", "", "ok", "ok", "answers")
    last = Finding("names", "", "problem", "too-long", "too long", "choose a shorter one")
    found = preflight(Spec(sites={"nancy": 1}, vms=1), GRID, before=[first], after=[last])
    assert (found.findings[0], found.findings[-1]) == (first, last)
    assert not found.ok


def with_properties(*properties: dict[str, Any]) -> Inventory:
    machines = tuple(
        Machine(Host(f"a-{i}", "nancy", "a", 1, GIB), properties=p) for i, p in enumerate(properties)
    )
    return Inventory("test", {"nancy": machines})


def test_filter_by_properties() -> None:
    spec = Spec(sites={"nancy": 1}, vms=1, properties="memnode >= 16384")
    [finding], found = filter_by_properties(spec, with_properties({"memnode": 4096}, {"memnode": 32768}))
    assert (finding.status, found.matching) == ("ok", {"a-1"})
    [finding], found = filter_by_properties(spec, with_properties({"memcore": 1}))
    assert (finding.status, found.matching) == ("warning", None)
    [finding], found = filter_by_properties(spec, with_properties({"memnode": 4096}, {}))
    assert (finding.status, found.matching) == ("unknown", None)
    assert filter_by_properties(Spec(sites={"nancy": 1}, vms=1), with_properties({}))[0] == []


@settings(max_examples=150, deadline=None)
@given(
    sites=st.one_of(
        st.integers(1, 4),
        st.dictionaries(st.sampled_from([*GRID.machines, "mars"]), st.integers(1, 9), min_size=1),
    ),
    hosts=st.integers(1, 30),
    vms=st.integers(1, 100_000),
    services=st.integers(1, 5),
    cores=st.one_of(st.none(), st.integers(1, 8)),
    memory=st.integers(80, 10**5),
)
def test_preflight_never_raises_and_every_problem_has_advice(
    sites: int | dict[str, int], hosts: int, vms: int, services: int, cores: int | None, memory: int
) -> None:
    asked = {"sites": sites} if isinstance(sites, dict) else {"sites": min(sites, hosts), "hosts": hosts}
    spec = Spec(**asked, vms=vms, services=services, vm={"memory": memory})  # type: ignore[arg-type]
    found = preflight(spec, GRID, real_cores=cores)
    assert found.findings
    assert not [r for r in found.findings if r.status in ("problem", "warning") and not r.advice]
    assert not [r for r in found.findings if (r.code == "ok") != (r.status == "ok")]
    assert {r.code for r in found.findings} <= set(get_args(Code))
    if found.ok:
        assert found.plan is not None
        assert found.plan.vms_per_host is not None
        assert sum(b.vms for b in found.plan.addresses) == vms
        best = Forecast(with_selected_sites(spec, GRID, emulated=cores is not None), GRID, cores)
        assert found.plan.room == best.room
