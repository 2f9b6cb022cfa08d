"""Writing outcomes down: what is final leaves the queue, what is deferred waits for its next try."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.model.messages import Copy
from posthouse.model.outcomes import Outcome, Status

_SQL = named_sql.load("posthouse.queue")


async def settle(connection: Connection, outcomes: Sequence[Outcome]) -> set[int]:
    """Settle a batch inside the caller's transaction; returns the ids of those final ones that were still in the queue.

    The row itself is the token: whoever deletes it may write the final line in the ledger, so a replay changes nothing.
    """
    final = [o for o in outcomes if o.status.is_final]
    deferred = [o for o in outcomes if o.status is Status.DEFERRED]
    held = [o for o in outcomes if o.status is Status.HELD]
    live: set[int] = set()
    if final:
        ids = [o.message_id for o in final]
        rows = await connection.fetch(_SQL["settle_final"], [o.workspace_id for o in final], ids, min(ids), max(ids))
        live = {row["message_id"] for row in rows}
    if deferred:
        ids = [o.message_id for o in deferred]
        await connection.execute(
            _SQL["settle_deferred"],
            [o.workspace_id for o in deferred],
            ids,
            [o.attempt for o in deferred],
            [o.next_try for o in deferred],
            [o.bounce_class for o in deferred],
            min(ids),
            max(ids),
        )
    if held:
        await connection.execute(
            _SQL["settle_held"],
            [o.workspace_id for o in held],
            [o.message_id for o in held],
            [o.attempt for o in held],
            [o.rule for o in held],
        )
    return live


async def put_back(connection: Connection, copies: Sequence[Copy], due: datetime, reason: str) -> None:
    """Give claimed copies back untried, to fall due at `due`."""
    if copies:
        await connection.execute(
            _SQL["put_back"],
            [c.workspace_id for c in copies],
            [c.message_id for c in copies],
            [c.attempt for c in copies],
            due,
            reason,
        )


async def put_off(connection: Connection, copies: Sequence[tuple[Copy, datetime]], reason: str) -> None:
    """Give claimed copies back untried, each to fall due at its own time."""
    if copies:
        await connection.execute(
            _SQL["put_off"],
            [c.workspace_id for c, _ in copies],
            [c.message_id for c, _ in copies],
            [c.attempt for c, _ in copies],
            [due for _, due in copies],
            reason,
        )


async def mark_settled(connection: Connection, node: str, slot: int, number: int) -> None:
    """Note that a sender's journal is in the database up to record `number`."""
    await connection.execute(_SQL["mark_settled"], node, slot, number)


async def settled_mark(connection: Connection | Pool, node: str, slot: int) -> int:
    """The last journal record of a sender that the database has; 0 when it has none."""
    return await connection.fetchval(_SQL["settled_mark"], node, slot) or 0
