"""From a draft to a compiled message: one step a line."""

from __future__ import annotations

import re

from posthouse.composing.compiled import CompiledMessage, FieldSlot, Filling, RenderedSlot
from posthouse.composing.compiled_kinds import Part
from posthouse.composing.draft import Draft, Frame
from posthouse.composing.engine_source import engine_source, subject_source
from posthouse.composing.escaping import Place
from posthouse.composing.filling import FillingBuilder
from posthouse.composing.layout import PartLayout, lay_out
from posthouse.composing.links import LinkTable
from posthouse.composing.lint import lint, required_fields
from posthouse.composing.marks import Marks
from posthouse.composing.markup import prepare_markup
from posthouse.composing.tags import POSTAL_ADDRESS, UNSUBSCRIBE_URL, FieldTag, split_tags, template_wrong
from posthouse.mail.address import parse_address
from posthouse.mail.header_field import clean_header_text, mailbox_field
from posthouse.mail.mime import (
    HTML_TYPE,
    TEXT_TYPE,
    TRANSFER_ENCODING,
    alternative_type,
    boundary_for,
    closing_line,
    part_head,
)
from posthouse.model.errors import TemplateWrong

# Gmail shows no more than 102 kB of HTML (MSG-4).
_GMAIL_CLIPS_AT = 102_000
_SPACES = re.compile(r"\s+")


def compile_message(draft: Draft, frame: Frame) -> CompiledMessage:
    """Everything that is the same for all recipients, done once.

    Raises TemplateWrong with the part, the line and how to mend it; AddressWrong for a From or Reply-To that is no address.
    """
    source, is_mjml = (draft.mjml, True) if draft.mjml is not None else (draft.html, False)
    given = {"Subject": draft.subject, ("MJML" if is_mjml else "HTML"): source, "Text": draft.text}
    if source is None and draft.text is None:
        raise TemplateWrong("The message has no body. Give HTML, MJML or text.")
    for where, template in given.items():
        if template is not None:
            lint(template, where)
    marks = Marks(draft.subject, source or "", draft.text or "")
    links = LinkTable(marks, draft.track_clicks)
    markup = prepare_markup(source, is_mjml, marks, links, draft.track_opens) if source is not None else None
    text = links.track_text(marks.mark_text(draft.text, "Text")) if draft.text is not None else None
    if text is None and markup is not None:
        text = markup.text
    parts = [lay_out(Part.TEXT, (text or "").rstrip() + "\n", marks, frame)]
    if markup is not None:
        parts.append(lay_out(Part.HTML, markup.html, marks, frame))
    subject, subject_source = _subject(draft.subject)
    sources = {part.part: engine_source(part) for part in parts if part.needs_engine}
    if subject_source is not None:
        sources[Part.SUBJECT] = subject_source
    content_type, body = _body(parts)
    html_bytes = len(parts[-1].static_text.encode()) if markup is not None else 0
    return CompiledMessage(
        subject=subject,
        body=body,
        from_field=mailbox_field("From", draft.from_name, _our_address(draft.from_address, "From")),
        reply_to_field=mailbox_field("Reply-To", None, _our_address(draft.reply_to, "Reply-To"))
        if draft.reply_to
        else b"",
        content_type_fields=content_type,
        fields=_required(subject, parts, given),
        links=links.targets,
        sources=sources,
        html_bytes=html_bytes,
        warnings=tuple(_warnings(html_bytes, links)),
        has_body_unsubscribe=all(UNSUBSCRIBE_URL in part.uses for part in parts),
        has_postal_address=all(POSTAL_ADDRESS in part.uses or _holds(part, frame.postal_address) for part in parts),
    )


def _our_address(text: str, field: str) -> str:
    address = parse_address(text)
    if address.needs_smtputf8:
        raise TemplateWrong(
            f"{field}: “{address.text}” has letters outside ASCII before the @, which most servers refuse. Use another address."
        )
    return address.text


def _subject(source: str) -> tuple[tuple[str | FieldSlot | RenderedSlot, ...], str | None]:
    """(pieces, template for the render child)."""
    pieces: list[str | FieldSlot | RenderedSlot] = []
    tags = list(split_tags(source, "Subject"))
    for piece in tags:
        if isinstance(piece, str):
            pieces.append(_SPACES.sub(" ", piece))
        elif isinstance(piece, FieldTag):
            pieces.append(FieldSlot(piece.name, piece.default, Place.TEXT))
        else:
            return (RenderedSlot(Part.SUBJECT),), subject_source(tags)
    if not clean_header_text("".join(piece if isinstance(piece, str) else "x" for piece in pieces)):
        raise template_wrong("Subject", None, "It is empty. Write a subject.")
    return tuple(pieces), None


def _body(parts: list[PartLayout]) -> tuple[bytes, Filling]:
    """(the Content-Type and related fields, the body)."""
    builder = FillingBuilder()
    if len(parts) == 1:
        parts[0].build(builder)
        fields = f"Content-Type: {TEXT_TYPE}\r\nContent-Transfer-Encoding: {TRANSFER_ENCODING}\r\n"
        return fields.encode(), builder.finish()
    boundary = boundary_for(*(part.static_text.encode() for part in parts))
    for part, content_type in zip(parts, (TEXT_TYPE, HTML_TYPE), strict=True):
        builder.ready(part_head(boundary, content_type))
        part.build(builder)
        builder.ready(b"\r\n")
    builder.ready(closing_line(boundary))
    return f"Content-Type: {alternative_type(boundary)}\r\n".replace("; b", ";\r\n b").encode(), builder.finish()


def _required(
    subject: tuple[str | FieldSlot | RenderedSlot, ...], parts: list[PartLayout], given: dict[str, str | None]
) -> tuple[str, ...]:
    slots = [piece for piece in subject if isinstance(piece, FieldSlot)]
    for part in parts:
        slots += () if part.needs_engine else part.field_slots
    names = [slot.name for slot in slots if slot.default is None]
    if any(part.needs_engine for part in parts) or isinstance(subject[0], RenderedSlot):
        for where, template in given.items():
            if template is not None:
                names += required_fields(template, where)
    return tuple(dict.fromkeys(name for name in names if name != "email"))


def _warnings(html_bytes: int, links: LinkTable) -> list[str]:
    warnings = []
    if html_bytes > _GMAIL_CLIPS_AT:
        warnings.append(f"The HTML has {html_bytes:,} bytes; Gmail hides what comes after 102,000. Shorten it.")
    for href in links.relative:
        warnings.append(f"The link “{href[:80]}” names no host and leads nowhere from an email. Write the whole URL.")
    return warnings


def _holds(part: PartLayout, address: str) -> bool:
    plain = re.sub(r"<[^>]*>", " ", part.static_text) if part.part is Part.HTML else part.static_text
    wanted = _SPACES.sub(" ", address).strip()
    return bool(wanted) and wanted in _SPACES.sub(" ", plain)
