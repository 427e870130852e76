"""OAR's admission rule for jobs of the types ``day`` and ``night``, which keep to times of the usage policy.

A reservation that does not fit is refused, and a job that may start at any time waits for the first time in
which it fits: OAR itself knows jobs that are postponed. How Grid'5000's own rule is written is not public;
what it does is (`g5kvirt.planning.periods`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from g5kvirt.planning.periods import DAY_BEGINS, DAY_ENDS

__all__ = ["admission_rule", "statements"]

_HEAD = "# Jobs of the types day and night"
#: Days for which open times are looked for, from the day before the job on.
_DAYS = 40

#: In Perl, with the variables of all admission rules: types of the job, kinds and start of a reservation,
#: molds with their walltimes.
_RULE = """\
HEAD keep to the times of the usage policy
my ($period) = grep { /^(?:day|night)$/ } @{$type_list};
if (defined($period)) {
    require POSIX;
    local $ENV{TZ} = "Europe/Paris";
    POSIX::tzset();
    my %holiday = map { $_ => 1 } qw(HOLIDAYS);
    my $fixed = $reservationField eq "toSchedule";
    my $begin = $fixed ? $startTimeReservation : time();
    my $walltime = 0;
    foreach my $mold (@{$ref_resource_list}) {
        $walltime = $mold->[1] if (defined($mold->[1]) and $mold->[1] > $walltime);
    }
    my (undef, undef, undef, $mday, $month, $year) = localtime($begin);
    my @edges = (0);
    foreach my $day (-1 .. DAYS) {
        my @noon = localtime(POSIX::mktime(0, 0, 12, $mday + $day, $month, $year, 0, 0, -1));
        next if ($noon[6] == 0 or $noon[6] == 6 or $holiday{POSIX::strftime("%Y-%m-%d", @noon)});
        push(@edges, map { POSIX::mktime(0, 0, $_, $noon[3], $noon[4], $noon[5], 0, 0, -1) } (BEGINS, ENDS));
    }
    shift(@edges) if ($period eq "day");
    my $open;
    while (@edges > 1) {
        my ($from, $to) = splice(@edges, 0, 2);
        $from = $begin if ($from < $begin);
        next if ($from + $walltime > $to or ($fixed and $from > $begin));
        $open = $from;
        last;
    }
    my $refusal = "[ADMISSION RULE] Error: a job of the type $period cannot run then for so long\\n";
    die($refusal) unless (defined($open));
    if ($open > $begin) {
        my $date = POSIX::strftime("%Y-%m-%d %H:%M:%S", localtime($open));
        print("[ADMISSION RULE] A job of the type $period starts at $date at the earliest\\n");
        push(@{$type_list}, "postpone=$date");
    }
}
"""


def admission_rule(holidays: Sequence[date]) -> str:
    """The rule, in Perl; ``holidays``: working days on which nobody works."""
    values = {
        "HEAD": _HEAD,
        "HOLIDAYS": " ".join(map(str, holidays)),
        "DAYS": str(_DAYS),
        "BEGINS": str(DAY_BEGINS),
        "ENDS": str(DAY_ENDS),
    }
    rule = _RULE
    for name, value in values.items():
        rule = rule.replace(name, value)
    return rule


def statements(holidays: Sequence[date]) -> str:
    """SQL that makes it one of OAR's rules, after those of the types and of the default walltime."""
    text = admission_rule(holidays).replace("'", "''")
    return (
        f"DELETE FROM admission_rules WHERE rule LIKE '{_HEAD}%';\n"  # noqa: S608 - only what is made here
        f"INSERT INTO admission_rules (priority, enabled, rule) VALUES (17, 'YES', '{text}');\n"
    )
