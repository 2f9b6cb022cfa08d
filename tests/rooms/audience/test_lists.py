"""Lists: who is on them, who left, and their copies for rehearsals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from posthouse import audience
from posthouse.db.pool import Pool
from posthouse.model.errors import Refused

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)


async def people(pool: Pool, count: int) -> audience.List:
    """A list “News” with `count` subscribers."""
    async with pool.acquire() as connection:
        news = await audience.ensure_list(connection, 1, "News", AT)
    await pool.execute(
        "insert into contacts (workspace_id, email, fields, created_at, updated_at) "
        "select 1, 'p' || n || '@example.org', '{\"n\": 1}', $1, $1 from generate_series(1, $2::integer) n",
        AT,
        count,
    )
    await pool.execute(
        "insert into memberships (workspace_id, list_id, contact_id, status, since) "
        "select 1, $1, contact_id, 'subscribed', $2 from contacts",
        news.list_id,
        AT,
    )
    return news


async def test_leaving_is_final_and_leaving_twice_changes_nothing(pool: Pool) -> None:
    news = await people(pool, 3)
    contact = await pool.fetchval("select min(contact_id) from contacts")
    async with pool.acquire() as connection:
        await audience.unsubscribe(connection, 1, news.list_id, contact, AT)
        await audience.unsubscribe(connection, 1, news.list_id, contact, LATER)
        assert await audience.count_recipients(connection, 1, news.list_id) == 2
        assert await audience.list_lists(connection, 1) == [audience.ListSize(news.list_id, "News", 2, 1)]
    assert await pool.fetchval("select ended_at from memberships where contact_id = $1", contact) == AT


async def test_fields_are_streamed_page_by_page_and_only_of_subscribers(pool: Pool) -> None:
    news = await people(pool, 12_003)
    contact = await pool.fetchval("select max(contact_id) from contacts")
    async with pool.acquire() as connection:
        await audience.unsubscribe(connection, 1, news.list_id, contact, AT)
    pages = [page async for page in audience.stream_fields(pool, 1, news.list_id)]
    assert [len(page) for page in pages] == [5_000, 5_000, 2_002]
    assert len({row[0] for page in pages for row in page}) == 12_002


async def test_a_copy_follows_its_original_and_leaves_it_alone(pool: Pool) -> None:
    news = await people(pool, 7_001)
    copied = await audience.copy_list(pool, 1, news.list_id, 2, AT)
    async with pool.acquire() as connection:
        assert await audience.count_recipients(connection, 2, copied.list_id) == 7_001
        gone, left = [
            row["contact_id"]
            for row in await pool.fetch("select contact_id from contacts where workspace_id = 1 limit 2")
        ]
        await audience.unsubscribe(connection, 1, news.list_id, left, LATER)
        await pool.execute("delete from memberships where workspace_id = 1 and contact_id = $1", gone)
        again = await audience.copy_list(pool, 1, news.list_id, 2, LATER)
        assert again == copied
        assert await audience.count_recipients(connection, 2, copied.list_id) == 6_999
        assert await audience.count_recipients(connection, 1, news.list_id) == 6_999


async def test_a_test_recipient_is_alone_on_a_hidden_list(pool: Pool) -> None:
    async with pool.acquire() as connection:
        await audience.test_recipient(connection, 1, "a@example.org", {}, AT)
        chosen = await audience.test_recipient(connection, 1, "b@Example.org", {"first_name": "B"}, AT)
        assert await audience.list_lists(connection, 1) == []
    (page,) = [page async for page in audience.stream_fields(pool, 1, chosen.list_id)]
    assert [(email, fields) for _, email, fields in page] == [("b@example.org", {"first_name": "B"})]


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 201, "News <script>"])
async def test_a_name_that_no_header_can_hold_is_refused(pool: Pool, name: str) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(Refused, match="cannot be the name of a list"):
            await audience.ensure_list(connection, 1, name, AT)
