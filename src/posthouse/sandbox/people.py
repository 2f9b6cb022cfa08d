"""The people behind the mailboxes: by lot they open, click, complain and unsubscribe, some minutes to hours after delivery."""

from __future__ import annotations

from functools import partial

import msgspec

from posthouse.model.ports import Clock
from posthouse.sandbox.agenda import Act, Agenda
from posthouse.sandbox.courier import send_notice
from posthouse.sandbox.letters import read_letter
from posthouse.sandbox.lots import Lots
from posthouse.sandbox.moments import SECOND, moment
from posthouse.sandbox.notices import complaint_report, complaint_sender
from posthouse.sandbox.plan import People
from posthouse.sandbox.post import Letter
from posthouse.sandbox.records import Note, RecordKind, Records
from posthouse.sandbox.visitor import Visitor
from posthouse.sandbox.zones import Zones

_SOONEST = 120.0
_LATEST = 3 * 3600.0
# Acts fall on whole minutes, so that a clock that leaps from one due moment to the next has few leaps to make.
_MINUTE = 60 * SECOND


class Crowd:
    """Everybody who receives mail. Decides by the address alone, so the same people do the same things in every run of a seed."""

    def __init__(
        self,
        shares: People,
        lots: Lots,
        clock: Clock,
        agenda: Agenda,
        records: Records,
        zones: Zones,
        visitor: Visitor | None,
        complaints_door: tuple[str, int] | None,
    ) -> None:
        """visitor: how they reach web pages; complaints_door: where ARF reports go. None: they do nothing of the kind."""
        self._shares = shares if visitor else People(complains=shares.complains)
        self._idle = not any(
            (self._shares.opens, self._shares.clicks, self._shares.complains, self._shares.unsubscribes)
        )
        self._lots = lots
        self._clock = clock
        self._agenda = agenda
        self._records = records
        self._zones = zones
        self._visitor = visitor
        self._door = complaints_door
        self._met: set[tuple[str, str]] = set()

    def receive(self, letter: Letter) -> None:
        """Take an accepted message and plan what its reader will do; a second copy of it moves nobody."""
        if self._idle:
            return
        person = letter.rcpt.lower()
        interest = self._lots.draw("interest", person)
        clicks = interest < self._shares.clicks
        opens = clicks or interest < self._shares.opens
        complains = self._lots.draw("complains", person) < self._shares.complains
        leaves = self._lots.draw("leaves", person) < self._shares.unsubscribes
        if not (opens or complains or leaves) or (person, letter.message_id) in self._met:
            return
        self._met.add((person, letter.message_id))
        reading = read_letter(letter.content, self._zones.is_public_host)
        envelope = msgspec.structs.replace(letter, content=b"")
        if opens and reading.pixel:
            self._plan(RecordKind.OPENED, person, partial(self._visit, RecordKind.OPENED, envelope, reading.pixel))
        if clicks and reading.links:
            link = reading.links[int(self._lots.draw("link", person) * len(reading.links))]
            self._plan(RecordKind.CLICKED, person, partial(self._visit, RecordKind.CLICKED, envelope, link))
        if leaves and reading.unsubscribe:
            self._plan(RecordKind.UNSUBSCRIBED, person, partial(self._leave, envelope, reading.unsubscribe))
        if complains and reading.complaint_address and self._door:
            report = partial(self._complain, envelope, reading.head, reading.complaint_address, self._door)
            self._plan(RecordKind.COMPLAINED, person, report)

    def _plan(self, kind: RecordKind, person: str, act: Act) -> None:
        moods = "reads" if kind in (RecordKind.OPENED, RecordKind.CLICKED) else kind.value
        delay = _SOONEST * (_LATEST / _SOONEST) ** self._lots.draw(f"when {moods}", person)
        due = moment(self._clock) + int(delay * SECOND)
        # A click comes with the first whole minute after the opening.
        due += -due % _MINUTE + (_MINUTE if kind is RecordKind.CLICKED else 0)
        self._agenda.put(due, kind, act)

    async def _visit(self, kind: RecordKind, letter: Letter, url: str) -> bool:
        assert self._visitor is not None
        code, text = await self._visitor.get(url)
        # A tracked link answers with a redirect, which is not followed: what lies behind it is no concern of the sender's.
        succeeded = 300 <= code < 400 if kind is RecordKind.CLICKED else code == 200
        self._note(kind, letter, code, text or url, succeeded)
        return code != 0 and code < 500

    async def _leave(self, letter: Letter, url: str) -> bool:
        assert self._visitor is not None
        as_form_data = self._lots.draw("form", letter.rcpt.lower()) < 0.5
        code, text = await self._visitor.post_one_click(url, as_form_data=as_form_data)
        self._note(RecordKind.UNSUBSCRIBED, letter, code, text or url, 200 <= code < 300)
        return code != 0 and code < 500

    async def _complain(self, letter: Letter, head: bytes, address: str, door: tuple[str, int]) -> bool:
        report = complaint_report(letter, head, address, moment(self._clock))
        persona = letter.manners.persona
        code, text = await send_notice(door, persona.hosts[0], complaint_sender(letter), address, report)
        self._note(RecordKind.COMPLAINED, letter, code, text, code == 250)
        return code != 0 and not 400 <= code < 500

    def _note(self, kind: RecordKind, letter: Letter, code: int, text: str, succeeded: bool) -> None:
        provider = letter.manners.persona.name
        self._records.write(
            Note(kind, provider, letter.rcpt, letter.return_path, letter.message_id, code, text, succeeded)
        )
