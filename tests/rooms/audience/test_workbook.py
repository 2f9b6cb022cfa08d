"""Workbooks: read as a person sees them, by a child process that no file can make take all memory."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from posthouse.audience.workbook import read_workbook
from posthouse.model.errors import ImportWrong

_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
    "</Types>",
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" Type="{_OFFICE}/officeDocument" '
    'Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="r1" Type="{_OFFICE}/worksheet" '
    'Target="worksheets/sheet1.xml"/><Relationship Id="r2" Type="'
    + _OFFICE
    + '/styles" Target="styles.xml"/></Relationships>',
    "xl/styles.xml": f'<styleSheet xmlns="{_SHEET}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
}


def text(place: str, value: str) -> str:
    """A cell of text."""
    return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'


def workbook(path: Path, *rows: tuple[int, str]) -> Path:
    """A workbook with one sheet of these (row number, cells)."""
    body = "".join(f'<row r="{number}">{cells}</row>' for number, cells in rows)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in _PARTS.items():
            archive.writestr(name, part)
        archive.writestr(
            "xl/worksheets/sheet1.xml", f'<worksheet xmlns="{_SHEET}"><sheetData>{body}</sheetData></worksheet>'
        )
    return path


def test_cells_read_as_a_person_sees_them(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "p.xlsx",
        (1, text("A1", "Email") + text("B1", "Phone") + text("C1", "Joined") + text("D1", "Agrees")),
        (
            2,
            text("A2", "ann@example.org")
            + '<c r="B2"><v>491511234567</v></c><c r="C2" s="1"><v>45000</v></c><c r="D2" t="b"><v>1</v></c>',
        ),
        (3, text("A3", "Bob") + '<c r="B3"><v>1.5</v></c>'),
    )
    assert list(read_workbook(path)) == [
        (1, ["Email", "Phone", "Joined", "Agrees"]),
        (2, ["ann@example.org", "491511234567", "2023-03-15", "true"]),
        (3, ["Bob", "1.5", "", ""]),
    ]


def test_rows_keep_their_numbers_when_the_sheet_begins_further_down(tmp_path: Path) -> None:
    path = workbook(tmp_path / "p.xlsx", (3, text("B3", "Email")), (5, text("B5", "ann@example.org")))
    assert [number for number, _ in read_workbook(path)] == [3, 5]


def test_one_cell_in_the_last_corner_costs_a_sentence_and_not_512_gigabytes(tmp_path: Path) -> None:
    path = workbook(tmp_path / "p.xlsx", (1, text("A1", "Email")), (1_048_576, text("XFD1048576", "x")))
    with pytest.raises(ImportWrong, match="cells too far apart"):
        list(read_workbook(path))


def test_what_is_no_workbook_is_told(tmp_path: Path) -> None:
    junk, other = tmp_path / "junk.xlsx", tmp_path / "other.xlsx"
    junk.write_bytes(b"PK\x03\x04 and nothing else")
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "not a sheet")
    for path in (junk, other):
        with pytest.raises(ImportWrong, match="is not a workbook that can be read"):
            list(read_workbook(path))


def test_a_workbook_that_unpacks_to_more_than_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.xlsx"
    megabyte = bytes(1024 * 1024)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("xl/a.xml", "w") as part,
    ):
        for _ in range(1025):
            part.write(megabyte)
    with pytest.raises(ImportWrong, match="more than 1 GB"):
        next(read_workbook(path))


def test_reading_may_stop_at_any_row(tmp_path: Path) -> None:
    rows = read_workbook(workbook(tmp_path / "p.xlsx", *((n, text(f"A{n}", "x" * 1_000)) for n in range(1, 2_000))))
    assert next(rows)[0] == 1
    rows.close()  # type: ignore[attr-defined]
