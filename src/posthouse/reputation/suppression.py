"""Suppressions: cause, scope, and who may lift them (answers 15)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.model.closed_list import ClosedList

_SQL = named_sql.load("posthouse.reputation")


class Cause(ClosedList):
    """Why an address is suppressed."""

    HARD_BOUNCE = "hard-bounce", "The mailbox does not exist or was closed."
    COMPLAINT = "complaint", "The person reported a message as spam."
    UNSUBSCRIBE = "unsubscribe", "The person left the list."


class SuppressionScope(ClosedList):
    """What is not sent any more."""

    ALL = "all", "Nothing at all: the mailbox is dead."
    MARKETING = "marketing", "No marketing from this workspace; a password reset still goes out."
    LIST = "list", "Nothing from this list."


# Cause → scope (answers 15).
_SCOPES = {
    Cause.HARD_BOUNCE: SuppressionScope.ALL,
    Cause.COMPLAINT: SuppressionScope.MARKETING,
    Cause.UNSUBSCRIBE: SuppressionScope.LIST,
}


class NewSuppression(Struct, frozen=True):
    """A contact to suppress. list_id counts only where the cause is about a list; at: microseconds since 1970."""

    workspace_id: int
    contact_id: int
    list_id: int
    cause: Cause
    at: int
    message_id: int
    reason: str


async def suppress(connection: Connection, found: Sequence[NewSuppression]) -> None:
    """Suppress the addresses of contacts, inside the transaction that records the cause."""
    if not found:
        return
    scopes = [_SCOPES[each.cause] for each in found]
    await connection.execute(
        _SQL["suppress"],
        [each.workspace_id for each in found],
        [each.contact_id for each in found],
        [scope.value for scope in scopes],
        [each.list_id if s is SuppressionScope.LIST else 0 for each, s in zip(found, scopes, strict=True)],
        [each.cause.value for each in found],
        [each.at for each in found],
        [each.message_id for each in found],
        [each.reason for each in found],
    )
    await connection.execute(_SQL["announce"])


async def lift(connection: Connection | Pool, workspace_id: int, address: str, at: datetime, reason: str) -> bool:
    """Let an address receive mail again; a person decides this. Returns whether anything was lifted."""
    status = await connection.execute(_SQL["lift"], workspace_id, address.lower(), at, reason)
    return not status.endswith(" 0")


async def list_suppressed(connection: Connection | Pool, workspace_id: int, limit: int = 100) -> list[dict[str, Any]]:
    """Suppressed addresses, newest first."""
    return [dict(row) for row in await connection.fetch(_SQL["list_suppressed"], workspace_id, limit)]
