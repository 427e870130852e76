"""The VMs of a run in the formats of other tools: Ansible, ClusterShell, /etc/hosts, JSON, ssh."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from g5kvirt.context import Context
from g5kvirt.errors import SpecError
from g5kvirt.guests.ssh import ssh_config
from g5kvirt.inventory import VM
from g5kvirt.spec.fields import show, suggest

__all__ = ["FORMATS", "Format", "groups_of", "write_inventory"]

Format = Literal["ansible", "clustershell", "hosts", "json", "ssh"]
FORMATS: tuple[Format, ...] = get_args(Format)

Groups = Mapping[str, Sequence[VM]]


def write_inventory(context: Context, kind: object, vms: Sequence[VM], part: str = "") -> Path:
    """Write ``inventory/`` of the run for one tool; returns the file, for ClusterShell the directory.

    ``part``: what to call some of the VMs, whose inventory has a directory of its own: that of all VMs stays.
    Raises SpecError for an unknown format.
    """
    if kind not in FORMATS:
        raise SpecError(f"there is no inventory {show(kind)}", advice=suggest(str(kind), FORMATS))
    config = ssh_config(context, context.journal.state.placed_vms)
    if kind == "ssh":
        return config
    folder = context.run.path / "inventory" / part
    if kind == "clustershell":
        folder = folder / "clustershell"
    files: Mapping[str, Callable[[Sequence[VM], Path], Mapping[str, str]]] = {
        "ansible": _ansible,
        "clustershell": _clustershell,
        "hosts": _hosts,
        "json": _json,
    }
    written = []
    for name, text in files[str(kind)](vms, config).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return folder if kind == "clustershell" else written[0]


def groups_of(vms: Sequence[VM]) -> dict[str, list[VM]]:
    """Groups of VMs by the names that tools know them under: ``vms``, those of the specification, each site.

    A group has neither of the other names: `spec.groups.RESERVED`, `planning.checks`.
    """
    found: dict[str, list[VM]] = {"vms": list(vms)}
    for names in ([vm.group for vm in vms], [vm.site for vm in vms]):
        for vm, name in zip(vms, names, strict=True):
            if name:
                found.setdefault(name, []).append(vm)
    return found


def _ansible(vms: Sequence[VM], config: Path) -> Mapping[str, str]:
    """A YAML inventory; its variables are those of Ansible's ssh connection plugin."""
    about = {
        vm.name: {
            "g5kvirt_address": str(vm.ip),
            "g5kvirt_host": vm.host,
            "g5kvirt_site": vm.site,
            **({"g5kvirt_group": vm.group} if vm.group else {}),
        }
        for vm in vms
    }
    groups: dict[str, Any] = {
        name: {"hosts": {vm.name: {} for vm in own}} for name, own in groups_of(vms).items() if name != "vms"
    }
    variables = {"ansible_user": "root", "ansible_ssh_common_args": f'-F "{config}"'}
    document: dict[str, Any] = {
        "all": {"vars": variables, "children": {"vms": {"hosts": about}, **groups}},
    }
    return {"ansible.yaml": yaml.safe_dump(document, sort_keys=False, default_flow_style=False)}


def _clustershell(vms: Sequence[VM], config: Path) -> Mapping[str, str]:
    """A directory for ``CLUSTERSHELL_CFGDIR``: how clush logs in, and the groups."""
    groups = {name: ",".join(vm.name for vm in own) for name, own in groups_of(vms).items()}
    return {
        "clush.conf": f"[Main]\nfanout: 64\ncommand_timeout: 0\nconnect_timeout: 30\n"
        f"ssh_user: root\nssh_options: -F {config}\n",
        "groups.conf": "[Main]\ndefault: g5kvirt\nautodir: $CFGDIR/groups.d\n",
        "groups.d/g5kvirt.yaml": yaml.safe_dump({"g5kvirt": groups}, sort_keys=False),
    }


def _hosts(vms: Sequence[VM], _: Path) -> Mapping[str, str]:
    """Lines for /etc/hosts."""
    return {"hosts": "".join(f"{vm.ip}\t{vm.name}\n" for vm in vms)}


def _json(vms: Sequence[VM], config: Path) -> Mapping[str, str]:
    """One object per VM, for a user's scripts."""
    document = {
        "ssh_config": str(config),
        "groups": {name: [vm.name for vm in own] for name, own in groups_of(vms).items()},
        "vms": [
            {
                "name": vm.name,
                "address": str(vm.ip),
                "mac": vm.mac,
                "host": vm.host,
                "site": vm.site,
                **({"group": vm.group} if vm.group else {}),
            }
            for vm in vms
        ],
    }
    return {"vms.json": json.dumps(document, indent=2) + "\n"}
