"""The manners of a provider: its persona's file, turned into decisions. Knows no socket."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, structs

from posthouse.model.closed_list import ClosedList
from posthouse.model.ports import Clock
from posthouse.sandbox.content import signers_of
from posthouse.sandbox.lots import Lots
from posthouse.sandbox.moments import SECOND, moment
from posthouse.sandbox.personas import Allowance, Persona, Rate, Refusal
from posthouse.sandbox.throttle import Throttle


class Answer(Struct, frozen=True):
    """A refusal as it goes on the wire. closes: the connection ends with it (RFC 5321 §3.8, code 421)."""

    code: int
    text: str
    wire: bytes
    closes: bool


class DropPoint(ClosedList):
    """Where in a transaction the connection is cut."""

    RCPT = "rcpt", "After RCPT, before its reply."
    DATA = "data", "After DATA, before its reply."
    CONTENT = "content", "While the content arrives."
    DOT = "dot", "After the final dot, before its reply; the message is thrown away."


_DROP_POINTS = tuple(DropPoint)


class Manners:
    """What one provider answers, and when it misbehaves."""

    def __init__(
        self, persona: Persona, lots: Lots, clock: Clock, *, rate_scale: float = 1.0, withhold: float = 0.0
    ) -> None:
        """rate_scale and withhold: as in the plan."""
        self.persona = persona
        self._lots = lots
        self._clock = clock
        rate = persona.rate
        self._throttle = Throttle(persona.name, rate, lots, rate_scale, moment(clock)) if rate else None
        self._at_mail = self._throttle if rate and rate.at == "mail" else None
        self._at_dot = self._throttle if rate and rate.at == "dot" else None
        self._signers = {
            limit.domain: Throttle(
                f"{persona.name} {limit.domain}",
                Rate(messages=limit.messages, per_seconds=limit.per_seconds, reply=limit.reply, spread=0.0),
                lots,
                rate_scale,
                moment(clock),
            )
            for limit in persona.signers
        }
        grey = persona.greylist
        spread = lots.between(1 - grey.spread, 1 + grey.spread, "greylist", persona.name) if grey else 0.0
        self._grey_delay = int(grey.seconds * spread * SECOND) if grey else 0
        self._strangers: dict[tuple[str, str, str], int] = {}
        self._withhold = max(withhold, persona.withhold)
        self._tries: Counter[str] = Counter()
        self._pauses = 0

    def at_connect(self, ip: str, open_connections: int) -> Answer | None:
        """The greeting's refusal; open_connections: from this source, the new one included."""
        return self._over(self.persona.connections, open_connections, ip)

    def at_mail(self, ip: str, nth: int) -> Answer | None:
        """The refusal of MAIL; nth: which message of this connection it is, from 1."""
        refusal = self._over(self.persona.messages_per_connection, nth, ip)
        if refusal is None and self._at_mail is not None:
            return self._asked(self._at_mail, ip)
        return refusal

    def at_rcpt(self, ip: str, return_path: str, rcpt: str) -> Answer | None:
        """The refusal of RCPT: a mailbox that takes no mail, or a stranger who must come back."""
        if self.persona.mailboxes:
            lot = self._lots.draw("mailbox", rcpt.lower())
            for mailbox in self.persona.mailboxes:
                lot -= mailbox.share
                if lot < 0:
                    return self._answer(mailbox.reply, ip, rcpt)
        grey = self.persona.greylist
        if grey is not None:
            now = moment(self._clock)
            first = self._strangers.setdefault((ip, return_path.rpartition("@")[2].lower(), rcpt.lower()), now)
            if now - first < self._grey_delay:
                return self._answer(grey.reply, ip, rcpt)
        return None

    def at_dot(self, ip: str, content: bytes = b"") -> Answer | None:
        """The refusal of a whole message after its content."""
        for domain in signers_of(content) if self._signers else ():
            throttle = self._signers.get(domain)
            refusal = throttle.ask(domain, moment(self._clock)) if throttle is not None else None
            if refusal is not None:
                return self._answer(structs.replace(refusal, text=refusal.text.replace("{domain}", domain)), ip)
        return self._asked(self._at_dot, ip) if self._at_dot is not None else None

    def drops_at(self, rcpt: str) -> DropPoint | None:
        """Where this try for a recipient is cut off; each call counts as a try."""
        drop = self.persona.drop
        if drop is None or not self._nth_lot("drop", rcpt) < drop.share:
            return None
        point = self._lots.draw("drop point", f"{rcpt} {self._tries[f'drop {rcpt}']}")
        return _DROP_POINTS[int(point * len(_DROP_POINTS))]

    def stalls(self, rcpt: str) -> bool:
        """Whether this try for a recipient is never answered after its content; each call counts as a try."""
        stall = self.persona.stall
        return stall is not None and self._nth_lot("stall", rcpt) < stall.share

    def withholds(self, rcpt: str) -> bool:
        """Whether this acceptance is kept from the sender."""
        return self._withhold > 0 and self._nth_lot("withhold", rcpt) < self._withhold

    def late_bounce_after(self, rcpt: str) -> float | None:
        """Seconds after which an accepted message comes back by a DSN."""
        late = self.persona.late_bounce
        if late is None or not self._lots.draw("late bounce", rcpt.lower()) < late.share:
            return None
        return self._lots.between(late.least_seconds, late.most_seconds, "late bounce delay", rcpt.lower())

    def pause(self) -> float:
        """Real seconds for which the next reply is kept back."""
        slow = self.persona.slow
        if slow is None:
            return 0.0
        self._pauses += 1
        return self._lots.between(slow.least_seconds, slow.most_seconds, "pause", f"{self.persona.name} {self._pauses}")

    def _nth_lot(self, purpose: str, rcpt: str) -> float:
        key = f"{purpose} {rcpt}"
        self._tries[key] += 1
        return self._lots.draw(purpose, f"{rcpt} {self._tries[key]}")

    def _over(self, allowance: Allowance | None, count: int, ip: str) -> Answer | None:
        if allowance is None or count <= allowance.limit:
            return None
        return self._answer(allowance.reply, ip)

    def _asked(self, throttle: Throttle, ip: str) -> Answer | None:
        refusal = throttle.ask(ip, moment(self._clock))
        return self._answer(refusal, ip) if refusal is not None else None

    def _answer(self, refusal: Refusal, ip: str, rcpt: str = "") -> Answer:
        text = refusal.text.replace("{ip}", ip).replace("{host}", self.persona.hosts[0]).replace("{rcpt}", rcpt)
        return answer(refusal.code, refusal.status, text)


def answer(code: int, status: str, text: str) -> Answer:
    """A reply of one or more lines (RFC 5321 §4.2.1); status: RFC 3463, or nothing."""
    lines = [f"{status} {line}" if status else line for line in text.strip().split("\n")]
    wire = "".join(f"{code}{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines)
    return Answer(code, " ".join(lines), wire.encode(), code == 421)
