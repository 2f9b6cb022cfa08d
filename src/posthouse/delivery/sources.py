"""Sources and pools: the ways out of a node, and which of them a stream may use (answers 9, 10)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.model.closed_list import ClosedList
from posthouse.model.errors import Refused
from posthouse.model.ports import Chance

_SQL = named_sql.load("posthouse.delivery")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_HOST = re.compile(r"([A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{1,63}\Z")
DEFAULT_POOL = "default"


class SourceState(ClosedList):
    """What a source does."""

    ACTIVE = "active", "It sends."
    PAUSED = "paused", "It sends nothing until it is resumed; what is bound to it waits."
    DRAINING = "draining", "It sends only what is bound to it already."


class Source(Struct, frozen=True):
    """One way out of one node. address: the local address to send from, None for the one that the system picks; ehlo_name: its name in
    EHLO, None for that of the settings; region: where it is, for nearest routing."""

    source_id: int
    name: str
    kind: str
    node: str
    address: str | None
    ehlo_name: str | None
    region: str | None
    state: SourceState


DEFAULT_SOURCE = Source(0, "default", "direct", "*", None, None, None, SourceState.ACTIVE)


class PoolEntry(Struct, frozen=True):
    """A source in a pool. A higher tier is used only while nothing in a lower one can send."""

    source: Source
    weight: int
    tier: int


class SourceTable(Struct, frozen=True):
    """The sources of one node, by pool. A pool that has no source at all anywhere is served by the default source of every node."""

    pools: dict[str, tuple[PoolEntry, ...]]
    elsewhere: frozenset[str] = frozenset()

    @property
    def ids(self) -> list[int]:
        """The source ids that this node may claim pinned messages for."""
        return sorted({entry.source.source_id for entries in self.pools.values() for entry in entries} | {0})

    def entries(self, pool: str) -> tuple[PoolEntry, ...]:
        """What of a pool is on this node, tier by tier; empty when it is on other nodes only."""
        found = self.pools.get(pool)
        if found is not None:
            return found
        return () if pool in self.elsewhere else (PoolEntry(DEFAULT_SOURCE, 1, 0),)

    def source(self, pool: str, source_id: int) -> Source | None:
        """A source of this node by id, where it is in the pool."""
        return next((e.source for e in self.entries(pool) if e.source.source_id == source_id), None)


def choose(entries: Sequence[PoolEntry], chance: Chance) -> Source:
    """One of the entries that have room, by weight; they are of one tier."""
    point = chance.random() * sum(entry.weight for entry in entries)
    for entry in entries:
        point -= entry.weight
        if point < 0:
            return entry.source
    return entries[-1].source


async def load_sources(connection: Connection | Pool, node: str) -> SourceTable:
    """What this node may send from now."""
    pools: dict[str, list[PoolEntry]] = {}
    elsewhere: set[str] = set()
    for row in await connection.fetch(_SQL["pool_sources"]):
        if row["node"] in (node, "*"):
            pools.setdefault(row["pool"], []).append(PoolEntry(_source(row), row["weight"], row["tier"]))
        else:
            elsewhere.add(row["pool"])
    return SourceTable({pool: tuple(entries) for pool, entries in pools.items()}, frozenset(elsewhere))


async def list_sources(connection: Connection | Pool) -> list[Source]:
    """Every source of every node, the default one first."""
    return [_source(row) for row in await connection.fetch(_SQL["list_sources"])]


async def find_source(connection: Connection | Pool, name: str) -> Source:
    """The source of a name. Raises Refused when there is none."""
    row = await connection.fetchrow(_SQL["find_source"], name)
    if row is None:
        raise Refused(f"There is no source “{name}”: `posthouse source list` shows those there are.")
    return _source(row)


async def add_source(
    connection: Connection,
    name: str,
    node: str,
    at: datetime,
    *,
    address: str | None = None,
    ehlo_name: str | None = None,
    region: str | None = None,
) -> Source:
    """Register an address of a node. Raises Refused with the reason."""
    if not _NAME.match(name):
        raise Refused(f"“{name}” is no name for a source: use letters, digits, dots, dashes and underscores.")
    if address is not None:
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError as error:
            raise Refused(f"“{address}” is no IP address, such as 192.0.2.7 or 2001:db8::7.") from error
    if ehlo_name is not None and not _HOST.match(ehlo_name):
        raise Refused(f"“{ehlo_name}” is no host name, such as mail7.example.com.")
    source_id = await connection.fetchval(_SQL["add_source"], name, node, address, ehlo_name, region, at)
    if source_id is None:
        raise Refused(f"There is a source “{name}” already.")
    return Source(source_id, name, "direct", node, address, ehlo_name, region, SourceState.ACTIVE)


async def set_source_state(connection: Connection, source: Source, state: SourceState) -> None:
    """Pause, drain or resume a source; every sender follows within about a second."""
    await connection.execute(_SQL["set_source_state"], source.source_id, state.value)


async def add_pool(connection: Connection, pool: str, workspace_id: int | None) -> None:
    """Make a pool; workspace_id: for one workspace alone. Raises Refused when it exists or its name cannot be one."""
    if not _NAME.match(pool):
        raise Refused(f"“{pool}” is no name for a pool: use letters, digits, dots, dashes and underscores.")
    if await connection.fetchval(_SQL["add_pool"], pool, workspace_id) is None:
        raise Refused(f"There is a pool “{pool}” already.")


async def put_in_pool(connection: Connection, pool: str, source: Source, weight: int, tier: int) -> None:
    """Put a source into a pool, or change its weight and tier there. Raises Refused when there is no such pool."""
    if not await connection.fetchval(_SQL["pool_exists"], pool):
        raise Refused(f"There is no pool “{pool}”: make it with `posthouse pool add {pool}`.")
    await connection.execute(_SQL["put_in_pool"], pool, source.source_id, weight, tier)


async def take_from_pool(connection: Connection, pool: str, source: Source) -> None:
    """Take a source out of a pool; what is bound to it goes by another. Raises Refused when it is not there."""
    if not await connection.fetchval(_SQL["take_from_pool"], pool, source.source_id):
        raise Refused(f"“{source.name}” is not in the pool “{pool}”.")


async def list_pools(connection: Connection | Pool) -> list[dict[str, Any]]:
    """Every pool: its name, the workspace that it is for, and its sources with weight and tier."""
    return [dict(row) for row in await connection.fetch(_SQL["list_pools"])]


async def set_stream(connection: Connection, workspace_id: int, stream: str, pool: str) -> None:
    """Let a stream of a workspace use a pool from the next launch on. Raises Refused when the pool is missing or another workspace's."""
    owner = await connection.fetchrow(_SQL["pool_owner"], pool)
    if owner is None:
        raise Refused(f"There is no pool “{pool}”: make it with `posthouse pool add {pool}`.")
    if owner["workspace_id"] not in (None, workspace_id):
        raise Refused(f"The pool “{pool}” is dedicated to another workspace.")
    await connection.execute(_SQL["set_stream"], workspace_id, stream, pool)


async def pool_of(connection: Connection | Pool, workspace_id: int, stream: str) -> str:
    """The pool that a stream of a workspace uses."""
    return await connection.fetchval(_SQL["pool_of"], workspace_id, stream) or DEFAULT_POOL


def _source(row: Any) -> Source:
    return Source(
        row["source_id"],
        row["name"],
        row["kind"],
        row["node"],
        row["address"],
        row["ehlo_name"],
        row["region"],
        SourceState(row["state"]),
    )


async def path_overview(connection: Connection | Pool) -> list[dict[str, Any]]:
    """What the senders tell of their paths: source, site_id, per_second (all senders together), ready_at, reason, the provider's words."""
    return [dict(row) for row in await connection.fetch(_SQL["path_overview"])]
