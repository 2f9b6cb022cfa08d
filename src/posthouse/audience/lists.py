"""Lists, and who is on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.mail.address import parse_address
from posthouse.model.errors import Refused

_SQL = named_sql.load("posthouse.audience")
_TEST_LIST = "(test recipients)"
_PAGE = 5_000
_LONGEST_NAME = 200


class List(Struct, frozen=True):
    """A list of contacts who agreed to one kind of mail."""

    list_id: int
    name: str


class ListSize(Struct, frozen=True):
    """A list and how many are on it."""

    list_id: int
    name: str
    subscribed: int
    unsubscribed: int


async def ensure_list(connection: Connection, workspace_id: int, name: str, at: datetime) -> List:
    """The list of this name, made where it is missing. Raises Refused for a name that cannot stand in a List-Id header."""
    name = name.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or any(sign in name for sign in "<>"):
        raise Refused(
            f"{name[:80]!r} cannot be the name of a list: use 1 to {_LONGEST_NAME} printable characters without < and >."
        )
    await connection.execute(_SQL["ensure_list"], workspace_id, name, at)
    found = await find_list(connection, workspace_id, name)
    assert found is not None
    return found


async def find_list(connection: Connection | Pool, workspace_id: int, name: str) -> List | None:
    """The list of this name, or None."""
    row = await connection.fetchrow(_SQL["find_list"], workspace_id, name.strip())
    return List(**row) if row is not None else None


async def list_name(connection: Connection | Pool, workspace_id: int, list_id: int) -> str | None:
    """The name of a list, or None."""
    name: str | None = await connection.fetchval(_SQL["list_name"], workspace_id, list_id)
    return name


async def list_lists(connection: Connection | Pool, workspace_id: int) -> list[ListSize]:
    """All lists with their sizes, by name."""
    return [ListSize(**row) for row in await connection.fetch(_SQL["list_lists"], workspace_id, _TEST_LIST)]


async def count_recipients(connection: Connection | Pool, workspace_id: int, list_id: int) -> int:
    """How many contacts a campaign to this list would reach."""
    return await connection.fetchval(_SQL["count_recipients"], workspace_id, list_id) or 0


async def contact_address(connection: Connection | Pool, workspace_id: int, contact_id: int) -> str | None:
    """The address of a contact, or None."""
    address: str | None = await connection.fetchval(_SQL["contact_address"], workspace_id, contact_id)
    return address


async def unsubscribe(connection: Connection, workspace_id: int, list_id: int, contact_id: int, at: datetime) -> None:
    """Let a contact leave a list; leaving twice changes nothing."""
    await connection.execute(_SQL["unsubscribe"], workspace_id, list_id, contact_id, at)


async def stream_fields(
    pool: Pool, workspace_id: int, list_id: int
) -> AsyncIterator[list[tuple[int, str, Mapping[str, Any]]]]:
    """The subscribed members of a list, page by page: (contact id, address, fields)."""
    after = 0
    while rows := await pool.fetch(_SQL["fields_page"], workspace_id, list_id, after, _PAGE):
        yield [(row["contact_id"], row["email"], row["fields"]) for row in rows]
        after = rows[-1]["contact_id"]


async def copy_list(pool: Pool, from_workspace: int, list_id: int, to_workspace: int, at: datetime) -> List:
    """Copy a list with its contacts and memberships into another workspace, or bring the copy that is there up to date.

    Each page is a short transaction of its own; a copy that was interrupted is finished by the next.
    """
    name = await list_name(pool, from_workspace, list_id)
    if name is None:
        raise Refused("The list to copy is gone.")
    async with pool.acquire() as connection:
        copied = await ensure_list(connection, to_workspace, name, at)
        after = 0
        while (until := await connection.fetchval(_SQL["page_end"], from_workspace, list_id, after, _PAGE)) is not None:
            async with connection.transaction():
                await connection.execute(_SQL["copy_contacts"], from_workspace, list_id, after, until, to_workspace, at)
                await connection.execute(
                    _SQL["copy_memberships"], from_workspace, list_id, after, until, to_workspace, copied.list_id
                )
            after = until
        await connection.execute(_SQL["drop_strangers"], from_workspace, list_id, to_workspace, copied.list_id)
    return copied


async def test_recipient(
    connection: Connection, workspace_id: int, address: str, fields: Mapping[str, Any], at: datetime
) -> List:
    """The hidden list of test recipients, with exactly this address on it. Raises AddressWrong."""
    email = parse_address(address).text
    chosen = await ensure_list(connection, workspace_id, _TEST_LIST, at)
    async with connection.transaction():
        contact_id = await connection.fetchval(_SQL["put_contact"], workspace_id, email, dict(fields), at)
        await connection.execute(_SQL["empty_list"], workspace_id, chosen.list_id)
        await connection.execute(_SQL["join_list"], workspace_id, chosen.list_id, contact_id, "test recipient", at)
    return chosen
