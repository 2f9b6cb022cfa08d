"""The notices that providers send: delivery status notifications (RFC 3464) and complaint reports (ARF, RFC 5965)."""

from __future__ import annotations

from email.utils import format_datetime
from zlib import crc32

from posthouse.sandbox.moments import as_datetime
from posthouse.sandbox.post import Letter

_BOUNDARY = "=_sandbox_notice"


def status_notification(letter: Letter, head: bytes, code: int, status: str, text: str, now: int) -> bytes:
    """A DSN for a message that was accepted and could not be kept; CRLF lines. head: the original header block."""
    persona = letter.manners.persona
    date = format_datetime(as_datetime(now))
    kind = "rfc822" if letter.rcpt.isascii() else "utf-8"
    return _report(
        "delivery-status",
        [
            f"From: Mail Delivery Subsystem <mailer-daemon@{persona.domain}>",
            f"To: <{letter.return_path}>",
            "Subject: Delivery Status Notification (Failure)",
            f"Date: {date}",
            f"Message-ID: <dsn.{now}.{_mark(letter)}@{persona.domain}>",
            "Auto-Submitted: auto-replied",
        ],
        f"Your message could not be delivered to {letter.rcpt}.\r\n\r\n{code} {status} {text}",
        "message/delivery-status",
        f"Reporting-MTA: dns; {persona.hosts[0]}\r\nArrival-Date: {date}\r\n\r\n"
        f"Final-Recipient: {kind}; {letter.rcpt}\r\nAction: failed\r\nStatus: {status}\r\n"
        f"Diagnostic-Code: smtp; {code} {status} {text}",
        head,
    )


def complaint_report(letter: Letter, head: bytes, complaint_address: str, now: int) -> bytes:
    """An ARF report of abuse; CRLF lines. The recipient is left out, as large providers do: the headers must be enough."""
    persona = letter.manners.persona
    date = format_datetime(as_datetime(now))
    return _report(
        "feedback-report",
        [
            f"From: <{complaint_sender(letter)}>",
            f"To: <{complaint_address}>",
            "Subject: Complaint about a message from you",
            f"Date: {date}",
            f"Message-ID: <arf.{now}.{_mark(letter)}@{persona.domain}>",
        ],
        f"This is an email abuse report for a message received from {letter.source_ip} on {date}.",
        "message/feedback-report",
        "Feedback-Type: abuse\r\nUser-Agent: Sandbox/1.0\r\nVersion: 1\r\n"
        f"Original-Mail-From: <{letter.return_path}>\r\nArrival-Date: {date}\r\nSource-IP: {letter.source_ip}",
        head,
    )


def complaint_sender(letter: Letter) -> str:
    """Who sends a provider's complaint reports."""
    return f"feedback@{letter.manners.persona.domain}"


def _mark(letter: Letter) -> str:
    return f"{crc32(f'{letter.rcpt} {letter.message_id}'.encode()):08x}"


def _report(kind: str, headers: list[str], words: str, type_: str, machine: str, head: bytes) -> bytes:
    opening = [
        *headers,
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={kind}; boundary="{_BOUNDARY}"',
        "",
        f"--{_BOUNDARY}",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        words,
        f"--{_BOUNDARY}",
        f"Content-Type: {type_}",
        "",
        machine,
        "",
        f"--{_BOUNDARY}",
        "Content-Type: text/rfc822-headers",
        "",
        "",
    ]
    return "\r\n".join(opening).encode() + head + f"\r\n--{_BOUNDARY}--\r\n".encode()
