"""Connections to PostgreSQL: one pool a process, with jsonb as plain Python values."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import msgspec

from posthouse.db import named_sql
from posthouse.model.errors import DatabaseUnavailable

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

# What a query may raise when the server is gone, restarts, or dies under it; asyncpg's own state machine trips over the last.
DATABASE_TROUBLE: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

_SQL = named_sql.load("posthouse.db")
_OLDEST_SERVER = 150000
_JSONB_VERSION = b"\x01"


def _encode_jsonb(value: Any) -> bytes:
    return _JSONB_VERSION + msgspec.json.encode(value)


def _decode_jsonb(raw: bytes) -> Any:
    return msgspec.json.decode(raw[1:])


async def prepare_connection(connection: Any) -> None:
    """Teach one connection our types: jsonb travels in binary form and arrives as dicts, lists and numbers."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary", encoder=_encode_jsonb, decoder=_decode_jsonb
    )


async def open_pool(url: str, *, size: int = 4) -> Pool:
    """Open a pool of at most `size` connections. Raises DatabaseUnavailable with one sentence."""
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            init=prepare_connection,
            command_timeout=120,
            # A statement of the hot path must never be planned for one lucky parameter; lanes and batches vary too much.
            server_settings={"application_name": "posthouse", "jit": "off", "timezone": "UTC"},
        )
        version = await pool.fetchval(_SQL["server_version"])
    except (OSError, asyncpg.PostgresError, ValueError) as error:
        raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
    if version < _OLDEST_SERVER:
        await pool.close()
        raise DatabaseUnavailable(f"This PostgreSQL is version {version // 10000}; Posthouse needs 15 or newer.")
    return pool
