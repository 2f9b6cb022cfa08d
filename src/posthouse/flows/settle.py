"""Settle: outcomes become ledger lines, queue changes and suppressions, in one transaction a batch."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import structlog

from posthouse import ledger, queue, reputation
from posthouse.app import App
from posthouse.db.pool import DATABASE_TROUBLE
from posthouse.flows.react import react
from posthouse.model.events import Event, EventKind
from posthouse.model.messages import Copy
from posthouse.model.outcomes import Outcome, Reaction, Status
from posthouse.queue import Journal, Untried
from posthouse.reputation import Cause, NewSuppression

_log = structlog.get_logger()
_BATCH = 500
_LARGEST_BATCH = 2_000
_WAIT_SECONDS = 0.05
_RETRY_SECONDS = 1.0
# More unsettled outcomes than this, and the sender claims nothing until the database has caught up.
_BACKLOG = 10_000

_KINDS = {status: EventKind(status.value) for status in Status}


async def settle(app: App, outcomes: Sequence[Outcome], slot: int, number: int) -> None:
    """Write a batch of outcomes. Writing it again changes nothing: the queue row is the token of a final outcome, and a ledger
    line's key is (message, kind, attempt). slot and number: the sender and its journal record that the batch goes up to."""
    async with app.db.acquire() as connection, connection.transaction():
        live = await queue.settle(connection, outcomes)
        news: list[Event] = []
        late: list[Event] = []
        for outcome in outcomes:
            known = outcome.status.is_final and outcome.message_id not in live
            (late if known else news).append(_event(outcome))
            if outcome.status.is_final:
                live.discard(outcome.message_id)  # a second final outcome in the same batch comes too late as well
        await ledger.record(connection, news)
        await ledger.record_late(connection, late)
        await reputation.suppress(connection, [_suppression(o) for o in outcomes if _suppresses(o)])
        await react(app, connection, outcomes)
        await queue.mark_settled(connection, app.node, slot, number)


async def open_journal(app: App, slot: int) -> Journal:
    """The journal of a sender of this host. Raises DataDirectoryWrong or JournalFull."""
    return Journal(
        app.directory.journal(slot),
        settled=await queue.settled_mark(app.db, app.node, slot),
        segment_bytes=app.settings.journal.segment_megabytes * 2**20,
    )


async def replay(app: App, journal: Journal, slot: int) -> int:
    """Settle what a journal has beyond the database: the answers that a killed sender had heard. Returns how many."""
    settled = await queue.settled_mark(app.db, app.node, slot)
    batch: list[Outcome] = []
    number = settled
    count = 0
    for number, outcome in journal.replay(settled):
        batch.append(outcome)
        if len(batch) == _BATCH:
            await settle(app, batch, slot, number)
            count += len(batch)
            batch = []
    if batch:
        await settle(app, batch, slot, number)
    return count + len(batch)


class Settler:
    """The one settler of a sender process: notes outcomes in the journal at once and settles them every 500, or 50 ms."""

    def __init__(self, app: App, journal: Journal, slot: int) -> None:
        self._app = app
        self._journal = journal
        self._slot = slot
        self._pending: list[Outcome] = []
        self._untried: list[Untried] = []
        self._number = journal.last_number
        self._wake = asyncio.Event()
        self._many = asyncio.Event()
        self._stopping = False
        self._stalled = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Settle what is left, then stop."""
        self._stopping = True
        self._wake.set()
        self._many.set()
        assert self._task is not None
        await self._task

    @property
    def may_claim(self) -> bool:
        """Whether more work may be claimed: not while the journal's disk is full or the database lags.

        Raises RuntimeError when settling has ended by a fault: the process must end too, and its journal is replayed.
        """
        if self._task is not None and self._task.done():
            raise RuntimeError("settling ended by a fault") from self._task.exception()
        return not self._stalled and len(self._pending) < _BACKLOG and not self._journal.is_full

    def note(self, outcome: Outcome) -> None:
        """An attempt ended: from here on a crash cannot lose its answer."""
        self._number = self._journal.note(outcome)
        self._pending.append(outcome)
        if len(self._pending) == 1:
            self._wake.set()
        elif len(self._pending) >= _BATCH:
            self._many.set()

    def put_back(self, copies: Sequence[Copy], reason: str, due: datetime | None = None) -> None:
        """Copies go back to the queue untried, to fall due at `due` or at once."""
        due = due or self._app.clock.now()
        self._untried += [Untried(copy, due, reason) for copy in copies]
        self._wake.set()

    async def _run(self) -> None:
        while not (self._stopping and not self._pending and not self._untried):
            await self._wake.wait()
            if not self._stopping:
                await self._more_or_moment()
            self._wake.clear()
            self._many.clear()
            await self._flush()
            if self._pending or self._untried or self._stopping:
                self._wake.set()

    async def _more_or_moment(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._many.wait(), _WAIT_SECONDS)

    async def _flush(self) -> None:
        outcomes, self._pending = self._pending[:_LARGEST_BATCH], self._pending[_LARGEST_BATCH:]
        untried, self._untried = self._untried, []
        number = self._number - len(self._pending)
        if outcomes:
            await asyncio.to_thread(self._journal.sync)
        while outcomes or untried:
            try:
                if outcomes:
                    await settle(self._app, outcomes, self._slot, number)
                    outcomes = []
                await queue.put_back(self._app.db, untried)
                untried = []
            except DATABASE_TROUBLE as error:
                self._stalled = True  # a claim now could take up again what is answered and not settled yet
                _log.warning("settling waits for the database", error=str(error), outcomes=len(outcomes))
                await asyncio.sleep(_RETRY_SECONDS)
        self._stalled = False


def prune_journal(app: App, journal: Journal) -> int:
    """Remove old segments; call after `replay`. They are kept for some days in case an older database is restored."""
    oldest = time.time() - app.settings.journal.keep_days * 86_400  # noqa: TID251 -- the age of a file
    return journal.prune(journal.last_number, oldest)


def _event(outcome: Outcome) -> Event:
    detail: dict[str, object] = {"code": outcome.code, "text": outcome.text}
    if outcome.enhanced is not None:
        detail["enhanced"] = outcome.enhanced
    if outcome.remote is not None:
        detail["remote"] = outcome.remote
    if outcome.bounce_class is not None:
        detail["class"] = outcome.bounce_class
    if outcome.rule is not None:
        detail["rule"] = outcome.rule
    if outcome.next_try is not None:
        detail["next_try"] = outcome.next_try
    if outcome.source_id:
        detail["source"] = outcome.source_id
    return Event(
        outcome.workspace_id,
        outcome.message_id,
        _KINDS[outcome.status],
        outcome.attempt,
        outcome.at,
        outcome.campaign_id,
        outcome.contact_id,
        outcome.site_id,
        detail,
    )


def _suppresses(outcome: Outcome) -> bool:
    return outcome.status is Status.BOUNCED and outcome.reaction is Reaction.SUPPRESS


def _suppression(outcome: Outcome) -> NewSuppression:
    return NewSuppression(
        outcome.workspace_id,
        outcome.contact_id,
        0,
        Cause.HARD_BOUNCE,
        outcome.at,
        outcome.message_id,
        f"{outcome.code} {outcome.text}"[:300] if outcome.code else outcome.text,
    )
