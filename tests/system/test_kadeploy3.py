"""measure() by Kadeploy3: with a stand-in for its packages, which carries out its steps on real VMs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from localbed import MARKS
from scripts import LAUNCHED, answer, start

import g5kvirt
from g5kvirt.run.deployment_tables import Measurements
from g5kvirt.run.journal import read_events
from g5kvirt.testbeds.local.state import State

pytestmark = [*MARKS, pytest.mark.vm]

#: Prints the deployments that the server has.
LEFT = """#!/usr/bin/env python3
from urllib.request import Request, urlopen
request = Request("http://127.0.0.1:25300/deployment", headers={"X-Kadeploy-User": "root"})
print(urlopen(request, timeout=20).read().decode())
"""

LIB = "/usr/local/lib/kadeploy3-stand-in"
REPOSITORY = "deb [trusted=yes] http://packages.invalid/kadeploy ./"

#: What a machine gets in the place of Debian's package managers, MariaDB, systemd and Kadeploy3.
STUBS = {
    "dpkg-query": "[ -e /run/installed ] && echo installed",
    "apt-get": f"""
echo "$@" >> /run/apt-get
case " $* " in *" install "*) ;; *) exit 0 ;; esac
grep -qxF '{REPOSITORY}' /etc/apt/sources.list.d/g5kvirt-kadeploy3.list || exit 1
# the package's service does not start on its sample configuration, and the installation fails with it
sh /usr/sbin/policy-rc.d kadeploy start; test $? = 101 || exit 100
id deploy || useradd --system --user-group --no-create-home --home-dir {LIB} --shell /bin/sh deploy || exit 1
mkdir -p /etc/kadeploy3 /etc/mysql/mariadb.conf.d
echo 3.3.7 > /etc/kadeploy3/version && touch /run/installed
""",
    "systemctl": 'echo "$@" >> /run/systemctl',
    "mariadb": "exec cat > /run/sql",
    "kadeploy3d": f"exec python3 {LIB}/kadeploy3d.py",
}


def files() -> dict[str, str]:
    """Path on the machine → text: the stubs and the stand-in with what it imports."""
    here = Path(__file__).resolve().parents[1] / "support"
    steps = Path(g5kvirt.__file__).parent / "provisioners" / "kadeploy3" / "steps.py"
    folder = f"{LIB}/g5kvirt"
    return {
        **{f"/usr/local/sbin/{name}": f"#!/bin/sh\n{text}\n" for name, text in STUBS.items()},
        f"{LIB}/kadeploy3d.py": (here / "kadeploy3d.py").read_text(),
        f"{LIB}/kadeployserver.py": (here / "kadeployserver.py").read_text(),
        **{f"{folder}{path}/__init__.py": "" for path in ("", "/provisioners", "/provisioners/kadeploy3")},
        f"{folder}/provisioners/kadeploy3/steps.py": steps.read_text(),
        "/usr/local/sbin/kadeploy3-left": LEFT,
    }


def test_deployed_by_a_server_that_stays(bed: State, tmp_path: Path) -> None:
    """Two VMs, the image handed on from one to the other; then an interrupt; then a reboot from the disk."""
    (tmp_path / "files.json").write_text(json.dumps(files()))
    script = "import json, os, signal, threading, time\nfrom pathlib import Path\n" + LAUNCHED % (
        f"vms=2, vm={{'memory': 192}}, provisioner='kadeploy3', kadeploy3={{'repository': {REPOSITORY!r}}}",
        "k",
        """
    from g5kvirt.planning.cluster import cluster_state
    from g5kvirt.remote import File
    head = cluster_state(exp.spec, exp.journal.state).layout.machines[0].host.address
    fanout = exp._runner.context.fanout
    def ask(command):
        result = fanout.run([head], ["sh", "-c", command], timeout=60)[head]
        assert result.ok, result
        return result.text
    given = json.loads((Path(runs) / "files.json").read_text())
    put = fanout.put([head], [File(text.encode(), path, 0o755) for path, text in given.items()], timeout=60)
    assert put[head].ok, put
    result = exp.measure()
    LOOK = "cut -d. -f1 /proc/uptime; hostname; grep ' / ' /proc/mounts | tail -n 1"
    rows = exp.run(LOOK)
    said = {"html": result._repr_html_(), "deployed": dict(zip(rows["vm"], rows["out"]))}
    said["identity"] = exp.run("cat /etc/g5kvirt-environment")["out"].to_list()
    exp.figures.save(exp.path / "figures")
    said["policy"] = ask("ls /usr/sbin/policy-rc.d 2> /dev/null || true")
    server = "pgrep -f '^python3 .*kadeploy3d.py'; cat /run/apt-get /run/systemctl"
    said["server"] = [ask(server)]
    def interrupt():
        while not any(e.step == "switch-pxe" and e.detail["deployment"] == "d2" for e in exp.journal):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        exp.measure(sizes=[1])
    except KeyboardInterrupt:
        said["interrupted"] = True
    said["server"].append(ask(server))
    said["left"] = ask("kadeploy3-left")
    other = exp.journal.state.placed_vms[1].name
    nodes = json.loads(ask("cat /etc/kadeploy3/power.json"))["nodes"]
    (node,) = [name for name, at in nodes.items() if at[2] == other]
    began = time.time()
    ask(f"runuser -u deploy -- /usr/local/sbin/g5kvirt-power reboot soft {node}")
    said["again"] = ""
    while time.time() < began + 400 and not said["again"]:
        up = exp.run(LOOK, [other], timeout=20).iloc[0]
        if up["ok"] and int(up["out"].split()[0]) < time.time() - began:
            said["again"] = up["out"]
    said["last"] = str(up.to_dict())
    print(json.dumps(said))
""".strip(),
    )
    said = answer(start(script, bed, tmp_path), timeout=800)
    assert "<" in said["html"]
    for name in ("vm-1", "vm-2"):
        assert said["deployed"][name].split()[1:3] == [name, "/dev/vda1"]
    assert said["policy"] == "", "services start again once the packages are installed"
    assert said["interrupted"]
    assert said["server"][0] == said["server"][1], "the server was made, and started, once"
    assert json.loads(said["left"]) == [], "what was interrupted was ended there, too"
    assert said["again"], said["last"]
    assert said["again"].split()[2] == "/dev/vda1", "it came back from its disk"
    events = read_events(tmp_path / "k" / "journal.jsonl")
    begun = [e for e in events if (e.step, e.kind, e.status) == ("deployment", "run", "start")]
    assert [e.detail["provisioner"] for e in begun] == ["kadeploy3", "kadeploy3"]
    tables = Measurements.of(events)
    assert list(tables.deployments["deployed"]) == [2, 0]
    assert list(tables.deployments["failed"]) == [0, 1]
    assert list(tables.vms["reason"].fillna("")) == ["", "", "interrupted"]
    steps = tables.attempts
    known = {"minimal-system", "partition", "image", "identity", "bootloader", "boot", "ready", "login"}
    assert known <= set(steps["step"])
    (image,) = {(e.detail["environment"], e.detail["sha256"]) for e in begun}
    written = f"name={image[0]}\nsha256={image[1]}\ndeployment=d1.1"
    assert [text.strip() for text in said["identity"]] == [written] * 2, "as the built-in workflow leaves it"
    assert list((tmp_path / "k" / "figures").iterdir())
