"""The judge: each recipient's ledger held against the sandbox's records, with the moment of the kill known.

A second copy needs an excuse for every copy before it (answers 37): it was in flight at the kill without an answer; it was answered
less than 50 ms before the kill; or the sandbox kept the answer to itself. An answer that the ledger knows excuses nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from msgspec import Struct

from bench.fault_house import SQL, House, Round
from posthouse.model.events import FINAL_KINDS, EventKind
from posthouse.sandbox import Record, RecordKind

_ANSWERED_SECONDS = 0.05
# What a dead sender had sent is read by the provider within this time; a copy later than that came from somebody alive.
_IN_FLIGHT_SECONDS = 5.0

IN_FLIGHT = "in flight at the kill, without an answer"
JUST_ANSWERED = "answered less than 50 ms before the kill"
WITHHELD = "the provider kept its answer to itself"


class Kill(Struct, frozen=True):
    """at: time.monotonic() just before it; ends_answers: whether a process died that could have heard an answer."""

    at: float
    ends_answers: bool


class Judgement(Struct, frozen=True):
    """What came of a round. lost, doubled: recipients; explained: excuse → how many copies; unexplained: recipient and what is wrong.

    oldest_answer: of the second copies, the longest time in seconds between an answer that was not kept and the kill.
    """

    recipients: int
    delivered: int
    lost: int
    doubled: int
    explained: dict[str, int]
    oldest_answer: float
    unexplained: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether nobody is lost and every second copy is explained."""
        return not self.lost and not self.unexplained


class _Account(Struct):
    finals: list[tuple[EventKind, int]]
    messages: set[int]
    redelivered: int = 0


async def judge(house: House, current: Round, kill: Kill | None) -> Judgement:
    """Account for every member of the round's list."""
    accounts: dict[str, _Account] = {
        row["recipient"]: _Account([], set()) for row in await house.app.db.fetch(SQL["members"], current.list_id)
    }
    for row in await house.app.db.fetch(SQL["lines"], current.campaign_id):
        account = accounts[row["recipient"]]
        account.messages.add(row["message_id"])
        kind = EventKind(row["kind"])
        if kind in FINAL_KINDS:
            account.finals.append((kind, row["nth"]))
        account.redelivered += kind is EventKind.REDELIVERED
    taken: dict[str, list[Record]] = defaultdict(list)
    for record in house.records(current):
        if record.kind is RecordKind.DOT and record.accepted:
            taken[record.rcpt.lower()].append(record)
    lost = doubled = 0
    oldest = 0.0
    explained: Counter[str] = Counter()
    unexplained: list[str] = []
    for recipient, account in accounts.items():
        copies = sorted(taken.pop(recipient, []), key=lambda record: record.mono)
        fault = fault_of(account, copies)
        if fault is not None:
            lost += fault.startswith("lost")
            unexplained.append(f"{recipient}: {fault}")
        elif len(copies) > 1 or (copies and account.finals[0][0] is not EventKind.DELIVERED):
            doubled += len(copies) > 1
            if kill is not None:
                oldest = max(oldest, *(kill.at - copy.mono for copy in copies[:-1] if not copy.withheld), 0.0)
            excuses = [excuse_of(copy, kill) for copy in copies[: -1 if len(copies) > 1 else None]]
            if account.redelivered or None in excuses:
                times = ", ".join(f"{copy.mono - kill.at:+.3f} s" if kill else f"{copy.mono:.3f}" for copy in copies)
                known = " and the ledger knew of both" if account.redelivered else ""
                unexplained.append(f"{recipient}: {len(copies)} copies, answered at {times} from the kill{known}")
            explained.update(excuse for excuse in excuses if excuse is not None)
    unexplained += [f"{recipient}: not on the list, yet it got mail" for recipient in taken]
    return Judgement(
        recipients=len(accounts),
        delivered=sum(1 for each in accounts.values() if each.finals and each.finals[0][0] is EventKind.DELIVERED),
        lost=lost,
        doubled=doubled,
        explained=dict(explained),
        oldest_answer=round(oldest, 4),
        unexplained=tuple(unexplained),
    )


def fault_of(account: _Account, copies: list[Record]) -> str | None:
    """What is wrong whatever happened to any process, or None."""
    if not account.messages:
        return "lost: the ledger has never heard of this recipient"
    if len(account.messages) > 1:
        return f"queued {len(account.messages)} times"
    if not account.finals:
        return "lost: no final outcome"
    if len(account.finals) > 1:
        return f"{len(account.finals)} final outcomes"
    if account.finals[0][0] is EventKind.DELIVERED and not copies:
        return "lost: the ledger says delivered, the provider has nothing"
    return None


def excuse_of(copy: Record, kill: Kill | None) -> str | None:
    """Why Posthouse may not have known of a copy that was taken."""
    if kill is not None and kill.ends_answers and copy.mono >= kill.at - _ANSWERED_SECONDS:
        if copy.mono <= kill.at and not copy.withheld:
            return JUST_ANSWERED
        if copy.mono <= kill.at + _IN_FLIGHT_SECONDS:
            return IN_FLIGHT
    return WITHHELD if copy.withheld else None
