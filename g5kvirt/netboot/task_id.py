"""The id of a deployment task: in the task file, in the VM's reports, and in what was deployed."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["TaskId"]


@dataclass(frozen=True, slots=True)
class TaskId:
    """One attempt of one deployment on a VM, written as ``d1.2``."""

    deployment: str
    attempt: int  #: from 1 on; 0 where a text names none

    def __str__(self) -> str:
        return f"{self.deployment}.{self.attempt}" if self.attempt else self.deployment

    @classmethod
    def parse(cls, text: str) -> TaskId:
        """Read an id. A text that names no attempt is all deployment, with attempt 0, which never matches."""
        deployment, _, attempt = text.rpartition(".")
        if not deployment or not re.fullmatch(r"[0-9]{1,9}", attempt):
            return cls(text, 0)
        return cls(deployment, int(attempt))
