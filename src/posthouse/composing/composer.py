"""One recipient's message: blanks filled, header written, signed. The hottest path of the product: microseconds count here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from posthouse.composing.compiled import CompiledMessage, FieldSlot, LinkSlot, Part, TokenKind, TokenSlot
from posthouse.composing.draft import Frame, Lacking
from posthouse.composing.filling import Filler, field_text
from posthouse.composing.message_header import HeaderWriter, subject_value
from posthouse.mail.dkim import Signer
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.messages import Composed, Copy

_PURPOSES = {
    TokenKind.CLICK: Purpose.CLICK,
    TokenKind.OPEN: Purpose.OPEN,
    TokenKind.UNSUBSCRIBE: Purpose.UNSUBSCRIBE,
}
# Copying a hash state costs as much as hashing about 300 octets.
_PREFIX_WORTH_KEEPING = 1024


class Composer:
    """Composes the messages of one campaign; one per sender process and campaign."""

    def __init__(self, compiled: CompiledMessage, frame: Frame, signers: Sequence[Signer], tokens: Tokens) -> None:
        """signers: in the order of their signatures, RSA first (DKIM-1); none means unsigned. frame: the one it was compiled with.

        Raises SettingWrong for a frame that cannot stand in a header.
        """
        self._compiled = compiled
        self._frame = frame
        self._tokens = tokens
        self._filler = Filler(compiled.body, frame.public_url, tokens)
        self._header = HeaderWriter(compiled, frame, signers)
        self._kinds = _kinds_needed(compiled)
        self._purposes = tuple(_PURPOSES[kind] for kind in self._kinds)
        self._return_path_end = f"@{frame.bounce_domain}"
        self._subject = compiled.subject
        self._fixed_subject = (
            subject_value("".join(map(str, self._subject))) if all(isinstance(p, str) for p in self._subject) else None
        )
        prefix = compiled.body.statics[0] if compiled.body.order[0] == 0 else b""
        self._prefix_length = len(prefix) if len(prefix) >= _PREFIX_WORTH_KEEPING else 0
        self._prefix_hash = sha256(prefix)

    def compose(self, copy: Copy, at: datetime) -> Composed | Lacking:
        """The message for one recipient of a template that has blanks only; Lacking when a required field is empty.

        at: when it is sent, aware, UTC. The same copy at the same time gives the same octets, but for what a signer adds by chance.
        """
        subject = Subject(copy.workspace_id, copy.campaign_id, copy.list_id, copy.contact_id, copy.message_id)
        tokens = dict(zip(self._kinds, self._tokens.links(self._purposes, subject), strict=True))
        return self._composed(copy, at, subject, tokens, {})

    def _composed(
        self, copy: Copy, at: datetime, subject: Subject, tokens: Mapping[TokenKind, str], rendered: Mapping[int, bytes]
    ) -> Composed | Lacking:
        email = copy.email
        subject_line = self._fixed_subject
        if subject_line is None:
            subject_line = self._filled_subject(copy.fields, email, rendered)
        body = self._filler.fill(copy.fields, email, tokens, subject, rendered)
        if body is None or subject_line is None:
            return Lacking(missing_fields(self._compiled, copy.fields))
        if self._prefix_length:
            digest = self._prefix_hash.copy()
            digest.update(memoryview(body)[self._prefix_length :])
            body_hash = digest.digest()
        else:
            body_hash = sha256(body).digest()
        token = self._tokens.return_path(subject)
        header = self._header.write(email, subject_line, token, tokens[TokenKind.UNSUBSCRIBE], body_hash, at)
        outside_ascii = not email.isascii()
        return Composed(f"b-{token}{self._return_path_end}", email, header + body, outside_ascii, outside_ascii)

    def _filled_subject(self, fields: Mapping[str, Any], email: str, rendered: Mapping[int, bytes]) -> bytes | None:
        parts: list[str] = []
        for piece in self._subject:
            if isinstance(piece, str):
                parts.append(piece)
            elif isinstance(piece, FieldSlot):
                value = field_text(piece, fields, email)
                if value is None:
                    return None
                parts.append(value)
            else:
                parts.append(rendered[piece.part].decode())
        return subject_value("".join(parts))


def missing_fields(compiled: CompiledMessage, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The required merge fields that are empty for this contact; preflight asks it for every contact of a list."""
    get = fields.get
    missing = None
    for name in compiled.fields:
        value = get(name)
        if value is None or value == "" or (value.__class__ is str and value.isspace()):
            missing = (*(missing or ()), name)
    return missing or ()


def _kinds_needed(compiled: CompiledMessage) -> tuple[TokenKind, ...]:
    """The tokens that a message needs; every message needs the one of List-Unsubscribe."""
    if compiled.engine:
        return tuple(TokenKind)
    needed = {TokenKind.UNSUBSCRIBE}
    for slot in compiled.body.slots:
        if isinstance(slot, TokenSlot):
            needed.add(slot.kind)
        elif isinstance(slot, LinkSlot):
            needed.add(TokenKind.CLICK)
    return tuple(sorted(needed))
