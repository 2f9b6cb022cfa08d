"""The frame of a message body: one text part, or text and HTML as alternatives (RFC 2046 §5.1.4, MSG-4)."""

from __future__ import annotations

from hashlib import sha256

TEXT_TYPE = "text/plain; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"
TRANSFER_ENCODING = "quoted-printable"


def boundary_for(*parts: bytes) -> str:
    """A boundary that cannot occur in quoted-printable: there "=" is always followed by two hex digits or a line break, never by "_".

    It depends on the parts only, so the same message is the same bytes every time.
    """
    return f"=_{sha256(b'|'.join(parts)).hexdigest()[:24]}"


def alternative_type(boundary: str) -> str:
    """The Content-Type of a message whose parts are alternatives."""
    return f'multipart/alternative; boundary="{boundary}"'


def part_head(boundary: str, content_type: str) -> bytes:
    """The delimiter line and the header of one part; the part before it ended in CRLF."""
    return (
        f"--{boundary}\r\nContent-Type: {content_type}\r\nContent-Transfer-Encoding: {TRANSFER_ENCODING}\r\n\r\n"
    ).encode()


def closing_line(boundary: str) -> bytes:
    """The delimiter that ends the last part."""
    return f"--{boundary}--\r\n".encode()
