"""The questions to a testbed before anything is reserved: its API, its frontends. They change nothing there.

Every question is bounded, all sites are asked side by side, and whatever goes wrong becomes the answer: a
row that says so. What the answers mean is decided by pure functions (`frontend_rows`, `resources_of`).
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from typing import Any, TypeVar

from g5kvirt.errors import G5kvirtError, SpecError
from g5kvirt.planning.inventories import LARGEST, SMALLEST, Inventory, Machine, in_order, machine_of
from g5kvirt.planning.preflight import Row
from g5kvirt.spec.clock import PARIS
from g5kvirt.spec.spec import Spec
from g5kvirt.testbeds.base import Request, Testbed
from g5kvirt.testbeds.grid5000.calendar import RESOURCES, satisfying, state_of
from g5kvirt.testbeds.grid5000.driver import Grid5000, _connected
from g5kvirt.testbeds.grid5000.frontends import frontend, mask, short

__all__ = [
    "API_LIMIT",
    "Resources",
    "ask_api",
    "ask_charter",
    "ask_frontends",
    "ask_start",
    "bounded",
    "connect",
    "frontend_rows",
    "judge_properties",
    "resources_of",
]

T = TypeVar("T")
U = TypeVar("U")

API_LIMIT = 120.0  #: seconds for all questions to the API together; each has execo's own bound, 30 s
FRONTEND_LIMIT = 30.0  #: seconds for all frontends together; a connection has 20
_SIDE_BY_SIDE = 16
_SOON = 60.0  #: seconds: a slot that begins within them is now


@dataclass(frozen=True)
class Resources:
    """What OAR says of a site: its machines' properties, its sub-networks, its global KaVLANs."""

    properties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  #: name → of its first core
    largest: int | None = None  #: prefix of the largest sub-network
    vlans: int | None = None


def connect(testbed: Testbed) -> str | None:
    """Why this process cannot speak to the testbed; None if it can, be it that the API does not answer."""
    try:
        testbed.connect()
    except G5kvirtError as error:
        if isinstance(testbed, Grid5000) and _connected == [testbed.settings.api_uri or "grid5000"]:
            return None  # only the API was silent: the frontends can be asked all the same
        return str(error)
    return None


def ask_api(testbed: Testbed, sites: Collection[str]) -> tuple[list[Row], Inventory | None]:
    """What exists on ``sites`` (empty: on all), and rows about how the API answered; None if it did not."""
    begun = time.monotonic()
    if not isinstance(testbed, Grid5000):
        return _ask_protocol(testbed)
    try:
        known = [item["uid"] for item in _get("sites")["items"]]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return [Row("API", "", "problem", f"does not answer ({_why(error)})", _API_TODO)], None
    wanted = [site for site in known if not sites or site in sites]
    clusters = _all(lambda s: [c["uid"] for c in _get(f"sites/{s}/clusters")["items"]], wanted, API_LIMIT)
    pairs = [(s, c) for s, own in clusters.items() if not isinstance(own, Exception) for c in own]
    nodes = _all(lambda p: _get(f"sites/{p[0]}/clusters/{p[1]}/nodes")["items"], pairs, API_LIMIT)
    oar = _all(_resources, wanted, API_LIMIT)

    failed: dict[str, Exception] = {s: e for s, e in clusters.items() if isinstance(e, Exception)}
    failed |= {site: e for (site, _), e in nodes.items() if isinstance(e, Exception)}
    good = [site for site in wanted if site not in failed]
    resources = {s: r for s, r in oar.items() if isinstance(r, Resources) and s in good}
    machines = {site: tuple(_machines(site, nodes, resources.get(site))) for site in good}
    took = time.monotonic() - begun
    count = sum(map(len, machines.values()))
    rows = []
    if good or not wanted:
        rows.append(Row("API", "", "ok", f"answers in {took:.1f} s: {count:,} machines at {_some(good)}"))
    rows += [
        Row("API", site, "problem", f"does not answer ({_why(e)})", _API_TODO) for site, e in failed.items()
    ]
    rows += [
        Row("OAR's resources", site, "unknown", f"the API does not say them ({_why(e)})")
        for site, e in oar.items()
        if isinstance(e, Exception) and site in good
    ]
    # Sites that were not asked about are known all the same: a wrong name has to be told from them.
    elsewhere: dict[str, tuple[Machine, ...]] = dict.fromkeys(set(known) - set(wanted), ())
    return rows, Inventory(
        testbed.name,
        {**machines, **dict.fromkeys(failed, ()), **elsewhere},
        largest={s: r.largest for s, r in resources.items() if r.largest is not None},
        vlans={s: r.vlans for s, r in resources.items() if r.vlans is not None},
        silent=frozenset(failed),
    )


def _some(sites: Sequence[str]) -> str:
    return ", ".join(sites) if 0 < len(sites) < 5 else f"{len(sites)} sites"


_API_TODO = "look whether it is up; from outside, whether ~/.execo.conf.py has your api_username"


def _ask_protocol(testbed: Testbed) -> tuple[list[Row], Inventory | None]:
    """A testbed that is no Grid'5000 says only which hosts it has."""
    try:
        hosts = testbed.hosts()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return [
            Row("API", "", "problem", f"does not say its hosts ({_why(error)})", "see to the testbed")
        ], None
    machines = {site: tuple(Machine(h) for h in own) for site, own in hosts.items()}
    return [Row("API", "", "ok", f"{sum(map(len, machines.values())):,} machines")], Inventory(
        testbed.name, machines
    )


def _get(path: str) -> dict[str, Any]:
    from execo_g5k import api_utils

    answer: dict[str, Any] = api_utils.get_resource_attributes(path)
    return answer


def _resources(site: str) -> Resources:
    document = _get(RESOURCES.format(site))
    found = resources_of(document["items"], time.time())
    if found.largest is not None:
        return found
    pool = (_get(f"sites/{site}").get("g5ksubnet") or {}).get("network")
    return Resources(found.properties, _prefix(pool), found.vlans)


def _prefix(pool: object) -> int | None:
    try:
        return max(LARGEST, IPv4Network(str(pool)).prefixlen) if pool else None
    except (AddressValueError, NetmaskValueError, ValueError):
        return None


def resources_of(items: Iterable[Mapping[str, Any]], now: float) -> Resources:
    """What OAR's list of resources (one item a core, KaVLAN or /22) says of a site at ``now``.

    ``state`` among a machine's properties is what `slots.state_of` makes of it.
    """
    properties: dict[str, Mapping[str, Any]] = {}
    slashes: set[int] = set()
    subnets, vlans, any_vlan = False, set(), False
    for item in items:
        kind, name = str(item.get("type", "default")), item.get("network_address")
        if kind == "default" and name:
            properties.setdefault(str(name), {**item, "state": state_of(item, now)})
        elif kind == "subnet":
            subnets = True
            slashes |= {p for p in range(LARGEST, SMALLEST + 1) if item.get(f"slash_{p}") is not None}
        elif kind.startswith("kavlan"):
            any_vlan = True
            if kind == "kavlan-global":
                vlans.add(str(item.get("vlan")))
    return Resources(
        properties,
        min(slashes) if subnets and slashes else None,
        len(vlans) if any_vlan else None,
    )


def _machines(
    site: str, nodes: Mapping[tuple[str, str], Any], resources: Resources | None
) -> Iterable[Machine]:
    known = resources.properties if resources else {}
    found = []
    for (where, cluster), items in nodes.items():
        for node in items if where == site else ():
            machine = machine_of(site, cluster, node)
            found.append(machine_of(site, cluster, node, known.get(machine.host.name)))
    return sorted(found, key=lambda machine: in_order(machine.host))


# ---- OAR -----------------------------------------------------------------------------------------------


def judge_properties(spec: Spec, inventory: Inventory) -> tuple[list[Row], Inventory]:
    """The inventory with the machines that have the properties asked for, or a row why nobody can say."""
    machines = [m for own in inventory.machines.values() for m in own]
    if spec.properties is None:
        return [], inventory
    if not all(m.properties for m in machines):
        says = f"{spec.properties}: nobody says the machines' properties; OAR will judge it when it is asked"
        return [Row("properties", "", "unknown", says)], inventory
    rows = [{**m.properties, "type": "default", "network_address": m.host.name} for m in machines]
    try:
        meeting = frozenset(satisfying(rows, spec.properties))
    except SpecError as error:
        says, _, todo = str(error).rpartition(": ")
        return [Row("properties", "", "warning", says, todo)], inventory
    says = f"{spec.properties}: {len(meeting):,} of {len(machines):,} machines"
    return [Row("properties", "", "ok", says)], replace(inventory, meeting=meeting)


def ask_charter(testbed: Testbed, request: Request, start: float) -> Row:
    """Would a job that starts at ``start`` break the usage charter?"""
    what = "usage charter"
    if not isinstance(testbed, Grid5000):
        return Row(what, "", "unknown", "this testbed does not say whether it has one")
    if not testbed.settings.charter:
        return Row(what, "", "ok", "this testbed has none")

    answer = bounded(lambda: testbed.judge(request, start, start + request.walltime)(start), API_LIMIT)
    if isinstance(answer, Exception):
        return Row(what, "", "unknown", _why(answer), "look at your jobs by hand (oarstat -u)")
    if answer:
        says, _, todo = answer.rpartition(": ")
        return Row(what, "", "problem", says, todo)
    return Row(what, "", "ok", "kept, if the jobs start as asked")


def ask_start(testbed: Testbed, request: Request, now: float) -> Row:
    """When could all sites start at once?"""
    what = "start"
    answer = bounded(lambda: testbed.first_start(request), API_LIMIT)
    if isinstance(answer, Exception):
        return Row(what, "", "unknown", _why(answer))
    if answer is None:
        todo = "ask for fewer machines, a shorter walltime or other sites"
        return Row(what, "", "warning", "no time is known at which all of it is free at once", todo)
    moment = f"{datetime.fromtimestamp(answer, PARIS):%Y-%m-%d %H:%M} in Paris"
    if answer <= now + _SOON:
        return Row(what, "", "ok", "all of it is free now")
    says = f"all of it is free at once from {moment} on"
    if request.start == "first":
        return Row(what, "", "ok", says)
    if isinstance(request.start, float) and request.start >= answer:
        return Row(what, "", "ok", f"{says}, which is before the start asked for")
    return Row(what, "", "warning", says, 'reserve that slot with start="first", or wait')


# ---- frontends -----------------------------------------------------------------------------------------

_THERE, _NONE, _CODE = "g5kvirt-there", "g5kvirt-no-kaenv3", "g5kvirt-code"
#: One connection a site: am I let in, and does its Kadeploy3 know the environment, mine or everybody's?
_ASK = (
    f"echo {_THERE}; if command -v kaenv3 >/dev/null; then"
    " {{ kaenv3 -p {name} || kaenv3 -u deploy -p {name}; }} 2>&1;"
    f" echo {_CODE} $?; else echo {_NONE}; fi"
)


def ask_frontends(testbed: Testbed, sites: Sequence[str], environment: str) -> list[Row]:
    """Rows on each site's frontend, on the ssh key, and on the host environment there."""
    if not isinstance(testbed, Grid5000):
        return [Row("frontend", "", "unknown", "this testbed has no frontends that could be asked")]
    command = _ASK.format(name=shlex.quote(environment))
    asked = _all(lambda site: frontend(site, command, FRONTEND_LIMIT), sites, FRONTEND_LIMIT + 10)
    rows: list[Row] = []
    for site, process in asked.items():
        if isinstance(process, Exception):
            rows += frontend_rows(site, environment, "", _why(process))
        else:
            rows += frontend_rows(site, environment, str(process.stdout), str(process.stderr))
    if not any(row.what == "ssh key" for row in rows):
        rows.append(
            Row("ssh key", "", "ok", "yours is accepted")
            if any(row.what == "frontend" and row.status == "ok" for row in rows)
            else Row("ssh key", "", "unknown", "no frontend was reached that could accept it")
        )
    order = ("frontend", "ssh key", "environment")
    return sorted(rows, key=lambda row: order.index(row.what))


_KEY_TODO = (
    "add your public key to your account, load it (ssh-add), and name your login in ~/.ssh/config or"
    " ~/.execo.conf.py"
)


def frontend_rows(site: str, environment: str, out: str, err: str) -> list[Row]:
    """What a frontend's answer to `_ASK` means, from its output and the complaints of ssh."""
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    unknown = Row("environment", site, "unknown", f"{environment}: the frontend was not reached")
    if _THERE not in lines:
        words = [w for w in (*lines, *(w.strip() for w in err.splitlines())) if w and "Warning:" not in w]
        said = words[-1] if words else f"no answer within {FRONTEND_LIMIT:g} s"
        if re.search(r"permission denied|too many authentication failures", said, re.IGNORECASE):
            return [
                Row("frontend", site, "ok", "answers"),
                Row("ssh key", site, "problem", f"is refused ({said})", _KEY_TODO),
                unknown,
            ]
        todo = f"try ssh {site}.grid5000.fr; if it is down, take another site"
        return [Row("frontend", site, "problem", f"cannot be reached ({said})", todo), unknown]
    reached = Row("frontend", site, "ok", "answers")
    if _NONE in lines:
        says = f"{environment}: there is no kaenv3 on the frontend to ask"
        return [reached, Row("environment", site, "unknown", says)]
    inside = lines[lines.index(_THERE) + 1 :]
    codes = [line.partition(" ")[2] for line in inside if line.startswith(_CODE)]
    if codes and codes[-1] == "0" and any(line.startswith("name:") for line in inside):
        return [reached, Row("environment", site, "ok", f"Kadeploy3 knows {environment}")]
    if not codes:
        says = f"{environment}: kaenv3 did not answer in time"
        return [reached, Row("environment", site, "unknown", says)]
    complaints = (line.removeprefix("[ERROR] ") for line in inside if not line.startswith(_CODE))
    said = next(complaints, "no word why")
    todo = "register it there (kaenv3 -a FILE), or name one that is (kaenv3 -l): host_environment"
    says = f"Kadeploy3 does not give {environment} ({said[:150]})"
    return [reached, Row("environment", site, "problem", says, todo)]


def bounded(do: Callable[[], T], limit: float) -> T | Exception:
    """What ``do`` gives, or the exception that is the answer, within ``limit`` seconds."""
    return _all(lambda _: do(), [0], limit)[0]


def _all(do: Callable[[U], T], items: Sequence[U], limit: float) -> dict[U, T | Exception]:
    """``do`` for all items side by side: what each gave, or the exception that is the answer.

    Returns when ``limit`` seconds are over, whatever is under way: that ends by its own bound.
    """
    pool = ThreadPoolExecutor(max_workers=max(1, min(_SIDE_BY_SIDE, len(items))))
    try:
        futures = {item: pool.submit(do, item) for item in items}
        wait(futures.values(), timeout=limit)
        found: dict[U, T | Exception] = {}
        for item, future in futures.items():
            if not future.done():
                found[item] = TimeoutError(f"no answer within {limit:g} s")
            else:
                error = future.exception()
                found[item] = error if isinstance(error, Exception) else future.result()
        return found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _why(error: Exception) -> str:
    return mask(short(error)) or type(error).__name__
