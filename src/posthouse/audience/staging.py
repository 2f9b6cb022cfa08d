"""Staging: the rows of a table as lines for COPY, the invalid ones as lines of the reject file."""

from __future__ import annotations

import asyncio
import csv
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import msgspec
from msgspec import Struct

from posthouse.audience.delimited import BrokenRow
from posthouse.audience.encoding import DAMAGE
from posthouse.audience.table import Table
from posthouse.mail.address import parse_address
from posthouse.model.errors import AddressWrong, ImportWrong

_encode = msgspec.json.Encoder().encode
# Rows that are handed to COPY at once.
_BATCH = 1_000
_BATCHES_WAITING = 8
# Batches of one COPY. It must end well within the pool's time limit, by which alone a COPY notices a lost connection.
_BATCHES_A_COPY = 40
_LONGEST_VALUE = 4_096
_SHOWN = 80
# A spreadsheet that opens the reject file must not run what a stranger wrote in a cell.
_FORMULA_SIGNS = ("=", "+", "-", "@")
# The plain addresses that nearly every row has; anything else takes the thorough way.
_PLAIN = re.compile(
    r"([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63})\Z"
)


class ImportProgress(Struct, frozen=True):
    """How far an import is: rows read."""

    rows: int


class Staging:
    """Turns rows into lines for COPY, and writes the invalid ones to the reject file.

    Rows of one address go to one stream, so each stream can join its doubles and merge on a connection of its own.
    """

    def __init__(self, table: Table, rejects: Path | None, streams: int) -> None:
        self.streams = streams
        self.ended = [False] * streams
        self.rows = 0
        self.rejected = 0
        self.last_row = 0
        self.unusual = False
        self._table = table
        self._queues: list[asyncio.Queue[bytes | None]] = [asyncio.Queue(_BATCHES_WAITING) for _ in range(streams)]
        self._rejects_path = rejects
        self._rejects: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rejects is not None:
            self._rejects.close()

    async def read(self, progress: Callable[[ImportProgress], None]) -> None:
        """Read the file to its end; waits while the database is behind."""
        batches: list[list[bytes]] = [[] for _ in self._queues]
        for stream, line in self._lines():
            batch = batches[stream]
            batch.append(line)
            if len(batch) == _BATCH:
                await self._queues[stream].put(b"".join(batch))
                batch.clear()
                progress(ImportProgress(self.rows))
        for queue, batch in zip(self._queues, batches, strict=True):
            await queue.put(b"".join(batch))
            await queue.put(None)
        progress(ImportProgress(self.rows))

    async def batches(self, stream: int) -> AsyncIterator[bytes]:
        """The lines of one stream for one COPY, some thousand at a time."""
        for _ in range(_BATCHES_A_COPY):
            batch = await self._queues[stream].get()
            if batch is None:
                self.ended[stream] = True
                return
            yield batch

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        columns = self._table.columns
        email_position, fields, says_no = columns.email, columns.fields, columns.says_no
        has_consent = bool(columns.consent or columns.departure)
        width = len(columns.names)
        plain = _PLAIN.match
        for number, row in self._table.rows:
            if isinstance(row, BrokenRow):
                self.rows += 1
                self._reject(number, 0, row.text, row.reason)
                continue
            if len(row) < width:
                row += [""] * (width - len(row))
            elif len(row) > width and any(row[width:]):
                self.rows += 1
                self._reject(
                    number,
                    width - 1,
                    row[width],
                    f"The row has {len(row)} cells for {width} columns; is a quote missing?",
                )
                continue
            text = row[email_position].strip()
            if not text and not any(cell.strip() for cell in row):
                continue
            self.rows += 1
            match = plain(text)
            if match is not None and len(match[1]) <= 64 and len(text) <= 254 and "xn--" not in text:
                email = f"{match[1]}@{match[2].lower()}"
            else:
                thorough = self._unusual_address(number, text)
                if thorough is None:
                    continue
                email = thorough
            values = {name: value for name, position in fields if (value := row[position].strip())}
            encoded = self._encoded(number, row, values)
            if encoded is None:
                continue
            if b"\\" in encoded:
                encoded = encoded.replace(b"\\", b"\\\\")
            key = (email.lower() if email.isascii() else self._unusual_key(email)).encode()
            self.last_row = number
            yield (
                zlib.crc32(key) % self.streams,
                b"%d\t%b\t%b\t%b\t%b\n"
                % (number, key, email.encode(), encoded, b"t" if has_consent and says_no(row) else b"f"),
            )

    def _unusual_address(self, number: int, text: str) -> str | None:
        """The address in its normal form; None when the row is rejected."""
        reason = self._damaged()
        if DAMAGE not in text:
            try:
                return parse_address(text).text
            except AddressWrong as error:
                reason = str(error) if text else "The row has no email address."
        self._reject(number, self._table.columns.email, text, reason)
        return None

    def _encoded(self, number: int, row: list[str], values: dict[str, str]) -> bytes | None:
        """The fields as JSON; None when the row is rejected."""
        email_position, fields = self._table.columns.email, self._table.columns.fields
        try:
            encoded = _encode(values)
        except UnicodeEncodeError:
            self._reject(number, email_position, row[email_position], self._damaged())
            return None
        if len(encoded) > _LONGEST_VALUE and (long := self._too_long(row, fields)) is not None:
            self._reject(number, long, row[long], f"The value is longer than {_LONGEST_VALUE} characters.")
            return None
        # JSON has a NUL as these six characters, but so can a cell.
        if b"\\u0000" in encoded and any("\0" in value for value in values.values()):
            self._reject(number, email_position, row[email_position], "The row has NUL characters.")
            return None
        return encoded

    def _damaged(self) -> str:
        return f"The row has bytes that are not {self._table.encoding} text."

    def _unusual_key(self, email: str) -> str:
        """Lower case sign by sign, as PostgreSQL has it: both spellings of one address must meet in one stream."""
        self.unusual = True
        return "".join(sign.lower()[0] for sign in email)

    @staticmethod
    def _too_long(row: list[str], fields: tuple[tuple[str, int], ...]) -> int | None:
        return next((position for _, position in fields if len(row[position]) > _LONGEST_VALUE), None)

    def _reject(self, number: int, position: int, value: str, reason: str) -> None:
        self.rejected += 1
        if self._rejects_path is None:
            return
        if value.startswith(_FORMULA_SIGNS):
            value = f"'{value}"
        if self._rejects is None:
            try:
                self._rejects = self._rejects_path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            except OSError as error:
                raise ImportWrong(
                    f"The reject file {self._rejects_path} cannot be written: {error.strerror}."
                ) from error
            csv.writer(self._rejects).writerow(("row", "column", "value", "reason"))
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
        csv.writer(self._rejects).writerow((number, self._table.columns.names[position], shown, reason))
