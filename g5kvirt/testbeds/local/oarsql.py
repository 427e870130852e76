"""The SQL that turns a new OAR 2.5 database into that of a Grid'5000 site. Pure: text from a description.

`schema` extends a new database (as ``oar-database --create`` makes it), `resources` fills it for a site. Both
are idempotent, and have to be run by the database's owner or superuser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network

from g5kvirt.testbeds.described.model import NodeDescription, SiteDescription
from g5kvirt.testbeds.local.reference import cpu_count

__all__ = ["POOL", "PROPERTIES", "SMALLEST_SUBNET", "resources", "schema"]

POOL = 18  #: prefix of each site's subnet pool
SMALLEST_SUBNET = 22  #: as on Grid'5000: the pool is allocated in /22

#: Columns that a Grid'5000 site adds to OAR's resources, as ``oarproperty -a`` would create them.
PROPERTIES: dict[str, str] = {
    **dict.fromkeys(("host", "cluster", "site", "ip"), "varchar(255)"),
    **dict.fromkeys(("vlan", "subnet_address"), "varchar(255)"),
    "maintenance": "varchar(255) DEFAULT 'NO'",
    **dict.fromkeys(("cpu", "core", "memnode", "subnet_prefix"), "integer"),
    **dict.fromkeys((f"slash_{prefix}" for prefix in range(POOL, SMALLEST_SUBNET + 1)), "integer"),
}

# OAR rejects unknown job types: add those of Grid'5000 to its rule.
_JOB_TYPES = r"qr/^origin=[\w.-]+$/, qr/^allow_classic_ssh$/, qr/^(?:exotic|night|day|destructive|monitor)$/,"

# A request for slash_NN means resources of the type subnet. The rule has to precede the rule of OAR that
# turns requests without a type into requests for the default type, i.e. cores.
_SUBNET_RULE = """# Requests for slash_NN take subnets
foreach my $mold (@{$ref_resource_list}) {
    foreach my $r (@{$mold->[0]}) {
        my @prefixes = map { $_->{resource} =~ /^slash_(\\d+)$/ ? $1 : () } @{$r->{resources}};
        next unless (@prefixes);
        foreach my $prefix (@prefixes) {
            next if ($prefix >= FIRST and $prefix <= LAST);
            die("[ADMISSION RULE] Error: slash_$prefix is not available: use slash_FIRST to slash_LAST\\n");
        }
        my $given = $r->{property};
        $r->{property} = "type = 'subnet'";
        $r->{property} = "($given) AND $r->{property}" if (defined($given) and $given ne "");
    }
}
""".replace("FIRST", str(POOL)).replace("LAST", str(SMALLEST_SUBNET))
# The nodes do not run OAR, which would have to start a job that is not for deployment: OAR would end the job
# with an error and mark the node as suspected.
_DEPLOY_RULE = """# Jobs with nodes are for deployment
unless (grep { /^(?:deploy|cosystem|noop)(?:=|$)/ } @{$type_list}) {
    foreach my $mold (@{$ref_resource_list}) {
        foreach my $r (@{$mold->[0]}) {
            my $given = defined($r->{property}) ? $r->{property} : "";
            next if ($given =~ /(?:^|[\\s(])type[\\s=]/);
            die("[ADMISSION RULE] Error: only deploy jobs may have nodes here: add -t deploy\\n");
        }
    }
}
"""
# OAR allows two waiting reservations per user; here one user stands for all users of the testbed.
_RESERVATIONS = 64
_ROWS_PER_STATEMENT = 1000


def _quote(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def schema() -> str:
    """Properties, admission rules and the read-only role ``oarreader`` (password ``read``) of Grid'5000."""
    columns = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in PROPERTIES.items())
    known = _quote("qr/^state=permissive$/,")
    return f"""SET client_min_messages = warning;
BEGIN;
ALTER TABLE resources {columns};
UPDATE admission_rules SET rule = replace(rule, {known}, {known} || {_quote(_JOB_TYPES)})
  WHERE position('unknown job type' in rule) > 0 AND position('origin=' in rule) = 0;
UPDATE admission_rules SET rule = replace(rule, '$max_nb_resa = 2;', '$max_nb_resa = {_RESERVATIONS};');
DELETE FROM admission_rules WHERE rule LIKE '# Requests for slash_NN%' OR rule LIKE '# Jobs with nodes are%';
INSERT INTO admission_rules (priority, enabled, rule) VALUES (16, 'YES', {_quote(_SUBNET_RULE)});
INSERT INTO admission_rules (priority, enabled, rule) VALUES (16, 'YES', {_quote(_DEPLOY_RULE)});
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'oarreader') THEN
    CREATE ROLE oarreader LOGIN PASSWORD 'read';
  END IF;
END $$;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO oarreader, oar_ro;
COMMIT;
"""  # noqa: S608 - only constants of this module


def resources(site: SiteDescription) -> str:
    """The resources of a site: a row for each core of each node, each vlan, each /22 of the subnet pool.

    Replaces all existing resources, so the database must not contain jobs.
    """
    out = ["BEGIN;", "TRUNCATE resources RESTART IDENTITY;"]
    for rows in (list(_core_rows(site)), list(_vlan_rows(site)), list(_subnet_rows(site))):
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            part = rows[start : start + _ROWS_PER_STATEMENT]
            columns = ", ".join(part[0])
            values = ",\n".join(f"({', '.join(map(_quote, row.values()))})" for row in part)
            out.append(f"INSERT INTO resources ({columns}) VALUES\n{values};")
    out += ["COMMIT;", "ANALYZE resources;", ""]
    return "\n".join(out)


def _row(site: SiteDescription, kind: str) -> dict[str, object]:
    # deploy='YES' on all: OAR requires it of every resource of a deploy job, including vlans and subnets.
    return {"type": kind, "site": site.name, "deploy": "YES", "maintenance": "NO"}


def _core_rows(site: SiteDescription) -> Iterator[Mapping[str, object]]:
    cpu = core = 0
    for node in site.nodes:
        for cpu_cores in _cores_by_cpu(node):
            cpu += 1
            for cpuset in cpu_cores:
                core += 1
                yield {
                    **_row(site, "default"),
                    "network_address": node.fqdn,
                    "host": node.fqdn,
                    "cluster": node.cluster,
                    "ip": node.ip,
                    "memnode": node.memory >> 20,
                    "cpu": cpu,
                    "core": core,
                    "cpuset": str(cpuset),
                }


def _cores_by_cpu(node: NodeDescription) -> list[range]:
    each = node.cores // cpu_count(node)
    return [range(i * each, (i + 1) * each) for i in range(cpu_count(node))]


def _vlan_rows(site: SiteDescription) -> Iterator[Mapping[str, object]]:
    names = {"local": "kavlan-local", "routed": "kavlan", "global": "kavlan-global"}
    for vlan in site.vlans:
        yield {**_row(site, names[vlan.kind]), "vlan": str(vlan.id)}


def _subnet_rows(site: SiteDescription) -> Iterator[Mapping[str, object]]:
    for network in site.subnet_pool.subnets(new_prefix=SMALLEST_SUBNET):
        slashes = {
            f"slash_{prefix}": _number_of(network, site.subnet_pool, prefix)
            for prefix in range(POOL, SMALLEST_SUBNET + 1)
        }
        yield {
            **_row(site, "subnet"),
            "subnet_address": str(network.network_address),
            "subnet_prefix": SMALLEST_SUBNET,
            **slashes,
        }


def _number_of(network: IPv4Network, pool: IPv4Network, prefix: int) -> int:
    """Number of the network of size ``prefix`` in the pool that contains ``network``, from 1."""
    distance = int(network.network_address) - int(pool.network_address)
    return (distance >> (32 - prefix)) + 1
