"""The sandbox's own account of what it received and what its people did: one JSON line each, apart from the sender's ledger."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import msgspec
from msgspec import Struct

from posthouse.model.closed_list import ClosedList
from posthouse.model.ports import Clock
from posthouse.sandbox.moments import moment


class RecordKind(ClosedList):
    """What a line tells."""

    CONNECT = "connect", "A connection was refused at its greeting."
    MAIL = "mail", "A transaction was refused at MAIL."
    RCPT = "rcpt", "A recipient was refused."
    DOT = "dot", "A whole message was accepted or refused after its final dot."
    DROPPED = "dropped", "The connection was cut in the middle of a transaction."
    OPENED = "opened", "A person opened the message: the pixel was fetched."
    CLICKED = "clicked", "A person followed a link."
    UNSUBSCRIBED = "unsubscribed", "A person left the list by one-click POST (RFC 8058)."
    COMPLAINED = "complained", "A person reported spam: an ARF report was sent (RFC 5965)."
    DSN = "dsn", "An accepted message was returned by a delivery status notification (RFC 3464)."


class Record(Struct, frozen=True):
    """One line.

    message_id: the header's value as written, angle brackets included; empty before the content is known.
    t: microseconds since 1970 on the rehearsal's clock; mono: time.monotonic() when the answer was written.
    code and text: the answer that was given, or for an act of people and for a DSN the answer that was heard (0: none).
    accepted: a message was taken, or an act succeeded. withheld: the answer was never written.
    """

    kind: RecordKind
    t: int
    mono: float
    provider: str
    rcpt: str
    return_path: str
    message_id: str
    code: int
    text: str
    accepted: bool
    withheld: bool = False


class Note(Struct):
    """A record that waits for its answer to be written, which gives it its time."""

    kind: RecordKind
    provider: str
    rcpt: str = ""
    return_path: str = ""
    message_id: str = ""
    code: int = 0
    text: str = ""
    accepted: bool = False
    withheld: bool = False


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Record)


class Records:
    """Writes the lines, buffered; whoever owns it calls flush at least every 50 ms and close at the end."""

    def __init__(self, path: Path, clock: Clock, *, keep: bool = True) -> None:
        """keep: False counts and writes no line."""
        self._clock = clock
        self._keep = keep
        self._lines: list[bytes] = []
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def write(self, note: Note) -> None:
        """Add one line, stamped with the present moment."""
        (self.accepted if note.accepted else self.refused)[note.kind] += 1
        if not self._keep:
            return
        record = Record(
            note.kind,
            moment(self._clock),
            monotonic(),
            note.provider,
            note.rcpt,
            note.return_path,
            note.message_id,
            note.code,
            note.text,
            note.accepted,
            note.withheld,
        )
        self._lines.append(_ENCODER.encode(record))

    def flush(self) -> None:
        """Hand every line to the operating system."""
        if not self._lines:
            return
        self._lines.append(b"")
        rest = memoryview(b"\n".join(self._lines))
        self._lines.clear()
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        os.close(self._file)


def read_records(path: Path) -> Iterator[Record]:
    """Every whole line of a record file, in the order of writing; a last line that is still being written is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield _DECODER.decode(line)
