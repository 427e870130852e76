"""Run commands and copy files on many hosts in parallel, over ssh or TakTuk."""

from g5kvirt.remote.access import Access
from g5kvirt.remote.fanout import TREE_FROM, Fanout
from g5kvirt.remote.files import File
from g5kvirt.remote.result import Result
from g5kvirt.remote.stream import Stream

__all__ = ["TREE_FROM", "Access", "Fanout", "File", "Result", "Stream"]
