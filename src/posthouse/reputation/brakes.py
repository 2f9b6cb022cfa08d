"""Brakes: what a provider's replies slowed or stopped, at which site, for how long, and who may end it.

A brake is on one subject (a domain, an address, a campaign …) at one site, or at all of them. It is opened by replies that reached the
number that their rule asks for, counted over all senders; it is set anew, and stronger, when they come again; it ends by time or by a
person. What a rehearsal learns is kept apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from posthouse.db import named_sql
from posthouse.db.pool import Connection, Pool
from posthouse.mail.rules import BrakeTerms, Trigger
from posthouse.model.closed_list import ClosedList

_SQL = named_sql.load("posthouse.reputation", "brakes.sql")
# What was under way when a brake was set says nothing about whether it is strong enough.
_GRACE_SECONDS = 60.0
# A brake that is needed again within a day of its end is a repeat.
_REPEAT = timedelta(days=1)
_MOST_HALVINGS = 5
_REFUSED_DAYS = 30 * 86_400.0
_KEPT = timedelta(days=2)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BrakeKind(ClosedList):
    """What a brake is on; its value names which one."""

    DKIM_DOMAIN = "dkim-domain", "Everything that this domain signs."
    SPF_DOMAIN = "spf-domain", "Everything with a return path at this domain."
    URL_DOMAIN = "url-domain", "Everything with a link to this domain."
    NETBLOCK = "netblock", "Every source in this network."
    SOURCE = "source", "One source, by its number."
    SITE = "site", "One site, by its number, whoever sends."
    STREAM = "stream", "One stream of a workspace, as number/stream."
    WORKSPACE = "workspace", "One workspace, by its number."
    CAMPAIGN = "campaign", "One campaign, by its number."

    @property
    def is_path(self) -> bool:
        """Whether it is on a way out, and not on what is sent."""
        return self in (BrakeKind.NETBLOCK, BrakeKind.SOURCE, BrakeKind.SITE)


class BrakeSubject(Struct, frozen=True, order=True):
    """What a reply is about: the thing itself, and the site that said so."""

    kind: BrakeKind
    value: str
    site_id: int


class Refusal(Struct, frozen=True):
    """One reply that is counted. at: microseconds since 1970; everywhere: its brake is towards all sites."""

    subject: BrakeSubject
    rule: str
    trigger: Trigger
    workspace_id: int
    campaign_id: int
    message_id: int
    attempt: int
    at: int
    reply: str
    everywhere: bool = False


class Reached(Struct, frozen=True):
    """What the refusals of one subject under one rule come to, with the latest of them.

    here: enough came from its site since the brake was last set. everywhere: enough came, from enough sites, since a person was last
    told. strength: of the brake that is to be set now, from 1; since: when its first one was opened.
    """

    refusal: Refusal
    here: bool
    everywhere: bool
    strength: int
    since: datetime


class Brake(Struct, frozen=True):
    """A brake that is on. site_id 0: towards every site; until None: a person ends it; strength: how often it was set in a row."""

    brake_id: int
    kind: BrakeKind
    value: str
    site_id: int
    site: str
    rule: str
    reply: str
    per_minute: float | None
    connections: int | None
    messages_per_connection: int | None
    strength: int
    opened_at: datetime
    set_at: datetime
    until: datetime | None

    @property
    def is_hold(self) -> bool:
        """Whether nothing may leave at all."""
        return self.per_minute is None and self.connections is None and self.messages_per_connection is None


async def count_refusals(connection: Connection, refusals: Sequence[Refusal], *, sandbox: bool) -> list[Reached]:
    """Count a batch, inside the transaction that settles it; says where a number is reached. Counting it again changes nothing.

    Until the transaction ends, no other one counts.
    """
    groups: dict[tuple[str, BrakeSubject], list[Refusal]] = {}
    for refusal in refusals:
        groups.setdefault((refusal.rule, refusal.subject), []).append(refusal)
    latest: list[Refusal] = []
    kept: list[Refusal] = []
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda each: (each.at, each.message_id))
        latest.append(group[-1])
        kept += group[-group[-1].trigger.after :]  # more of one batch would tell nothing more
    await connection.execute(_SQL["lock_brakes"])
    await _note(connection, kept, sandbox)
    rows = await connection.fetch(
        _SQL["weigh"],
        sandbox,
        [each.rule for each in latest],
        [each.subject.kind.value for each in latest],
        [each.subject.value for each in latest],
        [each.subject.site_id for each in latest],
        [0 if each.everywhere else each.subject.site_id for each in latest],
        [moment(each.at) for each in latest],
        [each.trigger.within for each in latest],
        _GRACE_SECONDS,
    )
    reached = []
    for refusal, row in zip(latest, rows, strict=True):
        trigger, at = refusal.trigger, moment(refusal.at)
        again = row["strength"] is not None and (row["over_at"] is None or at - row["over_at"] < _REPEAT)
        found = Reached(
            refusal,
            row["here"] >= trigger.after,
            row["everywhere"] >= trigger.after and row["sites"] >= trigger.sites,
            row["strength"] + 1 if again else 1,
            row["opened_at"] if again else at,
        )
        if found.here or found.everywhere:
            reached.append(found)
    return reached


async def set_brake(connection: Connection, reached: Reached, terms: BrakeTerms, *, sandbox: bool) -> datetime | None:
    """Open the brake of what was reached, or set it anew; returns when it ends by itself."""
    refusal = reached.refusal
    at = moment(refusal.at)
    rate = terms.per_minute
    if rate is not None and terms.halve:
        rate /= 2 ** min(reached.strength - 1, _MOST_HALVINGS)
    until = None if terms.seconds is None else at + timedelta(seconds=terms.seconds)
    await connection.execute(
        _SQL["set_brake"],
        sandbox,
        refusal.subject.kind.value,
        refusal.subject.value,
        0 if refusal.everywhere else refusal.subject.site_id,
        refusal.rule,
        refusal.reply,
        rate,
        terms.connections,
        terms.messages_per_connection,
        reached.strength,
        reached.since,
        at,
        until,
    )
    return until


async def count_refused_days(
    connection: Connection, refused: Sequence[tuple[str, int, int, int, int, int]], *, sandbox: bool
) -> list[int]:
    """For each (rule, workspace id, contact id, message id, attempt, at in microseconds): on how many of the last 30 days this
    recipient was refused under this rule, this time included."""
    values = [f"{workspace_id}/{contact_id}" for _, workspace_id, contact_id, _, _, _ in refused]
    moments = [moment(at) for *_, at in refused]
    rules = [rule for rule, *_ in refused]
    await connection.execute(
        _SQL["note_refusals"],
        sandbox,
        rules,
        ["recipient"] * len(refused),
        values,
        [0] * len(refused),
        [message_id for _, _, _, message_id, _, _ in refused],
        [attempt for _, _, _, _, attempt, _ in refused],
        moments,
    )
    rows = await connection.fetch(_SQL["refused_days"], sandbox, rules, values, moments, _REFUSED_DAYS)
    days = {row["n"]: int(row["days"]) for row in rows}
    return [days.get(number, 0) for number in range(1, len(refused) + 1)]


async def brakes_in_force(connection: Connection | Pool, now: datetime, *, sandbox: bool) -> list[Brake]:
    """Brakes that are on, oldest first."""
    rows = await connection.fetch(_SQL["brakes_in_force"], sandbox, now)
    return [Brake(**{**dict(row), "kind": BrakeKind(row["kind"])}) for row in rows]


async def draw_allowance(pool: Pool, wanted: dict[int, int], now: datetime) -> dict[int, int]:
    """Take from the allowance of braked rates, which all senders share: brake id → how many of those wanted may leave now.

    A brake that is missing in the answer gives none.
    """
    rows = await pool.fetch(_SQL["draw"], list(wanted), list(wanted.values()), now)
    return {row["brake_id"]: row["granted"] for row in rows}


async def end_brake(connection: Connection | Pool, brake_id: int, now: datetime, reason: str, *, sandbox: bool) -> bool:
    """A person ends a brake, with a reason; returns whether it was on."""
    return await connection.fetchval(_SQL["end_brake"], sandbox, brake_id, now, reason) is not None


async def forget_refusals(pool: Pool, now: datetime) -> None:
    """Drop replies that are too old to count."""
    await pool.execute(_SQL["forget_refusals"], now - _KEPT, now - timedelta(seconds=_REFUSED_DAYS))


async def _note(connection: Connection, refusals: Sequence[Refusal], sandbox: bool) -> None:
    await connection.execute(
        _SQL["note_refusals"],
        sandbox,
        [each.rule for each in refusals],
        [each.subject.kind.value for each in refusals],
        [each.subject.value for each in refusals],
        [each.subject.site_id for each in refusals],
        [each.message_id for each in refusals],
        [each.attempt for each in refusals],
        [moment(each.at) for each in refusals],
    )


def moment(microseconds: int) -> datetime:
    """Microseconds since 1970 as an aware time."""
    return _EPOCH + timedelta(microseconds=microseconds)
