"""Reconciliation: the ledger held against the sandbox's own counts, recipient by recipient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from msgspec import Struct

from posthouse import ledger
from posthouse.app import App
from posthouse.campaigns import Campaign
from posthouse.model.events import FINAL_KINDS, EventKind
from posthouse.sandbox import Record, RecordKind

_SHOWN = 10


class Discrepancy(Struct, frozen=True):
    """One recipient whose two accounts differ, in a sentence."""

    recipient: str
    what: str


class Reconciliation(Struct, frozen=True):
    """The result. doubled: recipients with a second copy that is explained: the first answer was withheld by the sandbox."""

    recipients: int
    missing: int
    doubled: int
    unexplained: int
    discrepancies: tuple[Discrepancy, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every recipient is explained."""
        return not self.missing and not self.unexplained

    def show(self, say: Callable[[str], None]) -> None:
        """Print it as sentences."""
        if self.is_clean:
            doubled = f", {self.doubled} doubled after a withheld answer" if self.doubled else ""
            say(f"Reconciled: {self.recipients:,} recipients, each with one outcome, and the providers agree{doubled}.")
            return
        say(f"NOT reconciled: {self.missing:,} missing, {self.unexplained:,} unexplained of {self.recipients:,}.")
        for each in self.discrepancies:
            say(f"  {each.recipient}: {each.what}")


class _Account(Struct):
    """Both accounts of one recipient."""

    finals: list[tuple[EventKind, int]]
    redelivered: int = 0
    acts: int = 0
    taken: int = 0
    taken_answered: int = 0
    last_refusal: int = 0
    sandbox_acts: int = 0


# Acts whose answer promises that they are recorded; opens and clicks may come from caches and are counted apart.
_ACTS = {EventKind.UNSUBSCRIBED: 1, EventKind.COMPLAINED: 2, EventKind.BOUNCED_LATER: 4}
_SANDBOX_ACTS = {RecordKind.UNSUBSCRIBED: 1, RecordKind.COMPLAINED: 2, RecordKind.DSN: 4}


async def reconcile(app: App, campaign: Campaign, records: Iterable[Record]) -> Reconciliation:
    """Compare the campaign's ledger with what the sandbox received from it."""
    accounts: dict[str, _Account] = defaultdict(lambda: _Account([]))
    async for _, email, kind, _, code in ledger.campaign_lines(app.db, campaign.workspace_id, campaign.campaign_id):
        account = accounts[email.lower()]
        if kind in FINAL_KINDS:
            account.finals.append((kind, code))
        elif kind is EventKind.REDELIVERED:
            account.redelivered += 1
        else:
            account.acts |= _ACTS.get(kind, 0)
    for record in records:
        if not record.rcpt:
            continue  # a connection was refused before anybody was named
        account = accounts[record.rcpt.lower()]
        if record.kind is RecordKind.DOT and record.accepted:
            account.taken += 1
            account.taken_answered += not record.withheld
        elif record.kind in (RecordKind.DOT, RecordKind.RCPT):
            account.last_refusal = record.code
        elif record.accepted:
            account.sandbox_acts |= _SANDBOX_ACTS.get(record.kind, 0)
    found = [Discrepancy(who, what) for who, account in accounts.items() if (what := _difference(account)) is not None]
    missing = max(0, campaign.queued - sum(1 for account in accounts.values() if account.finals))
    return Reconciliation(
        recipients=campaign.queued,
        missing=missing,
        doubled=sum(1 for account in accounts.values() if account.taken > 1),
        unexplained=len(found),
        discrepancies=tuple(found[:_SHOWN]),
    )


def _difference(account: _Account) -> str | None:
    """Why the two accounts do not agree, or None."""
    if len(account.finals) != 1:
        listed = ", ".join(kind.value for kind, _ in account.finals) or "none"
        return f"the ledger has {len(account.finals)} final outcomes ({listed})"
    kind, code = account.finals[0]
    if account.taken_answered > 1:
        return f"the provider took {account.taken} copies and answered {account.taken_answered} of them"
    if kind is EventKind.DELIVERED and account.taken == 0:
        return "the ledger says delivered, the provider has nothing"
    if kind is not EventKind.DELIVERED and account.taken_answered:
        return f"the ledger says {kind.value}, the provider took it"
    if kind is EventKind.BOUNCED and code and code != account.last_refusal:
        return f"the ledger says bounced with {code}, the provider's last answer was {account.last_refusal or 'none'}"
    if account.acts != account.sandbox_acts:
        return f"people did {_acts_text(account.sandbox_acts)}, the ledger heard {_acts_text(account.acts)}"
    return None


def _acts_text(bits: int) -> str:
    return ", ".join(kind.value for kind, bit in _ACTS.items() if bits & bit) or "nothing"
