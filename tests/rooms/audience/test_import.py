"""Importing: real files of every kind into a real database."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from posthouse import audience
from posthouse.audience import ImportReport
from posthouse.db.pool import Pool
from posthouse.model.errors import ImportWrong

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)


async def load(pool: Pool, path: Path, at: datetime = AT, basis: str = "form", **mapping: str) -> ImportReport:
    """Import a file into the list “News” with the rejects beside it."""
    async with pool.acquire() as connection:
        chosen = await audience.ensure_list(connection, 1, "News", at)
    return await audience.import_contacts(
        pool,
        workspace_id=1,
        list_id=chosen.list_id,
        path=path,
        mapping=mapping,
        basis=basis,
        source="test",
        at=at,
        rejects=path.with_suffix(".rejects.csv"),
        progress=lambda _: None,
    )


async def contacts(pool: Pool) -> dict[str, dict[str, Any]]:
    """Address → fields of everybody."""
    return {row["email"]: row["fields"] for row in await pool.fetch("select email, fields from contacts")}


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
async def test_any_encoding_and_delimiter(pool: Pool, tmp_path: Path, encoding: str, delimiter: str) -> None:
    rows = [["E-Mail", "Prénom", "Ville"], *([f"a{n}@example.org", "Jürgen", "Besançon"] for n in range(8))]
    path = write(tmp_path / "people.csv", "\r\n".join(delimiter.join(row) for row in rows) + "\r\n", encoding)
    report = await load(pool, path)
    assert (report.added, report.rejected) == (8, 0)
    assert (await contacts(pool))["a3@example.org"] == {"prenom": "Jürgen", "ville": "Besançon"}


async def test_shift_jis_is_told_by_its_bytes(pool: Pool, tmp_path: Path) -> None:
    lines = "email,名前\n" + "".join(f"a{n}@example.jp,山田太郎さんの長い名前\n" for n in range(20))
    await load(pool, write(tmp_path / "jp.csv", lines, "shift_jis"))
    assert (await contacts(pool))["a7@example.jp"] == {"名前": "山田太郎さんの長い名前"}


async def test_invalid_rows_go_to_the_reject_file_with_number_column_and_reason(pool: Pool, tmp_path: Path) -> None:
    text = "Name,Email\nAnn,ann@example.org\nBob,bob.example.org\nCy,\nDee,dee@@example.org\n\nEve,eve@example.org\n"
    path = write(tmp_path / "p.csv", text)
    report = await load(pool, path)
    assert report == ImportReport(rows=5, added=2, updated=0, unchanged=0, merged=0, rejected=3)
    with path.with_suffix(".rejects.csv").open(encoding="utf-8", newline="") as file:
        rejects = list(csv.reader(file))
    assert rejects[0] == ["row", "column", "value", "reason"]
    assert [(row[0], row[1], row[2]) for row in rejects[1:]] == [
        ("3", "Email", "bob.example.org"),
        ("4", "Email", ""),
        ("5", "Email", "dee@@example.org"),
    ]
    assert "no @" in rejects[1][3]
    assert "no email address" in rejects[2][3]


async def test_the_same_file_twice_touches_no_row(pool: Pool, tmp_path: Path) -> None:
    text = "email,city\nann@example.org,Bonn\nANN@example.org,\nann@example.org,Rome\nbob@example.org,Oslo\n"
    path = write(tmp_path / "p.csv", text)
    first = await load(pool, path)
    before = await pool.fetch("select xmin::text, contact_id, email, fields from contacts order by contact_id")
    members = await pool.fetch("select xmin::text, * from memberships order by contact_id")
    second = await load(pool, path, LATER)
    assert first == ImportReport(rows=4, added=2, updated=0, unchanged=0, merged=2, rejected=0)
    assert second == ImportReport(rows=4, added=0, updated=0, unchanged=2, merged=2, rejected=0)
    assert await pool.fetch("select xmin::text, contact_id, email, fields from contacts order by contact_id") == before
    assert await pool.fetch("select xmin::text, * from memberships order by contact_id") == members
    assert (await contacts(pool))["ann@example.org"] == {"city": "Rome"}


async def test_the_later_row_wins_only_where_it_says_something(pool: Pool, tmp_path: Path) -> None:
    await load(pool, write(tmp_path / "a.csv", "email,city,plan\nAnn@Example.ORG,Bonn,pro\n"))
    report = await load(pool, write(tmp_path / "b.csv", "email,city,plan\nann@example.org,,free\n"), LATER)
    assert report.updated == 1
    assert await contacts(pool) == {"Ann@example.org": {"city": "Bonn", "plan": "free"}}


async def test_a_reimport_never_resubscribes_and_never_rewrites_consent(pool: Pool, tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "email\nann@example.org\nbob@example.org\n")
    await load(pool, path, basis="double opt-in")
    ann = await pool.fetchval("select contact_id from contacts where email like 'ann%'")
    async with pool.acquire() as connection:
        await audience.unsubscribe(connection, 1, 1, ann, LATER)
    await pool.execute(
        "insert into suppressions (workspace_id, address_key, scope, cause, at) values (1, 'bob@example.org', 'all', 'x', $1)",
        AT,
    )
    await load(pool, path, LATER, basis="bought list")
    rows = await pool.fetch("select contact_id, status, basis, since from memberships order by contact_id")
    assert [(row["status"], row["basis"], row["since"]) for row in rows] == [
        ("unsubscribed", "double opt-in", AT),
        ("subscribed", "double opt-in", AT),
    ]
    assert await pool.fetchval("select count(*) from suppressions where lifted_at is null") == 1


async def test_a_row_that_says_no_does_not_subscribe(pool: Pool, tmp_path: Path) -> None:
    await load(pool, write(tmp_path / "p.csv", "email,Status\nann@example.org,Unsubscribed\nbob@example.org,active\n"))
    rows = await pool.fetch("select k.email, m.status from memberships m join contacts k using (contact_id) order by 1")
    assert [tuple(row) for row in rows] == [("ann@example.org", "unsubscribed"), ("bob@example.org", "subscribed")]
    async with pool.acquire() as connection:
        assert await audience.count_recipients(connection, 1, 1) == 1


async def test_internationalised_addresses_are_kept(pool: Pool, tmp_path: Path) -> None:
    await load(pool, write(tmp_path / "p.csv", "email\njürgen@müller.example\ninfo@MÜLLER.example\n"))
    assert set(await contacts(pool)) == {"jürgen@xn--mller-kva.example", "info@xn--mller-kva.example"}


async def test_odd_cells(pool: Pool, tmp_path: Path) -> None:
    text = 'email,note\nann@example.org,"two\nlines; a ""quote"" and \\ and \t"\nbob@example.org\ncy@example.org,=1+1,extra\n'
    report = await load(pool, write(tmp_path / "p.csv", text))
    assert report.added == 3
    found = await contacts(pool)
    assert found["ann@example.org"] == {"note": 'two\nlines; a "quote" and \\ and'}
    assert found["bob@example.org"] == {}
    assert found["cy@example.org"]["note"] == "=1+1"


async def test_bytes_that_are_no_text_and_values_too_long_cost_one_row_each(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    good = b"".join(b"g%d@example.org,Stra\xc3\x9fe\n" % n for n in range(50_000))
    path.write_bytes(b"email,note\n" + good + b"bad@example.org,\xff\xfe\nlong@example.org," + b"x" * 5000 + b"\n")
    report = await load(pool, path)
    assert (report.added, report.rejected) == (50_000, 2)
    reasons = path.with_suffix(".rejects.csv").read_text(encoding="utf-8")
    assert "bytes that are not utf-8" in reasons
    assert "longer than 4096" in reasons


async def test_a_workbook(pool: Pool, tmp_path: Path) -> None:
    sheet = (
        '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
        '<row r="1"><c r="A1" t="inlineStr"><is><t>Email</t></is></c><c r="B1" t="inlineStr"><is><t>Age</t></is></c></row>'
        '<row r="2"><c r="A2" t="inlineStr"><is><t>ann@example.org</t></is></c><c r="B2"><v>42</v></c></row>'
        "</sheetData></worksheet>"
    )
    path = tmp_path / "p.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" '
            'ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" '
            'ContentType="application/xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
            'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>'
            '<sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
        )
        archive.writestr("xl/worksheets/sheet1.xml", sheet)
    await load(pool, path)
    assert await contacts(pool) == {"ann@example.org": {"age": "42"}}


@pytest.mark.parametrize(
    ("content", "mapping", "sentence"),
    [
        (b"", {}, "has no rows"),
        (b"name,city\nAnn,Bonn\n", {}, "no column with email addresses.*“name”, “city”.*--map"),
        (b"a,b\nann@example.org,bob@example.org\n", {}, "several columns with email addresses"),
        (b"email\nann@example.org\n", {"Mail": "email"}, "“Mail”, which the file has not; it has “email”"),
        (b"\x00\x01\x02binary", {}, "not a text file"),
        (b"PK\x03\x04 not a workbook", {}, "not a workbook"),
        (b'email,note\nann@example.org,"' + b"x" * 1_200_000, {}, "is a closing quote missing"),
    ],
)
async def test_a_file_that_cannot_be_understood_says_why_and_changes_nothing(
    pool: Pool, tmp_path: Path, content: bytes, mapping: dict[str, str], sentence: str
) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(ImportWrong, match=sentence):
        await load(pool, path, AT, "form", **mapping)
    assert await contacts(pool) == {}


async def test_a_folder_and_a_missing_file_are_told(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ImportWrong, match="is a folder"):
        await load(pool, tmp_path)
    with pytest.raises(ImportWrong, match="cannot be read: No such file"):
        await load(pool, tmp_path / "nowhere.csv")


async def test_mapping_names_the_address_and_renames_a_field(pool: Pool, tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "first,second,third\nann@a.example,bob@b.example,Rome\n")
    await load(pool, path, second="email", third="city")
    assert await contacts(pool) == {"bob@b.example": {"first": "ann@a.example", "city": "Rome"}}


_CHILD = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from posthouse import audience
from posthouse.db.pool import open_pool

async def main() -> None:
    pool = await open_pool(sys.argv[1])
    await audience.import_contacts(pool, workspace_id=1, list_id=1, path=Path(sys.argv[2]), mapping={}, basis=None, source="x",
                                   at=datetime(2026, 1, 1, tzinfo=UTC), rejects=None, progress=lambda _: None)
    await pool.close()

asyncio.run(main())
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def many(path: Path, rows: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.write("email,city\n")
        file.writelines(f"person{n}@example{n % 50}.org,Town {n}\n" for n in range(rows))
    return path


async def test_killed_in_the_middle_and_imported_again(pool: Pool, database_url: str, tmp_path: Path) -> None:
    path = many(tmp_path / "p.csv", 120_000)
    async with pool.acquire() as connection:
        await audience.ensure_list(connection, 1, "News", AT)
    process = subprocess.Popen([sys.executable, "-c", _CHILD, database_url, str(path)])
    deadline = time.monotonic() + 60
    while not await pool.fetchval("select exists (select 1 from contacts)") and time.monotonic() < deadline:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = await pool.fetchval("select count(*) from contacts")
    assert 0 < there < 120_000
    report = await load(pool, path)
    assert report.added + report.unchanged == 120_000
    assert await pool.fetchval("select count(*) from memberships where status = 'subscribed'") == 120_000


async def test_memory_does_not_grow_with_rows(pool: Pool, database_url: str, tmp_path: Path) -> None:
    async with pool.acquire() as connection:
        await audience.ensure_list(connection, 1, "News", AT)
    peaks = []
    for rows in (20_000, 150_000):
        path = many(tmp_path / f"{rows}.csv", rows)
        done = subprocess.run([sys.executable, "-c", _CHILD, database_url, str(path)], capture_output=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] * 1.25
