"""Mail that comes back: a provider that accepted a message for nobody sends a DSN to its return path, some minutes later."""

from __future__ import annotations

from functools import partial

import msgspec

from posthouse.model.ports import Clock
from posthouse.sandbox.agenda import Agenda
from posthouse.sandbox.courier import send_notice
from posthouse.sandbox.moments import SECOND, moment
from posthouse.sandbox.notices import status_notification
from posthouse.sandbox.personas import Refusal
from posthouse.sandbox.post import Letter
from posthouse.sandbox.records import Note, RecordKind, Records


class Returns:
    """Plans and sends the DSNs of all providers."""

    def __init__(self, clock: Clock, agenda: Agenda, records: Records, door: tuple[str, int] | None) -> None:
        """door: where DSNs are taken; None sends none."""
        self._clock = clock
        self._agenda = agenda
        self._records = records
        self._door = door

    def takes(self, letter: Letter) -> bool:
        """Whether this message reaches nobody; its DSN is then planned, unless there is no return path (RFC 5321 §4.5.5)."""
        late = letter.manners.persona.late_bounce
        after = letter.manners.late_bounce_after(letter.rcpt)
        if after is None or late is None:
            return False
        if letter.return_path and self._door is not None:
            head = letter.content.partition(b"\r\n\r\n")[0] + b"\r\n"
            envelope = msgspec.structs.replace(letter, content=b"")
            act = partial(self._send, envelope, head, late.reply, self._door)
            self._agenda.put(moment(self._clock) + int(after * SECOND), RecordKind.DSN, act)
        return True

    async def _send(self, letter: Letter, head: bytes, reply: Refusal, door: tuple[str, int]) -> bool:
        persona = letter.manners.persona
        said = reply.text.replace("{rcpt}", letter.rcpt)
        dsn = status_notification(letter, head, reply.code, reply.status, said, moment(self._clock))
        code, text = await send_notice(door, persona.hosts[0], "", letter.return_path, dsn)
        self._records.write(
            Note(
                RecordKind.DSN,
                persona.name,
                letter.rcpt,
                letter.return_path,
                letter.message_id,
                code,
                text,
                code == 250,
            )
        )
        return code != 0 and not 400 <= code < 500
