"""Forward migrations: numbered SQL files, applied once each under an advisory lock by whichever process starts first."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

import asyncpg

from posthouse.db import named_sql
from posthouse.model.errors import DatabaseUnavailable

_SQL = named_sql.load("posthouse.db")
_NO_TRANSACTION = "-- no-transaction"


def migration_files() -> list[tuple[str, str]]:
    """(name, SQL text) of every migration, in the order in which they are applied."""
    folder = resources.files("posthouse.db").joinpath("migrations")
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return [(entry.name, entry.read_text(encoding="utf-8")) for entry in sorted(found, key=lambda e: e.name)]


async def migrate(connection: asyncpg.Connection[Any]) -> list[str]:
    """Apply what is missing; returns the names applied. Raises DatabaseUnavailable when an applied file was changed afterwards.

    A file whose first line is `-- no-transaction` runs outside a transaction (CREATE INDEX CONCURRENTLY) and must be repeatable.
    """
    await connection.execute(_SQL["lock_migrations"])
    try:
        await connection.execute(_SQL["create_migrations"])
        applied = {row["name"]: row["sha256"] for row in await connection.fetch(_SQL["applied_migrations"])}
        done: list[str] = []
        for name, text in migration_files():
            digest = hashlib.sha256(text.encode()).hexdigest()
            if name in applied:
                if applied[name] != digest:
                    raise DatabaseUnavailable(
                        f"Migration {name} was changed after this database applied it; restore the file of that release."
                    )
                continue
            if text.startswith(_NO_TRANSACTION):
                await connection.execute(text)
                await connection.execute(_SQL["note_migration"], name, digest)
            else:
                async with connection.transaction():
                    await connection.execute(text)
                    await connection.execute(_SQL["note_migration"], name, digest)
            done.append(name)
        return done
    finally:
        await connection.execute(_SQL["unlock_migrations"])
