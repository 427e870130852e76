"""Links in a specification: units, both ways of writing them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from g5kvirt import Group, Link, Spec
from g5kvirt.errors import SpecError

VMS = [Group("server", 2), Group("client", 4)]


def test_units_become_seconds_and_bits_per_second() -> None:
    link = Link("client", "server", latency="10ms", rate="100mbit", loss=0.01)
    assert (link.latency, link.rate, link.loss) == (0.01, 100e6, 0.01)
    assert Link("a", "b", latency="250us").latency == pytest.approx(250e-6)
    assert Link("a", "b", rate="1.5gbit").rate == 1.5e9
    assert Link("a", "b", rate=64_000).rate == 64_000
    assert link.needs_netem
    assert not Link("a", "b", rate="1gbit").needs_netem


def test_directions() -> None:
    assert Link("a", "b", rate="1mbit").directions == (("a", "b"), ("b", "a"))
    assert Link("a", "b", rate="1mbit", symmetric=False).directions == (("a", "b"),)
    assert Link("a", "a", rate="1mbit").directions == (("a", "a"),)


def test_yaml_and_python_say_the_same_and_the_record_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "sites: {nancy: 1, rennes: 1}\nvms: [{name: server, count: 2}, {name: client, count: 4}]\n"
        "links:\n  - {between: [client, server], latency: 10ms, rate: 100mbit, loss: 0.01}\n"
        "  - {between: [nancy, rennes], rate: 1gbit, symmetric: false}\n"
    )
    links = [
        Link("client", "server", latency="10ms", rate="100mbit", loss=0.01),
        Link("nancy", "rennes", rate="1gbit", symmetric=False),
    ]
    spec = Spec(sites={"nancy": 1, "rennes": 1}, vms=VMS, links=links)
    assert Spec.load(tmp_path / "spec.yaml") == spec
    assert Spec.from_dict(spec.to_dict()) == spec
    assert "links" not in Spec(sites={"nancy": 1}, vms=2).to_dict()


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ({"between": ["client"]}, "between of a link must be two groups or sites such as [client, server]"),
        ({"between": ["client", "server"]}, "the link client–server changes nothing"),
        ({"between": ["client", "serve"], "rate": "1mbit"}, "ends at 'serve', which is neither a group nor"),
        ({"between": ["client", "server"], "rate": "1mb"}, "rate must be a rate such as '100mbit'"),
        (
            {"between": ["client", "server"], "rate": 12},
            "such as '100mbit', from '8kbit' to '400gbit'",
        ),
        ({"between": ["client", "server"], "latency": "-1ms"}, "latency must be a time such as '10ms'"),
        ({"between": ["client", "server"], "latency": "1h"}, "latency must be a time such as '10ms'"),
        ({"between": ["client", "server"], "loss": 1.5}, "loss must be the part of packets that is lost"),
        ({"between": ["client", "server"], "delay": "1ms"}, "unknown key 'delay' in a link"),
        ("client-server", "each of links must be a Link, not 'client-server'"),
    ],
)
def test_what_is_wrong_with_a_link_is_said_in_one_sentence(link: object, message: str) -> None:
    with pytest.raises(SpecError) as error:
        Spec.from_dict({"sites": {"nancy": 1}, "vms": VMS, "links": [link]})
    assert message in error.value.message


def test_an_end_must_not_mean_two_things_and_is_checked_when_sites_are_chosen() -> None:
    both = [Group("nancy", 2)]
    with pytest.raises(SpecError, match="may mean the group or the site 'nancy'"):
        Spec(sites={"nancy": 1}, vms=both, links=[Link("nancy", "nancy", rate="1mbit")])
    open_ = Spec(hosts=2, vms=VMS, links=[Link("client", "lyon", rate="1mbit")])
    assert open_.at({"lyon": 2}).links == open_.links
    with pytest.raises(SpecError, match="neither a group nor a site"):
        open_.at({"nancy": 2})
