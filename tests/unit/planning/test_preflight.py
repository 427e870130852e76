"""Each row of a check can be wrong, and says what to do then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from g5kvirt.inventory import GIB, Host
from g5kvirt.planning.forecast import Forecast, chosen
from g5kvirt.planning.inventories import Inventory, Machine
from g5kvirt.planning.preflight import Preflight, Row, names, preflight
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


def look(inventory: Inventory | None = GRID, real_cores: int | None = None, **asked: Any) -> Preflight:
    spec = Spec(**({"sites": {"nancy": 2, "rennes": 2}, "vms": 16} | asked))
    return preflight(spec, inventory, real_cores=real_cores)


def row(found: Preflight, what: str, subject: str = "") -> Row:
    [one] = [r for r in found.rows if (r.what, r.subject) == (what, subject)]
    return one


def test_all_is_well() -> None:
    found = look()
    assert {r.status for r in found.rows} == {"ok"}
    assert found.ok
    plan = found.plan
    assert plan is not None
    assert plan.sites == {"nancy": 2, "rennes": 2}
    assert plan.services == {"nancy": 1, "rennes": 0}
    # twice 16 (griffon) and twice 8 (paradent) on the best: a third of that is 5.3 and 2.7, so 5, 5, 3, 3
    assert (plan.room, plan.a_host) == ((32, 48), (3, 5))
    assert [(b.site, b.vms, b.addresses, b.prefix) for b in plan.addresses] == [
        ("nancy", 10, 19, 22),
        ("rennes", 6, 18, 22),
    ]
    assert sum(b.vms for b in plan.addresses) == 16


def test_too_few_machines() -> None:
    found = look(sites={"nancy": 7})
    assert not found.ok
    assert row(found, "machines", "nancy") == Row(
        "machines",
        "nancy",
        "problem",
        "8 needed, 7 can carry VMs (graphene 4, griffon 3)",
        "ask for at most 6 there",
    )
    few = row(look(sites={"lyon": 3}, vms=2), "machines", "lyon")
    assert "4 needed, 2 can carry VMs (taurus 2): sagittaire 6 cannot virtualize" in few.says


def test_names_that_do_not_exist() -> None:
    assert row(look(sites={"nanci": 2}), "machines", "nanci").todo == "did you mean 'nancy'?"
    wrong = row(look(clusters={"nancy": "grafene"}), "machines", "nancy")
    assert (wrong.status, wrong.todo) == ("problem", "did you mean 'graphene'?")
    assert row(look(placement="balancd"), "specification").todo == "did you mean 'balanced'?"


def test_machines_that_oar_may_give_but_that_cannot_carry_vms() -> None:
    found = row(look(sites={"lyon": 1}, vms=2), "clusters", "lyon")
    assert found.status == "warning"
    assert found.says.endswith("sagittaire 6 cannot virtualize")
    assert found.todo == "exclude them: properties=\"cluster not in ('sagittaire')\""
    quiet = look(sites={"lyon": 1}, vms=2, clusters={"lyon": "taurus"})
    assert not [r for r in quiet.rows if r.what == "clusters"]
    # guests that are emulated anyway need no virtualization
    assert not [r for r in look(real_cores=2, sites={"lyon": 1}, vms=2).rows if r.what == "clusters"]


def test_properties_narrow_the_choice() -> None:
    taurus = frozenset(m.host.name for m in GRID.machines["lyon"] if m.host.cluster == "taurus")
    found = look(replace(GRID, meeting=taurus), sites={"lyon": 1}, vms=2, properties="cluster = 'taurus'")
    assert row(found, "machines", "lyon").says == "2 needed, 2 can carry VMs (taurus 2)"
    assert not [r for r in found.rows if r.what == "clusters"]


def test_machines_that_are_not_there_now() -> None:
    own = GRID.machines["rennes"]
    away = (*own[:1], replace(own[1], state="Dead"), *(replace(m, state="Suspected") for m in own[2:]))
    found = row(look(replace(GRID, machines={**GRID.machines, "rennes": away})), "machines now", "rennes")
    assert (found.status, found.says) == ("warning", "1 alive, 3 suspected, 1 dead, used or not; 2 needed")
    assert not [r for r in look().rows if (r.what, r.subject) == ("machines now", "nancy")]  # nobody says


def test_vms_that_do_not_fit() -> None:
    found = look(vms=49)
    assert row(found, "room for VMs").status == "problem"
    assert "ask for at most 48 VMs" in row(found, "room for VMs").todo
    assert row(found, "walltime").status == "unknown"
    assert found.plan is not None
    assert found.plan.a_host is None


def test_vms_that_fit_on_some_machines_only() -> None:
    found = row(look(vms=40), "room for VMs")
    assert found.status == "warning"
    assert "48 if OAR gives the machines with the most room, 32 with the least" in found.says


def test_memory_and_disk_count() -> None:
    # 16 GiB less 1 GiB, and 4 GiB for each VM: three on a host
    assert row(look(vm={"memory": 2048, "disk": 2048}, vms=13), "room for VMs").status == "problem"
    assert row(look(vm={"memory": 2048, "disk": 2048}, vms=12), "room for VMs").status == "ok"


def test_so_few_hosts_that_they_would_not_carry_the_vms() -> None:
    assert row(look(vms=32, min_hosts=1), "min_hosts").status == "warning"
    assert "carry 16 of 32" in row(look(vms=32, min_hosts=1), "min_hosts").says
    assert not [r for r in look(vms=32, min_hosts=2).rows if r.what == "min_hosts"]


def test_a_kadeploy3_of_one_s_own_needs_a_place_for_its_packages() -> None:
    assert row(look(provisioner="kadeploy3"), "provisioner").status == "warning"
    named = {"repository": "deb [trusted=yes] http://packages.example/kadeploy ./"}
    assert not [r for r in look(provisioner="kadeploy3", kadeploy3=named).rows if r.what == "provisioner"]
    assert not [r for r in look().rows if r.what == "provisioner"]


def test_vms_in_which_nothing_boots() -> None:
    found = row(look(vm={"memory": 79}), "specification")
    assert (found.status, found.todo) == ("problem", "give vm.memory at least 80 MiB")
    assert row(look(vm={"memory": 80}), "room for VMs").status == "ok"


def test_sub_networks() -> None:
    large = {"capacity": {"max_per_host": 10**6, "per_core": 10**6}, "vm": {"memory": 80, "disk": 0}}
    found = look(vms=9000, **large)
    assert row(found, "sub-network", "nancy").status == "ok"
    assert "slash_18, with 16,381" in row(found, "sub-network", "nancy").says
    assert row(found, "sub-network", "rennes").says.endswith("the largest there is a /20")
    assert row(found, "sub-network", "rennes").status == "problem"
    assert "no sub-network is that large" in row(look(vms=70_000), "sub-network", "nancy").says
    nobody = look(replace(GRID, largest={}))
    assert row(nobody, "sub-network", "nancy").status == "unknown"
    assert nobody.ok


def test_the_site_that_gives_the_kavlan() -> None:
    found = row(look(sites={"rennes": 2, "nancy": 2}), "KaVLAN", "rennes")
    assert (found.status, found.todo) == ("problem", "name a site first that has one: lyon, nancy")
    assert row(look(replace(GRID, vlans={})), "KaVLAN", "nancy").status == "unknown"


def test_walltime() -> None:
    # Kadeploy3's own example (279 s), services (60 s assumed), boots and a deployment
    short = row(look(walltime=300), "walltime")
    assert short.status == "problem"
    assert short.todo == 'ask for more, such as walltime="0:13:00"'
    assert row(look(walltime="0:10:00"), "walltime").status == "warning"
    assert row(look(walltime="1:00:00"), "walltime").status == "ok"


def test_names_of_jobs() -> None:
    spec = Spec(sites={"nancy": 1}, vms=3)
    assert names(spec, "first").says == "run first, jobs g5kvirt-first-…, VMs vm-1 to vm-3"
    assert names(spec, "x" * 86).status == "problem"
    assert names(spec, "x" * 85).status == "ok"


def test_nobody_says_what_exists() -> None:
    found = look(None)
    assert {r.status for r in found.rows} == {"unknown"}
    assert found.plan is None
    half = look(replace(GRID, silent=frozenset({"rennes"}), machines={**GRID.machines, "rennes": ()}))
    assert row(half, "machines", "nancy").status == "ok"
    assert row(half, "machines", "rennes").status == "unknown"
    assert row(half, "room for VMs").says == "nobody says what rennes has"


def test_sites_are_chosen_among_those_that_can_carry_it() -> None:
    spec = chosen(Spec(hosts=4, sites=2, vms=8), GRID)
    assert sum(spec.sites.values()) == 4
    assert set(spec.sites) == {"nancy", "rennes"}
    assert next(iter(spec.sites)) == "nancy", "rennes has no KaVLAN to give"
    none = look(sites=3, hosts=20)
    assert row(none, "sites").status == "problem"
    assert row(none, "sites").todo.startswith("ask for")


def test_rows_of_others_stand_around() -> None:
    first, last = Row("API", "", "ok", "answers"), Row("names", "", "problem", "too long", "shorter")
    found = preflight(Spec(sites={"nancy": 1}, vms=1), GRID, before=[first], after=[last])
    assert (found.rows[0], found.rows[-1]) == (first, last)
    assert not found.ok


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
    memory=st.integers(1, 10**5),
)
def test_nothing_raises_and_whatever_is_wrong_says_what_to_do(
    sites: int | dict[str, int], hosts: int, vms: int, services: int, cores: int | None, memory: int
) -> None:
    asked = {"sites": sites} if isinstance(sites, dict) else {"sites": min(sites, hosts), "hosts": hosts}
    spec = Spec(**asked, vms=vms, services=services, vm={"memory": memory})  # type: ignore[arg-type]
    found = preflight(spec, GRID, real_cores=cores)
    assert all(r.todo for r in found.rows if r.status in ("problem", "warning"))
    if found.ok:
        assert found.plan is not None
        assert found.plan.a_host is not None
        assert sum(b.vms for b in found.plan.addresses) == vms
        best = Forecast(chosen(spec, GRID, emulated=cores is not None), GRID, cores)
        assert found.plan.room == best.room
