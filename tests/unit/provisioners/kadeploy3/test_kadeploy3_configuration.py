"""The files of a Kadeploy3 server: golden, within the key tables, and nothing in them means more than
itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kadeploymaker import SERVER, addresses, cluster, same_as_golden, vms

from g5kvirt.errors import SpecError
from g5kvirt.hostagent import bundle
from g5kvirt.images.environments import Environment
from g5kvirt.provisioners.kadeploy3 import keys
from g5kvirt.provisioners.kadeploy3.configuration import (
    ETC,
    POWER,
    Kernel,
    NetbootFiles,
    NodeCluster,
    Server,
    Timing,
    max_duration,
    nodes_of,
    profile_name,
    render,
    tuned,
    vm_script,
)
from g5kvirt.provisioners.kadeploy3.environment import describe, version_of

TFTP = replace(SERVER, netboot=NetbootFiles("/srv/tftp", "10.158.0.1", "PXElinux"))
SHAPES = {**keys.FILES, "vms-cluster.conf": keys.CLUSTER}

#: What a real server of version 3.3 accepted.
ACCEPTED: dict[str, str] = {
    "server.conf": """
        database: {kind: mysql, name: d, host: h, login: u, passwd: p}
        authentication: {acl: {whitelist: [localhost]}}
        security: {secure_server: false, local_only: true}
        cache: {size: 200, directory: /tmp/c}
        pxe: {dhcp: {method: PXElinux, repository: /srv/tftp,
              profiles: {directory: pxelinux.cfg, filename: ip_hex},
              userfiles: {directory: userfiles, max_size: 50}}}
        rights: {kind: db, almighty_users: root}
        logs: {logfile: /tmp/l, database: true}
        network: {ports: {kadeploy_server: 25300}}
        windows: {reboot: {size: 50, sleep_time: 10}, check: {size: 100}}
        external: {taktuk: {connector: ssh, tree_arity: 3}}
    """,
    "clusters.conf": """
        clusters: [{name: c, conf_file: c.conf, nodes: [{name: "node-[1-9].x", address: "10.0.0.[1-9]"}]}]
    """,
    "vms-cluster.conf": """
        partitioning: {block_device: /dev/vda, disable_swap: true, partitions: {deploy: 3}, script: p.sh}
        boot: {install_bootloader: b.sh, kernels: {deploy: {vmlinuz: k, initrd: i}}}
        remoteops: {reboot: [{name: soft, cmd: "s HOSTNAME_FQDN"}, {name: hard, cmd: h}]}
        automata: {macrosteps: {SetDeploymentEnv: [{type: Untrusted, timeout: 900, retries: 1}],
                   BroadcastEnv: [{type: Kastafior, timeout: 900, retries: 1}],
                   BootNewEnv: [{type: Kexec, timeout: 900, retries: 1}]}}
    """,
    "client.conf": "{default: s, servers: [{name: s, hostname: h, port: 25300, secure: false}]}",
}


def rendered(server: Server = SERVER, of: NodeCluster | None = None) -> dict[str, str]:
    chosen = of or cluster()
    return render(server, chosen, addresses(chosen))


@pytest.mark.parametrize("path", sorted(rendered()))
def test_rendered_files_equal_the_golden_ones(path: str) -> None:
    # the agent's directory is named by the hash of its content
    text = rendered()[path].replace(bundle.DIRECTORY, "/usr/local/lib/g5kvirt-agent/HASH")
    same_as_golden(PurePosixPath(path).name, text)


def test_profiles_by_tftp_are_named_as_pxelinux_looks_for_them() -> None:
    same_as_golden("server-tftp.conf", rendered(TFTP)[f"{ETC}/server.conf"])
    first = cluster().nodes[0]
    assert profile_name(first, TFTP.netboot) == "0A9E0101"
    assert profile_name(first, SERVER.netboot) == "10.158.1.1"
    assert "${net0/ip}" in vm_script(SERVER.netboot)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("server", [SERVER, TFTP])
def test_each_file_holds_known_keys_only(name: str, server: Server) -> None:
    data = yaml.safe_load(rendered(server)[f"{ETC}/{name}"])
    assert not keys.problems(data or {}, SHAPES[name])


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_the_key_tables_let_pass_what_a_real_server_accepted(name: str) -> None:
    assert keys.problems(yaml.safe_load(ACCEPTED[name]), SHAPES[name]) == []


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all mappings in ``data``."""
    found = [path] if isinstance(data, dict) else []
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return found + [place for key, value in parts for place in places(value, (*path, key))]


@pytest.mark.parametrize("name", ["server.conf", "clusters.conf", "vms-cluster.conf", "client.conf"])
def test_unknown_key_is_found_in_every_mapping(name: str) -> None:
    text = rendered()[f"{ETC}/{name}"]
    mappings = places(yaml.safe_load(text))
    assert () in mappings
    for place in mappings:
        data = yaml.safe_load(text)
        inner = data
        for key in place:
            inner = inner[key]
        inner["tiemout"] = 1
        assert [p for p in keys.problems(data, SHAPES[name]) if p.endswith("tiemout is unknown")], place


def test_a_value_of_the_wrong_kind_and_a_missing_key_are_found() -> None:
    data = yaml.safe_load(rendered()[f"{ETC}/vms-cluster.conf"])
    data["timeouts"]["reboot"] = "n*2"  # what the manual allows ends the server
    data["automata"]["macrosteps"]["BootNewEnv"][0]["type"] = "PivotRoot"
    del data["partitioning"]["script"]
    found = "\n".join(keys.problems(data, keys.CLUSTER))
    assert "timeouts.reboot" in found
    assert "'PivotRoot'" in found
    assert "partitioning.script is missing" in found
    assert keys.problems({"cache": {"size": True}}, {"cache": {"size": int}})
    assert keys.problems([1], {"a": int}) == ["the file is not a mapping"]


def test_the_chain_stays_inside_a_host_then_inside_a_site() -> None:
    nodes = nodes_of(vms(12, hosts=4))
    # the order in which Kadeploy3 broadcasts: by all digits of a name
    chain = sorted(nodes, key=lambda node: int(re.sub(r"[A-Za-z.-]", "", node.name)))
    hosts = [node.vm.host for node in chain]
    assert sum(a != b for a, b in pairwise(hosts)) == 3
    sites = [node.vm.site for node in chain]
    assert sites == sorted(sites)


def test_every_command_of_the_cluster_goes_through_the_power_script() -> None:
    files = rendered()
    operations = yaml.safe_load(files[f"{ETC}/vms-cluster.conf"])["remoteops"]
    commands = [entry["cmd"] for entries in operations.values() for entry in entries]
    assert {"reboot soft", "reboot hard", "reboot very_hard"} <= {" ".join(c.split()[1:3]) for c in commands}
    assert commands
    assert all(c.split()[0] == POWER and c.endswith(" HOSTNAME_FQDN") for c in commands)
    table = json.loads(files[f"{ETC}/power.json"])
    listed = yaml.safe_load(files[f"{ETC}/clusters.conf"])["clusters"][0]["nodes"]
    assert [node["name"] for node in listed] == list(table["nodes"])
    assert [node["address"] for node in listed] == [row[0] for row in table["nodes"].values()]


@given(st.integers(1, 20_000), st.integers(1, 500), st.integers(0, 60))
def test_macro_steps_are_long_enough_for_the_window_and_the_reboot(n: int, size: int, sleep: int) -> None:
    timing = tuned(n, base=Timing(reboot_window=size, reboot_sleep=sleep))
    waiting = (n - 1) // size * sleep
    assert timing.macro == 65535 or timing.macro >= waiting + timing.reboot
    assert timing.macro >= 900
    assert isinstance(timing.macro, int)


def test_the_values_of_the_large_runs_are_the_default() -> None:
    server = yaml.safe_load(rendered()[f"{ETC}/server.conf"])
    assert server["windows"] == {"reboot": {"size": 80, "sleep_time": 15}, "check": {"size": 100}}
    assert server["external"]["taktuk"]["tree_arity"] == 3
    of = yaml.safe_load(rendered()[f"{ETC}/vms-cluster.conf"])
    assert of["timeouts"]["reboot"] == 350
    assert {m["timeout"] for macro in of["automata"]["macrosteps"].values() for m in macro} == {900}


def test_a_deployment_is_over_when_every_try_has_run_into_its_time_out() -> None:
    macros = yaml.safe_load(rendered()[f"{ETC}/vms-cluster.conf"])["automata"]["macrosteps"]
    tries = [m["timeout"] * (1 + m["retries"]) for variants in macros.values() for m in variants]
    assert max_duration(cluster()) == sum(tries)


def test_thousands_of_nodes_are_rendered() -> None:
    many = NodeCluster(nodes_of(vms(4552, hosts=355)), timing=tuned(4552))
    text = rendered(of=many)[f"{ETC}/clusters.conf"]
    assert text.count("node-") == 4552


EVIL = st.text(min_size=1, max_size=20).filter(
    lambda t: re.search(r"[^A-Za-z0-9 .,:;_=/@%+-]", t) is not None
)


@given(
    EVIL,
    st.sampled_from(["hostname", "password", "user", "vmlinuz", "initrd", "arguments", "export", "name"]),
)
def test_values_with_shell_syntax_are_refused(text: str, where: str) -> None:
    server, of = SERVER, cluster()
    match where:
        case "vmlinuz" | "initrd" | "arguments":
            of = replace(of, kernel=replace(Kernel(), **{where: text}))
        case "name":
            of = replace(of, name=text)
        case "export":
            server = replace(server, netboot=replace(server.netboot, export=text))
        case _:
            server = replace(server, **{where: text})
    with pytest.raises(SpecError) as error:
        rendered(server, of)
    assert where != "password" or len(text) < 3 or text not in str(error.value)


@pytest.mark.parametrize(
    "timing", [Timing(macro=300, reboot=350), Timing(macro=70_000), Timing(reboot=0, kexec=0)]
)
def test_times_that_kadeploy_refuses_are_refused(timing: Timing) -> None:
    with pytest.raises(SpecError, match="macro-steps"):
        rendered(of=replace(cluster(), timing=timing))


def test_invalid_cluster_is_refused() -> None:
    with pytest.raises(SpecError, match="at least one VM"):
        rendered(of=NodeCluster(()))
    twice = cluster()
    with pytest.raises(SpecError, match="same name or address"):
        rendered(of=replace(twice, nodes=twice.nodes + twice.nodes[:1]))
    with pytest.raises(SpecError, match="PivotRoot"):
        rendered(of=replace(twice, boot=("PivotRoot",)))
    with pytest.raises(SpecError, match="address of node-1"):
        render(SERVER, twice, {})


def test_environment_is_described_as_kadeploy3_does() -> None:
    known = Environment("debian", "/e.tgz", compression="gzip", kernel="/vmlinuz", initrd="/initrd.img")
    described = describe(known, "/var/lib/g5kvirt/www/images/abc")
    same_as_golden("environment.yaml", yaml.safe_dump(described, sort_keys=False))
    assert not keys.problems(described, keys.ENVIRONMENT)
    assert version_of("00000ff" + 57 * "0") == 255
    with pytest.raises(SpecError, match="compress it"):
        describe(replace(known, compression="none"), "/i")
    with pytest.raises(SpecError, match="that of debian is compressed with zstd"):
        describe(replace(known, compression="zstd"), "/i")
    with pytest.raises(SpecError, match="255 characters"):
        describe(replace(known, kernel_arguments="x" * 256), "/i")
