"""What comes over a connection to a frontend: the marked answer, and whatever else prints there."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

#: A motd, locale warnings, prompts of other shells, numbers and names that look like an answer.
WORDS = (
    "Welcome to nancy, 12 users are logged in",
    "14",
    "1234  job  g5k  Running",
    "OAR_JOB_ID=99",
    "no vlan found",
    "graphene-9.nancy.grid5000.fr",
    "    state = Running",
    "Job_Id: 99",
    "10.9.0.0/22\t10.9.3.255\t255.252.0.0\t10.11.255.254\t10.8.0.0\tdns\t10.0.0.1",
    "The deployment is successful on nodes",
    "-bash: warning: setlocale: LC_ALL: cannot change locale (fr_FR.UTF-8)",
    "perl: warning: Setting locale failed.",
    "\x1b]0;g5k@fnancy: ~\x07",
    "fish: Unknown command: module",
    "stty: 'standard input': Inappropriate ioctl for device",
    "mesg: ttyname failed",
    "echo \"$m-out:1\"; sed 's/^/$m-err:/'; echo $m-end:0",
    "",
)
PROMPTS = ("g5k@fnancy:~$ ", "fnancy% ", "> ", "\x1b[?2004h", "")

noise_lines = st.lists(st.sampled_from(WORDS) | st.text(max_size=30), max_size=4)
noise = st.lists(noise_lines, min_size=3, max_size=3)
prompts = st.sampled_from(PROMPTS)
ends = st.sampled_from(("\n", "\r\n", "\r\r\n"))


def connection(
    lines: Sequence[str],
    code: int | None = 0,
    noisy: Sequence[Sequence[str]] = ((), (), ()),
    prompt: str = "",
    end: str = "\r\n",
    errors: Sequence[str] = (),
) -> str:
    """What execo reads of a command that prints ``lines`` and ``errors``; noise before, between and after."""
    before, between, after = ([line.replace("g5kvirt-", "") for line in part] for part in noisy)
    text = list(before)
    for number, line in enumerate(lines):
        text += [f"{'' if number else prompt}g5kvirt-out:{line}", *between]
    text += [f"g5kvirt-err:{line}" for line in errors]
    text += ["g5kvirt-out:", "" if code is None else f"g5kvirt-end:{code}", *after]
    return end.join([*text, prompt])


def finished(stdout: str, stderr: str = "", exit_code: int | None = 0) -> Any:
    """execo's process that has printed this."""
    return SimpleNamespace(stdout=stdout, stderr=stderr, exit_code=exit_code, timeouted=False, timeout=30)
