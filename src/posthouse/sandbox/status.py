"""How far the sandbox has come: a small file that tells a coordinator whether all is quiet and when the next act is due."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct


class Status(Struct, frozen=True):
    """A moment of the sandbox.

    at: the moment (microseconds on the rehearsal's clock) of writing; serial: grows with every change.
    accepted, refused: how many records of each kind there are, whether or not they are written to the record file; accepted["dot"] is the
    number of recipients' copies taken, and everything that people will do about those is already in `pending`.
    pending: acts to come, by kind, those that run now included. next_due, last_due: the first and the last moment of the acts that wait.
    """

    serial: int
    at: int
    accepted: dict[str, int]
    refused: dict[str, int]
    pending: dict[str, int]
    in_flight: int
    next_due: int | None
    last_due: int | None

    def is_quiet(self, copies: int, now: int) -> bool:
        """Whether at least this many copies were noticed and nothing is running or due by `now` (microseconds)."""
        nothing_due = self.next_due is None or self.next_due > now
        return self.accepted.get("dot", 0) >= copies and not self.in_flight and nothing_due


class StatusFile:
    """Writes the file, whole or not at all, when something has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.new")
        self._last: Status | None = None

    def write(self, status: Status) -> None:
        """Write a status unless only its time and serial differ from what the file says; the serial is set here."""
        serial = self._last.serial if self._last else 0
        if self._last is not None and msgspec.structs.replace(status, serial=serial, at=self._last.at) == self._last:
            return
        self._last = msgspec.structs.replace(status, serial=serial + 1)
        self._draft.write_bytes(msgspec.json.encode(self._last))
        self._draft.replace(self._path)


def read_status(path: Path) -> Status:
    """The status that the file holds."""
    return msgspec.json.decode(path.read_bytes(), type=Status)
