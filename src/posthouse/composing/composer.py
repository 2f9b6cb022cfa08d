"""One recipient's message: blanks filled, header written, signed. The hottest path of the product: microseconds count here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

from posthouse.composing.compiled import CompiledMessage, FieldSlot, LinkSlot, TokenSlot
from posthouse.composing.compiled_kinds import Part, TokenKind
from posthouse.composing.draft import Frame, Lacking, Rendered, RenderFailed
from posthouse.composing.engine_names import TARGET_BEGINS, TARGET_ENDS, TOKEN_NAMES
from posthouse.composing.filling import Filler, field_text
from posthouse.composing.message_header import HeaderWriter, subject_value
from posthouse.composing.render_child import RenderChild
from posthouse.mail.dkim import Signer
from posthouse.mail.quoted_printable import SOFT_BREAK, without_empty_end
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.messages import Composed, Copy

_PURPOSES = {
    TokenKind.CLICK: Purpose.CLICK,
    TokenKind.OPEN: Purpose.OPEN,
    TokenKind.UNSUBSCRIBE: Purpose.UNSUBSCRIBE,
}
_TARGET = re.compile(f"{TARGET_BEGINS}([^{TARGET_BEGINS}{TARGET_ENDS}]*){TARGET_ENDS}".encode())
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
        self._sources = compiled.child_sources
        self._fixed_subject = (
            subject_value("".join(map(str, self._subject))) if all(isinstance(p, str) for p in self._subject) else None
        )
        # Several parts end in a boundary; a single one may end in whatever a contact's field ends in.
        self._single_part = b"multipart" not in compiled.content_type_fields
        prefix = compiled.body.statics[0] if compiled.body.order[0] == 0 else b""
        self._prefix_length = len(prefix) if len(prefix) >= _PREFIX_WORTH_KEEPING else 0
        self._prefix_hash = sha256(prefix)

    def compose(self, copy: Copy, at: datetime, rendered: Rendered | None = None) -> Composed | Lacking:
        """The message for one recipient; Lacking when a required field is empty.

        at: when it is sent, aware, UTC. rendered: what `render_many` made for this copy, for a template that needs the engine.
        The same copy at the same time gives the same octets, but for what a signer adds by chance.
        """
        subject = Subject(copy.workspace_id, copy.campaign_id, copy.list_id, copy.contact_id, copy.message_id)
        links, return_path = self._tokens.of_copy(self._purposes, subject)
        tokens = dict(zip(self._kinds, links, strict=True))
        parts = {} if rendered is None else self._sealed(rendered.parts, subject, tokens)
        return self._composed(copy, at, subject, tokens, return_path, parts)

    async def render_many(
        self, copies: Sequence[Copy], renderer: RenderChild
    ) -> list[Rendered | Lacking | RenderFailed]:
        """What the engine makes of the template for many recipients, one answer for each copy, to be composed when they leave.

        The child gets merge fields and ready tokens, never a key.
        """
        lacking = [missing_fields(self._compiled, copy.fields) for copy in copies]
        complete = [copy for copy, missing in zip(copies, lacking, strict=True) if not missing]
        made = iter(await renderer.render(self._sources, [self._values(copy) for copy in complete]))
        answers: list[Rendered | Lacking | RenderFailed] = []
        for missing in lacking:
            if missing:
                answers.append(Lacking(missing))
                continue
            parts = next(made)
            if isinstance(parts, RenderFailed):
                answers.append(parts)
            else:
                answers.append(Rendered(dict(zip(self._compiled.sources, parts, strict=True))))
        return answers

    def _values(self, copy: Copy) -> dict[str, Any]:
        subject = Subject(copy.workspace_id, copy.campaign_id, copy.list_id, copy.contact_id, copy.message_id)
        tokens = dict(zip(self._kinds, self._tokens.of_copy(self._purposes, subject)[0], strict=True))
        contact = {**copy.fields, "email": copy.email}
        return {
            **contact,
            "contact": contact,
            "unsubscribe_url": f"{self._frame.public_url}/u/{tokens[TokenKind.UNSUBSCRIBE]}",
            "postal_address": self._frame.postal_address,
            **{TOKEN_NAMES[kind]: token for kind, token in tokens.items()},
        }

    def _sealed(
        self, parts: Mapping[Part, bytes], subject: Subject, tokens: Mapping[TokenKind, str]
    ) -> dict[Part, bytes]:
        """The rendered parts with every marked target turned into a tracking link."""
        sealed: dict[Part, bytes] = {}
        for part, octets in parts.items():

            def link(target: re.Match[bytes], markup: bool = part is Part.HTML) -> bytes:
                return (
                    self._filler.redirect(unquote(target[1].decode()), markup, tokens[TokenKind.CLICK], subject)
                    + SOFT_BREAK
                )

            sealed[part] = _TARGET.sub(link, octets)
        return sealed

    def _composed(
        self,
        copy: Copy,
        at: datetime,
        subject: Subject,
        tokens: Mapping[TokenKind, str],
        token: str,
        rendered: Mapping[Part, bytes],
    ) -> Composed | Lacking:
        email = copy.email
        subject_line = self._fixed_subject
        if subject_line is None:
            subject_line = self._filled_subject(copy.fields, email, rendered)
        body = self._filler.fill(copy.fields, email, tokens, subject, rendered)
        if body is None or subject_line is None:
            return Lacking(missing_fields(self._compiled, copy.fields))
        if self._single_part:
            body = without_empty_end(body)
        if self._prefix_length:
            digest = self._prefix_hash.copy()
            digest.update(memoryview(body)[self._prefix_length :])
            body_hash = digest.digest()
        else:
            body_hash = sha256(body).digest()
        header = self._header.write(email, subject_line, token, tokens[TokenKind.UNSUBSCRIBE], body_hash, at)
        outside_ascii = not email.isascii()
        # Quoted-printable writes a dot at the beginning of a line as =2E, so there is none.
        return Composed(f"b-{token}{self._return_path_end}", email, header + body, outside_ascii, outside_ascii, False)

    def _filled_subject(self, fields: Mapping[str, Any], email: str, rendered: Mapping[Part, bytes]) -> bytes | None:
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
