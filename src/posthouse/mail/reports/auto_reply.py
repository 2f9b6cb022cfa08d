"""Automatic answers of people and programs (RFC 3834): told apart so that they count neither as bounce nor as reply (MSG-5)."""

from __future__ import annotations

import re
from email.message import Message

from posthouse.mail.reports.parts import field
from posthouse.mail.reports.report import AutoReply

_SUBJECTS = re.compile(
    r"^\s*(?:auto(?:matic)?[ -]?(?:reply|response|antwort|responder)|auto(?:mated)?:|autoreply|out of (?:the )?office"
    r"|away from (?:my|the) (?:mail|office|desk)"
    r"|vacation|on holiday|i am away|abwesenheit|automatische antwort"
    r"|réponse automatique|absence|respuesta automática|fuera de (?:la )?oficina"
    r"|risposta automatica|自動(?:返信|応答|回复)|不在)",
    re.IGNORECASE,
)
_MARKS = ("X-Autoreply", "X-Autorespond", "X-Autoresponder", "X-Auto-Reply-From", "X-Mail-Autoreply", "X-Vacation")


def auto_reply_in(message: Message) -> AutoReply | None:
    """The automatic answer that this message is, or None."""
    submitted = field(message, "Auto-Submitted").lower()
    marked = (
        (submitted != "" and not submitted.startswith("no"))
        or field(message, "Precedence").lower() in ("auto_reply", "bulk", "junk")
        or any(message.get(name) is not None for name in _MARKS)
    )
    subject = field(message, "Subject")
    return AutoReply(subject[:200]) if marked or _SUBJECTS.search(subject) else None
