"""Bounces written for people only: qmail, Exim, old Exchange, Gmail, Yahoo and their like, which send no RFC 3464 fields.

flufl.bounce is the second opinion for mail systems whose form is not known here; it finds addresses, not reasons.
"""

from __future__ import annotations

import re
from email.message import Message

from flufl.bounce import all_failures

from posthouse.mail.reports.auto_reply import auto_reply_in
from posthouse.mail.reports.dsn import reply_in, stage_in
from posthouse.mail.reports.parts import field, is_text, parts_of, text_of
from posthouse.mail.reports.report import Action, RecipientReport

_MAX_TEXT = 20_000
_MAX_LINE = 400
_MAX_RECIPIENTS = 50
_MAX_LINES = 14
_SENDERS = re.compile(
    r"mailer-?daemon|postmaster|mail delivery (?:sub)?system|mdaemon|mail administrator", re.IGNORECASE
)
_SUBJECTS = re.compile(
    r"undeliver|deliver(?:y|ed|ing)?\b.{0,30}\b(?:fail|status|notification|problem|error|delay|report)|returned mail"
    r"|mail (?:system )?error\b"
    r"|(?:failure|failed) (?:notice|delivery|mail)|(?:fail|unable|could not|cannot|not).{0,20}\bdeliver|mail failure|returning message"
    r"|non.?delivery|nondeliverable|delayed mail|warning: .{0,40}(?:delay|message|mail)|message delayed"
    r"|bounce|rejected mail|returned to sender",
    re.IGNORECASE,
)
_DELAYED = re.compile(
    r"warning message only|this is (?:only )?a warning|(?:still|will) be(?:ing)? (?:re)?tried|has (?:not yet been delivered|been delayed)"
    r"|has not yet been delivered|delivery attempts will continue|do not need to resend|delivery .{0,20}delayed|will continue trying",
    re.IGNORECASE,
)
# Where the words end and the returned message begins.
_ORIGINAL = re.compile(
    r"^[ \t]{0,20}(?:[-=*_]{2,60}[ \t]{0,20})?(?:(?:below this line is|enclosed is|this is) a copy of"
    r"|original message(?: headers| follows)?\b"
    r"|(?:the )?(?:original|returned|undelivered|unsent) message (?:follows|is|below|headers)|message (?:header|text) follows"
    r"|returned mail follows|the header of the original|begin(?:ning)? of (?:the )?(?:original|returned)|received: (?:from|by)\b).*$",
    re.IGNORECASE | re.MULTILINE,
)
# What stands before the failed recipients; before it stand senders and the original's own recipients.
_INTRODUCTION = re.compile(
    r"(?:did not reach|following|these|one or more)[^.:]{0,30}\b(?:recipient|address|destination)"
    r"(?:s|es|\(s\)|\(es\))?[^.:]{0,60}(?::|-{3,})[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ADDRESS = r"[^\s<>()\[\]:;,\"'@]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?"
# A line that names a failed recipient: "<a@b>: why", "a@b" alone, "a@b on Thu, …", "To: a@b", "a@b: why", "Recipient: [SMTP:a@b]".
_RECIPIENT_LINE = re.compile(
    rf"^[ \t>*-]{{0,12}}(?:(?:recipient|to|address|failed recipient|user)s?[ \t]*:[ \t]*)?(?:\[?smtp:)?"
    rf"(?:<(?P<angled>{_ADDRESS})>|(?P<bare>{_ADDRESS}))\]?[ \t]*"
    rf"(?P<rest>$|[:;,]|\(expanded from|\(generated from|\.{{3}}|on [A-Z][a-z]{{2}},|-+|<mailto:|>).*$",
    re.IGNORECASE | re.MULTILINE,
)


def recipients_in(message: Message) -> list[RecipientReport]:
    """The failed or delayed recipients that the words name; empty where the message does not look like a bounce.

    One recipient without an address stands for a bounce that names nobody: the return path tells whose it is (BNC-2).
    """
    failed = re.findall(_ADDRESS, field(message, "X-Failed-Recipients"))
    by_machine = (
        bool(_SENDERS.search(field(message, "From")))
        or (field(message, "Return-Path") == "<>" and auto_reply_in(message) is None)
        or message.get_content_type() == "multipart/report"
    )
    by_subject = bool(_SUBJECTS.search(field(message, "Subject")))
    if not (failed or by_machine or by_subject):
        return []
    text = words_of(message)
    action = Action.DELAYED if _DELAYED.search(f"{field(message, 'Subject')}\n{text}") else Action.FAILED
    introduced = _INTRODUCTION.search(text)
    named = _recipients_from(text, introduced.end() if introduced else 0) or [
        (address, text) for address in failed[:_MAX_RECIPIENTS]
    ]
    if named:
        return [_reported(address, action, words) for address, words in named]
    guessed = _second_opinion(message, text[:2000])
    if guessed:
        return guessed
    named = _recipients_from(text, 0) or ([("", text)] if by_machine and by_subject else [])
    return [_reported(address, action, words) for address, words in named]


def words_of(message: Message) -> str:
    """The text for people, up to where the returned message begins."""
    for part in parts_of(message):
        if is_text(part):
            text = text_of(part)[:_MAX_TEXT]
            if part.get_content_subtype() == "html":
                text = re.sub(r"<(?:br|/p|/div|/tr)[^>]{0,200}>", "\n", text)
            text = "\n".join(line[:_MAX_LINE] for line in text.splitlines())
            start = _ORIGINAL.search(text)
            words = text[: start.start()] if start else text
            if words.strip():
                return words
    return ""


def _recipients_from(text: str, start: int) -> list[tuple[str, str]]:
    """Address and the words about it: the rest of its line and the lines that follow, up to the next address; at most 50."""
    lines: dict[str, re.Match[str]] = {}
    for match in _RECIPIENT_LINE.finditer(text, start):
        lines.setdefault((match["angled"] or match["bare"]).lower(), match)
    firsts = list(lines.values())[:_MAX_RECIPIENTS]
    ends = [match.start() for match in firsts[1:]] + [len(text)]
    found = []
    for this, end in zip(firsts, ends, strict=False):
        rest = text[this.end("angled") if this["angled"] else this.end("bare") : end]
        words = "\n".join(rest.splitlines()[:_MAX_LINES]).strip(" >:;,\n\t")
        found.append((this["angled"] or this["bare"], words))
    return found


def _reported(address: str, action: Action, words: str) -> RecipientReport:
    return RecipientReport(address, action, None, reply_in(words, None, action), stage_in(words))


def _second_opinion(message: Message, text: str) -> list[RecipientReport]:
    """What flufl.bounce finds. It was not written for hostile input, so whatever it raises means that it found nothing."""
    try:
        temporary, permanent = all_failures(message)
    except Exception:
        return []
    found = []
    for addresses, action in ((permanent, Action.FAILED), (temporary, Action.DELAYED)):
        for address in sorted(addresses)[:_MAX_RECIPIENTS]:
            shown = address.decode("utf-8", "replace") if isinstance(address, bytes) else str(address)
            found.append(_reported(shown, action, text))
    return found
