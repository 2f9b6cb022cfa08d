"""The outcome journal: one sender's answers on local disk, from the moment they are heard until the database has them.

A provider's 250 and our COMMIT cannot be one step. Whatever was answered is written here first, so a sender that is killed in
between tells the database when it comes back, and sends nothing twice that it had an answer for.

Segments are preallocated files, mapped into memory: a note is a copy into the page cache, which survives kill -9; `sync` makes it
survive the machine as well. One segment is kept in reserve, so that what is in flight can be written even when the disk is full;
then `is_full` says so and the sender claims nothing more. Record: length (4 bytes), CRC-32 of number and outcome (4),
number (8), msgpack Outcome. A length of zero ends a segment.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from posthouse.model.errors import DataDirectoryWrong, PosthouseError
from posthouse.model.outcomes import Outcome

_HEAD = struct.Struct("<IIQ")
_SUFFIX = ".journal"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


class JournalFull(PosthouseError):
    """The disk of the outcome journal is full: make room, and sending goes on by itself."""


class Journal:
    """The journal of one sender (node and slot); only one process may have it open."""

    def __init__(self, directory: Path, *, settled: int = 0, segment_bytes: int = 16 * 2**20) -> None:
        """directory: made if missing. settled: the last number that the database has, so that a journal whose files were lost goes on
        counting above it. Raises DataDirectoryWrong when another process has the journal, JournalFull without room to begin.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        # A sync in a thread must not find its descriptor closed, or another file behind it.
        self._rotating = threading.Lock()
        self._segment_bytes = segment_bytes
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DataDirectoryWrong(f"Another sender writes the journal in {directory}.") from error
        self._number = max(self._newest_number(), settled)
        self._position = 0
        self._reserve: Path | None = None
        if self.is_full:
            os.close(self._lock)
            raise JournalFull
        self._open_segment()

    @property
    def last_number(self) -> int:
        """The number of the newest record."""
        return self._number

    @property
    def is_full(self) -> bool:
        """Whether the reserve is in use and no other could be made: claim nothing until this is False again."""
        if self._reserve is None:
            self._allocate_reserve()
        return self._reserve is None

    def note(self, outcome: Outcome) -> int:
        """Write one outcome; returns its number. Raises JournalFull only when even the reserve is used up."""
        payload = _encode(outcome)
        end = self._position + _HEAD.size + len(payload)
        # Four bytes stay zero at the end of every segment: the length that says "no more".
        if end + 4 > self._segment_bytes:
            self._rotate()
            end = self._position + _HEAD.size + len(payload)
        self._number += 1
        number = self._number
        start = self._position + _HEAD.size
        self._map[start:end] = payload
        # The head goes last: a record whose head is there is whole.
        self._map[self._position : start] = _HEAD.pack(len(payload), _checksum(number, payload), number)
        self._position = end
        return number

    def sync(self) -> None:
        """Force what was noted to the disk; blocks, so call it from a thread."""
        with self._rotating:
            os.fdatasync(self._descriptor)

    def replay(self, after: int) -> Iterator[tuple[int, Outcome]]:
        """Every record with a number above `after`, in order."""
        segments = self._segments()
        for segment, following in zip(segments, [*segments[1:], None], strict=True):
            if following is not None and _first_number(following) - 1 <= after:
                continue
            for number, payload in _records(segment):
                if number > after:
                    yield number, _decode(payload)

    def prune(self, settled: int, older_than: float) -> int:
        """Remove segments that are wholly settled and were last written before `older_than` (seconds since 1970)."""
        removed = 0
        segments = self._segments()
        for segment, following in itertools.pairwise(segments):
            if _first_number(following) - 1 <= settled and segment.stat().st_mtime < older_than:
                segment.unlink()
                removed += 1
        return removed

    def close(self) -> None:
        """Sync and let another process have the journal."""
        self.sync()
        self._map.close()
        os.close(self._descriptor)
        if self._reserve is not None:
            self._reserve.unlink(missing_ok=True)
        os.close(self._lock)

    def _segments(self) -> list[Path]:
        return sorted(self._directory.glob("[0-9]" * 20 + _SUFFIX))

    def _newest_number(self) -> int:
        segments = self._segments()
        if not segments:
            return 0
        return max((number for number, _ in _records(segments[-1])), default=_first_number(segments[-1]) - 1)

    def _open_segment(self) -> None:
        """Turn the reserve into the current segment, and try to make another reserve."""
        assert self._reserve is not None
        path = self._directory / f"{self._number + 1:020d}{_SUFFIX}"
        self._reserve.rename(path)
        self._reserve = None
        self._descriptor = os.open(path, os.O_RDWR)
        self._map = mmap.mmap(self._descriptor, self._segment_bytes)
        self._position = 0
        self._allocate_reserve()

    def _rotate(self) -> None:
        if self.is_full:
            raise JournalFull
        with self._rotating:
            os.fdatasync(self._descriptor)
            self._map.close()
            os.close(self._descriptor)
            self._open_segment()

    def _allocate_reserve(self) -> None:
        path = self._directory / "reserve"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._segment_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            path.unlink(missing_ok=True)
            return
        self._reserve = path


def _checksum(number: int, payload: bytes) -> int:
    return zlib.crc32(payload, (number ^ number >> 32) & 0xFFFFFFFF)


def _first_number(segment: Path) -> int:
    return int(segment.name.removesuffix(_SUFFIX))


def _records(segment: Path) -> Iterator[tuple[int, bytes]]:
    data = segment.read_bytes()
    position = 0
    while position + _HEAD.size <= len(data):
        length, checksum, number = _HEAD.unpack_from(data, position)
        start = position + _HEAD.size
        payload = data[start : start + length]
        if length == 0 or _checksum(number, payload) != checksum:
            return
        yield number, payload
        position = start + length
