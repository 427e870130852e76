"""How a specification is shown: as it would be written."""

from __future__ import annotations

import pytest

from g5kvirt.spec.spec import Spec, VMSpec, Windows


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        (Spec(sites={"nancy": 2}, vms=8), "Spec(sites={'nancy': 2}, vms=8)"),
        (
            Spec(sites={"nancy": 2}, vms=8, walltime=7200),
            "Spec(sites={'nancy': 2}, vms=8, walltime='2:00:00')",
        ),
        (
            Spec(sites={"nancy": 2}, vms=8, vm=VMSpec(memory=80), guest="light", windows=Windows(boot=4)),
            "Spec(sites={'nancy': 2}, vms=8, vm={'memory': 80}, guest='light', windows={'boot': 4})",
        ),
        (Spec(hosts=12, vms=100, queue="besteffort"), "Spec(vms=100, hosts=12, queue='besteffort')"),
        (Spec(hosts=12, sites=3, vms=100), "Spec(sites=3, vms=100, hosts=12)"),
    ],
)
def test_only_what_differs_from_the_defaults_is_shown(spec: Spec, shown: str) -> None:
    assert sorted(repr(spec)) == sorted(shown)
    assert eval(repr(spec)) == spec, "it is how one would write it"
