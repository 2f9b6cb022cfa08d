"""The paths of a sender: from each of its node's sources to each site, with their limits and what paces them.

Knows which source a message may leave from, how many of a lane there is room for, and tells the database what is in the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import structlog
from msgspec import Struct, structs

from posthouse.db import named_sql
from posthouse.db.pool import Pool
from posthouse.delivery.limits import LimitBook, SiteLimits
from posthouse.delivery.pacing import Pace
from posthouse.delivery.source_check import is_local
from posthouse.delivery.sources import PoolEntry, Source, SourceState, SourceTable, choose, load_sources
from posthouse.model.outcomes import BounceClass, Reaction, Scope, Verdict
from posthouse.model.ports import Chance
from posthouse.model.streams import stream_of
from posthouse.model.waiting import Ceiling, WaitReason

_log = structlog.get_logger()
_SQL = named_sql.load("posthouse.delivery")
_SECOND = 1_000_000
# Paths that nobody used for so long are forgotten, unless something holds them back.
_FORGET_SECONDS = 3600
_UNAVAILABLE_SECONDS = 60
_UNTIL_TOLD_SECONDS = 30
# Whom a site means when it wants less of all that comes this way.
_ABOUT_THE_WAY = frozenset({Scope.SOURCE_IP, Scope.NETBLOCK, Scope.HOST})
# A provider that says this is not refusing us, but many of them together ask for less all the same.
_STRAINED = frozenset({BounceClass.SERVER_BUSY, BounceClass.RATE, BounceClass.REPUTATION})


class LaneKind(Struct, frozen=True):
    """What of a lane decides its paths: the pool, the priority, and the site (number and name)."""

    pool: str
    priority: int
    site_id: int
    site: str


class Blocked(Struct, frozen=True):
    """No path is open: why, and when to look again (microseconds since 1970)."""

    reason: WaitReason
    until: int


class Told(Struct, frozen=True):
    """What the database was told of a path."""

    per_second: float | None
    ready_at: int
    reason: str
    reply: str | None
    is_slow: bool

    def differs(self, before: Told | None) -> bool:
        """Whether it is worth telling again: a rate that climbs is told when something else changes, or it has doubled."""
        if before is None:
            return True
        same = structs.replace(self, per_second=before.per_second) == before
        return not same or (self.per_second or 0.0) > 2 * (before.per_second or 0.0)


class Paths:
    """All paths of one sender process. Times are microseconds since 1970, on the wall clock."""

    def __init__(
        self, book: LimitBook, node: str, slot: int, senders: int, chance: Chance, *, worth: float = 0.5
    ) -> None:
        """worth: how many seconds of allowance open a path that ran dry."""
        self._worth = worth
        self._book = book
        self._node = node
        self._slot = slot
        self._senders = senders
        self._chance = chance
        self._table = SourceTable({})
        self._absent: dict[str, bool] = {}
        self._paces: dict[tuple[int, int], Pace] = {}
        self._used: dict[tuple[int, int], int] = {}
        self._told: dict[tuple[int, int], Told] = {}
        self._ceilings: tuple[Ceiling, ...] = ()

    @property
    def source_ids(self) -> list[int]:
        """The sources of this node, for which it may claim what is bound to them."""
        return self._table.ids

    @property
    def addresses(self) -> dict[int, str | None]:
        """Source id → the address that it sends from, None where the system picks it."""
        entries = [entry for pool in self._table.pools.values() for entry in pool]
        return {0: None, **{entry.source.source_id: entry.source.address for entry in entries}}

    async def begin(self, db: Pool) -> None:
        """Forget what an earlier run of this sender told."""
        await db.execute(_SQL["forget_paces"], self._node, self._slot)

    async def refresh(self, db: Pool, now: datetime, ceilings: Iterable[Ceiling] = ()) -> None:
        """About once a second: sources and rests as the database has them, and the ceilings that others set."""
        self._table = _present(await load_sources(db, self._node), self._absent)
        self._ceilings = tuple(ceilings)
        for row in await db.fetch(_SQL["resting_sites"], now):
            until = int(row["until"].timestamp() * _SECOND)
            self._pace(row["source_id"], row["source"], LaneKind("", 0, row["site_id"], row["site"]), _micro(now)).rest(
                until, row["reply"]
            )
        slow = {
            (row["source_id"], row["site_id"]) for row in await db.fetch(_SQL["slow_paths"], self._node, self._slot)
        }
        for key, pace in self._paces.items():
            pace.set_ceilings(self._ceilings_of(*key))
            pace.leave(to_owner=key in slow)

    def use_limits(self, book: LimitBook) -> None:
        """The operator changed the limits: every path has the new ones from now on."""
        self._book = book
        self._paces = {key: pace for key, pace in self._paces.items() if pace.is_cut}

    def limits(self, source: str, lane: LaneKind) -> SiteLimits:
        """What this sender may bring from a source to the site of a lane."""
        whole = self._book.of(lane.site, lane.pool, source, stream_of(lane.priority).value)
        return whole.share(self._slot, self._senders, lane.site_id)

    def room(self, lane: LaneKind, now: int) -> int:
        """How many messages of a lane could leave now, by all paths."""
        return sum(self._of(entry.source, lane, now).allowance(now) for entry in self._open(lane, now))

    def assign(self, lane: LaneKind, pinned: int | None, now: int) -> Source | Blocked:
        """The source that a message leaves from, its allowance taken; or why there is none."""
        if pinned is not None:
            bound = self._table.source(lane.pool, pinned)
            if bound is not None and bound.state is not SourceState.PAUSED:
                pace = self._of(bound, lane, now)
                if pace.allowance(now) >= 1:
                    pace.take()
                    return bound
                return _blocked(pace, now)
            if bound is not None:
                return Blocked(WaitReason.SOURCE_UNAVAILABLE, now + _UNAVAILABLE_SECONDS * _SECOND)
        entries = self._open(lane, now)
        if not entries:
            return self._why_none(lane, now)
        source = choose(entries, self._chance)
        self._of(source, lane, now).take()
        return source

    def heard(self, source_id: int, site_id: int, verdict: Verdict | None, reply: str, now: int) -> bool:
        """Learn from an answer; True when nothing more should leave on this path for now. verdict: None for a delivery."""
        pace = self._paces.get((source_id, site_id))
        if pace is None:
            return False
        if verdict is None or verdict.scope in (Scope.RECIPIENT, Scope.MESSAGE):
            pace.accepted(now)
            return False
        if verdict.scope not in _ABOUT_THE_WAY:
            return False  # a brake on a domain or a campaign, which is on every way out
        if rests(verdict):
            # The rest itself comes from the database, for every sender; until then this one keeps still.
            pace.rest(now + _UNTIL_TOLD_SECONDS * _SECOND, reply)
            return True
        if verdict.reaction is Reaction.SLOW:
            return pace.refused(now, reply)
        if verdict.reaction is Reaction.RETRY and verdict.bounce_class in _STRAINED:
            return pace.deferred(now, reply)
        return False

    def refund(self, source_id: int, site_id: int) -> None:
        """A message that had a source did not leave."""
        pace = self._paces.get((source_id, site_id))
        if pace is not None:
            pace.refund()

    def pace(self, source_id: int, site_id: int) -> Pace | None:
        """What paces a path, where it has been used."""
        return self._paces.get((source_id, site_id))

    def blocked(self, lane: LaneKind, now: int) -> Blocked | None:
        """Why nothing of a lane may leave now; None when something may."""
        return None if self._open(lane, now) else self._why_none(lane, now)

    async def tell(self, db: Pool, now: datetime) -> None:
        """Let the database know what has come into the way, or has gone out of it, since the last time."""
        at = _micro(now)
        news: dict[tuple[int, int], Told] = {}
        for key, pace in self._paces.items():
            blocked = pace.blocked(at)
            if blocked is not None:
                news[key] = Told(pace.rate(at), blocked[1], blocked[0].value, pace.reply, pace.is_slow)
            elif pace.is_cut:
                # Kept for who looks: nothing is in the way now.
                before = self._told.get(key)
                ready = before.ready_at if before is not None and before.ready_at <= at else at
                news[key] = Told(pace.rate(at), ready, WaitReason.RATE_LIMIT.value, pace.reply, pace.is_slow)
        changed = {key: told for key, told in news.items() if told.differs(self._told.get(key))}
        ended = [key for key in self._told if key not in news]
        if changed:
            rows = sorted(changed.items())
            await db.execute(
                _SQL["tell_paces"],
                self._node,
                self._slot,
                [key[0] for key, _ in rows],
                [key[1] for key, _ in rows],
                [told.per_second for _, told in rows],
                [told.ready_at for _, told in rows],
                [told.reason for _, told in rows],
                [told.reply for _, told in rows],
                [told.is_slow for _, told in rows],
                now,
            )
        if ended:
            await db.execute(
                _SQL["end_paces"], self._node, self._slot, [key[0] for key in ended], [key[1] for key in ended]
            )
        self._told = {**{key: self._told[key] for key in news if key not in changed}, **changed}
        self._forget(at)

    def _open(self, lane: LaneKind, now: int) -> list[PoolEntry]:
        """The entries of the lowest tier in which anything may send now."""
        found: list[PoolEntry] = []
        for entry in self._table.entries(lane.pool):
            if found and entry.tier != found[0].tier:
                break
            if entry.source.state is SourceState.ACTIVE and self._of(entry.source, lane, now).allowance(now) >= 1:
                found.append(entry)
        return found

    def _why_none(self, lane: LaneKind, now: int) -> Blocked:
        """The reason of the path that opens first."""
        reasons = [
            _blocked(self._of(entry.source, lane, now), now)
            for entry in self._table.entries(lane.pool)
            if entry.source.state is SourceState.ACTIVE
        ]
        if not reasons:
            return Blocked(WaitReason.SOURCE_UNAVAILABLE, now + _UNAVAILABLE_SECONDS * _SECOND)
        return min(reasons, key=lambda blocked: blocked.until)

    def _of(self, source: Source, lane: LaneKind, now: int) -> Pace:
        return self._pace(source.source_id, source.name, lane, now)

    def _pace(self, source_id: int, source: str, lane: LaneKind, now: int) -> Pace:
        key = (source_id, lane.site_id)
        pace = self._paces.get(key)
        if pace is None:
            pace = Pace(
                self.limits(source, lane), now, owns=(self._slot - lane.site_id) % self._senders == 0, worth=self._worth
            )
            pace.set_ceilings(self._ceilings_of(*key))
            self._paces[key] = pace
        self._used[key] = now
        return pace

    def _ceilings_of(self, source_id: int, site_id: int) -> list[Ceiling]:
        return [c for c in self._ceilings if c.source_id in (None, source_id) and c.site_id in (None, site_id)]

    def _forget(self, now: int) -> None:
        for key, used in list(self._used.items()):
            if now - used > _FORGET_SECONDS * _SECOND and key not in self._told:
                self._paces.pop(key, None)
                del self._used[key]


def _present(table: SourceTable, absent: dict[str, bool]) -> SourceTable:
    """The sources whose address this host has; the others are as if they were paused."""
    pools: dict[str, tuple[PoolEntry, ...]] = {}
    for pool, entries in table.pools.items():
        kept: list[PoolEntry] = []
        for entry in entries:
            address = entry.source.address
            if (
                address is not None
                and absent.get(address, True)
                and (missing := not is_local(address)) != absent.get(address)
            ):
                absent[address] = missing
                if missing:
                    _log.warning("this host lacks the address of a source", source=entry.source.name, address=address)
            if address is not None and absent[address]:
                entry = structs.replace(entry, source=structs.replace(entry.source, state=SourceState.PAUSED))
            kept.append(entry)
        pools[pool] = tuple(kept)
    return SourceTable(pools, table.elsewhere)


def rests(verdict: Verdict) -> bool:
    """Whether an answer asks that nothing leaves on its path for a while, whatever else it asks."""
    if verdict.scope not in _ABOUT_THE_WAY:
        return False
    if verdict.reaction in (Reaction.STOP, Reaction.FIX):
        return verdict.hold_seconds is not None
    return verdict.reaction is Reaction.HOLD


def _blocked(pace: Pace, now: int) -> Blocked:
    found = pace.blocked(now)
    # Less than a whole message is left: the allowance of another moment.
    return Blocked(*found) if found is not None else Blocked(WaitReason.RATE_LIMIT, now + _SECOND)


def _micro(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp() * _SECOND)
