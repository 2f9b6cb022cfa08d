"""Wake: tell idle senders that the queue has grown, or that a rehearsal's clock has jumped."""

from __future__ import annotations

from posthouse.app import App
from posthouse.db import named_sql

QUEUE_CHANNEL = "posthouse_queue"
_SQL = named_sql.load("posthouse.flows")


async def wake_senders(app: App) -> None:
    """Senders look at the queue now instead of at their next poll."""
    await app.db.execute(_SQL["wake_senders"])
