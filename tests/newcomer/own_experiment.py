"""What a newcomer types: ``python own_experiment.py TESTBED IMAGE GUEST``; results.json has what came out."""

from __future__ import annotations

import json
import sys

from g5kvirt import Experiment, Group, Link, Spec

testbed, image, guest = sys.argv[1:]
spec = Spec(
    sites={"nancy": 1, "rennes": 1},
    vms=[Group("server", 1), Group("client", 2)],
    vm={"memory": 512, "disk": 512},
    placement="grouped-sites",
    links=[Link("client", "server", rate="20mbit")],
    guest=guest,
)
with Experiment(spec, testbed=testbed, name="own") as exp:
    exp.reserve()
    exp.deploy()
    exp.configure()
    exp.place()
    exp.launch()
    measured = exp.measure(environment=image)
    links = exp.measure_links()
    server = exp.run("iperf3 --server", group="server", background=True)
    address = exp.frames.vms.set_index("name")["ip"]["server-1"]
    # the server runs one test at a time and is busy for a moment after each; iperf3 says so in its JSON only
    once = f"iperf3 --client {address} --time 3 --omit 1 --json > $i.json && ! grep -q '\"error\"' $i.json"
    command = f"for i in 1 2 3 4 5; do until {once}; do sleep 1; done; done"
    client = exp.run(command, ["client-1"], timeout=300, background=True)
    ended = client.result()
    assert ended["ok"].all(), ended.to_string()
    exp.get("/root", exp.path / "got", ["client-1"])
    version = exp.run("iperf3 --version", ["client-1"])["out"].iloc[0].split(" (")[0]
    server.stop()

files = sorted((exp.path / "got/client-1/root").glob("*.json"))
documents = [json.loads(file.read_text()) for file in files]
for document in documents:
    assert "error" not in document, document["error"]
rates = [document["end"]["sum_received"]["bits_per_second"] for document in documents]
table = exp.frames.vms.iloc[[1] * len(rates)][["name"]].assign(mbit_per_s=[rate / 1e6 for rate in rates])
table.to_csv(exp.path / "transfers.csv", index=False)
picture = exp.figures.of(table, x="name", y="mbit_per_s", ylabel="received (Mbit/s)")
picture.save(exp.path / "figures" / "transfers")
exp.figures.save(exp.path / "figures")
row = picture.data.iloc[0]
found = {
    "links": [None if rate != rate else rate for rate in links["measured_rate"]],  # NaN: not measured
    "iperf": rates,
    "version": version,
    "interval": [row["ci_low"], row["median"], row["ci_high"]],
    "figures": len(list((exp.path / "figures").glob("*.pdf"))),
}
(exp.path / "results.json").write_text(json.dumps(found))
print(repr(measured).splitlines()[0])
