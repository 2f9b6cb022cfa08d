"""Delivery status notifications: RFC 3464, with the international addresses of RFC 6533."""

from __future__ import annotations

import re
from email.message import Message

from msgspec import structs

from posthouse.mail.replies import Stage, parse_reply
from posthouse.mail.reports.parts import Block, blocks_in, is_text, parts_of, text_of
from posthouse.mail.reports.report import Action, RecipientReport
from posthouse.model.outcomes import Reply

_MAX_RECIPIENTS = 200
_STATUS = re.compile(r"\b([245]\.[0-9]{1,3}\.[0-9]{1,3})\b")
# A failure is not told by a 2xx, so that "after 240 minutes" is no reply.
_REFUSAL = re.compile(r"(?<![0-9.])([45][0-9]{2})(?=[ \-]|$)")
_ANSWER = re.compile(r"(?<![0-9.])([245][0-9]{2})(?=[ \-]|$)")
_ACTIONS = {action.value: action for action in Action} | {"failure": Action.FAILED, "delay": Action.DELAYED}
# Servers tell the stage in words of their own: Postfix, Exim, Yahoo and qmail, sendmail.
_STAGES = (
    (re.compile(r"(?:in reply to |after |\[|>>> ?)(?:end of data|pipelined end|dot\b)", re.IGNORECASE), Stage.CONTENT),
    (
        re.compile(r"(?:in reply to |after |\[|>>> ?)rcpt|does not like recipient|rcpt to response", re.IGNORECASE),
        Stage.RCPT,
    ),
    (re.compile(r"(?:in reply to |after |\[|>>> ?)mail[ _]from", re.IGNORECASE), Stage.MAIL),
    (re.compile(r"(?:in reply to |after |\[|>>> ?)(?:helo|ehlo)", re.IGNORECASE), Stage.EHLO),
    (
        re.compile(
            r"initial connection|while receiving the initial|connected to .{0,80} but greeting failed", re.IGNORECASE
        ),
        Stage.GREETING,
    ),
    (re.compile(r"(?:in reply to |after |\[|>>> ?)data|failed after i sent the message", re.IGNORECASE), Stage.CONTENT),
)
_PERCENT_X = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_QUOTED = re.compile(r"^(?:> ?)+", re.MULTILINE)


def recipients_in(message: Message) -> list[RecipientReport]:
    """Every recipient that delivery-status fields speak of, wherever in the message they stand; empty where there are none."""
    parts = list(parts_of(message))
    for part in parts:
        if part.get_content_type() in ("message/delivery-status", "message/global-delivery-status"):
            found = _from_blocks(blocks_in(text_of(part)))
            if found:
                return found
    # Gateways and people who forward turn the fields into plain text, quoted or not.
    for part in parts:
        if is_text(part):
            text = text_of(part)
            if "final-recipient:" in text.lower():
                return _from_blocks(blocks_in(_QUOTED.sub("", text)))
    return []


def with_words(report: RecipientReport, words: str) -> RecipientReport:
    """A report whose fields gave no diagnostic, with the words for people in its place; what the status says stays."""
    return structs.replace(
        report, reply=reply_in(words, report.status, report.action), stage=report.stage or stage_in(words)
    )


def stage_in(text: str) -> Stage | None:
    """Where in the conversation the reply came, as far as the words tell."""
    return next((stage for pattern, stage in _STAGES if pattern.search(text)), None)


def reply_in(text: str, status: str | None, action: Action) -> Reply:
    """The SMTP reply inside a diagnostic text. Without one: the text under the code that status and action make likely."""
    text = " ".join(text.split())
    went_wrong = action in (Action.FAILED, Action.DELAYED)
    match = (_REFUSAL if went_wrong else _ANSWER).search(text)
    if match and match.start() < 400:
        reply = parse_reply([text[match.start() :].encode()])
        return Reply(reply.code, reply.enhanced or _useful(status), reply.text)
    status = _useful(status) or next(iter(_STATUS.findall(text)), None)
    temporary = action is Action.DELAYED or (status or "").startswith("4")
    code = 250 if not went_wrong else 450 if temporary else 550
    return Reply(code, status, text[:1000])


def _from_blocks(blocks: list[Block]) -> list[RecipientReport]:
    found = [_recipient(block) for block in blocks[:_MAX_RECIPIENTS]]
    return [one for one in found if one is not None]


def _recipient(block: Block) -> RecipientReport | None:
    """A per-recipient group of fields (RFC 3464 §2.3), or None where the group is none."""
    action = _ACTIONS.get(re.split(r"[\s(;]", block.get("action", "").lower(), maxsplit=1)[0])
    address = _best_address(block)
    if address is None or (action is None and "status" not in block):
        return None
    found = _STATUS.search(block.get("status", ""))
    status = found[1] if found else None
    if action is None:
        action = (
            Action.DELAYED
            if (status or "").startswith("4")
            else Action.DELIVERED
            if (status or "").startswith("2")
            else Action.FAILED
        )
    kind, _, words = block.get("diagnostic-code", "").partition(";")
    diagnostic = words.strip() if words else kind
    remote = after_type(block.get("remote-mta", "")).split(" ", 1)[0]
    return RecipientReport(
        recipient=address,
        action=action,
        status=status,
        reply=reply_in(diagnostic, status, action),
        stage=stage_in(diagnostic),
        remote_host=remote.strip("[]").lower(),
    )


def _best_address(block: Block) -> str | None:
    """The recipient as we named it, where the report repeats that (RFC 3464 §2.3.1), else as the last server saw it."""
    addresses = [_address(block[name]) for name in ("original-recipient", "final-recipient") if name in block]
    return next((address for address in addresses if "@" in address), addresses[-1] if addresses else None)


def _address(value: str) -> str:
    """The address of a "type; address" field; utf-8 addresses may come in RFC 6533 §3 notation."""
    address = after_type(value).strip().strip("<>")
    return _PERCENT_X.sub(lambda match: _character(match[1]), address)[:320]


def _character(digits: str) -> str:
    number = int(digits, 16)
    return chr(number) if number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF else "\ufffd"


def after_type(value: str) -> str:
    """The value of a "type; value" field, or all of it where the type is missing (RFC 3464 §2.1.2)."""
    return value.partition(";")[2].strip() if ";" in value else value.strip()


def _useful(status: str | None) -> str | None:
    """x.0.0 says nothing (RFC 3463 §3.1), so that the words decide."""
    return None if status is None or status.endswith(".0.0") else status
