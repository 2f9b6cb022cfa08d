"""The funnel of a campaign: from queued to clicked, in all and per provider."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from msgspec import Struct, field

from posthouse.analytics.counts import campaign_counts, final_count
from posthouse.db import named_sql
from posthouse.db.pool import Pool
from posthouse.model.events import EventKind

_SQL = named_sql.load("posthouse.analytics")


class Row(Struct):
    """What became of the messages to one provider. deferred: attempts; people's acts count each message once."""

    delivered: int = 0
    deferred: int = 0
    deferred_then_delivered: int = 0
    bounced: int = 0
    expired: int = 0
    suppressed: int = 0
    cancelled: int = 0
    bounced_later: int = 0
    redelivered: int = 0
    opened: int = 0
    clicked: int = 0
    complained: int = 0
    unsubscribed: int = 0


class Funnel(Struct):
    """A campaign counted. bounce_classes: class → bounces; first_at and last_at: first and last final outcome."""

    total: Row
    sites: dict[str, Row]
    bounce_classes: dict[str, int] = field(default_factory=dict)
    suppressed_causes: dict[str, int] = field(default_factory=dict)
    deferral_classes: dict[str, int] = field(default_factory=dict)
    first_at: datetime | None = None
    last_at: datetime | None = None


_COUNTED_ONCE = {
    EventKind.OPENED.value: "opened",
    EventKind.CLICKED.value: "clicked",
    EventKind.COMPLAINED.value: "complained",
    EventKind.UNSUBSCRIBED.value: "unsubscribed",
    EventKind.BOUNCED_LATER.value: "bounced_later",
}
_COUNTED = {
    EventKind.DELIVERED.value: "delivered",
    EventKind.DEFERRED.value: "deferred",
    EventKind.BOUNCED.value: "bounced",
    EventKind.EXPIRED.value: "expired",
    EventKind.SUPPRESSED.value: "suppressed",
    EventKind.CANCELLED.value: "cancelled",
    EventKind.REDELIVERED.value: "redelivered",
}


async def funnel_of(pool: Pool, workspace_id: int, campaign_id: int) -> Funnel:
    """The funnel of a campaign: deliveries from the counters, people's acts from the ledger."""
    sites: dict[str, Row] = defaultdict(Row)
    classes: dict[str, dict[str, int]] = {kind: defaultdict(int) for kind in ("bounced", "suppressed", "deferred")}
    for count in await campaign_counts(pool, workspace_id, campaign_id):
        name = _COUNTED.get(count.kind)
        if name is not None:
            row = sites[count.site]
            setattr(row, name, getattr(row, name) + count.count)
        if count.kind in classes:
            classes[count.kind][count.bounce_class or "undetermined"] += count.count
    for line in await pool.fetch(_SQL["people"], workspace_id, campaign_id):
        setattr(sites[line["site"]], _COUNTED_ONCE[line["kind"]], line["count"])
    for line in await pool.fetch(_SQL["deferred_then_delivered"], workspace_id, campaign_id):
        sites[line["site"]].deferred_then_delivered = line["count"]
    final = await final_count(pool, workspace_id, campaign_id)
    return Funnel(
        _sum(list(sites.values())),
        dict(sorted(sites.items())),
        dict(classes["bounced"]),
        dict(classes["suppressed"]),
        dict(classes["deferred"]),
        final.first_at,
        final.last_at,
    )


def _sum(rows: list[Row]) -> Row:
    total = Row()
    for row in rows:
        for name in Row.__struct_fields__:
            setattr(total, name, getattr(total, name) + getattr(row, name))
    return total
