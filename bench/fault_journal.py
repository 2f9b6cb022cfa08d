"""The outcome journals of a data directory, read from outside while senders write them."""

from __future__ import annotations

import struct
from pathlib import Path

_HEAD = struct.Struct("<IIQ")


class JournalFollower:
    """Follows the newest segment of one sender."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.segment = ""
        self.number = 0
        self.position = 0
        self.look()

    def look(self) -> bool:
        """Read what was noted since the last look; returns whether a new segment has begun."""
        names = [path.name for path in self._folder.glob("*.journal")]
        newest = max(names, default="")
        rotated = bool(newest) and newest != self.segment
        if rotated:
            self.segment, self.position = newest, 0
            self.number = max(self.number, int(newest.partition(".")[0]) - 1)
        if newest:
            self._read()
        return rotated

    def _read(self) -> None:
        with (self._folder / self.segment).open("rb") as file:
            file.seek(self.position)
            data = file.read(1 << 20)
        at = 0
        while at + _HEAD.size <= len(data):
            length, _, number = _HEAD.unpack_from(data, at)
            if length == 0 or at + _HEAD.size + length > len(data):
                break
            self.number = number
            at += _HEAD.size + length
        self.position += at


class Journals:
    """All journals of one data directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._followers: dict[int, JournalFollower] = {}

    def look(self) -> dict[int, JournalFollower]:
        """Every journal by slot, up to date."""
        for folder in self._folder.glob("sender-*"):
            slot = int(folder.name.removeprefix("sender-"))
            if slot not in self._followers:
                self._followers[slot] = JournalFollower(folder)
            self._followers[slot].look()
        return self._followers
