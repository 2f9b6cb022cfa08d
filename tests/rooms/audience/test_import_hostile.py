"""Importing what real exports get wrong: quotes, encodings, people who left, two imports at once."""

from __future__ import annotations

import asyncio
import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest

from posthouse import audience
from posthouse.audience import ImportReport
from posthouse.db.pool import Pool
from posthouse.model.errors import ImportWrong

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


async def load(pool: Pool, path: Path, content: bytes, rejects: Path | None = None) -> ImportReport:
    """Import bytes as a file into the list “News”."""
    if content:
        path.write_bytes(content)
    async with pool.acquire() as connection:
        chosen = await audience.ensure_list(connection, 1, "News", AT)
    return await audience.import_contacts(
        pool,
        workspace_id=1,
        list_id=chosen.list_id,
        path=path,
        mapping={},
        basis="form",
        source="test",
        at=AT,
        rejects=rejects or path.with_suffix(".rejects.csv"),
        progress=lambda _: None,
    )


async def names(pool: Pool) -> set[str]:
    """All first fields of all contacts."""
    return {value for row in await pool.fetch("select fields from contacts") for value in row["fields"].values()}


async def test_a_stray_quote_costs_its_own_row_and_no_other(pool: Pool, tmp_path: Path) -> None:
    middle = b"".join(b"g%d@example.org,x\n" % n for n in range(50))
    report = await load(
        pool, tmp_path / "p.csv", b'email,n\na@example.org,"Bob\n' + middle + b'b@example.org,5" nail\n' + middle
    )
    assert (report.rows, report.added, report.merged, report.rejected) == (102, 51, 50, 1)
    with (tmp_path / "p.rejects.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1] == [
            "2",
            "email",
            'a@example.org,"Bob',
            "There is text behind a closing quote.",
        ]


async def test_a_quote_that_never_closes_is_told_before_anybody_is_lost(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ImportWrong, match=r"Row 2 .* is a closing quote missing"):
        await load(pool, tmp_path / "p.csv", b'email,n\na@example.org,"Bob\n' + b"g@example.org,x\n" * 20)
    assert await pool.fetchval("select count(*) from contacts") == 0


async def test_a_late_row_with_too_many_cells_is_rejected_not_shifted(pool: Pool, tmp_path: Path) -> None:
    good = b"".join(b"u%d@example.org,Ann,Rome\n" % n for n in range(60))
    report = await load(pool, tmp_path / "p.csv", b"email,name,city\n" + good + b"late@example.org,Smith, John,Paris\n")
    assert (report.added, report.rejected) == (60, 1)
    assert "4 cells for 3 columns" in (tmp_path / "p.rejects.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("cp1252", ["Hélène", "François", "José Peña", "Íñigo", "5 €", "“Müller”"]),
        ("cp1250", ["Łukasz Żółć", "Łódź", "Święcicki", "Małgorzata"]),
        ("iso8859_2", ["Łukasz Żółć", "Wojciech Święcicki", "Małgorzata", "Gdańsk"]),
        ("utf-16-le", ["Zoë", "名前"]),
    ],
)
async def test_encodings_that_look_alike(pool: Pool, tmp_path: Path, encoding: str, words: list[str]) -> None:
    text = "email,n\n" + "".join(f"p{n}@example.org,{word}\n" for n, word in enumerate(words))
    await load(pool, tmp_path / "p.csv", text.encode(encoding))
    assert await names(pool) == set(words)


async def test_the_first_accent_may_come_late(pool: Pool, tmp_path: Path) -> None:
    plain = "".join(f"u{n}@example.org,{'x' * 40}\n" for n in range(6000))
    report = await load(pool, tmp_path / "p.csv", f"email,n\n{plain}z@example.org,Müller\n".encode("cp1252"))
    assert report.rejected == 0
    assert "Müller" in await names(pool)


async def test_a_nul_costs_one_row_and_its_spelling_none(pool: Pool, tmp_path: Path) -> None:
    report = await load(pool, tmp_path / "p.csv", b"email,n\na@example.org,y\0z\nb@example.org,\\u0000\n")
    assert (report.added, report.rejected) == (1, 1)
    assert await names(pool) == {"\\u0000"}


async def test_a_title_above_the_header_and_the_hint_for_excel(pool: Pool, tmp_path: Path) -> None:
    await load(pool, tmp_path / "p.csv", b"sep=;\nExport of 24 November;\nE-Mail;First Name\na@example.org;Ann\n")
    assert [tuple(row) for row in await pool.fetch("select email, fields from contacts")] == [
        ("a@example.org", {"first_name": "Ann"})
    ]


async def test_a_column_of_those_who_left_subscribes_none_of_them(pool: Pool, tmp_path: Path) -> None:
    await load(
        pool, tmp_path / "p.csv", b"email,Unsubscribed\na@example.org,yes\nb@example.org,2024-05-01\nc@example.org,\n"
    )
    rows = await pool.fetch(
        "select k.email, m.status, m.ended_at from memberships m join contacts k using (contact_id) order by 1"
    )
    assert [tuple(row) for row in rows] == [
        ("a@example.org", "unsubscribed", AT),
        ("b@example.org", "unsubscribed", AT),
        ("c@example.org", "subscribed", None),
    ]


async def test_nobody_erased_comes_back(pool: Pool, tmp_path: Path) -> None:
    await pool.execute(
        "insert into contacts (workspace_id, email, created_at, updated_at, erased_at) values (1, 'a@example.org', $1, $1, $1)",
        AT,
    )
    await load(pool, tmp_path / "p.csv", b"email,n\na@example.org,Ann\n")
    assert await pool.fetchval("select count(*) from memberships") == 0
    assert await names(pool) == set()


async def test_capitals_that_fold_in_two_ways_meet_again(pool: Pool, tmp_path: Path) -> None:
    content = "email\nİx@example.org\nΑΣ@example.org\nix@example.org\n".encode()
    await load(pool, tmp_path / "p.csv", content)
    report = await load(pool, tmp_path / "p.csv", content)
    assert (report.added, report.updated, report.unchanged, report.merged) == (0, 0, 2, 1)


async def test_two_imports_at_once_of_the_same_people_both_finish(pool: Pool, tmp_path: Path) -> None:
    people = [b"email,n\n" + b"".join(b"c%d@example.org,%d\n" % (n, side) for n in range(8000)) for side in (1, 2)]
    reports = await asyncio.gather(load(pool, tmp_path / "a.csv", people[0]), load(pool, tmp_path / "b.csv", people[1]))
    assert sum(report.added for report in reports) == 8000
    assert await pool.fetchval("select count(*) from memberships") == 8000


async def test_the_reject_file_is_never_the_source_never_stale_and_runs_no_formula(pool: Pool, tmp_path: Path) -> None:
    path, rejects = tmp_path / "p.csv", tmp_path / "p.rejects.csv"
    with pytest.raises(ImportWrong, match="is the file to import"):
        await load(pool, path, b"email\nbad\n", rejects=path)
    assert path.read_bytes() == b"email\nbad\n"
    await load(pool, path, b"email\n=HYPERLINK(1)\n")
    assert rejects.read_text(encoding="utf-8").splitlines()[1].startswith("2,email,'=HYPERLINK")
    await load(pool, path, b"email\na@example.org\n")
    assert not rejects.exists()
