"""Listen: what comes back becomes ledger lines, and where it must, suppressions, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from posthouse import audience, ledger, reputation
from posthouse.app import App
from posthouse.feedback import Heard
from posthouse.model.events import Event, EventKind
from posthouse.reputation import Cause, NewSuppression

_CAUSES = {
    EventKind.BOUNCED_LATER: Cause.HARD_BOUNCE,
    EventKind.COMPLAINED: Cause.COMPLAINT,
    EventKind.UNSUBSCRIBED: Cause.UNSUBSCRIBE,
}


async def listen(app: App, heard: Sequence[Heard]) -> None:
    """Record what was heard; returns when it is committed."""
    now = app.clock.now()
    async with app.db.acquire() as connection, connection.transaction():
        await ledger.record(connection, [_event(each) for each in heard])
        await reputation.suppress(connection, [_suppression(each) for each in heard if _suppresses(each)])
        for each in heard:
            if each.kind is EventKind.UNSUBSCRIBED:
                subject = each.subject
                await audience.unsubscribe(connection, subject.workspace_id, subject.list_id, subject.contact_id, now)


def _event(heard: Heard) -> Event:
    subject = heard.subject
    return Event(
        workspace_id=subject.workspace_id,
        message_id=subject.message_id,
        kind=heard.kind,
        nth=heard.at,
        at=heard.at,
        campaign_id=subject.campaign_id,
        contact_id=subject.contact_id,
        detail=heard.detail,
    )


def _suppresses(heard: Heard) -> bool:
    return heard.suppress or heard.kind is EventKind.UNSUBSCRIBED


def _suppression(heard: Heard) -> NewSuppression:
    subject = heard.subject
    return NewSuppression(
        subject.workspace_id,
        subject.contact_id,
        subject.list_id,
        _CAUSES[heard.kind],
        heard.at,
        subject.message_id,
        heard.kind.sentence,
    )
