"""Files with contacts: CSV and TSV in any common encoding, and XLSX. Read as a stream of rows, so that ten million fit into any memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from posthouse.audience.columns import Columns, is_header, names_the_address, read_columns
from posthouse.audience.delimited import BrokenRow, Row, find_delimiter, read_rows
from posthouse.audience.encoding import detect_encoding
from posthouse.audience.workbook import WORKBOOK_MAGIC, read_workbook
from posthouse.model.errors import ImportWrong

_MAGIC_BYTES = 8
# A title or a date may stand above the header.
_TITLE_ROWS = 10
_SAMPLE_ROWS = 50


class Table(Struct, frozen=True):
    """An open file. rows: (row number as a person counts them, cells as text, or a row that has none); encoding: None for XLSX."""

    columns: Columns
    rows: Iterator[tuple[int, Row]]
    encoding: str | None


def open_table(path: Path, mapping: dict[str, str]) -> Table:
    """Open a file and understand its columns. mapping: column → field. Raises ImportWrong with one sentence."""
    try:
        if path.is_dir():
            raise ImportWrong(f"{path} is a folder, not a file.")
        with path.open("rb") as file:
            head = file.read(_MAGIC_BYTES)
    except OSError as error:
        raise ImportWrong(f"{path} cannot be read: {error.strerror}.") from error
    if head.startswith(WORKBOOK_MAGIC):
        rows: Iterator[tuple[int, Row]] = read_workbook(path)
        encoding = None
    else:
        encoding = detect_encoding(path)
        rows = read_rows(path, encoding, find_delimiter(path, encoding))
    first = list(itertools.islice(filter(_says_something, rows), _SAMPLE_ROWS + 1))
    if not first:
        raise ImportWrong(f"{path} has no rows.")
    header, data = _split_header(first, mapping)
    columns = read_columns(header, [row for _, row in data if isinstance(row, list)], mapping)
    return Table(columns, itertools.chain(data, rows), encoding)


def _says_something(numbered: tuple[int, Row]) -> bool:
    row = numbered[1]
    return isinstance(row, BrokenRow) or any(cell.strip() for cell in row)


def _split_header(
    first: list[tuple[int, Row]], mapping: dict[str, str]
) -> tuple[list[str] | None, list[tuple[int, Row]]]:
    """The column names and the rows below them; None where the file begins with data.

    A row above the header is a title; only a row that names the address (or a mapped column) can have titles above it.
    """
    for n, (_, row) in enumerate(first[:_TITLE_ROWS]):
        if isinstance(row, BrokenRow) or not is_header(row):
            break
        if names_the_address(row, mapping):
            return [cell.strip() for cell in row], first[n + 1 :]
    top = first[0][1]
    if isinstance(top, BrokenRow):
        raise ImportWrong(f"Row 1 cannot be read: {top.reason}")
    return ([cell.strip() for cell in top], first[1:]) if is_header(top) else (None, first)
