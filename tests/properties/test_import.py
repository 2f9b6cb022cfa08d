"""Whatever a table holds and however it is written, an import makes exactly the contacts that it says, and resubscribes nobody."""

from __future__ import annotations

import asyncio
import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from posthouse import audience
from posthouse.audience import ImportReport
from posthouse.db.pool import Pool, open_pool
from posthouse.db.server import EmbeddedServer
from posthouse.mail.address import parse_address
from posthouse.model.errors import ImportWrong

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
_DATABASE = "import_laws"
HEADER = ("First Name", "E-Mail", "Note", "Subscribed")
NOTHING = ("", "", "", "")

GOOD_ADDRESSES = (
    "anna@example.org",
    "Anna@Example.ORG",
    "  anna@example.org ",
    "o'brien+news@a-b.example",
    "jürgen@müller.example",
    "JÜRGEN@MÜLLER.example",
    "山田@example.jp",
)
BAD_ADDRESSES = (
    "",
    "nobody",
    "@example.org",
    "a@@example.org",
    "a b@example.org",
    "a@localhost",
    "a\x00@example.org",
    "a@" + "b" * 64 + ".example",
    "c" * 65 + "@example.org",
)
# What has a meaning on the way from a file to jsonb: to csv, to COPY, to JSON, to a spreadsheet, to a careless strip().
PIECES = (
    "a",
    "B",
    "7",
    " ",
    ",",
    ";",
    "|",
    "\t",
    '"',
    '""',
    "'",
    "\n",
    "\r\n",
    "\\",
    "\\N",
    "\\.",
    "\\u0000",
    "=1+1",
    "@",
    "{",
    "}",
    "ü",
    "Ł",
    "名",
    "🐦",
    "\u00a0",
    "\u2028",
)
# A legacy encoding can only be told from words that people write in it.
WORDS = {
    "cp1252": ("Müller", "François", "Straße", "Ñandú", "plain"),
    "cp1250": ("Łukasz", "Gdańsk", "Święcicki", "Małgorzata", "plain"),
    "cp1251": ("Мария", "Казань", "Иван", "Москва", "plain"),
    "shift_jis": ("山田太郎さん", "東京都港区", "メールを送る", "鈴木花子さん", "plain"),
}

cells = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
answers = st.sampled_from(("", "yes", "no", "Unsubscribed", "0", "true"))
rows = st.tuples(cells, st.sampled_from(GOOD_ADDRESSES + BAD_ADDRESSES), cells, answers)
tables = st.lists(rows, min_size=1, max_size=12)
delimiters = st.sampled_from(",;\t|")


class Expected(Struct):
    """What a table says, worked out row by row: no chunks, no SQL."""

    fields: dict[str, dict[str, str]]
    unsubscribed: set[str]
    rejected: list[int]
    merged: int
    rows: int


def expect(table: Sequence[Sequence[str]]) -> Expected:
    """The contacts, leavers and rejected row numbers that a table must come to."""
    spelled: dict[str, str] = {}
    expected = Expected({}, set(), [], 0, 0)
    for number, (first_name, address, note, subscribed) in enumerate(table, start=2):
        if not any(cell.strip() for cell in (first_name, address, note, subscribed)):
            continue
        expected.rows += 1
        if address in BAD_ADDRESSES:
            expected.rejected.append(number)
            continue
        text = parse_address(address).text
        email = spelled.setdefault(text.lower(), text)
        expected.merged += email in expected.fields
        values = {"first_name": first_name.strip(), "note": note.strip(), "subscribed": subscribed.strip()}
        expected.fields.setdefault(email, {}).update({name: value for name, value in values.items() if value})
        if subscribed in ("no", "Unsubscribed", "0"):
            expected.unsubscribed.add(email)
    return expected


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all the examples."""
    with asyncio.Runner() as runner:
        yield runner


class House:
    """One database for all the examples of a test; `clear` makes it new."""

    def __init__(self, runner: asyncio.Runner, server: EmbeddedServer) -> None:
        self._run = runner.run
        self._directory = tempfile.TemporaryDirectory()
        self._server = server
        self._run(self._administer(f"create database {_DATABASE} template posthouse strategy file_copy"))
        self.pool: Pool = self._run(open_pool(server.url.replace("@/posthouse?", f"@/{_DATABASE}?")))
        self.file = Path(self._directory.name) / "people.csv"
        self.rejects = Path(self._directory.name) / "rejects.csv"

    def clear(self) -> None:
        """Forget everybody."""
        self._run(self.pool.execute("truncate contacts, memberships, lists, imports, suppressions restart identity"))
        self.rejects.unlink(missing_ok=True)

    def load(self, content: bytes, at: datetime = AT) -> ImportReport:
        """Import bytes as a file into the list “News”; its report must add up, here and in the table of imports."""
        self.file.write_bytes(content)

        async def work() -> ImportReport:
            async with self.pool.acquire() as connection:
                news = await audience.ensure_list(connection, 1, "News", at)
            return await audience.import_contacts(
                self.pool,
                workspace_id=1,
                list_id=news.list_id,
                path=self.file,
                mapping={},
                basis="form",
                source="test",
                at=at,
                rejects=self.rejects,
                progress=lambda _: None,
            )

        report = self._run(asyncio.wait_for(work(), 30))
        parts = (report.added, report.updated, report.unchanged, report.merged, report.rejected)
        assert report.rows == sum(parts)
        kept = self.rows("select rows_read, rejected from imports order by import_id desc limit 1")
        assert kept == [(report.rows, report.rejected)]
        return report

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Rows as tuples."""
        return [tuple(row) for row in self._run(self.pool.fetch(query, *arguments))]

    def rejected_rows(self) -> list[int]:
        """The row numbers in the reject file."""
        if not self.rejects.exists():
            return []
        with self.rejects.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
        assert all(len(line) == 4 and line[3].endswith((".", "?")) for line in lines[1:])
        return [int(line[0]) for line in lines[1:]]

    def close(self) -> None:
        """Leave nothing behind."""
        self._run(self.pool.close())
        self._run(self._administer(f"drop database {_DATABASE} with (force)"))
        self._directory.cleanup()

    async def _administer(self, statement: str) -> None:
        admin = await asyncpg.connect(self._server.url.replace("@/posthouse?", "@/postgres?"))
        await admin.execute(statement)
        await admin.close()


@pytest.fixture(scope="module")
def house(loop: asyncio.Runner, server: EmbeddedServer) -> Iterator[House]:
    """A house for this module."""
    built = House(loop, server)
    yield built
    built.close()


def written(table: Sequence[Sequence[str]], delimiter: str, encoding: str, line_end: str = "\r\n") -> bytes:
    """A table as a spreadsheet program saves it."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end).writerows([HEADER, *table])
    return text.getvalue().encode(encoding)


def check(house: House, table: Sequence[Sequence[str]], report: ImportReport) -> Expected:
    """Compare contacts, memberships, rejects and counts with what the table says."""
    expected = expect(table)
    assert dict(house.rows("select email, fields from contacts")) == expected.fields
    members = house.rows("select k.email, m.status from memberships m join contacts k using (workspace_id, contact_id)")
    assert dict(members) == {
        email: "unsubscribed" if email in expected.unsubscribed else "subscribed" for email in expected.fields
    }
    assert house.rejected_rows() == expected.rejected
    assert report == ImportReport(
        rows=expected.rows,
        added=len(expected.fields),
        updated=0,
        unchanged=0,
        merged=expected.merged,
        rejected=len(expected.rejected),
    )
    return expected


@settings(max_examples=45, deadline=None)
@given(tables, delimiters, st.sampled_from(("utf-8", "utf-8-sig", "utf-16")), st.sampled_from(("\r\n", "\n")))
@example([("\\u0000", "anna@example.org", "\\.", "")], ",", "utf-8", "\n")
@example([("", address, "x", "") for address in GOOD_ADDRESSES + BAD_ADDRESSES], ",", "utf-8", "\n")
@example([("a", "anna@example.org", "", ""), ("", "Anna@example.org", "b", "no")], ";", "utf-16", "\r\n")
def test_any_table_comes_to_exactly_what_it_says_and_its_second_import_to_nothing(
    house: House, table: list[tuple[str, str, str, str]], delimiter: str, encoding: str, line_end: str
) -> None:
    house.clear()
    content = written(table, delimiter, encoding, line_end)
    expected = check(house, table, house.load(content))
    versions = (
        "select 'c', contact_id, xmin::text from contacts union all select 'm', contact_id, xmin::text from memberships"
    )
    before = sorted(house.rows(versions))
    again = house.load(content, LATER)
    assert (again.added, again.updated, again.unchanged) == (0, 0, len(expected.fields))
    assert sorted(house.rows(versions)) == before


@settings(max_examples=12, deadline=None)
@given(st.data(), delimiters, st.sampled_from(sorted(WORDS)))
def test_words_in_the_encodings_of_old_spreadsheets_arrive_unharmed(
    house: House, data: st.DataObject, delimiter: str, encoding: str
) -> None:
    words = st.sampled_from(WORDS[encoding])
    chosen = data.draw(st.lists(st.tuples(words, words), min_size=1, max_size=10))
    # Every word once, so that there is something to tell the encoding by.
    chosen += zip(WORDS[encoding], WORDS[encoding], strict=True)
    table = [(first, f"p{n}@example.org", note, "") for n, (first, note) in enumerate(chosen)]
    house.clear()
    check(house, table, house.load(written(table, delimiter, encoding)))


@settings(max_examples=20, deadline=None)
@given(tables, tables, st.data())
def test_no_second_file_resubscribes_or_rewrites_consent_or_lifts_a_suppression(
    house: House, first: list[tuple[str, str, str, str]], second: list[tuple[str, str, str, str]], data: st.DataObject
) -> None:
    house.clear()
    house.load(written(first, ",", "utf-8"))
    ids = [row[0] for row in house.rows("select contact_id from contacts order by contact_id")]
    for left in data.draw(st.sets(st.sampled_from(ids))) if ids else ():
        house.rows("update memberships set status = 'unsubscribed', ended_at = $2 where contact_id = $1", left, AT)
    house.rows(
        "insert into suppressions (workspace_id, address_key, scope, cause, at) select 1, lower(email), 'all', 'hard-bounce', $1 "
        "from contacts",
        AT,
    )
    consent = "select contact_id, status, basis, source, since, ended_at from memberships where contact_id = any($1) order by 1"
    before, fields = house.rows(consent, ids), dict(house.rows("select email, fields from contacts"))
    house.load(written(second, ",", "utf-8"), LATER)
    assert house.rows(consent, ids) == before
    assert house.rows("select count(*) from suppressions where lifted_at is not null") == [(0,)]
    # Per field: what the second file says, else what was there; nothing is emptied.
    said = {email.lower(): values for email, values in expect(second).fields.items()}
    after = dict(house.rows("select email, fields from contacts"))
    assert all(after[email] == values | said.get(email.lower(), {}) for email, values in fields.items())


@settings(max_examples=45, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=80).map(lambda tail: b"email,note\nanna@example.org,x\n" + tail),
        st.lists(
            st.sampled_from(
                (b"email", b"a@b.example", b'"', b",", b";", b"\n", b"\r", b"\0", b"\xff", b"\xfe", b"PK\x03\x04")
            )
        ).map(b"".join),
    )
)
@example(b"\xff\xfe")
@example(b"\xef\xbb\xbf")
@example(b'email\n"')
def test_any_bytes_at_all_come_to_a_report_or_to_one_sentence(house: House, content: bytes) -> None:
    house.clear()
    wrong: str | None = None
    try:
        report = house.load(content)
    except ImportWrong as refusal:
        wrong = str(refusal)
    people = house.rows("select count(*) from contacts")[0][0]
    if wrong is not None:
        assert wrong.strip()
        assert "\n" not in wrong
        assert people == 0
    else:
        assert people == report.added
        assert len(house.rejected_rows()) == report.rejected
