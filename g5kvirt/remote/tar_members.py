"""Members of tar archives that come from machines and people who are not trusted."""

from __future__ import annotations

import tarfile

__all__ = ["UNREADABLE", "BoundedMember"]

#: What an archive of another form makes its reader raise: Python's reader trusts the numbers in it.
UNREADABLE = (OSError, EOFError, tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)

#: Headers that belong to the next member, such as its long name: all of one is read into memory.
_EXTENDED = frozenset(
    {
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    }
)
#: Bytes of such a header: a path has 4 KiB, and extended attributes 64.
_LONGEST = 1 << 20


class BoundedMember(tarfile.TarInfo):
    """For ``tarfile.open(tarinfo=…)``, which raises ReadError for a header that has no end.

    A size below 0 sends the reader back to where it was (CVE-2025-8194).
    """

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _EXTENDED and self.size > _LONGEST):
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found
