"""Files with contacts: CSV and TSV in any common encoding, and XLSX. Read as a stream of rows, so that ten million fit into any memory."""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import charset_normalizer
import python_calamine
from msgspec import Struct

from posthouse.audience.columns import Columns, is_header, read_columns
from posthouse.model.errors import ImportWrong

_SAMPLE_BYTES = 256 * 1024
_SAMPLE_ROWS = 50
_LARGEST_CELL = 1024 * 1024
# What an XLSX may unpack to: its reader holds the sheet in memory.
_LARGEST_WORKBOOK = 1024 * 1024 * 1024
_DELIMITERS = ",;\t|"
_LIKELY_ENCODINGS = [
    "utf_8",
    "cp1252",
    "cp1250",
    "cp1251",
    "cp932",
    "euc_jp",
    "gb18030",
    "euc_kr",
    "cp1253",
    "cp1254",
    "iso8859_2",
]


class Table(Struct, frozen=True):
    """An open file. rows: (row number as a person counts them, cells as text); encoding: None for XLSX."""

    columns: Columns
    rows: Iterator[tuple[int, list[str]]]
    encoding: str | None


def open_table(path: Path, mapping: dict[str, str]) -> Table:
    """Open a file and understand its columns. mapping: column → field. Raises ImportWrong with one sentence."""
    try:
        if path.is_dir():
            raise ImportWrong(f"{path} is a folder, not a file.")
        with path.open("rb") as file:
            head = file.read(_SAMPLE_BYTES)
    except OSError as error:
        raise ImportWrong(f"{path} cannot be read: {error.strerror}.") from error
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        rows, encoding = _workbook_rows(path), None
    else:
        encoding = _encoding(path, head)
        rows = _text_rows(path, encoding, _delimiter(path, head, encoding))
    first = list(itertools.islice(rows, _SAMPLE_ROWS + 1))
    if not first:
        raise ImportWrong(f"{path} has no rows.")
    header = first[0][1] if is_header(first[0][1]) else None
    data = first[1:] if header is not None else first
    columns = read_columns([cell.strip() for cell in header] if header else None, [row for _, row in data], mapping)
    return Table(columns, itertools.chain(data, rows), encoding)


def _encoding(path: Path, head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf_16"
    if b"\x00" in head:
        raise ImportWrong(f"{path} is not a text file; save it as CSV or XLSX.")
    try:
        # The sample may end in the middle of a character.
        head[: len(head) - 4 if len(head) == _SAMPLE_BYTES else None].decode("utf-8-sig")
        return "utf-8-sig"
    except UnicodeDecodeError as error:
        if len(head) == _SAMPLE_BYTES and error.start >= len(head) - 8:
            return "utf-8-sig"
    best = charset_normalizer.from_bytes(head, cp_isolation=_LIKELY_ENCODINGS).best()
    return best.encoding if best is not None else "cp1252"


def _delimiter(path: Path, head: bytes, encoding: str) -> str:
    """The sign that parts the first rows most evenly."""
    text = head.decode(encoding, "replace").lstrip("\ufeff")
    best, best_score = ",", (0, 0)
    for delimiter in _DELIMITERS:
        try:
            rows = [
                row for row in itertools.islice(csv.reader(io.StringIO(text[:65536]), delimiter=delimiter), 20) if row
            ]
        except csv.Error:
            continue
        widths = [len(row) for row in rows[:-1] or rows]
        if not widths or max(widths) == 1:
            continue
        common = max(set(widths), key=widths.count)
        score = (widths.count(common) if common > 1 else 0, common)
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _text_rows(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_LARGEST_CELL)
    # Bytes that are no text in this encoding become lone surrogates, which make their own row invalid and no other.
    with path.open(
        encoding=encoding, errors="surrogateescape" if encoding != "utf_16" else "replace", newline=""
    ) as file:
        reader = csv.reader(file, delimiter=delimiter)
        number = 0
        try:
            for row in reader:
                number += 1
                if row:
                    yield number, row
        except csv.Error as error:
            raise ImportWrong(
                f"Row {number + 1} of {path} has a cell over {_LARGEST_CELL // 1024} kB; is a closing quote missing?"
            ) from error


def _workbook_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _LARGEST_WORKBOOK:
                    raise ImportWrong(f"{path} unpacks to more than 1 GB; save it as CSV.")
        sheet = python_calamine.CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0)
        for number, row in enumerate(sheet.to_python(skip_empty_area=False), 1):
            cells = [_cell_text(cell) for cell in row]
            if any(cells):
                yield number, cells
    except (python_calamine.CalamineError, zipfile.BadZipFile, OSError, IndexError) as error:
        raise ImportWrong(f"{path} is not a workbook that can be read; save it as CSV or XLSX.") from error


def _cell_text(cell: object) -> str:
    """A cell as a person would type it: whole numbers without a point, times in ISO 8601."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return "" if cell is None else str(cell)
