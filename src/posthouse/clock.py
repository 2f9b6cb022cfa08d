"""Wall clocks: the real one, and one that a rehearsal can move forward for every process at once."""

from __future__ import annotations

import mmap
import os
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

_OFFSET = struct.Struct("<q")


class SystemClock:
    """The machine's own wall clock."""

    def now(self) -> datetime:
        """The present moment in UTC."""
        return datetime.now(UTC)  # noqa: TID251 -- this is the one place that asks the machine

    def now_us(self) -> int:
        """The present moment in microseconds since 1970."""
        return time.time_ns() // 1000


class JumpingClock:
    """The machine's clock plus an offset that all processes of a rehearsal share through one small file.

    The file holds the offset in microseconds as 8 little-endian bytes; time never runs backwards.
    """

    def __init__(self, path: Path) -> None:
        """path: the shared file; it is made, with no offset, where it is missing."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < _OFFSET.size:
                os.ftruncate(descriptor, _OFFSET.size)
            self._shared = mmap.mmap(descriptor, _OFFSET.size)
        finally:
            os.close(descriptor)

    def now(self) -> datetime:
        """The present moment of the rehearsal, in UTC."""
        return datetime.now(UTC) + timedelta(microseconds=self._offset())  # noqa: TID251

    def now_us(self) -> int:
        """The present moment of the rehearsal in microseconds since 1970."""
        return time.time_ns() // 1000 + self._offset()

    def jump_to(self, moment: datetime) -> None:
        """Move the time to `moment` for every process; a moment that has passed changes nothing."""
        ahead = moment - self.now()
        if ahead > timedelta(0):
            _OFFSET.pack_into(self._shared, 0, self._offset() + int(ahead / timedelta(microseconds=1)))

    def _offset(self) -> int:
        (offset,) = _OFFSET.unpack_from(self._shared, 0)
        return int(offset)
