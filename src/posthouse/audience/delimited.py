"""Delimited text: rows out of CSV, TSV and their cousins, in which quotes go missing and lines break in the middle of a cell."""

from __future__ import annotations

import csv
import io
import itertools
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from msgspec import Struct

from posthouse.audience.encoding import DAMAGE_ERRORS
from posthouse.model.errors import ImportWrong

_LARGEST_CELL = 1024 * 1024
_SAMPLE_CHARACTERS = 65_536
_SAMPLE_ROWS = 20
_DELIMITERS = ",;\t|"
_EXCEL_HINT = "sep="


class BrokenRow(Struct, frozen=True):
    """A line that cannot be parted into cells. reason: a sentence."""

    text: str
    reason: str


Row = list[str] | BrokenRow


def find_delimiter(path: Path, encoding: str) -> str:
    """The sign that parts the first rows most evenly, or the one that Excel's first line `sep=;` names."""
    with path.open(encoding=encoding, errors=DAMAGE_ERRORS, newline="") as file:
        text = file.read(_SAMPLE_CHARACTERS).lstrip("\ufeff")
    if text.startswith(_EXCEL_HINT) and text[4:5] in tuple(_DELIMITERS) and text[5:6] in ("\r", "\n"):
        return text[4]
    best, best_score = ",", (0, 0)
    for delimiter in _DELIMITERS:
        try:
            rows = [
                row for row in itertools.islice(csv.reader(io.StringIO(text), delimiter=delimiter), _SAMPLE_ROWS) if row
            ]
        except csv.Error:
            continue
        widths = [len(row) for row in rows[:-1] or rows]
        common = max(set(widths), key=widths.count, default=1)
        score = (widths.count(common) if common > 1 else 0, common)
        if score > best_score:
            best, best_score = delimiter, score
    return best


def read_rows(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, Row]]:
    """Row number (from 1, empty rows counted) and cells, empty rows left out.

    A line with text behind a closing quote breaks alone: the lines that the stray quote had drawn in are read again. Bytes that the
    encoding does not have become DAMAGE. Raises ImportWrong for a quote that is never closed and for a cell over 1 MB.
    """
    csv.field_size_limit(_LARGEST_CELL)
    with path.open(encoding=encoding, errors=DAMAGE_ERRORS, newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        number = 0
        while True:
            lines.taken.clear()
            number += 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if lines.ended or "field limit" in str(error):
                    raise ImportWrong(
                        f"Row {number} of {path} has a cell that does not end before the file or 1 MB does; "
                        "is a closing quote missing?"
                    ) from error
                yield number, BrokenRow(lines.taken[0].rstrip("\r\n"), "There is text behind a closing quote.")
                lines.put_back(1)
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
                continue
            if row and not (number == 1 and row[0].lower().startswith(_EXCEL_HINT)):
                yield number, row


class _Lines:
    """The lines of a file, of which those that the present row took can be put back."""

    def __init__(self, file: TextIO) -> None:
        self.taken: list[str] = []
        self.ended = False
        self._readline = file.readline
        self._again: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._readline(_LARGEST_CELL + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self.taken.append(line)
        return line

    def put_back(self, first: int) -> None:
        """Read the lines that the present row took again, from its line number `first` (counted from 0) on."""
        self._again.extendleft(reversed(self.taken[first:]))
