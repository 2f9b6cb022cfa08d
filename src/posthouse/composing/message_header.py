"""The header of a campaign's messages: what is fixed is written once, as sent and as DKIM hashes it (MSG-1 to MSG-6, UNS-1, UNS-8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from posthouse.composing.compiled import CompiledMessage
from posthouse.composing.draft import Frame
from posthouse.mail.dkim import SignaturePlan, Signer
from posthouse.mail.dkim_canonical import canonical_field
from posthouse.mail.header_field import clean_header_text, date_text, field, phrase, unstructured_field
from posthouse.model.errors import SettingWrong

_LINE = 78
_TO_ROOM = _LINE - len("To: ")
_PLAIN_SUBJECT = re.compile(r"(?:[!-~]+ ?){1,20}(?<! )")
_LIST_ID = re.compile(r"(?P<name>[^<>]*)<(?P<id>[A-Za-z0-9._-]+)>\s*")
# RFC 2919 §2: the whole field stays within 255 octets (UNS-8).
_LIST_ID_OCTETS = 255

# In the place of a field that differs for each recipient. The order is that of the header, and of DKIM's hash too.
_TO, _SUBJECT, _DATE, _MESSAGE_ID, _LIST_UNSUBSCRIBE = (
    f"{name}:%b\r\n".encode() for name in ("To", "Subject", "Date", "Message-ID", "List-Unsubscribe")
)
_SPACE, _FOLD = b" ", b"\r\n "


class HeaderWriter:
    """Writes and signs the header of one campaign's messages."""

    def __init__(self, compiled: CompiledMessage, frame: Frame, signers: Sequence[Signer]) -> None:
        """Raises SettingWrong for a frame that cannot stand in a header."""
        fields = _fields(compiled, frame)
        self._wire = b"".join(fields)
        names = [raw.partition(b":")[0].decode() for raw in fields]
        self._plan = SignaturePlan(signers, names) if signers else None
        by_name = dict(zip(names, fields, strict=True))
        self._canonical = b"".join(canonical_field(by_name[name]) for name in (self._plan.signed if self._plan else ()))
        self._message_id_end = b"@" + frame.message_id_domain.encode() + b">"
        self._message_id_room = _LINE - len("Message-ID: <") - len(self._message_id_end)
        self._unsubscribe = b"<" + frame.public_url.encode() + b"/u/"
        self._unsubscribe_room = _LINE - len("List-Unsubscribe: >") - len(self._unsubscribe)
        self._date = b""
        self._timestamp = 0

    def write(
        self, to: str, subject: bytes, token: str, unsubscribe_token: str, body_hash: bytes, at: datetime
    ) -> bytes:
        """The signed header with the empty line after it.

        subject: the value of the field as sent, folded; token: of the return path; body_hash: SHA-256 of the body; at: aware, UTC.
        """
        second = int(at.timestamp())
        if second != self._timestamp:
            self._timestamp, self._date = second, date_text(at).encode()
        to_octets = to.encode()
        message_id = b"<" + token.encode() + self._message_id_end
        unsubscribe = self._unsubscribe + unsubscribe_token.encode() + b">"
        values = (to_octets, subject, self._date, message_id, unsubscribe)
        wire = self._wire % (
            (_SPACE if len(to_octets) <= _TO_ROOM else _FOLD) + to_octets,
            _SPACE + subject,
            _SPACE + self._date,
            (_SPACE if len(token) <= self._message_id_room else _FOLD) + message_id,
            (_SPACE if len(unsubscribe_token) <= self._unsubscribe_room else _FOLD) + unsubscribe,
        )
        if self._plan is None:
            return wire + b"\r\n"
        canonical = self._canonical % values
        if _FOLD in subject:
            canonical = canonical.replace(_FOLD, _SPACE)
        return self._plan.sign(canonical, body_hash, self._timestamp) + wire + b"\r\n"


def subject_value(text: str) -> bytes:
    """The value of a Subject field, encoded and folded; a fast way for short plain ones (MSG-2, MSG-3)."""
    if len(text) < 68 and _PLAIN_SUBJECT.fullmatch(text) and "=?" not in text:
        return text.encode()
    return _encoded_subject(text)


@lru_cache(1024)
def _encoded_subject(text: str) -> bytes:
    return unstructured_field("Subject", text)[len("Subject:") : -2].removeprefix(b" ")


def _fields(compiled: CompiledMessage, frame: Frame) -> list[bytes]:
    """The fields in the order of the message; those of a recipient are patterns."""
    fixed_before = [_pattern(compiled.from_field)]
    fixed_after = [
        *([compiled.reply_to_field] if compiled.reply_to_field else []),
        *([_list_id(frame.list_id_header)] if frame.list_id_header else []),
    ]
    last = [
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        *([_plain("Feedback-ID", frame.feedback_id)] if frame.feedback_id else []),
        *([_plain("CFBL-Address", f"{frame.complaints_address}; report=arf")] if frame.complaints_address else []),
        b"MIME-Version: 1.0\r\n",
        *re.findall(rb"[^\r\n]+\r\n(?:[ \t][^\r\n]*\r\n)*", compiled.content_type_fields),
    ]
    return [
        *fixed_before,
        *(_TO, _SUBJECT, _DATE, _MESSAGE_ID),
        *map(_pattern, fixed_after),
        _LIST_UNSUBSCRIBE,
        *map(_pattern, last),
    ]


def _pattern(raw: bytes) -> bytes:
    return raw.replace(b"%", b"%%")


def _plain(name: str, value: str) -> bytes:
    if not value.isascii() or clean_header_text(value) != value:
        raise SettingWrong(f"{name} would be “{value[:80]}”: only printable ASCII may stand there.")
    return field(name, value.split(" "))


def _list_id(value: str) -> bytes:
    parts = _LIST_ID.fullmatch(value)
    if parts is None:
        raise SettingWrong(
            f"List-Id would be “{value[:80]}”: write a name and an id, such as Newsletter <news.example.com>."
        )
    name = clean_header_text(parts["name"])
    while len(raw := field("List-Id", [*phrase(name), f"<{parts['id']}>"])) > _LIST_ID_OCTETS and name:
        name = name[:-1].rstrip()
    return raw
