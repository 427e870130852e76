"""Whatever is asked, there is a plan or one clear sentence: 2,000 random and mangled specifications.

They are as people write them, with any part replaced by something strange, lost, or added; as dictionaries
and as YAML text with torn lines. The plan is the whole one, up to every VM's host and address, on Grid'5000
as its tables of 2026 have it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from ipaddress import IPv4Network
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mangling import examples

from g5kvirt.errors import SpecError
from g5kvirt.inventory import SubNetwork
from g5kvirt.planning.addressing import subnetwork_prefix
from g5kvirt.planning.capacity import capacities
from g5kvirt.planning.checks import check_against
from g5kvirt.planning.inventories import table
from g5kvirt.planning.placement import Placement, place
from g5kvirt.planning.services import host_addresses, machines_per_site, service_layout, split_machines
from g5kvirt.planning.site_selection import select_sites
from g5kvirt.spec.spec import Spec

HOSTS = {site: [m.host for m in own] for site, own in table("2026").machines.items()}


def plan(spec: Spec) -> Placement:
    """From what is asked to where every VM is, on the first machines that there are."""
    if not spec.sites:
        spec = spec.at(select_sites(spec, HOSTS))
    check_against(spec, HOSTS)
    machines, parts = [], []
    for number, (site, count) in enumerate(machines_per_site(spec).items()):
        cluster = (spec.clusters or {}).get(site)
        machines += [h for h in HOSTS[site] if cluster in (None, h.cluster)][:count]
        prefix = subnetwork_prefix(spec.vms + count)
        parts.append(SubNetwork(site, IPv4Network((f"10.{16 + number}.0.0", prefix))))
    services, hosts = split_machines(spec, machines)
    layout = service_layout(services, dict.fromkeys(spec.sites, 1), parts)
    taken = [*layout.taken, *host_addresses(hosts, layout, parts).values()]
    room = capacities([h.cores for h in hosts], [h.memory for h in hosts], spec.capacity, spec.vm)
    return place(spec.vms, hosts, room, parts, strategy=spec.placement, taken=taken)


#: What no sentence for people holds: words of Python's, addresses of objects, a type in brackets.
STRANGE = re.compile(r"Traceback|object at 0x|<class|<built-in|<function|Error\(|NoneType")


def plan_or_sentence(make: Callable[[], Spec]) -> str:
    """The sentence, or "" for a plan; anything else fails the test."""
    try:
        spec = make()
        placement = plan(spec)
    except SpecError as error:
        text = str(error)
        assert len(text.splitlines()) == 1, text
        assert len(text) < 500, text
        assert not STRANGE.search(text), text
        assert text.isprintable(), repr(text)
        return text
    assert len(placement) == spec.vms
    return ""


class Stranger:
    """Nothing that a specification may hold; and its own text is of no help."""

    def __repr__(self) -> str:
        raise RuntimeError("nobody can print me")


SMALL = st.integers(1, 12)
LARGE = ["nancy", "rennes", "lyon", "grenoble"]  # these have machines enough
GOOD = {
    "services": st.integers(1, 4),
    "properties": st.sampled_from([None, "memnode >= 16384", "cluster = 'gros'"]),
    "queue": st.sampled_from([None, "default", "production"]),
    "project": st.sampled_from([None, "lab"]),
    "job_types": st.sampled_from([[], ["exotic"], ["night", "destructive"]]),
    "walltime": st.sampled_from(["1:00:00", "2:30", 7200]),
    "start": st.sampled_from(["now", "first", "2026-12-01 19:00"]),
    "host_environment": st.just("debian12-min"),
    "vm": st.fixed_dictionaries(
        {}, optional={"memory": st.integers(144, 2048), "cores": SMALL, "disk": st.integers(0, 2048)}
    ),
    "capacity": st.fixed_dictionaries(
        {}, optional={"rule": st.just("2013"), "max_per_host": st.integers(1, 64), "per_core": SMALL}
    ),
    "placement": st.sampled_from(["balanced", "packed"]),
    "netboot": st.sampled_from(["http", "tftp"]),
    "boot": st.sampled_from(["rom", "iso"]),
    "provisioner": st.sampled_from(["g5kvirt", "kadeploy3"]),
    "windows": st.fixed_dictionaries({}, optional={"boot": SMALL, "sleep": st.floats(0, 60), "check": SMALL}),
    "timeouts": st.fixed_dictionaries(
        {}, optional={"boot": st.floats(1, 900), "reserve": SMALL, "boot_attempts": SMALL}
    ),
    "job_name": st.sampled_from(["g5kvirt", "my-run"]),
}
whole = st.one_of(
    st.fixed_dictionaries(
        {
            "sites": st.dictionaries(st.sampled_from(LARGE), SMALL, min_size=1, max_size=4),
            "vms": st.integers(1, 12),
        },
        optional=GOOD,
    ),
    st.fixed_dictionaries(
        {"hosts": st.integers(4, 60), "vms": st.integers(1, 100)},
        optional={"sites": st.integers(1, 4), "min_hosts": st.integers(1, 4), **GOOD},
    ),
)
#: What makes no sense, or does not exist, or is more than there is; but looks like something.
nearly = st.sampled_from(
    [
        *(
            "nanci",
            "Nancy",
            "graphene",
            "2014",
            "where ever",
            "HTTP",
            "usb",
            "ansible",
            "a b",
            "-e",
            "x" * 300,
        ),
        *(
            "0:00:10",
            "soon",
            "9999:00:00",
            "tomorrow",
            "2026-13-01 19:00",
            "a; rm -rf /",
            "gros' OR '1'='1",
            "x" * 300,
        ),
        *(0, 1, 17, 3000, 70000, 1 << 23, 1 << 40, -1.5, 1e300, float("nan"), float("inf")),
        *({"nancy": 2}, {"mars": 1}, {"nancy": 400}, {"luxembourg": "petitprince"}, {"lyon": "gros"}),
    ]
)
strange = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(10**400), 10**400),
        st.floats(),
        st.text(max_size=40),
        st.binary(max_size=8),
        st.sampled_from(
            [date(2026, 12, 1), datetime(2026, 12, 1, 19, tzinfo=UTC), datetime.min, datetime.max]
        ),
        st.sampled_from([{1, 2}, range(3), Spec, print, 2 + 1j, "\u2028", "\x1b[31m", "9" * 5000]),
        st.builds(Stranger),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=8), st.integers(), st.none()), inner, max_size=3),
    ),
    max_leaves=5,
)


@st.composite
def mangled(draw: st.DrawFn) -> Any:
    """A specification as people write them, of which up to three parts are not."""
    document = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        where: dict[Any, Any] = document
        while inner := [value for value in where.values() if isinstance(value, dict)]:
            if draw(st.booleans()):
                break
            where = draw(st.sampled_from(inner))
        keys = st.sampled_from(sorted(where, key=repr)) if where else st.nothing()
        others = st.sampled_from([*GOOD, "sites", "vms", "hosts", "clusters", "min_hosts", 7, None])
        key = draw(st.one_of(keys, keys, others, st.text(max_size=12)))
        if draw(st.integers(0, 3)) == 0:
            where.pop(key, None)
        else:
            where[key] = draw(st.one_of(nearly.map(copy.deepcopy), strange))  # changed later, perhaps
    return document if draw(st.integers(0, 30)) else draw(strange)


@examples(400)
@given(mangled())
def test_from_dictionaries(document: Any) -> None:
    plan_or_sentence(lambda: Spec.from_dict(document))


@st.composite
def texts(draw: st.DrawFn) -> str:
    """YAML with lines lost, doubled, moved, torn or filled with anything; or any text at all."""
    if not draw(st.integers(0, 20)):
        return draw(st.text(max_size=200))
    lines = yaml.safe_dump(draw(whole), default_flow_style=draw(st.sampled_from([False, None]))).split("\n")
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        cut = draw(st.integers(0, len(line)))
        some = draw(
            st.one_of(st.text(max_size=6), st.sampled_from([*list("{}[]:-&*!|>%@`\t\"'#?,"), "1:30", "!!"]))
        )
        match draw(st.sampled_from(["lose", "double", "tear", "fill", "move"])):
            case "lose":
                lines[at] = ""
            case "double":
                lines.insert(at, line)
            case "tear":
                lines[at] = line[:cut]
            case "fill":
                lines[at] = line[:cut] + some + line[cut:]
            case "move":
                lines[at] = " " * draw(st.integers(1, 5)) + line
    return "\n".join(lines)


@examples(400)
@given(text=texts())
def test_from_text(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    loaded(text, tmp_path_factory)


def loaded(text: str, factory: pytest.TempPathFactory) -> None:
    file = factory.getbasetemp() / "spec.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    plan_or_sentence(lambda: Spec.load(file))


@pytest.mark.slow
@examples(10_000)
@given(mangled())
def test_many_from_dictionaries(document: Any) -> None:
    plan_or_sentence(lambda: Spec.from_dict(document))


@pytest.mark.slow
@examples(10_000)
@given(text=texts())
def test_many_from_text(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    loaded(text, tmp_path_factory)


def test_good_ones_have_a_plan() -> None:
    """So that the tests above do not only hear sentences."""
    for document in (
        {"sites": {"nancy": 3, "rennes": 2}, "vms": 20},
        {"hosts": 12, "vms": 100},
        {"hosts": 12, "sites": 3, "vms": 100, "min_hosts": 8, "start": "first", "services": 3},
    ):
        assert plan_or_sentence(lambda d=document: Spec.from_dict(d)) == ""  # type: ignore[misc]
