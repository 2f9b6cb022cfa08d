"""A message taken apart into the fields that SendGrid's API has: addresses, subject, bodies, attachments, other header fields.

What would arrive changed is not sent at all: the refusal names it. Three things are left out because SendGrid writes them itself and
forbids them: our DKIM-Signature (it signs for a domain that the account has proved), trace fields, and the frame of the MIME parts.
"""

from __future__ import annotations

import base64
import email
from collections.abc import Sequence
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import getaddresses

from posthouse.delivery.relays.dialect import CannotCarry
from posthouse.model.messages import Composed

# Fields that say how the message travelled or how its parts are framed: written anew by whoever carries it.
_WRITTEN_ANEW = frozenset(
    ("received", "return-path", "dkim-signature", "mime-version", "content-type", "content-transfer-encoding")
)
_FIELDS_OF_THE_FORM = frozenset(("from", "to", "subject", "reply-to"))
_SENDS_COPIES = frozenset(("cc", "bcc", "resent-to", "resent-cc", "resent-bcc"))
# SendGrid's description: these names are its own.
_FORBIDDEN = frozenset(("x-sg-id", "x-sg-eid"))
_PART_FIELDS = frozenset(("content-type", "content-transfer-encoding", "content-disposition", "content-id"))
# The order that SendGrid asks for.
_BODY_TYPES = ("text/plain", "text/x-amp-html", "text/html", "text/calendar")
_SAYS_NOTHING = frozenset(("charset", "name", "boundary", "type"))


class _Unfit(Exception):
    """The message cannot be carried; the text is the end of a sentence."""


def decomposed(message: Composed) -> dict[str, object] | CannotCarry:
    """The body of a /v3/mail/send request, without settings; or what of the message it has no place for."""
    try:
        return _decomposed(email.message_from_bytes(message.content), message.recipient)
    except _Unfit as unfit:
        return CannotCarry(str(unfit))
    except RecursionError:
        return CannotCarry("parts within parts without end")


def _decomposed(parsed: Message, recipient: str) -> dict[str, object]:
    fields = _header_fields(parsed)
    senders = _mailboxes(fields, "from")
    if len(senders) != 1:
        raise _Unfit("a From field that does not hold exactly one address")
    shown = _mailboxes(fields, "to")
    if len(shown) != 1 or shown[0]["email"].lower() != recipient.lower():
        raise _Unfit("a To field that names others than the recipient")
    subject = _words("subject", fields.pop("subject", ""))
    if not subject:
        raise _Unfit("a message without a Subject")
    bodies = _Bodies()
    bodies.take(parsed)
    form: dict[str, object] = {
        "personalizations": [{"to": [{**shown[0], "email": recipient}]}],
        "from": senders[0],
        "subject": subject,
        "content": bodies.contents(),
    }
    if replies := _mailboxes(fields, "reply-to"):
        form.update({"reply_to": replies[0]} if len(replies) == 1 else {"reply_to_list": replies})
    if bodies.attachments:
        form["attachments"] = bodies.attachments
    others = {name: value for name, value in _spelled(parsed) if name.lower() not in _FIELDS_OF_THE_FORM}
    if others:
        form["headers"] = others
    return form


def _header_fields(parsed: Message) -> dict[str, str]:
    """Name in lower case → value unfolded, of the fields that are the message's own. Each may stand there once: the form is an object."""
    fields: dict[str, str] = {}
    for name, value in _spelled(parsed):
        lower = name.lower()
        if lower in _SENDS_COPIES:
            raise _Unfit(f"a {name} field")
        if lower in _FORBIDDEN:
            raise _Unfit(f"a {name} field of our own")
        if lower in fields:
            raise _Unfit(f"a second {name} field")
        fields[lower] = value
    return fields


def _spelled(parsed: Message) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in parsed.items():
        if name.lower() in _WRITTEN_ANEW:
            continue
        # The parser hands out a Header object, whatever its stub says, where a value has octets above 127.
        if not str(value).isascii():
            raise _Unfit(f"a {name} field with octets outside ASCII")
        found.append((name, " ".join(value.split())))
    return found


def _mailboxes(fields: dict[str, str], name: str) -> list[dict[str, str]]:
    found = getaddresses([fields[name]]) if name in fields else []
    mailboxes: list[dict[str, str]] = []
    for shown, address in found:
        if "@" not in address:
            raise _Unfit(f"a {name.title()} field that is not a list of addresses")
        decoded = _words(name, shown)
        mailboxes.append({"email": address, "name": decoded} if decoded else {"email": address})
    return mailboxes


def _words(name: str, value: str) -> str:
    """RFC 2047 words decoded."""
    try:
        return str(make_header(decode_header(value))) if "=?" in value else value
    except (HeaderParseError, LookupError, UnicodeError, ValueError) as error:
        raise _Unfit(f"a {name.title()} field with encoded words that cannot be read") from error


class _Bodies:
    """The bodies and attachments of a message, collected from its tree of parts."""

    def __init__(self) -> None:
        self.attachments: list[dict[str, str]] = []
        self._texts: list[tuple[str, str]] = []

    def contents(self) -> list[dict[str, str]]:
        """The bodies, plainest first."""
        types = [kind for kind, _ in self._texts]
        if not types or types != sorted(set(types), key=_BODY_TYPES.index):
            raise _Unfit(f"bodies in this number and order: {', '.join(types) or 'none'}")
        return [{"type": kind, "value": text} for kind, text in self._texts]

    def take(self, part: Message) -> None:
        """What stands where a body is expected: a text, or texts with what belongs to them."""
        kind = part.get_content_type()
        if kind in ("multipart/mixed", "multipart/related"):
            first, *others = self._children(part)
            self.take(first)
            for other in others:
                self._attach(other, inline=kind == "multipart/related")
        elif kind == "multipart/alternative":
            for child in self._children(part):
                if child.get_content_type() not in (*_BODY_TYPES, "multipart/related"):
                    raise _Unfit(f"{child.get_content_type()} among alternatives")
                self.take(child)
        elif kind in _BODY_TYPES and part.get_content_disposition() in (None, "inline") and not part.get_filename():
            self._texts.append((kind, self._text(part)))
        else:
            raise _Unfit(f"{kind} in the place of a body")

    def _children(self, part: Message) -> Sequence[Message]:
        children = part.get_payload()
        self._check(part)
        if not isinstance(children, list) or not children:
            raise _Unfit(f"{part.get_content_type()} without parts")
        return children  # type: ignore[return-value]

    def _text(self, part: Message) -> str:
        octets = self._octets(part)
        charset = str(part.get_param("charset", "us-ascii"))
        try:
            text = octets.decode(charset)
        except (LookupError, UnicodeError) as error:
            raise _Unfit(f"a text that is not in its character set {charset}") from error
        if not text.strip():
            raise _Unfit("an empty body")
        return text.replace("\r\n", "\n")

    def _attach(self, part: Message, inline: bool) -> None:
        kind, name, number = part.get_content_type(), part.get_filename(), part.get("Content-ID")
        if part.is_multipart():
            raise _Unfit(f"{kind} as an attachment")
        octets = self._octets(part)
        charset = str(part.get_param("charset", "us-ascii")).lower()
        if part.get_content_maintype() == "text" and charset not in ("us-ascii", "utf-8"):
            raise _Unfit(f"an attached text in {charset}")
        if inline and number is None:
            raise _Unfit("a related part without Content-ID")
        if not octets:
            raise _Unfit("an empty attachment")
        if not name and not inline:
            raise _Unfit("an attachment without a file name")
        form = {
            "content": base64.b64encode(octets).decode(),
            "type": kind,
            "filename": _words("filename", name) if name else str(number).strip("<> "),
            "disposition": "inline" if inline else part.get_content_disposition() or "attachment",
        }
        if number is not None:
            form["content_id"] = number.strip().removeprefix("<").removesuffix(">")
        self.attachments.append(form)

    def _octets(self, part: Message) -> bytes:
        octets = part.get_payload(decode=True)
        self._check(part)
        if not isinstance(octets, bytes):
            raise _Unfit(f"{part.get_content_type()} in the place of a body")
        return octets

    def _check(self, part: Message) -> None:
        """Nothing that a part says about itself may be lost. Decoding has noted what is wrong with it before this is asked."""
        if part.defects:
            raise _Unfit("a part that breaks the MIME format")
        for name in part:
            if name.lower().startswith("content-") and name.lower() not in _PART_FIELDS:
                raise _Unfit(f"a {name} field")
        for parameter, _ in part.get_params([("", "")]):
            if "/" not in parameter and parameter and parameter.lower() not in _SAYS_NOTHING:
                raise _Unfit(f"the parameter {parameter} of {part.get_content_type()}")
