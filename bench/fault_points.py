"""Kill points, seen from outside: what the watcher waits for, and what it saw in the instant before the kill."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

import asyncpg
from msgspec import Struct

from bench import fault_processes as processes
from bench.fault_house import DATABASE_TROUBLE, SQL, House, Round

_SEGMENT_BYTES = 2**20
# When a segment has less than this left, the watcher looks without pause.
_NEARLY_FULL = 40_000
_UNREAD_CONTENT = 1_500
_WATCH_SECONDS = 90.0


class Point(StrEnum):
    """Where in the path of a message the kill falls (answers 37)."""

    LAUNCH = "launch"
    CLAIM = "claim"
    DATA = "DATA"
    GAP = "between 250 and settle"
    COMMIT = "COMMIT"
    ROTATION = "journal rotation"
    RANDOM = "any moment"


class Target(StrEnum):
    """Who is killed."""

    SENDER = "one sender"
    FRONT = "the front"
    ALL = "all of Posthouse"
    ALL_AND_KEEPER = "all of Posthouse and the keeper"
    POSTMASTER = "PostgreSQL"
    BACKEND = "one PostgreSQL backend"

    @property
    def is_database(self) -> bool:
        """Whether Posthouse's own processes live on."""
        return self in (Target.POSTMASTER, Target.BACKEND)


class Sighting(Struct, frozen=True):
    """What was seen in the instant before the kill. slot: the sender it was seen at; backend: the PostgreSQL process."""

    evidence: str
    slot: int | None = None
    backend: int | None = None


class Watcher:
    """Watches one round through a connection of its own and the files that are there for everybody."""

    def __init__(self, house: House, current: Round, connection: asyncpg.Connection, chance: random.Random) -> None:
        self._house = house
        self._round = current
        self._connection = connection
        self._chance = chance
        self._ours = [connection.get_server_pid()]
        self._deadline = time.monotonic() + _WATCH_SECONDS

    async def see(self, point: Point) -> Sighting | None:
        """Wait for the point at some progress of the run; None when the run ended without it."""
        if point is Point.LAUNCH:
            return await self._until(self._launch, pause=0.0)
        wanted = self._chance.uniform(0.05, 0.7) * self._round.recipients
        while self._house.taken(self._round) < wanted:
            if await self._is_over():
                return None
            await asyncio.sleep(0.02)
        looks: dict[Point, tuple[Callable[[], Awaitable[Sighting | None]], float]] = {
            Point.CLAIM: (self._claim, 0.0),
            Point.DATA: (self._data, 0.001),
            Point.GAP: (self._gap, 0.001),
            Point.COMMIT: (self._commit, 0.0),
            Point.ROTATION: (self._rotation, 0.005),
            Point.RANDOM: (self._random, 0.0),
        }
        look, pause = looks[point]
        return await self._until(look, pause)

    async def any_backend(self) -> int | None:
        """A PostgreSQL process that serves Posthouse."""
        rows = await self._connection.fetch(SQL["activity"], self._ours)
        return self._chance.choice(rows)["pid"] if rows else None

    async def _until(self, look: Callable[[], Awaitable[Sighting | None]], pause: float) -> Sighting | None:
        checked = time.monotonic()
        while True:
            sighting = await look()
            if sighting is not None:
                return sighting
            if time.monotonic() - checked > 0.5:
                checked = time.monotonic()
                if await self._is_over():
                    return None
            await asyncio.sleep(pause)

    async def _is_over(self) -> bool:
        if time.monotonic() > self._deadline:
            return True
        launch = await self._connection.fetchrow(SQL["launch"], self._round.campaign_id)
        now = self._house.app.clock.now()
        waiting = await self._connection.fetchrow(SQL["waiting"], self._round.campaign_id, now)
        assert launch is not None
        assert waiting is not None
        return launch["launched"] and not waiting["claimed"] and not waiting["due"]

    async def _launch(self) -> Sighting | None:
        launch = await self._connection.fetchrow(SQL["launch"], self._round.campaign_id)
        assert launch is not None
        if launch["launched"]:
            return None
        if launch["queued"] and self._chance.random() < 0.2:
            return Sighting(f"launched up to {launch['launch_after']} of {launch['launch_until']}")
        return await self._active("insert into queue", f"queueing after {launch['launch_after']}")

    async def _claim(self) -> Sighting | None:
        return await self._active("with wanted as", "the claim statement is at work")

    async def _commit(self) -> Sighting | None:
        for row in await self._connection.fetch(SQL["activity"], self._ours):
            if row["state"] == "active" and row["writes"] and row["query"].upper().startswith("COMMIT"):
                return Sighting("a writing transaction is in COMMIT", backend=row["pid"])
        return None

    async def _active(self, words: str, evidence: str) -> Sighting | None:
        for row in await self._connection.fetch(SQL["activity"], self._ours):
            if row["state"] == "active" and words in row["query"]:
                return Sighting(evidence, backend=row["pid"])
        return None

    async def _data(self) -> Sighting | None:
        unread = processes.unread_bytes(self._house.sandbox.ready.smtp_port)
        if unread < _UNREAD_CONTENT:
            return None
        return Sighting(f"{unread} bytes of content on their way to a provider")

    async def _gap(self) -> Sighting | None:
        marks = {row["slot"]: row["settled"] for row in await self._connection.fetch(SQL["marks"])}
        journals = self._house.journals.look()
        behind = {slot: journal.number - marks.get(slot, 0) for slot, journal in journals.items()}
        slot = max(behind, key=lambda each: behind[each], default=None)
        if slot is None or behind[slot] < 10:
            return None
        return Sighting(f"{behind[slot]} answers in the journal and not in the database", slot=slot)

    async def _rotation(self) -> Sighting | None:
        for slot, journal in self._house.journals.look().items():
            if _SEGMENT_BYTES - journal.position > _NEARLY_FULL:
                continue
            folder = self._house.directory.journal(slot)
            old, known = journal.segment, len(os.listdir(folder))
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                names = os.listdir(folder)
                newest = max(name for name in names if name.endswith(".journal"))
                if newest != old:
                    reserve = "there" if "reserve" in names else "not there yet"
                    return Sighting(f"segment {int(newest[:20])} has just begun, its reserve is {reserve}", slot=slot)
                if len(names) < known:
                    return Sighting(f"the reserve after {int(old[:20])} is being taken into use", slot=slot)
        return None

    async def _random(self) -> Sighting | None:
        await asyncio.sleep(self._chance.uniform(0.0, 0.5))
        try:
            now = self._house.app.clock.now()
            waiting = await self._connection.fetchrow(SQL["waiting"], self._round.campaign_id, now)
        except DATABASE_TROUBLE:
            return None
        assert waiting is not None
        return Sighting(f"{waiting['claimed']} claimed of {waiting['queued']} in the queue")
