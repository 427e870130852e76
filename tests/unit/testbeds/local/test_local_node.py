"""The look of a node as described, and the configuration of a frontend and of the layers."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from g5kvirt.testbeds.described.description import make
from g5kvirt.testbeds.local import layers, node, site
from g5kvirt.testbeds.local.container_spec import ContainerSpec

MEMINFO = """\
MemTotal:       24684084 kB
MemFree:        1 kB
MemAvailable:   2 kB
HugePages_Total:       0
Cached: 7 kB
"""
CPUINFO = """\
processor\t: 0
model name\t: Cpu @ 2: GHz
core id\t\t: 0
flags\t\t: fpu vmx
cpu cores\t: 2

processor\t: 1

"""
OAR_CONF = """\
DB_BASE_PASSWD=""
#LOG_LEVEL="3"
LOG_LEVEL="2"
CPUSET_PATH="/oar"
PINGCHECKER_SENTINELLE_SCRIPT_COMMAND="x"
"""


@given(st.integers(1, 1 << 20))
def test_meminfo_has_the_described_memory(mebibytes: int) -> None:
    lines = [line.split() for line in node.meminfo(MEMINFO, mebibytes << 20).splitlines()]
    values = {line[0]: int(line[1]) for line in lines}
    assert values["MemTotal:"] == mebibytes << 10
    assert 0 < values["MemAvailable:"] <= values["MemTotal:"]
    assert values["Cached:"] == 0
    assert len(values) == 5


@given(st.integers(1, 128))
def test_cpuinfo_has_the_described_cores(cores: int) -> None:
    text = node.cpuinfo(CPUINFO, cores)
    blocks = [block for block in text.split("\n\n") if block]
    assert len(blocks) == cores
    for number, block in enumerate(blocks):
        values = {
            key.strip(): value.strip() for key, _, value in (b.partition(":") for b in block.splitlines())
        }
        assert values["processor"] == values["core id"] == str(number)
        assert values["cpu cores"] == str(cores)
        assert values["model name"] == "Cpu @ 2: GHz"
        assert values["flags"] == "fpu vmx"


def _node_spec(keys: str) -> ContainerSpec:
    one = make({"nancy": 1}).nodes[0]
    here = Path("/x")
    return node.container_spec(one, mount_point=here, layer=here, hosts=here, log=here, authorized_keys=keys)


def test_standard_environment_has_no_authorized_keys() -> None:
    assert "/root/.ssh/authorized_keys" not in _node_spec("").files
    assert _node_spec("ssh-ed25519 A\n").files["/root/.ssh/authorized_keys"] == (0o600, "ssh-ed25519 A\n")


def test_container_spec_survives_json() -> None:
    spec = _node_spec("key")
    there = ContainerSpec(**json.loads(json.dumps(spec.to_plain())))
    assert json.dumps(there.to_plain()) == json.dumps(spec.to_plain())


def test_site_has_the_commands_and_the_key() -> None:
    description = make({"nancy": 1})
    here = Path("/x")
    spec = site.container_spec(
        description.site("nancy"),
        mount_point=here,
        layer=here,
        hosts=here,
        sockets=here,
        log=here,
        public_key="K",
    )
    assert spec.files["/home/g5k/.ssh/authorized_keys"] == (0o600, "K\n")
    for command in ("kadeploy3", "kavlan", "g5k-subnets"):
        mode, text = spec.files[f"/usr/local/bin/{command}"]
        assert mode == 0o755
        assert text.startswith("#!/usr/bin/python3")


def test_oar_conf_changes_only_our_settings() -> None:
    lines = layers.oar_conf(OAR_CONF, "secret").splitlines()
    assert 'DB_BASE_PASSWD="secret"' in lines
    assert 'DB_BASE_PASSWD=""' not in lines
    assert 'CPUSET_PATH="/oar"' in lines
    assert '#LOG_LEVEL="3"' in lines
    assert '#PINGCHECKER_SENTINELLE_SCRIPT_COMMAND="x"' in lines
    assert 'FINAUD_FREQUENCY="0"' in lines  # was not there
    assert layers.oar_conf(layers.oar_conf(OAR_CONF, "x"), "x") == layers.oar_conf(OAR_CONF, "x")
